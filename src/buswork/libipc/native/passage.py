"""The passage: connections to services for the doors process, which lets in programs from outside.

It is asked as a message on ipc.sock (SOCK_SEQPACKET), once on each connection:

    connect UID FORM SERVICE     ok, with a descriptor; or denied TEXT, or error NAME TEXT

UID is whose rights the program has outside: the service's socket is looked at for that user. Root
does not come in: whoever got hold of the doors process would reach all that there is.
"""

import asyncio
import logging
import os
import pwd
import socket
from collections.abc import Collection
from contextlib import suppress
from typing import Final, NamedTuple, Protocol

from buswork.authority import Authority
from buswork.errors import AccessDenied, BusworkError, InvalidArgs
from buswork.libipc.errors import NotAllowed, named
from buswork.libipc.model.terms import Who
from buswork.libipc.native.groups import groups_of
from buswork.libipc.wire import names
from buswork.libipc.wire.forms import Form
from buswork.log import Sparing, escaped
from buswork.native.accept import Acceptor
from buswork.native.peers import Known, Peers

log = logging.getLogger(__name__)

DOORS_USER: Final = "buswork-doors"
CONNECT: Final = "org.libipc.connect"
# From connecting to having read the answer; the doors do not wait longer.
PASSAGE_SECONDS: Final = 10.0
QUESTION_BYTES: Final = 1024
MAX_UID: Final = (1 << 32) - 2
ROOT: Final = 0
# Asked at once: the doors have no more ways at once either.
MOST_QUESTIONS: Final = 128


class Connects(Protocol):
    async def connect(self, who: Who, name: str, form: Form | None) -> socket.socket: ...


class Question(NamedTuple):
    uid: int
    form: Form
    service: str


def doors_uids() -> frozenset[int]:
    """Who may say for whom he asks."""
    with suppress(KeyError):
        return frozenset((os.geteuid(), pwd.getpwnam(DOORS_USER).pw_uid))
    return frozenset((os.geteuid(),))


class Passage:
    def __init__(
        self, hub: Connects, authority: Authority, doors: Collection[int] | None = None
    ) -> None:
        """doors: uids."""
        self._hub = hub
        self._authority = authority
        self._doors = doors_uids() if doors is None else doors
        self._peers = Peers(authority.forget_peer)
        self._acceptor = Acceptor()
        self._tasks: set[asyncio.Task[None]] = set()
        self._strangers = Sparing("clients of the passage that were sent away")

    def open(self, listener: socket.socket) -> None:
        """Serves a listening socket of the kind SOCK_SEQPACKET, which is ours from now on."""
        self._acceptor.open(listener, self._serve)

    async def stop(self) -> None:
        self._acceptor.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._peers.close()

    def _serve(self, accepted: socket.SocketType) -> None:
        sock = socket.socket(fileno=accepted.detach())
        try:
            known = self._peers.of(sock)
            if known.peer.uid not in self._doors:
                raise AccessDenied(f"uid {known.peer.uid} is not that of the doors")
            if len(self._tasks) >= MOST_QUESTIONS:
                raise AccessDenied(f"{MOST_QUESTIONS} questions are open")
        except BusworkError as error:
            if self._strangers.allows(log):
                log.warning("the passage is closed to a client: %s", error)
            sock.close()
            return
        sock.setblocking(False)
        self._peers.hold(known)
        task = asyncio.create_task(self._answer(sock, known), name="libipc passage")
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._ended(task, sock, known))

    def _ended(self, task: asyncio.Task[None], sock: socket.socket, known: Known) -> None:
        self._tasks.discard(task)
        sock.close()
        self._peers.let_go(known)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a question of the doors failed", exc_info=error)

    async def _answer(self, sock: socket.socket, known: Known) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):  # it left; a timeout is one too
            async with asyncio.timeout(PASSAGE_SECONDS):
                message = await loop.sock_recv(sock, QUESTION_BYTES)
                try:
                    with await self._connected(message, known) as connected:
                        socket.send_fds(sock, (b"ok\n",), (connected.fileno(),))
                except (BusworkError, OSError) as error:
                    await loop.sock_sendall(sock, _refusal(error))
                # Once we closed it, nobody would count the descriptor that lies there.
                await loop.sock_recv(sock, QUESTION_BYTES)

    async def _connected(self, message: bytes, known: Known) -> socket.socket:
        question = parse_question(message)
        if question.uid == ROOT and os.geteuid() != ROOT:
            raise AccessDenied("root does not come in through the doors")
        await self._authority.require_peer(known.peer, CONNECT)
        label = f"uid {question.uid} at the doors"
        who = Who(question.uid, await groups_of(question.uid), label)
        return await self._hub.connect(who, question.service, question.form)


def parse_question(message: bytes) -> Question:
    """InvalidArgs: it is none."""
    try:
        word, uid, form, service = message.decode().removesuffix("\n").split(" ", 3)
        if word == "connect" and uid.isdecimal() and uid.isascii() and int(uid) <= MAX_UID:
            return Question(int(uid), Form(form), names.check(service))
    except names.BadName as error:
        raise named(error) from error
    except ValueError:
        pass
    raise InvalidArgs("there is no such question")


def _refusal(error: Exception) -> bytes:
    text = escaped(str(error))
    if isinstance(error, (AccessDenied, NotAllowed)):
        return f"denied {text}\n".encode()
    name = error.name if isinstance(error, BusworkError) else BusworkError.name
    return f"error {name} {text}\n".encode()
