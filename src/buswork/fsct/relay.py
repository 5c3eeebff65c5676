"""The user's own socket: all that its clients ask goes to the driver's socket.

Each connection here has one of its own there, so a player belongs to its client and goes with it.
What differs from asking the driver directly: the connection here outlives the one there. After a
restart of the driver its players are there again, by the numbers that their client knows.
"""

import asyncio
import logging
import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from buswork.errors import BusworkError
from buswork.fsct.wire import jsonrpc, methods, msgpackrpc, protocol
from buswork.fsct.wire.methods import UnknownMethod
from buswork.fsct.wire.protocol import Broken
from buswork.fsct.wire.terms import BadValue
from buswork.log import Sparing
from buswork.native.accept import Acceptor
from buswork.native.credentials import peer_of
from buswork.native.places import PlaceTaken, SocketFile

log = logging.getLogger(__name__)

# The driver lets a user have 128 connections; half of them are for those who go there directly.
MAX_CONNECTIONS = 64
# Requests of a connection that are not answered yet; past them it is not read. As the driver.
MAX_IN_FLIGHT = 64
CHUNK_BYTES = 16 * 1024
# How long a client may leave its answers unread.
UNREAD_SECONDS = 30.0
# What is in flight at the end has so long.
DRAIN_SECONDS = 2.0

# To the requests of a connection, in their order; the last one is none.
Answers = asyncio.Queue[asyncio.Task[bytes] | None]

ONLY_MESSAGEPACK = "this socket speaks MessagePack-RPC; the driver's own, /run/fsct/fsct.sock, both"


class Driver(Protocol):
    """What a connection asks; it has a method for each of the wire's."""

    def start(self) -> None: ...

    async def close(self) -> None: ...


# -- the socket ----------------------------------------------------------------------------------


def make_socket(path: Path) -> SocketFile:
    """A socket that is its user's alone, in a folder that is."""
    folder = path.parent
    folder.mkdir(mode=0o700, exist_ok=True)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid():
        raise PlaceTaken(f"{folder} is no folder of ours")
    if stat.S_IMODE(facts.st_mode) != 0o700:
        folder.chmod(0o700)
    return SocketFile(path, 0o600)


# -- the connections -----------------------------------------------------------------------------


class Relay:
    """The connections of a user's clients."""

    def __init__(self, make_driver: Callable[[], Driver]) -> None:
        self._make_driver = make_driver
        self._acceptor = Acceptor()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sparing = Sparing("complaints about clients")

    def __len__(self) -> int:
        return len(self._tasks)

    def open(self, listener: socket.socket) -> None:
        """Serves a listening socket, which is ours from now on."""
        self._acceptor.open(listener, self._accept)

    async def close(self) -> None:
        self._acceptor.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=DRAIN_SECONDS)

    def _accept(self, accepted: socket.SocketType) -> None:
        sock = socket.socket(fileno=accepted.detach())
        sock.setblocking(False)
        uid = peer_of(sock).uid
        if uid not in (0, os.geteuid()):
            self._send_away(sock, f"uid {uid} is not the user of this agent")
        elif len(self._tasks) >= MAX_CONNECTIONS:
            self._send_away(sock, f"there are {MAX_CONNECTIONS} connections already")
        else:
            task = asyncio.create_task(self._serve(sock))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _send_away(self, sock: socket.socket, why: str) -> None:
        sock.close()
        self._complain(why)

    def _complain(self, why: object) -> None:
        if self._sparing.allows(log):
            log.warning("a client of the user's socket is sent away: %s", why)

    async def _serve(self, sock: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=sock)
        driver = self._make_driver()
        driver.start()
        answers: Answers = asyncio.Queue(MAX_IN_FLIGHT)
        writing = asyncio.create_task(_write(answers, writer))
        reading = asyncio.create_task(self._read(reader, driver, answers))
        try:
            # Reading ends with the client's last request, writing with the last answer to it; or
            # with a client that does not read, and then there is nothing to be read either.
            await asyncio.wait({reading, writing}, return_when=asyncio.FIRST_COMPLETED)
            if not writing.done():
                await asyncio.wait({writing})
        finally:
            reading.cancel()
            writing.cancel()
            await asyncio.wait({reading, writing})
            while not answers.empty():
                if (answer := answers.get_nowait()) is not None:
                    answer.cancel()
            writer.transport.abort()
            await driver.close()

    async def _read(self, reader: asyncio.StreamReader, driver: Driver, answers: Answers) -> None:
        """Begins what is asked, in its order."""
        decoder: msgpackrpc.Decoder | None = None
        try:
            while data := await reader.read(CHUNK_BYTES):
                if decoder is None:
                    decoder = msgpackrpc.Decoder()
                    if protocol.protocol_of(data[0]) is protocol.Protocol.JSON_RPC:
                        code = jsonrpc.INVALID_REQUEST
                        raise Broken(
                            "a client speaks JSON",
                            jsonrpc.encode_error(None, code, ONLY_MESSAGEPACK),
                        )
                decoder.feed(data)
                while (message := decoder.next()) is not None:
                    await answers.put(asyncio.create_task(_answer(driver, message)))
        except Broken as error:
            self._complain(error)
            await answers.put(asyncio.create_task(_constant(error.answer)))
        except ConnectionError:
            pass
        await answers.put(None)


async def _write(answers: Answers, writer: asyncio.StreamWriter) -> None:
    """Sends the answers in the order of their requests."""
    with suppress(ConnectionError, TimeoutError):
        while (answer := await answers.get()) is not None:
            try:
                data = await answer
            except asyncio.CancelledError:
                answer.cancel()
                raise
            writer.write(data)
            async with asyncio.timeout(UNREAD_SECONDS):
                await writer.drain()
        # A client that shut its side down still gets all of it.
        writer.close()
        async with asyncio.timeout(UNREAD_SECONDS):
            await writer.wait_closed()


async def _constant(data: bytes) -> bytes:
    return data


async def _answer(driver: Driver, message: msgpackrpc.Message) -> bytes:
    if isinstance(message, msgpackrpc.Refused):
        return msgpackrpc.encode_error(message.msgid, message.text)
    if not isinstance(message, msgpackrpc.Request):
        return b""  # notifications are taken, and change nothing
    try:
        arguments = methods.parse_params(message.method, message.params)
        result = await getattr(driver, message.method)(*arguments)
    except (BadValue, BusworkError, UnknownMethod) as error:
        return msgpackrpc.encode_error(message.msgid, str(error))
    except Exception:
        log.exception("%s failed", message.method)
        return msgpackrpc.encode_error(message.msgid, "the agent failed; its log says how")
    return msgpackrpc.encode_response(message.msgid, methods.encode_result(result))
