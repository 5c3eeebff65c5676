"""Anything at all for the boards' socket: each request is answered, and nobody else notices.

BUSWORK_FUZZ_EXAMPLES=100000 makes it long.
"""

import asyncio
import os
import random
import socket

import pytest
from flipper.native.strangers import READ, House
from flipper.native.test_socketline import FarBoard
from flipper.wire.vectors import vectors

from buswork.flipper.native.fmr import Patience
from buswork.flipper.wire.exchanges import Answer, Refused
from buswork.flipper.wire.packets import data_to_host
from buswork.flipper.wire.results import RESULT_BYTES, Result
from buswork.flipper.wire.terms import UDP_TRANSFER_BYTES, Generation

STREAMS = max(1000, int(os.environ.get("BUSWORK_FUZZ_EXAMPLES", "0")))
G1 = Generation.G1
SEEDS = [
    bytes.fromhex(step["hex"])
    for found in vectors(
        "gen1_udp_modules", "gen1_udp_pushpull", "gen1_udp_types", "gen1_udp_errors"
    )
    for step in found.all_steps
    if step["dir"] == "h2d"
]


def some_message(choice):
    kind = choice.random()
    if kind < 0.1:
        return choice.randbytes(
            choice.choice((1, 5, 63, 64, 65, 4096, UDP_TRANSFER_BYTES + 1, 70_000))
        )
    if kind < 0.15:
        return b"board " + choice.randbytes(choice.randrange(20))
    raw = bytearray(choice.choice(SEEDS))
    for _ in range(choice.choice((0, 0, 1, 2))):
        raw[choice.randrange(len(raw))] = choice.randrange(256)
    return bytes(raw)


def nothing(asked):
    """An answer with the value 0, and zeros for data."""
    if isinstance(asked, Refused):
        return asked
    return Answer(Result(0), bytes(data_to_host(asked.request)))


async def answers_to(house, messages):
    program = await house.connect()
    answers = []

    async def send():
        for message in messages:
            await program.send(message)
        program.socket.shutdown(socket.SHUT_WR)

    sending = asyncio.create_task(send())
    async with asyncio.timeout(30):
        try:
            while message := await program.receive():
                answers.append(message)
        except ConnectionResetError:  # sent away, with more to come
            pass
        await asyncio.wait([sending])
    if not sending.cancelled():
        assert isinstance(sending.exception(), BrokenPipeError | None)
    program.socket.close()
    return answers


@pytest.fixture
async def house(tmp_path):
    house = House(tmp_path)
    house.server.patience = Patience(data_seconds=0.01)
    await house.sessions.start()
    yield house
    await house.server.stop()
    await house.sessions.stop()
    for sock in house.programs:
        sock.close()


async def test_each_request_is_answered_and_nobody_else_notices(house):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    far = FarBoard(theirs, G1)
    task = asyncio.create_task(far.run())
    await house.sessions.attach("udp:far:3258", ours)
    other = await house.connect()
    far.answer = nothing
    choice = random.Random(3258)
    for _ in range(STREAMS):
        messages = [some_message(choice) for _ in range(choice.randrange(1, 6))]
        answers = await answers_to(house, messages)
        assert len(answers) <= 2 * len(messages)
        if answers and not answers[-1].startswith((b"error ", b"ok")):
            assert len(answers[-1]) == RESULT_BYTES[G1]
        assert (await other.ask(READ)).result == Result(0), messages
    task.cancel()
    await asyncio.wait([task])
    theirs.close()
