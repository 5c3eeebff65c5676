"""Tests of buswork.fsct.native.remembered."""

import asyncio
import errno
import json
import os
import threading

import pytest

from buswork.fsct.native import remembered as module
from buswork.fsct.native.remembered import MAX_FILE_BYTES, NAME, Preferred, Remembered
from buswork.fsct.wire.terms import MAX_SELF_ID_BYTES

SOMEBODY = Preferred("org.mpris.MediaPlayer2.mpv", 1000)
EVIL = Preferred('\x1b]0;"\n\u202e\U0001f3b5', 0)


async def written(state_dir, *states):
    """What an earlier life left when it wanted these to be remembered, one after the other."""
    remembered = Remembered(state_dir)
    remembered.load()
    for state in states:
        remembered.store(state)
    await remembered.close()


@pytest.mark.parametrize(
    "preferred",
    [
        SOMEBODY,
        EVIL,
        Preferred("\U0001f3b5" * (MAX_SELF_ID_BYTES // 4), 2**32 - 2),
        Preferred("\0" * MAX_SELF_ID_BYTES, 2**32 - 2),
    ],
)
async def test_it_comes_back(tmp_path, preferred):
    assert Remembered(tmp_path).load() is None
    await written(tmp_path, preferred)
    assert Remembered(tmp_path).load() == preferred
    assert (tmp_path / NAME).stat().st_size < MAX_FILE_BYTES
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


async def test_none_comes_back_too(tmp_path, caplog):
    await written(tmp_path, SOMEBODY)
    await written(tmp_path, None)
    assert json.loads((tmp_path / NAME).read_text()) == {"preferred": None}
    assert Remembered(tmp_path).load() is None
    assert not caplog.records


async def test_without_a_place_nothing_is_remembered(tmp_path):
    await written(None, SOMEBODY)
    assert Remembered(None).load() is None


async def test_the_newest_is_written_and_what_is_known_is_not(tmp_path, monkeypatch):
    texts = []
    replace = module._replace

    def count(path, data):
        texts.append(json.loads(data)["preferred"])
        replace(path, data)

    monkeypatch.setattr(module, "_replace", count)
    states = [Preferred(str(number), 1) for number in range(100)]
    await written(tmp_path, *states)
    assert Remembered(tmp_path).load() == states[-1]
    assert len(texts) <= 2
    await written(tmp_path, SOMEBODY, states[-1])
    assert len(texts) <= 4
    texts.clear()
    await written(tmp_path, states[-1])
    assert texts == []


async def test_it_is_written_while_the_daemon_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.0)
    remembered = Remembered(tmp_path)
    for state in (SOMEBODY, EVIL, None):
        remembered.store(state)
        async with asyncio.timeout(10):
            await remembered._writing
        assert Remembered(tmp_path).load() == state
    await remembered.close()


async def test_close_waits_for_a_thread_that_still_writes(tmp_path, monkeypatch):
    begun, may_end = threading.Event(), threading.Event()
    replace = module._replace

    def slow(path, data):
        if not begun.is_set():
            begun.set()
            assert may_end.wait(10)
        replace(path, data)

    monkeypatch.setattr(module, "_replace", slow)
    remembered = Remembered(tmp_path)
    remembered.store(SOMEBODY)
    await asyncio.to_thread(begun.wait, 10)
    remembered.store(EVIL)
    asyncio.get_running_loop().call_soon(may_end.set)
    await remembered.close()
    assert Remembered(tmp_path).load() == EVIL


class Disk:
    """One that is full, until a test says otherwise."""

    def __init__(self, monkeypatch):
        self.is_full = True
        self.tries = 0
        self.tried = threading.Event()
        self._replace = module._replace
        monkeypatch.setattr(module, "_replace", self.replace)

    def replace(self, path, data):
        self.tries += 1
        self.tried.set()
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._replace(path, data)


async def test_what_a_full_disk_did_not_take_is_tried_again(tmp_path, monkeypatch, caplog):
    disk = Disk(monkeypatch)
    pauses = []
    sleep = asyncio.sleep

    async def pause(seconds):
        pauses.append(seconds)
        disk.is_full = len(pauses) < 12
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", pause)
    remembered = Remembered(tmp_path)
    remembered.store(SOMEBODY)
    async with asyncio.timeout(10):
        await remembered._writing
    assert Remembered(tmp_path).load() == SOMEBODY
    assert pauses[:4] == [2.0, 4.0, 8.0, 16.0]
    assert pauses[-2:] == [module.MAX_PAUSE_SECONDS, module.PAUSE_SECONDS]
    assert len(caplog.records) == 1, "it is said once"
    await remembered.close()
    assert disk.tries == 13


async def test_what_a_full_disk_did_not_take_is_written_in_the_end(tmp_path, monkeypatch):
    disk = Disk(monkeypatch)
    remembered = Remembered(tmp_path)
    remembered.store(SOMEBODY)
    await asyncio.to_thread(disk.tried.wait, 10)
    disk.is_full = False
    await remembered.close()
    assert Remembered(tmp_path).load() == SOMEBODY


def as_json(self_id, uid):
    return json.dumps({"preferred": {"self_id": self_id, "uid": uid}})


@pytest.mark.parametrize(
    "spoilt",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"preferred": 5}',
        '{"preferred": {}}',
        as_json("", 1),
        as_json(5, 1),
        as_json("x", -1),
        as_json("x", 2**32 - 1),
        as_json("x", True),
        as_json("x", "1000"),
        as_json("x", None),
        as_json("x" * (MAX_SELF_ID_BYTES + 1), 1),
        as_json("\ud800", 1),
        as_json("x", 1) + " " * MAX_FILE_BYTES,
        "[" * MAX_FILE_BYTES,
        b"\xff\xfe",
    ],
)
async def test_a_spoilt_file_is_none(tmp_path, caplog, spoilt):
    data = spoilt if isinstance(spoilt, bytes) else spoilt.encode()
    (tmp_path / NAME).write_bytes(data)
    assert Remembered(tmp_path).load() is None
    (record,) = caplog.records
    assert "is not used" in record.getMessage()
    await written(tmp_path, SOMEBODY)
    assert Remembered(tmp_path).load() == SOMEBODY


async def test_a_file_that_cannot_be_read_or_written(tmp_path, caplog):
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "inside").touch()
    assert Remembered(tmp_path).load() is None
    await written(tmp_path, SOMEBODY)
    assert "is not remembered" in caplog.text
    await written(tmp_path / "nowhere", SOMEBODY)


async def test_a_fifo_in_its_place_is_not_read(tmp_path, caplog):
    os.mkfifo(tmp_path / NAME)
    writer = os.open(tmp_path / NAME, os.O_RDWR)
    os.write(writer, b" " * 2 * MAX_FILE_BYTES)  # a reader would go on with this
    assert Remembered(tmp_path).load() is None
    os.close(writer)
    (record,) = caplog.records
    assert record.getMessage() == f"{tmp_path / NAME} is not used: it is no regular file"
    await written(tmp_path, SOMEBODY)  # takes its place
    assert Remembered(tmp_path).load() == SOMEBODY


async def test_a_fifo_in_place_of_the_draft_holds_nobody_up(tmp_path, caplog):
    draft = tmp_path / f".{NAME}.new"
    os.mkfifo(draft)
    readers = []
    rescue = threading.Timer(5, lambda: readers.append(os.open(draft, os.O_RDONLY | os.O_NONBLOCK)))
    rescue.start()
    await written(tmp_path, SOMEBODY)
    rescue.cancel()
    assert "is not remembered" in caplog.text
    assert not readers, "it waited for a reader"


@pytest.mark.attack(28)
async def test_a_link_in_place_of_the_draft_is_not_followed(tmp_path, caplog):
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / f".{NAME}.new").symlink_to(target)
    await written(tmp_path, SOMEBODY)
    assert target.read_text() == "precious"
    assert "is not remembered" in caplog.text
