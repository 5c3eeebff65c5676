import builtins
import io
import json
import sys
from types import SimpleNamespace

import pytest
from cli.viewed import FakeClient, ViewedWorld, done, facts

from buswork.appview.wire.configuration import DEFAULTS
from buswork.cli import view_config
from buswork.cli.exits import Exit
from buswork.cli.output import InputError
from buswork.client import BusworkError

pytestmark = pytest.mark.processes


@pytest.fixture
def client():
    return FakeClient(facts(20))


@pytest.fixture
def file(tmp_path):
    def written(text):
        path = tmp_path / "configuration"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(path)

    return written


def told(client):
    return client.appview.processes[20].told


def test_get(client, capsys):
    assert done(client, "config", "get", "web") == Exit.OK
    said = capsys.readouterr().out
    assert json.loads(said)["tags"] == {}
    assert "\n  " in said
    done(client, "config", "get", "web", "--json")
    assert capsys.readouterr().out.count("\n") == 1


def test_what_is_given_is_sent_as_it_is(client, file, capsys):
    """The daemon may have something to say of it: here, a member is there twice."""
    text = '{ "tags": {"a":"1", "a":"2"} }'
    done(client, "config", "set", "web", file(text))
    done(client, "config", "merge", "web", file(text))
    assert told(client) == [("set", text), ("merge", text)]
    assert capsys.readouterr().out == ""
    done(client, "config", "merge", "web", file(text), "--json")
    assert json.loads(capsys.readouterr().out) == {"tags": {"a": "1"}}


def test_stdin(client, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b'{"tags":{}}')))
    done(client, "config", "set", "web")
    assert told(client) == [("set", '{"tags":{}}')]


def test_what_would_be_set(client, file, capsys):
    text = '{"tags":{"a":"1"},"protocol":[{"name":"x"},{"name":"z"}]}'
    done(client, "config", "set", "web", file(text), "--dry-run", "--json")
    assert json.loads(capsys.readouterr().out) == {"tags": {"a": "1"}, "protocol": [{"name": "z"}]}
    assert told(client) == []


def test_what_would_be_merged(client, file, capsys):
    done(client, "config", "merge", "web", file('{"payload":{"dir":"/x"}}'), "-n")
    expected = {name: value for name, value in DEFAULTS.items() if name != "protocol"}
    expected["payload"] = {"enable": "false", "dir": "/x"}
    assert json.loads(capsys.readouterr().out) == expected
    assert told(client) == []


@pytest.mark.parametrize("how", ["set", "merge"])
def test_what_would_be_refused(client, file, how):
    for text in ('{"tags":{"a":1}}', '{"protocol":[{"name":"x","regex":"other"}]}'):
        with pytest.raises(BusworkError) as error:
            done(client, "config", how, "web", file(text), "--dry-run")
        assert error.value.name == "org.appview.Error.BadConfiguration"


def test_what_a_later_library_has_more_would_be_sent(client, file, capsys):
    client.appview.processes[20].has = {"tags": {"a": 1}, "new": True}
    done(client, "config", "merge", "web", file('{"payload":{}}'), "--dry-run", "--json")
    assert json.loads(capsys.readouterr().out) == {"tags": {"a": 1}, "new": True, "payload": {}}


# -- what is no JSON -----------------------------------------------------------------------------


def without_yaml(monkeypatch):
    real = builtins.__import__

    def missing(name, *rest):
        if name == "yaml":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)


def test_yaml_takes_pyyaml(client, file, monkeypatch):
    without_yaml(monkeypatch)
    with pytest.raises(InputError, match=r"no JSON.*PyYAML is needed, which is not installed"):
        done(client, "config", "set", "web", file("tags:\n  a: x\n"))
    assert told(client) == []


class Yaml:
    """As much of PyYAML as is used."""

    class YAMLError(Exception):
        pass

    def safe_load(self, text):
        if text == "wrong":
            raise self.YAMLError("it is wrong")
        return {"when": object()} if text == "odd" else {"tags": {"a": "x"}}


def test_yaml_with_pyyaml(client, file, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", Yaml())
    done(client, "config", "set", "web", file("tags:\n  a: x\n"))
    assert told(client) == [("set", '{"tags": {"a": "x"}}')]
    for text in ("wrong", "odd"):
        with pytest.raises(InputError, match="neither JSON nor YAML"):
            done(client, "config", "set", "web", file(text))


@pytest.mark.parametrize(
    ("text", "why"),
    [(b"\xff", "no text"), ("[" * 100_000, "too many objects"), (b" " * 5_000_000, "more than")],
    ids=["no text", "depth", "length"],
)
def test_what_is_no_configuration_at_all(client, file, text, why):
    with pytest.raises(InputError, match=why):
        done(client, "config", "merge", "web", file(text))


def test_a_file_that_is_not_there(client, tmp_path):
    with pytest.raises(FileNotFoundError):
        done(client, "config", "set", "web", str(tmp_path / "nothing"))


# -- with the service ----------------------------------------------------------------------------


def test_the_whole_way():
    with ViewedWorld() as world:
        world.simulated("cli-config")
        words = ("config", "merge", "cli-config")
        assert world.answer(*words, stdin='{"tags":{"a":"1"}}')["tags"] == {"a": "1"}
        dry = world.answer("config", "merge", "cli-config", "--dry-run", stdin='{"tags":{"b":"2"}}')
        assert dry["tags"] == {"a": "1", "b": "2"}
        assert world.view("config", "set", "cli-config", stdin="{}").status == Exit.OK
        assert world.answer("config", "get", "cli-config") == DEFAULTS
        said = world.failure("config", "set", "cli-config", stdin='{"tags":[]}')
        assert "tags is a list" in said
        assert "(org.appview.Error.BadConfiguration)" in said


def test_the_errors_name_is_that_of_the_service():
    from buswork.appview.errors import BadConfiguration

    assert BadConfiguration.name == view_config.BAD_CONFIGURATION
