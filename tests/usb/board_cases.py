"""Cases for tests/usb/test_boards_libusb.py: coroutines, each for a process of its own, in which
libusb, libudev, pyusb and pyudev are the real ones and the kernel is emulated."""

import asyncio
import sys
from contextlib import asynccontextmanager

import pytest
from flipper.native.session_cases import PATIENCE, Room
from sim.boards import call, transfer

from buswork.errors import Busy
from buswork.flipper.errors import Disconnected
from buswork.flipper.model.calls import invoke, pull, push
from buswork.flipper.native import line, sessions
from buswork.flipper.native.jobs import finished
from buswork.native.clock import Clock
from buswork.usb import link

PORT = "1-2"
MANY = [f"1-{number}" for number in range(1, 33)]
# What another program has sent when it dies: a call whose answer nobody reads, and a push of which
# no data came, or the first half.
UNREAD = call(1, 3, 0xFF, returns=3)
WITHOUT_DATA = transfer(2, 3, 2, 128)
HALF = WITHOUT_DATA + bytes(64)
PROGRAM = """
import sys, usb.backend.libusb1, usb.core, usb.util
device = usb.core.find(idVendor=0x16C0, idProduct=0x0480)
usb.util.claim_interface(device, 0)
sent = bytes.fromhex(sys.argv[1])
if sent:
    try:
        device.write(2, sent, 100)
    except usb.core.USBTimeoutError:
        pass
print("READY", flush=True)
sys.stdin.read()
"""


class House(Room):
    """Several boards."""

    async def at(self, port):
        await self.until(lambda: self.boards.by_key(f"usb:{port}"))
        return self.boards.by_key(f"usb:{port}")

    async def ask(self, port, make, *arguments):
        board = await self.at(port)
        async with asyncio.timeout(PATIENCE):
            return await finished(board, "me", 1000, make(board, *arguments), Clock())

    async def closed(self, port):
        """The line is closed, as it is when nobody has used it for a while."""
        board = await self.at(port)
        await self.until(lambda: not board.is_open)

    async def light(self, port, *colour):
        return await self.ask(port, invoke, "led", "rgb", colour)


@asynccontextmanager
async def house(emulated, *ports):
    for port in ports:
        emulated.plug(port=port, kind="carbon")
    house = House()
    await house.sessions.start()
    try:
        yield house
    finally:
        await house.sessions.stop()


@asynccontextmanager
async def another_program(sent=b""):
    """It has the board, and has sent this; in the end it is killed."""
    program = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        sent.hex(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert await program.stdout.readline() == b"READY\n"
    try:
        yield
    finally:
        program.kill()
        await program.wait()


async def until_pending(kernel, port):
    """Until a transfer is on its way."""
    async with asyncio.timeout(PATIENCE):
        while not kernel.pending(port=port):  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def carries_data_of_any_length(kernel):
    async with house(kernel, PORT) as boards:
        for length in (1, 63, 64, 65, 127, 128, 129, 300):
            data = bytes(range(length % 256)) + bytes([length % 256])
            assert await boards.ask(PORT, push, "spi", "push", data) == len(data)
            got = await boards.ask(PORT, pull, "spi", "pull", length)
            assert got == data[-1:] * length


async def answers_rightly_after_a_program_was_killed(kernel):
    async with house(kernel, PORT) as boards:
        for sent in (UNREAD, WITHOUT_DATA, HALF, UNREAD + UNREAD):
            async with another_program(sent):
                pass
            assert await boards.ask(PORT, invoke, "button", "read", ()) == 0
            assert await boards.light(PORT, 7, 8, 9) is None
            assert "light: #070809" in kernel.lines(port=PORT)
            await boards.closed(PORT)


async def says_busy_until_the_other_program_is_killed(kernel):
    sessions.OPEN_TRIES = 1
    async with house(kernel, PORT) as boards:
        async with another_program():
            with pytest.raises(Busy, match="another program"):
                await boards.light(PORT, 1, 2, 3)
        assert await boards.light(PORT, 1, 2, 3) is None


async def loses_a_board_in_the_middle_of_a_push(kernel):
    line.ANSWER_SECONDS = line.TURN_SECONDS  # it is waiting when the board leaves
    async with house(kernel, PORT) as boards:
        await boards.light(PORT, 1, 2, 3)
        kernel.trouble(port=PORT, name="answer_seconds", value=3600)
        pushing = asyncio.create_task(boards.ask(PORT, push, "spi", "push", bytes(1000)))
        behind = asyncio.create_task(boards.light(PORT, 4, 5, 6))
        await until_pending(kernel, PORT)
        kernel.unplug(port=PORT)
        for caller in (pushing, behind):
            with pytest.raises(Disconnected):
                await caller


async def serves_many_boards_of_which_one_is_silent(kernel):
    line.ANSWER_SECONDS = line.TURN_SECONDS = link.MAX_TIMEOUT = 60.0
    async with house(kernel, *MANY) as boards:
        silent, *others = MANY
        await asyncio.gather(*(boards.light(port, 0, 0, 1) for port in MANY))
        kernel.trouble(port=silent, name="answer_seconds", value=3600)
        waiting = asyncio.create_task(boards.light(silent, 9, 9, 9))
        await until_pending(kernel, silent)
        for red in range(3):
            await asyncio.gather(
                *(boards.light(port, red, place, 3) for place, port in enumerate(others))
            )
        for place, port in enumerate(others):
            assert f"light: #02{place:02x}03" in kernel.lines(port=port)
        assert not waiting.done()
        kernel.unplug(port=silent)
        with pytest.raises(Disconnected):
            await waiting
