import argparse
import asyncio
import contextlib
import struct

import pytest
from cli.boards import BENCH

from buswork.cli.exits import Exit
from buswork.cli.flipper_flash import flash
from buswork.cli.output import InputError, Output
from buswork.client import BusworkError, Client
from buswork.flipper.wire import samba

IMAGE = struct.pack("<II", 0x20020000, 0x00400101) + bytes(range(256)) * 3


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "firmware.bin"
    path.write_bytes(IMAGE)
    return path


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """A simulated chip is erased at once."""
    monkeypatch.setattr(samba, "ERASE_SECONDS", 0.01)


def run(boards, path, *, verify=False):
    """In this process, for the time of erasing."""

    async def flashing():
        async with Client(boards.address) as client:
            options = argparse.Namespace(board=None, image=str(path), verify=verify)
            return await flash(client, options, Output(json=True))

    return asyncio.run(flashing())


@pytest.mark.parametrize("verify", [False, True])
def test_a_firmware_is_put_there_and_started(boards, file, verify, capsys):
    assert run(boards, file, verify=verify) == Exit.OK
    said = f'{{"board": "bench", "pages": 2, "verified": {str(verify).lower()}}}\n'
    assert capsys.readouterr().out == said
    assert boards.look()["main processor"] == "up"
    assert boards.ok("gpio", "read", "IO1") == "low\n"
    assert boards.answer("list")[0]["claim_reason"] == ""


def test_a_board_that_was_left_without_one_is_flashed(boards, file):
    boards.simulator("Unplug", "s", BENCH)
    boards.simulator("Plug", "s", BENCH)

    async def interrupted():
        async with Client(boards.address) as client:
            board = await client.flipper.find()
            token = await board.claim("a test", 60, service=True)
            await board.invoke("u2.gpio", "write", 1 << 6, 0)
            await board.invoke("u2.gpio", "write", 0, 1 << 6 | 1 << 4)
            await board.invoke("u2.gpio", "write", 1 << 4, 0)
            await board.release(token)

    asyncio.run(interrupted())
    assert boards.look()["main processor"] == "without firmware"
    assert "NotResponding" in boards.failure("gpio", "read", "IO1")
    assert run(boards, file) == Exit.OK
    assert boards.ok("gpio", "read", "IO1") == "low\n"


def test_what_fails_on_its_way_says_what_to_do(boards, file, monkeypatch, capsys):
    monkeypatch.setattr(samba, "_BOOT_BIT", 5)
    monkeypatch.setattr(samba, "_GET_BITS", 0xFF)
    assert run(boards, file) == Exit.FAILED
    said = capsys.readouterr().err
    assert "could not say what it starts from" in said
    assert "without firmware now: flash it again" in said
    assert boards.look()["main processor"] == "without firmware"
    monkeypatch.undo()
    monkeypatch.setattr(samba, "ERASE_SECONDS", 0.01)
    assert run(boards, file) == Exit.OK


class Watched(Output):
    """Tells when the first page is written."""

    def __init__(self):
        super().__init__(json=True)
        self.is_writing = asyncio.Event()

    @contextlib.contextmanager
    def progress(self, what, total):
        yield self

    def update(self, done):
        if done:
            self.is_writing.set()


def test_what_is_interrupted_leaves_a_board_that_can_be_flashed(boards, file, capsys):
    async def flashing():
        async with Client(boards.address) as client:
            options = argparse.Namespace(board=None, image=str(file), verify=False)
            out = Watched()
            task = asyncio.create_task(flash(client, options, out))
            await out.is_writing.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await (await client.flipper.find()).facts()).claim_reason == ""

    asyncio.run(flashing())
    assert "flash it again" in capsys.readouterr().err
    assert boards.look()["main processor"] == "without firmware"
    assert boards.ok("button") == "released\n"
    assert run(boards, file) == Exit.OK, capsys.readouterr()
    assert boards.look()["main processor"] == "up"


def test_nothing_is_touched_for_what_is_no_firmware(boards, file):
    file.write_bytes(b"#!/bin/sh")
    with pytest.raises(InputError, match="this is no firmware"):
        run(boards, file)
    assert boards.look()["main processor"] == "up"


def test_a_board_that_somebody_has_is_left_alone(boards, file):
    async def flashing():
        async with Client(boards.address) as another:
            await (await another.flipper.find()).claim("mine", 60)
            await asyncio.to_thread(run, boards, file)

    with pytest.raises(BusworkError, match="mine"):
        asyncio.run(flashing())
