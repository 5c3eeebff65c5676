"""A message bus inside the test: its driver, its policy of telling nobody, and everybody on it.

    async with FakeBus() as bus:
        connection = await bus.connect()
        bus.uids[":1.7"] = 1000
        call = bus.call(":1.7", "/org/toy", "org.toy", "Echo", "s", ["hello"])
        assert (await bus.answer_to(call)).values == ["hello"]

It speaks through `support.reference`, so that a fault of the daemon's codec can't hide in it, and
runs in the loop of the test: nothing sleeps, and what is scripted happens in the order written.
Calls that the daemon makes are answered by `answers[destination, member]`, a function of the
Message that returns (signature, values), raises Refused, or returns None: then the test answers
later with `reply` or `refuse`.
"""

import array
import asyncio
import contextlib
import os
import secrets
import socket
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, Self

from buswork.bus.library import variant
from buswork.bus.transport import Connection
from support import reference
from support.reference import Message

DRIVER = "org.freedesktop.DBus"
DRIVER_PATH = "/org/freedesktop/DBus"
ERROR = "org.freedesktop.DBus.Error."
OWN_NAME = ":1.42"
# Asks Ping where a test has to know that all before it was dealt with.
PINGER = ":1.999"
# How long a test waits before it says that nothing will come; only a failing test waits.
PATIENCE = 10.0


class Refused(Exception):
    def __init__(self, name: str, text: str = "refused") -> None:
        super().__init__(name)
        self.name = name
        self.text = text


Answer = tuple[str, Sequence[Any]] | None


class FakeBus:
    def __init__(self) -> None:
        self.uids: dict[str, int] = {PINGER: 7}
        self.names: dict[str, str] = {}
        self.matches: Counter[str] = Counter()
        self.received: list[Message] = []  # all that the daemon has sent
        self.answers: dict[tuple[str, str], Callable[[Message], Answer]] = {
            (DRIVER, "Hello"): lambda call: ("s", [OWN_NAME]),
            (DRIVER, "AddMatch"): self._add_match,
            (DRIVER, "RemoveMatch"): self._remove_match,
            (DRIVER, "GetNameOwner"): self._get_name_owner,
            (DRIVER, "GetConnectionCredentials"): self._get_credentials,
            (DRIVER, "RequestName"): lambda call: ("u", [1]),
        }
        self.sock: socket.socket
        self.auth_lines: list[bytes] = []
        self.auth_answers = [b"OK 0123456789abcdef\r\n", b"AGREE_UNIX_FD\r\n"]
        self._serial = 0
        self._in = bytearray()
        self._in_fds: deque[int] = deque()
        self._out: deque[tuple[bytes, Sequence[int]]] = deque()
        self._writing = False
        self._waiting: list[tuple[Callable[[Message], bool], asyncio.Future[Message]]] = []
        self._connections: list[Connection] = []

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        name = f"buswork-test-{secrets.token_hex(8)}"
        self.address = f"unix:abstract={name}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.setblocking(False)
        self._listener.bind(b"\0" + name.encode())
        self._listener.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._connections:
            connection.close()
        self.hang_up()
        self._listener.close()
        await asyncio.sleep(0)

    def hang_up(self) -> None:
        """The bus dies."""
        if hasattr(self, "sock") and self.sock.fileno() >= 0:
            self._loop.remove_reader(self.sock)
            self._loop.remove_writer(self.sock)
            self.sock.close()
        while self._in_fds:
            os.close(self._in_fds.popleft())
        for message in self.received:
            while message.fds:
                os.close(message.fds.pop())

    # -- the connection ------------------------------------------------------------------------

    async def connect(self) -> Connection:
        accepting = asyncio.create_task(self._accept())
        try:
            connection = await Connection.open(self.address)
        finally:
            accepting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await accepting
        self._connections.append(connection)
        return connection

    async def _accept(self) -> None:
        self.sock, _ = await self._loop.sock_accept(self._listener)
        self.sock.setblocking(False)
        for answer in self.auth_answers:
            line = b""
            while not line.endswith(b"\r\n"):
                line += await self._loop.sock_recv(self.sock, 4096)
            self.auth_lines.append(line)
            await self._loop.sock_sendall(self.sock, answer)
        begin = b""
        while not begin.endswith(b"BEGIN\r\n"):
            begin += await self._loop.sock_recv(self.sock, 7 - len(begin))
        self.listen()

    def listen(self) -> None:
        self._loop.add_reader(self.sock, self._readable)

    def stop_listening(self) -> None:
        """The bus reads no more: what the daemon sends stays in the socket."""
        self._loop.remove_reader(self.sock)

    def _readable(self) -> None:
        try:
            data, ancillary, _, _ = self.sock.recvmsg(1 << 18, socket.CMSG_SPACE(253 * 4))
        except BlockingIOError:
            return
        except OSError:
            data, ancillary = b"", []
        for _, _, rights in ancillary:
            fds = array.array("i")
            fds.frombytes(rights)
            self._in_fds.extend(fds)
        if not data:
            self._loop.remove_reader(self.sock)
            return
        self._in += data
        taken = 0
        view = bytes(self._in)
        while (size := reference.length(view[taken : taken + 16])) is not None:
            if len(view) < taken + size:
                break
            message = reference.parse(view[taken : taken + size])
            taken += size
            for _ in range(message.fields.get(reference.UNIX_FDS, 0)):
                message.fds.append(self._in_fds.popleft())
            self._take(message)
        del self._in[:taken]

    def _take(self, message: Message) -> None:
        self.received.append(message)
        if message.kind == reference.CALL:
            self._serve(message)
        for waiting in tuple(self._waiting):
            predicate, future = waiting
            if not future.done() and predicate(message):
                future.set_result(message)
                self._waiting.remove(waiting)

    def _serve(self, call: Message) -> None:
        destination = call.fields.get(reference.DESTINATION, "")
        answer = self.answers.get((destination, call.member))
        try:
            if answer is None:
                raise Refused(ERROR + "ServiceUnknown", f"no {destination}.{call.member}")
            made = answer(call)
        except Refused as error:
            self.refuse(call, error.name, error.text)
        else:
            if made is not None:
                self.reply(call, *made)

    # -- the driver ----------------------------------------------------------------------------

    def _add_match(self, call: Message) -> Answer:
        self.matches[call.values[0]] += 1
        return "", []

    def _remove_match(self, call: Message) -> Answer:
        rule = call.values[0]
        assert self.matches[rule] > 0
        self.matches[rule] -= 1
        self.matches += Counter()
        return "", []

    def _get_name_owner(self, call: Message) -> Answer:
        name = call.values[0]
        if name in self.uids:
            return "s", [name]
        if name in self.names:
            return "s", [self.names[name]]
        raise Refused(ERROR + "NameHasNoOwner")

    def _get_credentials(self, call: Message) -> Answer:
        uid = self.uids.get(call.values[0])
        if uid is None:
            raise Refused(ERROR + "NameHasNoOwner")
        return "a{sv}", [{"UnixUserID": variant("u", uid), "ProcessID": variant("u", 4711)}]

    def leave(self, sender: str) -> None:
        """A client leaves the bus; the daemon hears of it if it asked to."""
        del self.uids[sender]
        if any(f"arg0='{sender}'" in rule for rule in self.matches):
            self.owner_changed(sender, sender, "")

    def own(self, name: str, owner: str | None) -> None:
        """A well-known name gets another owner, or none."""
        old = self.names.pop(name, "")
        if owner is not None:
            self.names[name] = owner
        if any(f"arg0='{name}'" in rule for rule in self.matches):
            self.owner_changed(name, old, owner or "")

    def owner_changed(self, name: str, old: str, new: str, *, sender: str = DRIVER) -> None:
        values = [name, old, new]
        self.signal(sender, DRIVER_PATH, DRIVER, "NameOwnerChanged", "sss", values)

    # -- what goes to the daemon ---------------------------------------------------------------

    def next_serial(self) -> int:
        self._serial += 1
        return self._serial

    def write(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Any bytes at all; the descriptors go with the first of them."""
        self._out.append((data, [os.dup(fd) for fd in fds]))
        if not self._writing:
            self._write_out()

    def _write_out(self) -> None:
        self._loop.remove_writer(self.sock)
        self._writing = False
        while self._out:
            data, fds = self._out.popleft()
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            try:
                sent = self.sock.sendmsg([data], rights)
            except BlockingIOError:
                self._out.appendleft((data, fds))
                self._loop.add_writer(self.sock, self._write_out)
                self._writing = True
                return
            except OSError:
                sent = len(data)  # the daemon has hung up
            for fd in fds:
                os.close(fd)
            if sent < len(data):
                self._out.appendleft((data[sent:], ()))

    def message(
        self,
        kind: int,
        fields: dict[int, Any],
        signature: str,
        values: Sequence[Any],
        *,
        flags: int = 0,
        order: str = "<",
        fds: Sequence[int] = (),
    ) -> Message:
        if signature:
            fields[reference.SIGNATURE] = signature
        if fds:
            fields[reference.UNIX_FDS] = len(fds)
        body = reference.encode(signature, values, order)
        fields = {code: value for code, value in fields.items() if value is not None}
        return Message(kind, self.next_serial(), fields, body, flags, order)

    def call_message(
        self,
        sender: str | None,
        path: str,
        interface: str | None,
        member: str,
        signature: str = "",
        values: Sequence[Any] = (),
        **how: Any,
    ) -> Message:
        fields = {
            reference.PATH: path,
            reference.INTERFACE: interface,
            reference.MEMBER: member,
            reference.DESTINATION: OWN_NAME,
            reference.SENDER: sender,
        }
        return self.message(reference.CALL, fields, signature, values, **how)

    def call(
        self,
        sender: str | None,
        path: str,
        interface: str | None,
        member: str,
        signature: str = "",
        values: Sequence[Any] = (),
        **how: Any,
    ) -> Message:
        """Somebody calls the daemon; how: flags, order, fds."""
        message = self.call_message(sender, path, interface, member, signature, values, **how)
        self.write(message.write(), how.get("fds", ()))
        return message

    def reply(
        self, call: Message, signature: str = "", values: Sequence[Any] = (), **how: Any
    ) -> None:
        self.write(self.reply_message(call, signature, values, **how).write(), how.get("fds", ()))

    def reply_message(
        self, call: Message, signature: str = "", values: Sequence[Any] = (), **how: Any
    ) -> Message:
        fields = {
            reference.REPLY_SERIAL: call.serial,
            reference.DESTINATION: OWN_NAME,
            reference.SENDER: call.fields.get(reference.DESTINATION, DRIVER),
        }
        return self.message(reference.RETURN, fields, signature, values, **how)

    def refuse(self, call: Message, name: str, text: str = "refused") -> None:
        fields = {
            reference.ERROR_NAME: name,
            reference.REPLY_SERIAL: call.serial,
            reference.DESTINATION: OWN_NAME,
            reference.SENDER: DRIVER,
        }
        self.write(self.message(reference.ERROR, fields, "s", [text]).write())

    def signal(
        self,
        sender: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        values: Sequence[Any] = (),
        **how: Any,
    ) -> None:
        fields = {
            reference.PATH: path,
            reference.INTERFACE: interface,
            reference.MEMBER: member,
            reference.SENDER: sender,
        }
        message = self.message(reference.SIGNAL, fields, signature, values, **how)
        self.write(message.write(), how.get("fds", ()))

    # -- what comes from the daemon ------------------------------------------------------------

    async def next(self, predicate: Callable[[Message], bool]) -> Message:
        """The next message of the daemon that is like this, from now on."""
        future: asyncio.Future[Message] = self._loop.create_future()
        self._waiting.append((predicate, future))
        async with asyncio.timeout(PATIENCE):
            return await future

    async def answer_to(self, call: Message) -> Message:
        """The reply or error, whether it has come already or not."""
        return self.answer_now(call) or await self.next(
            lambda message: message.fields.get(reference.REPLY_SERIAL) == call.serial
        )

    def answer_now(self, call: Message) -> Message | None:
        """The reply or error if it is here; None while there is none."""
        for message in self.received:
            if message.fields.get(reference.REPLY_SERIAL) == call.serial:
                return message
        return None

    async def asked(self, member: str, count: int = 1) -> Message:
        """The count-th call of this method that the daemon has made, or will make."""
        while len(made := self.calls(member)) < count:
            await self.next(lambda message: message.member == member)
        return made[count - 1]

    def calls(self, member: str) -> list[Message]:
        """The calls of this method that the daemon has made."""
        return [
            message
            for message in self.received
            if message.kind == reference.CALL and message.member == member
        ]

    def signals(self, member: str) -> list[Message]:
        return [
            message
            for message in self.received
            if message.kind == reference.SIGNAL and message.member == member
        ]

    async def settle(self) -> None:
        """Returns when the daemon has dealt with all that was sent, as far as it can."""
        for _ in range(3):
            ping = self.call(PINGER, "/", DRIVER + ".Peer", "Ping")
            await self.answer_to(ping)
            for _ in range(5):
                await asyncio.sleep(0)


class FakePolkit:
    """polkit on a FakeBus; `rules` say how it answers for an action.

    yes, no, challenge (needs a password: yes when asked with interaction), temporary (a yes with
    an id), hang, or a Refused that is raised.
    """

    NAME = "org.freedesktop.PolicyKit1"
    INTERFACE = NAME + ".Authority"
    PATH = "/org/freedesktop/PolicyKit1/Authority"

    def __init__(self, bus: FakeBus, owner: str = ":1.3") -> None:
        self.rules: dict[str, str | Refused] = {}
        self.questions: list[Message] = []
        self.cancelled: list[str] = []
        self.owner = owner
        self._bus = bus
        bus.names[self.NAME] = owner
        bus.answers[self.NAME, "CheckAuthorization"] = self._check
        bus.answers[self.NAME, "CancelCheckAuthorization"] = self._cancel

    def absent(self) -> None:
        del self._bus.answers[self.NAME, "CheckAuthorization"]
        self._bus.own(self.NAME, None)

    def _check(self, call: Message) -> Answer:
        self.questions.append(call)
        _, action, _, flags, _ = call.values[:5]
        rule = self.rules.get(action, "no")
        if isinstance(rule, Refused):
            raise rule
        if rule == "hang" or (rule == "challenge-hang" and flags):
            return None
        return self.answer(rule, interactive=bool(flags))

    @staticmethod
    def answer(rule: str, *, interactive: bool = False) -> tuple[str, list[Any]]:
        challenge = rule.startswith("challenge") and not interactive
        yes = rule in ("yes", "temporary") or (rule == "challenge" and interactive)
        details = {"polkit.temporary_authorization_id": "tmp1"} if rule == "temporary" else {}
        return "(bba{ss})", [(yes, challenge, details)]

    def decide(self, question: Message, rule: str) -> None:
        """Answers a question that hangs."""
        interactive = bool(question.values[3])
        self._bus.reply(question, *self.answer(rule, interactive=interactive))

    def _cancel(self, call: Message) -> Answer:
        self.cancelled.append(call.values[0])
        return None if call.flags & 1 else ("", [])

    def change(self, sender: str | None = None) -> None:
        """Says Changed; somebody else may say it too."""
        self._bus.signal(sender or self.owner, self.PATH, self.INTERFACE, "Changed")
