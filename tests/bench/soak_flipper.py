"""Load on the boards: calls, claims, events, and those who speak FMR."""

import asyncio
import socket
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

from soak_ledger import Changed, Desk, NoDatagram
from soak_steps import caller, pause, steps

from buswork.client import Board, Client

PACE = 0.08
BOARDS = {"carbon-1-3": "1-3", "bench": "1-4"}
BENCH = "bench"
SIMULATOR = ("/org/buswork/simulator/boards", "org.buswork.Simulator.Boards")
CLAIMED = "org.flipper.Error.Claimed"
BUSY = {CLAIMED}
# Of datagrams, where everything is busy.
LATE = {CLAIMED, "org.flipper.Error.NotResponding"}
# The original library's first call, led.rgb(10, 20, 30), and its answer.
LED = bytes.fromhex("fe46ca11000006010200000000030a141e").ljust(64, b"\0")
RESULT_BYTES = 5
# One for each process: the door keeps a connection for every address that it knows, up to a limit.
GUEST = socket.socket(type=socket.SOCK_DGRAM)
# Of a datagram nobody promises that it arrives.
DATAGRAM_SECONDS = 10.0


async def calls(desk: Desk, random: Random, places: Mapping[str, Any]) -> None:
    async with caller(desk) as client:
        board = await found(desk, random, client)
        for _ in steps(desk, random, 10, 80):
            await one(desk, random, board)
            await pause(random, PACE)


async def found(desk: Desk, random: Random, client: Client) -> Board:
    return await desk.ask(client.flipper.find(random.choice(list(BOARDS))))


async def one(desk: Desk, random: Random, board: Board) -> None:
    match random.randrange(5):
        case 0:
            colour = [random.randrange(256) for _ in range(3)]
            await desk.ask(board.invoke("led", "rgb", *colour), may=BUSY)
        case 1:
            await desk.ask(board.invoke("gpio", "read", 1 << random.randrange(32)), may=BUSY)
        case 2:
            await desk.ask(board.invoke("button", "read"), may=BUSY)
        case 3:
            data = random.randbytes(random.randrange(1, 600))
            await desk.ask(board.push("usart", "push", data), may=BUSY)
        case 4:
            await desk.ask(board.facts())


async def events(desk: Desk, random: Random, places: Mapping[str, Any]) -> None:
    """Whoever subscribed hears of every button that stays pressed."""
    async with caller(desk) as client:
        name, port = random.choice(list(BOARDS.items()))
        board = await desk.ask(client.flipper.find(name))
        await desk.ask(press(client, port, False))  # who was killed has left it as it was
        subscription = board.events("button", interval_ms=20)
        heard = await desk.ask(subscription.__aenter__(), may=BUSY)
        try:
            await desk.ask(anext(heard))  # how it is now
            for number in steps(desk, random, 2, 20):
                await desk.ask(press(client, port, number % 2 == 0))
                await desk.ask(hears(heard, 1 - number % 2))
                await pause(random, 4 * PACE)
            await desk.ask(press(client, port, False))
        finally:
            await subscription.__aexit__(None, None, None)


async def press(client: Client, port: str, pressed: bool) -> None:
    await client.call(SIMULATOR, "SetButton", "sb", (port, pressed))


async def hears(heard: Any, wanted: int) -> None:
    while (await anext(heard)).value != wanted:
        pass


async def claims(desk: Desk, random: Random, places: Mapping[str, Any]) -> None:
    """Some leave while they have one; its end is the board's worker's, or the lease's."""
    await pause(random, 60 * PACE)
    async with caller(desk) as client:
        board = await found(desk, random, client)
        token = await desk.ask(board.claim("the soak", 5), may=BUSY)
        for _ in steps(desk, random, 1, 8):
            await one(desk, random, board)
            await desk.ask(board.renew(token))
            await pause(random, PACE)
        if random.random() < 0.6:
            await desk.ask(board.release(token))


async def attached(desk: Desk, random: Random, places: Mapping[str, Any]) -> None:
    """A board on the network, which stays when whoever attached it was killed."""
    port = places["board"]
    async with caller(desk) as client:
        names = [facts.name for facts in await desk.ask(client.flipper.boards())]
        name = next((name for name in names if name.endswith(f":{port}")), None)
        if name is None:
            board = await desk.ask(client.flipper.attach(f"localhost:{port}"))
        else:
            board = await desk.ask(client.flipper.find(name))
        for _ in steps(desk, random, 2, 30):
            await desk.ask(board.invoke("led", "rgb", 1, 2, 3), may=LATE)
            await pause(random, PACE)
        await desk.ask(client.flipper.detach(board))


async def native(desk: Desk, random: Random, places: Mapping[str, Any]) -> None:
    """By the boards' socket, or by a channel that the bus has handed out."""
    if random.random() < 0.5:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with closing(sock):
            sock.setblocking(False)
            await desk.ask(connected(sock, str(Path(places["sockets"]) / "fmr.sock")))
            greeting = f"board {random.choice(list(BOARDS))}".encode()
            await desk.ask(exchanged(sock, greeting, is_ok))
            await packets(desk, random, sock)
        return
    async with caller(desk) as client:
        board = await found(desk, random, client)
        with socket.socket(fileno=await desk.ask(board.open_channel())) as sock:
            sock.setblocking(False)
            await packets(desk, random, sock)


async def packets(desk: Desk, random: Random, sock: socket.socket) -> None:
    for _ in steps(desk, random, 5, 60):
        await desk.ask(exchanged(sock, LED, is_result))
        await pause(random, PACE)


async def connected(sock: socket.socket, address: Any) -> None:
    await asyncio.get_running_loop().sock_connect(sock, address)


async def exchanged(sock: socket.socket, message: bytes, is_good: Callable[[bytes], bool]) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, message)
    answer = await loop.sock_recv(sock, 200)
    if not answer:
        raise EOFError("the connection was closed")
    if not is_good(answer):
        raise (EOFError if b"board" in answer else Changed)(repr(answer))


def is_ok(answer: bytes) -> bool:
    return answer == b"ok\n"


def is_result(answer: bytes) -> bool:
    """Done, or refused: somebody has claimed it, or it is gone."""
    return len(answer) == RESULT_BYTES


async def datagrams(desk: Desk, random: Random, places: Mapping[str, Any]) -> None:
    """As the unmodified library: through the door."""
    GUEST.setblocking(False)
    GUEST.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # that nobody was there is of before
    await desk.ask(connected(GUEST, ("127.0.0.1", places["fmr"])))
    for _ in steps(desk, random, 5, 60):
        await desk.ask(datagram(GUEST))
        await pause(random, PACE)


async def datagram(sock: socket.socket) -> None:
    try:
        async with asyncio.timeout(DATAGRAM_SECONDS):
            await exchanged(sock, LED, is_result)
    except TimeoutError:
        raise NoDatagram("no datagram came") from None
