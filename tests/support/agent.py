"""A polkit authentication agent for tests, without passwords and without PAM.

    alice = machine.client("alice")
    with Agent(machine, alice.pid, answer="hang") as agent:
        ticket = alice.begin(..., flags=Client.INTERACTIVE)
        assert agent.wait_asked().action == "org.mapipc.store.clear"
        agent.answer("yes")

The agent runs as root, which polkit lets register for anybody's process and confirm an answer
itself. It is registered for one process, and only a question about just that process comes to it;
a short-lived command needs `pkttyagent`. Answers:

    yes    the user gave the right password
    no     the user dismissed the prompt
    fail   the user gave a wrong password
    hang   no answer until the next `answer`

What polkit 122 makes of these, as (authorised, challenge): "no" is (False, False) with the detail
polkit.dismissed, "fail" is (False, False), and a question that was cancelled is (False, False) and
no error. A "yes" to auth_admin_keep is remembered for the process, so that later questions do not
come: `machine.restart_polkit()` forgets it, and the agent has to be made anew as well.
"""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    from support.machine import Machine

Answer = Literal["yes", "no", "fail", "hang"]

AUTHORITY = ("org.freedesktop.PolicyKit1", "/org/freedesktop/PolicyKit1/Authority")
AUTHORITY_INTERFACE = "org.freedesktop.PolicyKit1.Authority"
AGENT_INTERFACE = "org.freedesktop.PolicyKit1.AuthenticationAgent"
AGENT_PATH = "/org/buswork/tests/agent"
WAIT_SECONDS = 10.0


@dataclass(frozen=True)
class Asked:
    """A question that polkit put to the agent."""

    action: str
    message: str
    details: dict[str, str]
    cookie: str
    uids: list[int]  # of those who may answer it


class Agent:
    """The agent of one process of a machine; see the top of this file."""

    def __init__(self, machine: Machine, pid: int, answer: Answer = "yes") -> None:
        self.asked: list[Asked] = []
        self.cancelled: list[str] = []  # cookies
        self._seen = 0
        self._input = bytearray()
        self._process = machine.popen(
            [sys.executable, str(pathlib.Path(__file__).resolve()), str(pid), answer],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        if self._event(WAIT_SECONDS) != {"event": "registered"}:
            raise RuntimeError("the agent could not register with polkit")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def answer(self, how: Answer) -> None:
        """How to answer from now on, and what is still open as well. Returns when that is so."""
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write(how.encode() + b"\n")
        stdin.flush()
        deadline = time.monotonic() + WAIT_SECONDS
        while (event := self._event(deadline - time.monotonic())) != {"event": "answer"}:
            self._take(event)

    def wait_asked(self, timeout: float = WAIT_SECONDS) -> Asked:
        """The next question, in order."""
        deadline = time.monotonic() + timeout
        while len(self.asked) == self._seen:
            self._take(self._event(deadline - time.monotonic()))
        self._seen += 1
        return self.asked[self._seen - 1]

    def wait_cancelled(self, cookie: str, timeout: float = WAIT_SECONDS) -> None:
        """Returns when polkit has taken that question back."""
        deadline = time.monotonic() + timeout
        while cookie not in self.cancelled:
            self._take(self._event(deadline - time.monotonic()))

    def close(self) -> None:
        """Leaves the bus, which unregisters it."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.wait(WAIT_SECONDS)

    def _take(self, event: dict[str, Any]) -> None:
        match event:
            case {"event": "asked", **values}:
                self.asked.append(Asked(**values))
            case {"event": "cancelled", "cookie": cookie}:
                self.cancelled.append(cookie)

    def _event(self, timeout: float) -> dict[str, Any]:
        stdout = self._process.stdout
        assert stdout is not None
        deadline = time.monotonic() + timeout
        while b"\n" not in self._input:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([stdout], [], [], left)[0]:
                raise TimeoutError(f"nothing from the agent within {timeout:.1f} s")
            piece = os.read(stdout.fileno(), 1 << 16)
            if not piece:
                raise RuntimeError("the agent has ended")
            self._input += piece
        line, _, self._input = self._input.partition(b"\n")
        event: dict[str, Any] = json.loads(line)
        return event


# --- The process itself ---------------------------------------------------------------------------


def tell(event: str, **values: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **values}) + "\n")
    sys.stdout.flush()


def identify(pid: int) -> tuple[int, int]:
    """A process's start time and uid, which with its number make a subject of polkit."""
    after_name = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    return int(after_name.split()[19]), pathlib.Path(f"/proc/{pid}").stat().st_uid


async def main(pid: int, answer: str) -> None:
    from dbus_fast import BusType, Message, MessageType, Variant
    from dbus_fast.aio import MessageBus

    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    current = answer
    opened: dict[str, tuple[Message, Any]] = {}
    tasks: set[asyncio.Task[None]] = set()

    async def ask_authority(member: str, signature: str, body: list[Any]) -> None:
        reply = await bus.call(
            Message(
                destination=AUTHORITY[0],
                path=AUTHORITY[1],
                interface=AUTHORITY_INTERFACE,
                member=member,
                signature=signature,
                body=body,
            )
        )
        assert reply is not None
        if reply.message_type is MessageType.ERROR:
            raise RuntimeError(f"{member}: {reply.error_name}: {reply.body}")

    async def settle(cookie: str) -> None:
        if current == "hang" or cookie not in opened:
            return
        question, identity = opened.pop(cookie)
        if current == "yes":
            await ask_authority("AuthenticationAgentResponse2", "us(sa{sv})", [0, cookie, identity])
        if current == "no":
            name = "org.freedesktop.PolicyKit1.Error.Cancelled"
            await bus.send(Message.new_error(question, name, "dismissed"))
        else:
            await bus.send(Message.new_method_return(question))

    def later(cookie: str) -> None:
        task = asyncio.create_task(settle(cookie))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def on_message(message: Message) -> bool:
        if message.message_type is not MessageType.METHOD_CALL:
            return False
        if message.path != AGENT_PATH or message.interface != AGENT_INTERFACE:
            return False
        if message.member == "BeginAuthentication":
            action, text, _icon, details, cookie, identities = message.body
            opened[cookie] = (message, identities[0])
            uids = [identity[1]["uid"].value for identity in identities]
            tell("asked", action=action, message=text, details=details, cookie=cookie, uids=uids)
            later(cookie)
            return True
        (cookie,) = message.body
        if cookie in opened:
            question, _ = opened.pop(cookie)
            bus.send(Message.new_method_return(question))
        tell("cancelled", cookie=cookie)
        bus.send(Message.new_method_return(message))
        return True

    bus.add_message_handler(on_message)
    start_time, uid = identify(pid)
    subject = {
        "pid": Variant("u", pid),
        "start-time": Variant("t", start_time),
        "uid": Variant("i", uid),
    }
    body = [["unix-process", subject], "C", AGENT_PATH]
    await ask_authority("RegisterAuthenticationAgent", "(sa{sv})ss", body)
    tell("registered")

    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        current = line.strip()
        tell("answer")
        for cookie in list(opened):
            later(cookie)
    bus.disconnect()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
