"""Anything at all for the driver's socket: it is answered, skipped or ends its connection, and the
next client is served as if nothing had been.

BUSWORK_FUZZ_EXAMPLES=100000 makes it long.
"""

import asyncio
import os
import random
import socket

import msgpack
import pytest
from fsct.wire.vectors import recorded, vectors
from support.rpc import UID, House

from buswork.fsct import wing
from buswork.fsct.wire import jsonrpc
from buswork.fsct.wire.msgpackrpc import encode_request

EXAMPLES = int(os.environ.get("BUSWORK_FUZZ_EXAMPLES", "60"))
STREAMS = max(20_000, EXAMPLES)

VERSION_REQUEST = encode_request(7, "get_protocol_version", [])
VERSION_ANSWER = msgpack.packb([1, 7, None, {"major": 1, "minor": 0}])
SEEDS = [
    *(bytes.fromhex(vector["request_hex"]) for vector in vectors("msgpack_rpc_methods")),
    *(bytes.fromhex(case["request_hex"]) for case in recorded("msgpack_rpc_malformed")["cases"]),
    *(vector["request"].encode() for vector in vectors("jsonrpc_later_protocol")),
]
SEEDS = [seed for seed in SEEDS if len(seed) < 5000]


def spoilt(choice, data):
    raw = bytearray(data)
    for _ in range(choice.choice((0, 1, 1, 2, 4))):
        at = choice.randrange(len(raw) + 1)
        match choice.randrange(4):
            case 0 if at < len(raw):
                raw[at] = choice.randrange(256)
            case 1:
                del raw[at : at + choice.randrange(1, 6)]
            case 2:
                raw[at:at] = choice.randbytes(choice.randrange(1, 6))
            case 3:
                raw[at:at] = raw[at : at + choice.randrange(40)]
    return bytes(raw)


def some_stream(choice):
    if choice.random() < 0.2:
        return choice.randbytes(choice.randrange(1, 200))
    kind = choice.choice((SEEDS, SEEDS, [seed for seed in SEEDS if seed[:1] == b"{"]))
    return b"".join(spoilt(choice, choice.choice(kind)) for _ in range(choice.randrange(1, 6)))


async def answers_to(house, choice, data):
    """All that comes for this, in whatever pieces it is sent; then the client's half is closed."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        sock.connect(str(house.path))
        while data:
            size = choice.randrange(1, len(data) + 1) if choice.random() < 0.7 else len(data)
            try:
                sock.send(data[:size])
            except BrokenPipeError:  # what came before ended it
                break
            data = data[size:]
            await asyncio.sleep(0)
        sock.shutdown(socket.SHUT_WR)
        answers, loop = b"", asyncio.get_running_loop()
        try:
            async with asyncio.timeout(30):
                while found := await loop.sock_recv(sock, 65536):
                    answers += found
        except ConnectionResetError:
            pass
        return answers


def check(data, answers):
    """They are whole messages of the protocol that was spoken."""
    if data[:1] and data[:1] in b"{[ \t\r\n":
        for line in answers.splitlines():
            message = jsonrpc.parse_line(line)
            assert isinstance(message, jsonrpc.Response | jsonrpc.Notification)
        return
    unpacker = msgpack.Unpacker(strict_map_key=False)
    unpacker.feed(answers)
    for kind, msgid, error, _ in unpacker:
        assert kind == 1
        assert type(msgid) is int
        assert error != "the driver failed; its log says how"
    assert unpacker.tell() == len(answers)


@pytest.mark.parametrize("worker", range(4))
async def test_any_bytes_are_answered_skipped_or_end_their_connection(
    tmp_path, caplog, monkeypatch, worker
):
    monkeypatch.setattr(wing, "REGISTRATIONS_AT_ONCE", 10**9)
    choice = random.Random(worker)
    house = House(tmp_path / "fsct.sock")
    house.register("p", UID, "somebody")
    for number in range(STREAMS // 4):
        data = some_stream(choice)
        check(data, await answers_to(house, choice, data))
        if number % 50 == 0:
            assert await answers_to(house, choice, VERSION_REQUEST) == VERSION_ANSWER
            house.driver.release("somebody")
            house.register("p", UID, "somebody")
            assert {player.owner for player in house.driver.players.values()} == {"somebody"}
    assert "Traceback" not in caplog.text
    assert not [r for r in caplog.records if r.exc_info]
    assert house.used("waiting_bytes") == house.used("native_connections") == 0
    await house.stop()
