"""Cases for tests/flipper/native/test_sessions_libusb.py: coroutines, each for a process of its
own, in which libusb, libudev, pyusb and pyudev are the real ones and the kernel is emulated."""

import asyncio
from contextlib import asynccontextmanager

import pytest
import usb.backend.libusb1
import usb.core
import usb.util
from sim.boards import call

from buswork.errors import Busy
from buswork.flipper.errors import Disconnected, NotResponding
from buswork.flipper.model.boards import BoardAdded, BoardRemoved, Boards
from buswork.flipper.model.calls import invoke, push
from buswork.flipper.native import line
from buswork.flipper.native.jobs import finished
from buswork.flipper.native.sessions import Sessions
from buswork.native.clock import Clock
from buswork.usb.discovery import UdevDiscovery
from buswork.usb.worker import CLOSE_SECONDS, Worker

PORT = "1-2"
PATIENCE = 30
OUT = 0x02


class Room:
    def __init__(self):
        self.boards = Boards()
        self.texts = asyncio.Queue()
        self.changed = asyncio.Event()
        self.boards.on_change.append(lambda change: self.changed.set())
        self.sessions = Sessions(self.boards, UdevDiscovery(), Worker)

    async def until(self, condition):
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def board(self):
        await self.until(lambda: self.boards.current)
        return self.boards.current

    async def do(self, job):
        async with asyncio.timeout(PATIENCE):
            return await finished(self.boards.current, "me", 1000, job, Clock())

    async def call(self, module, function, *values):
        return await self.do(invoke(self.boards.current, module, function, values))


@asynccontextmanager
async def room_with_a_board(emulated):
    room = Room()
    emulated.plug(port=PORT, kind="carbon")
    await room.sessions.start()
    try:
        await room.board()
        yield room
    finally:
        await room.sessions.stop()


def other_program():
    """pyusb as any program uses it."""
    backend = usb.backend.libusb1.get_backend(find_library=lambda name: "libusb-1.0.so.0")
    return usb.core.find(idVendor=0x16C0, idProduct=0x0480, backend=backend)


async def calls_both_processors(kernel):
    async with room_with_a_board(kernel) as room:
        assert room.boards.current.name == "carbon-1-2"
        assert await room.call("led", "rgb", 1, 2, 3) is None
        assert "light: #010203" in kernel.lines(port=PORT)
        assert await room.call("gpio", "read", 1 << 22) == 0
        assert await room.do(push(room.boards.current, "spi", "push", bytes(300))) == 300


async def reads_what_a_board_prints(kernel):
    async with room_with_a_board(kernel) as room:
        room.sessions.on_text = lambda board, text: room.texts.put_nowait(text)
        room.sessions.listen(room.boards.current, True)
        await room.call("button", "read")
        kernel.board(port=PORT, name="say", text="hello\n")
        async with asyncio.timeout(PATIENCE):
            assert await room.texts.get() == "hello\n"


async def gives_nobody_the_answer_to_a_dead_program(kernel):
    async with room_with_a_board(kernel) as room:
        dead = other_program()
        dead.write(OUT, call(1, 3, 0xFF, returns=3))  # the U2's own pins, 0x12
        usb.util.dispose_resources(dead)
        assert await room.call("button", "read") == 0
        assert await room.call("led", "configure") == 0


async def waits_for_another_program(kernel):
    async with room_with_a_board(kernel) as room:
        other = other_program()
        usb.util.claim_interface(other, 0)
        with pytest.raises(Busy, match="another program"):
            await room.call("button", "read")
        usb.util.dispose_resources(other)
        assert await room.call("button", "read") == 0


async def brings_a_board_to_its_senses(kernel):
    async with room_with_a_board(kernel) as room:
        room.sessions.listen(room.boards.current, True)  # claims the other interface
        assert await room.call("button", "read") == 0
        kernel.board(port=PORT, name="stumble")
        for _ in range(2):
            with pytest.raises(NotResponding):
                await room.call("button", "read")
        assert await room.call("button", "read") == 0


async def notices_that_a_board_leaves_and_comes_back(kernel):
    async with room_with_a_board(kernel) as room:
        changes = []
        room.boards.on_change.append(changes.append)
        kernel.trouble(port=PORT, name="has_watchdog", value=False)
        # It waits when the board leaves. The emulated kernel, unlike a real one, lets it wait on,
        # but it has ended before the worker is left alone.
        line.ANSWER_SECONDS = CLOSE_SECONDS - 1
        assert await room.call("button", "read") == 0
        kernel.board(port=PORT, name="hang")
        waiting = asyncio.create_task(room.call("button", "read"))
        async with asyncio.timeout(PATIENCE):
            while not kernel.pending(port=PORT):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        kernel.unplug(port=PORT)
        with pytest.raises(Disconnected):
            await waiting
        await room.until(lambda: not room.boards.current)
        kernel.plug(port=PORT, kind="carbon")
        assert (await room.board()).incarnation == 2
        assert await room.call("button", "read") == 0
        kinds = [type(change) for change in changes]
        assert kinds.index(BoardRemoved) < kinds.index(BoardAdded)
