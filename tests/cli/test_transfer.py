import json

import pytest

from buswork.cli import transfer
from buswork.cli.exits import Exit


def test_out_and_in_again(bus):
    values = {f"x/{n}": "\x1b" * n for n in range(1, 300)} | {"y": "ä"}
    done = bus.run("store", "import", "--json", input=json.dumps(values))
    assert json.loads(done.stdout) == {"keys": 300, "revision": 300}
    text = bus.run("store", "export").stdout
    assert json.loads(text) == values
    assert text.isascii()
    assert json.loads(bus.run("store", "export", "--prefix", "y").stdout) == {"y": "ä"}
    bus.run("store", "clear")
    file = bus.folder / "values.json"
    file.write_text(text)
    assert bus.run("store", "import", str(file)).returncode == 0
    assert bus.run("store", "export").stdout == text


def test_more_than_one_answer_carries(bus):
    """Seventeen values of 1 MiB do not fit into a reply of 16 MiB, nor into one part."""
    values = {f"big/{n:02}": chr(97 + n) * 900_000 for n in range(18)}
    assert bus.run("store", "import", input=json.dumps(values)).returncode == 0
    assert json.loads(bus.run("store", "export").stdout) == values


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": ["b"]}', "[" * 100_000])
def test_wrong_json_sets_nothing(shared_bus, text):
    done = shared_bus.run("store", "import", input=text)
    assert (done.returncode, done.stdout) == (Exit.FAILED, "")
    assert "this" in done.stderr or "is no string" in done.stderr
    assert "usage:" not in done.stderr
    assert shared_bus.run("store", "import", "/nowhere").returncode == Exit.FAILED


def test_null_clears(shared_bus):
    shared_bus.run("store", "set", "n", "x")
    shared_bus.run("store", "import", input='{"n": null}')
    assert shared_bus.run("store", "get", "n", "-r").returncode == Exit.NOT_SET


def test_parts_keep_to_the_limits(monkeypatch):
    assert list(transfer.parts({})) == []
    monkeypatch.setattr(transfer, "MAX_PART_KEYS", 2)
    assert list(transfer.parts(dict.fromkeys("abc", ""))) == [{"a": "", "b": ""}, {"c": ""}]
    monkeypatch.setattr(transfer, "MAX_PART_BYTES", 3)
    assert list(transfer.parts({"a": "1", "b": "2", "c": "333"})) == [
        {"a": "1"},
        {"b": "2"},
        {"c": "333"},
    ]


def test_a_failure_midway_tells_how_far_it_came(bus):
    values = {f"k/{n}": "x" for n in range(5000)} | {"~54321/other": "x"}
    done = bus.run("store", "import", input=json.dumps(values))
    assert done.returncode == Exit.DENIED
    assert "5000 of 5001 keys were set" in done.stderr
