"""Toy objects on a FakeBus, with everything between them and it real: edge, authority, callers.

stack = await Stack.make(bus)
toy = stack.toy("/org/toy")
"""

import asyncio
import os
from dataclasses import dataclass
from typing import Any, Self

from buswork.authority import Authority, Limits
from buswork.bus.caller import Call, Callers
from buswork.bus.contract import Interface, parse
from buswork.bus.export import Edge
from buswork.bus.library import Variant
from buswork.bus.objects import Exported, Face, in_order
from buswork.bus.polkit import Polkit
from buswork.bus.transport import Connection
from buswork.errors import BusworkError, Busy
from support.fakebus import FakeBus

ROOT = "/org/toy"
TOY = "org.toy.Toy"
OTHER = "org.toy.Other"
ALICE, BOB, ROOT_USER = ":1.7", ":1.8", ":1.9"
ALICE_UID, BOB_UID = 1000, 1001
SECRET = "what only the log may say"


def annotation(name: str, value: str) -> str:
    return f'<annotation name="{name}" value="{value}"/>'


def doc() -> str:
    return annotation("org.gtk.GDBus.DocString", "A toy.")


def guard(action: str, others: str = "") -> str:
    text = annotation("org.buswork.Action", action)
    return text + (annotation("org.buswork.ActionForOthers", others) if others else "")


def method(
    name: str, takes: str = "", gives: str = "", action: str = "none", others: str = ""
) -> str:
    args = "".join(f'<arg type="{type_}" direction="in"/>' for type_ in takes.split())
    args += "".join(f'<arg type="{type_}" direction="out"/>' for type_ in gives.split())
    return f'<method name="{name}">{doc()}{guard(action, others)}{args}</method>'


def property_(
    name: str,
    type_: str,
    access: str,
    action: str = "none",
    *,
    others: str = "",
    write: str = "",
    emits: str = "true",
) -> str:
    text = doc() + guard(action, others)
    text += annotation("org.freedesktop.DBus.Property.EmitsChangedSignal", emits)
    text += annotation("org.buswork.WriteAction", write) if write else ""
    return f'<property name="{name}" type="{type_}" access="{access}">{text}</property>'


def signal(name: str, types: str) -> str:
    args = "".join(f'<arg type="{type_}"/>' for type_ in types.split())
    return f'<signal name="{name}">{doc()}{args}</signal>'


XML = f"""<node><interface name="{TOY}">{doc()}
{method("Echo", "s", "s")}
{method("Wait", "s", "s")}
{method("Ordered", "s", "s")}
{method("Guarded", "s", "s", "org.toy.guarded")}
{method("GuardedWait", "s", "s", "org.toy.guarded")}
{method("Private", "s s", "s", "org.toy.own", "org.toy.others")}
{method("Fail", "s")}
{method("FailLater", "s")}
{method("Blob", "u", "ay")}
{method("BadString", "", "s")}
{method("BadPath", "", "o")}
{method("BadType", "", "u")}
{method("Give", "u", "ah")}
{method("GiveBadly", "u", "ah s")}
{method("GiveBadlyLater", "u", "ah s")}
{method("Take", "ah", "u")}
{method("TakeLater", "ah", "u")}
{method("TakeInOrder", "ah", "u")}
{method("Pair", "", "s u")}
{method("Options", "a{sv}", "u")}
{method("Nothing")}
{method("Both")}
{property_("Public", "s", "readwrite", write="none")}
{property_("Secret", "s", "read", "org.toy.read")}
{property_("Theirs", "s", "read", "none", others="org.toy.read-others")}
{property_("Constant", "u", "read", emits="const")}
{property_("Silent", "u", "read", emits="false")}
{property_("Large", "s", "read", emits="invalidates")}
{property_("Knob", "u", "write", "org.toy.guarded", emits="false")}
{property_("Dial", "u", "readwrite", write="org.toy.guarded")}
{signal("Moved", "s u")}
</interface>
<interface name="{OTHER}">{doc()}
{method("Both")}
{method("Only", "", "s")}
{property_("Mood", "s", "read")}
</interface></node>"""

CONTRACTS = parse(XML)


class ToyFace(Face):
    interface = TOY

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.gates: dict[str, asyncio.Future[str]] = {}
        self.owner: int | None = None
        self.asked_owner: list[Any] = []
        self.public = "open"
        self.secret = "hush"
        self.theirs = "mine"
        self.constant = 5
        self.silent = 6
        self.large = "x" * 100
        self.dial = 1
        self.knob_turned: list[int] = []
        self.given: list[int] = []
        self.broken = ""

    def contract(self) -> Interface:
        return CONTRACTS[self.interface]

    def owner_uid(self, path: str, values: Any) -> int | None:
        self.asked_owner.append((path, values))
        return self.owner

    def gate(self, name: str) -> "asyncio.Future[str]":
        return self.gates.setdefault(name, asyncio.get_running_loop().create_future())

    def echo(self, call: Call, text: str) -> str:
        self.calls.append((call.sender, text))
        return text

    async def wait(self, call: Call, name: str) -> str:
        self.calls.append((call.sender, name))
        return await self.gate(name)

    @in_order
    async def ordered(self, call: Call, name: str) -> str:
        self.calls.append((call.sender, name))
        return await self.gate(name)

    def guarded(self, call: Call, text: str) -> str:
        self.calls.append((call.sender, text))
        return text

    async def guarded_wait(self, call: Call, name: str) -> str:
        self.calls.append((call.sender, name))
        return await self.gate(name)

    def private(self, call: Call, key: str, text: str) -> str:
        self.calls.append((call.sender, key, text))
        return text

    def fail(self, call: Call, how: str) -> None:
        raise _failure(how)

    async def fail_later(self, call: Call, how: str) -> None:
        await asyncio.sleep(0)
        raise _failure(how)

    def blob(self, call: Call, size: int) -> bytes:
        return bytes(size)

    def bad_string(self, call: Call) -> str:
        return "a\0b"

    def bad_path(self, call: Call) -> str:
        return "no/path"

    def bad_type(self, call: Call) -> Any:
        return "five"

    def give(self, call: Call, count: int) -> list[int]:
        self.given = [os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) for _ in range(count)]
        return self.given

    def give_badly(self, call: Call, count: int) -> tuple[list[int], str]:
        return self.give(call, count), "a\0b"

    async def give_badly_later(self, call: Call, count: int) -> tuple[list[int], str]:
        await asyncio.sleep(0)
        return self.give_badly(call, count)

    def take(self, call: Call, fds: list[int]) -> int:
        for fd in fds:
            os.fstat(fd)
        self.calls.append(tuple(fds))
        return len(fds)

    async def take_later(self, call: Call, fds: list[int]) -> int:
        self.calls.append(tuple(fds))
        await self.gate("take")
        for fd in fds:
            os.fstat(fd)
        return len(fds)

    @in_order
    async def take_in_order(self, call: Call, fds: list[int]) -> int:
        return await self.take_later(call, fds)

    def pair(self, call: Call) -> tuple[str, int]:
        return "a", 5

    def options(self, call: Call, options: dict[str, Variant]) -> int:
        return len(options)

    def nothing(self, call: Call) -> None:
        self.calls.append((call.sender,))

    def both(self, call: Call) -> None:
        self.calls.append(("both",))

    def set_public(self, call: Call, value: str) -> None:
        self.public = value

    def set_knob(self, call: Call, value: int) -> None:
        self.knob_turned.append(value)

    async def set_dial(self, call: Call, value: int) -> None:
        await asyncio.sleep(0)
        self.dial = value

    def __getattribute__(self, name: str) -> Any:
        if name not in ("broken", "__dict__") and name == self.__dict__.get("broken"):
            raise RuntimeError(SECRET)
        return super().__getattribute__(name)


def _failure(how: str) -> Exception:
    failures: dict[str, Exception] = {
        "busy": Busy("come back later"),
        "own": BusworkError("own text", "org.toy.Error.Own"),
        "bad name": BusworkError("text", "not a name"),
        "value": ValueError(SECRET),
        "key": KeyError(SECRET),
        "nul": Busy("a\0b"),
    }
    return failures[how]


class OtherFace(Face):
    interface = OTHER
    mood = "good"

    def contract(self) -> Interface:
        return CONTRACTS[self.interface]

    def both(self, call: Call) -> None:
        raise AssertionError("ambiguous")

    def only(self, call: Call) -> str:
        return call.sender


@dataclass
class Stack:
    bus: FakeBus
    connection: Connection
    callers: Callers
    authority: Authority
    edge: Edge

    @classmethod
    async def make(cls, bus: FakeBus, limits: Limits | None = None, own_uid: int = 500) -> Self:
        bus.uids.update({ALICE: ALICE_UID, BOB: BOB_UID, ROOT_USER: 0})
        connection = await bus.connect()
        callers = Callers(connection)
        polkit = Polkit(connection)
        authority = Authority(polkit, callers, own_uid, limits or Limits())
        await authority.start()
        return cls(bus, connection, callers, authority, Edge(connection, callers, authority))

    def toy(
        self, path: str = ROOT, *more: Face, wing: str = ROOT, manager: bool = False
    ) -> ToyFace:
        face = ToyFace()
        self.edge.export(path, face, *more, wing=wing, manager=manager)
        return face

    @property
    def tree(self) -> Any:
        return self.edge._tree

    def exported(self, path: str) -> Exported:
        exported = self.tree.get(path)
        assert exported is not None
        return exported

    async def call(
        self, sender: str, member: str, signature: str = "", *values: Any, **how: Any
    ) -> Any:
        """Calls the toy as somebody and returns the answer message."""
        path = how.pop("path", ROOT)
        interface = how.pop("interface", TOY)
        call = self.bus.call(sender, path, interface, member, signature, values, **how)
        return await self.bus.answer_to(call)
