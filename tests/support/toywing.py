"""busworkd with one wing more, a toy: it has what the store has not.

    machine.add_policy(OPEN_POLICY)
    daemon = machine.start_daemon(command=toywing.COMMAND)
    alice.call(toywing.PATH, toywing.INTERFACE, "Wait", "s", "gate")

The toy has calls that wait (until another opens their gate), objects that belong to whoever
made them, an action that depends on whose the object is, and descriptors in and out. It goes
the same roads as a wing of the project: quotas and holdings of the authority, faces on the edge.

Numbers that a test can't wait for are lowered by the environment: TOY_PLAIN_SECONDS,
TOY_INTERACTIVE_SECONDS, TOY_DRAIN_SECONDS, TOY_MAX_KNOWN.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from dataclasses import dataclass

from buswork import authority, daemon, service
from buswork.bus import caller, polkit
from buswork.bus.caller import Call
from buswork.bus.contract import Interface, parse
from buswork.bus.objects import Face, Values, in_order
from buswork.bus.ownership import Held
from buswork.errors import NotOwner
from buswork.host import Host, Kind

COMMAND = [sys.executable, "-m", "support.toywing", "--bus", "system"]
PATH = "/org/buswork/toys"
INTERFACE = "org.buswork.Toys"
THING = "org.buswork.Toy"


def _doc(text: str) -> str:
    return f'<annotation name="org.gtk.GDBus.DocString" value="{text}"/>'


def _guard(action: str, others: str = "") -> str:
    text = f'<annotation name="org.buswork.Action" value="{action}"/>'
    if others:
        text += f'<annotation name="org.buswork.ActionForOthers" value="{others}"/>'
    return text


def _emits(how: str) -> str:
    name = "org.freedesktop.DBus.Property.EmitsChangedSignal"
    return f'<annotation name="{name}" value="{how}"/>'


XML = f"""
<node>
 <interface name="{INTERFACE}">{_doc("Makes toys.")}
  <method name="Make">{_doc("A toy of one's own.")}{_guard("org.mapipc.store.write")}
   <arg type="s" name="name" direction="in"/><arg type="o" name="toy" direction="out"/>
  </method>
  <method name="Wait">{_doc("Waits until the gate opens.")}{_guard("none")}
   <arg type="s" name="gate" direction="in"/><arg type="s" name="gate" direction="out"/>
  </method>
  <method name="WaitInOrder">{_doc("The same, and later calls wait.")}{_guard("none")}
   <arg type="s" name="gate" direction="in"/><arg type="s" name="gate" direction="out"/>
  </method>
  <method name="Open">{_doc("Opens a gate; says how many waited.")}{_guard("none")}
   <arg type="s" name="gate" direction="in"/><arg type="u" name="waited" direction="out"/>
  </method>
  <method name="Take">{_doc("Reads descriptors.")}{_guard("org.mapipc.store.write")}
   <arg type="ah" name="files" direction="in"/><arg type="as" name="texts" direction="out"/>
  </method>
  <method name="TakeAndWait">{_doc("Holds descriptors.")}{_guard("org.mapipc.store.write")}
   <arg type="h" name="file" direction="in"/><arg type="s" name="gate" direction="in"/>
   <arg type="s" name="text" direction="out"/>
  </method>
  <method name="Give">{_doc("A descriptor with this text.")}{_guard("org.mapipc.store.read")}
   <arg type="s" name="text" direction="in"/><arg type="h" name="file" direction="out"/>
  </method>
  <method name="Fail">{_doc("Has a defect.")}{_guard("none")}</method>
  <method name="Guarded">{_doc("Wants a password.")}{_guard("org.mapipc.store.clear")}
   <arg type="s" name="text" direction="in"/><arg type="s" name="text" direction="out"/>
  </method>
 </interface>
 <interface name="{THING}">{_doc("One toy.")}
  <method name="Touch">{_doc("For its owner, and others who may.")}
   {_guard("org.mapipc.store.write", "org.buswork.force-release")}
   <arg type="s" name="who" direction="out"/>
  </method>
  <method name="Count">{_doc("How often it was touched.")}{_guard("none")}
   <arg type="u" name="times" direction="out"/>
  </method>
  <method name="Drop">{_doc("Its owner lets it go.")}{_guard("none")}</method>
  <method name="HandOver">{_doc("It belongs to another uid now.")}{_guard("none")}
   <arg type="u" name="uid" direction="in"/>
  </method>
  <property name="Name" type="s" access="read">
   {_doc("Its name.")}{_guard("none")}{_emits("true")}
  </property>
  <property name="Secret" type="s" access="read">
   {_doc("For its owner, and others who may.")}{_emits("true")}
   {_guard("org.mapipc.store.read", "org.buswork.observe-others")}
  </property>
 </interface>
</node>
"""
CONTRACTS = parse(XML)


class Gates:
    """What waits, by the name of what it waits for."""

    def __init__(self) -> None:
        self._gates: dict[str, list[asyncio.Future[None]]] = {}

    async def wait(self, name: str) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._gates.setdefault(name, []).append(future)
        await future

    def open(self, name: str) -> int:
        waiting = [future for future in self._gates.pop(name, []) if not future.done()]
        for future in waiting:
            future.set_result(None)
        return len(waiting)


class ToyFace(Face):
    interface = THING

    def __init__(self, maker: ToysFace, path: str, call: Call, name: str) -> None:
        self._maker = maker
        self._path = path
        self._touched = 0
        self._owner = call.uid
        self._lease = maker.quotas.take(call.uid, "objects")
        self._held: Held | None = None
        self.name = name

    def contract(self) -> Interface:
        return CONTRACTS[THING]

    def owner_uid(self, path: str, values: Values) -> int | None:
        return self._owner

    async def hold(self, call: Call) -> None:
        holdings = self._maker.host.holdings
        try:
            self._held = await holdings.hold(call, self._path, "toy", self.name, self.go)
        except BaseException:
            self._lease.release()
            raise

    def go(self) -> None:
        self._lease.release()
        self._maker.host.edge.unexport(self._path)

    def touch(self, call: Call) -> str:
        self._touched += 1
        return f"{call.uid} touched what belongs to {self._owner}"

    def count(self, call: Call) -> int:
        return self._touched

    def drop(self, call: Call) -> None:
        if call.uid != self._owner:
            raise NotOwner(f"{self._path} is not yours")
        assert self._held is not None
        self._maker.host.holdings.let_go(self._held)
        self.go()

    def hand_over(self, call: Call, uid: int) -> None:
        self._owner = uid
        self._maker.host.edge.changed(self._path, THING, "Name", "Secret")

    @property
    def secret(self) -> str:
        return f"secret of {self._owner}"


class ToysFace(Face):
    interface = INTERFACE

    def __init__(self, host: Host) -> None:
        self.host = host
        self.quotas = host.authority.quotas
        self._gates = Gates()
        self._numbers = itertools.count(1)

    def contract(self) -> Interface:
        return CONTRACTS[INTERFACE]

    @in_order
    async def make(self, call: Call, name: str) -> str:
        path = f"{PATH}/{next(self._numbers)}"
        face = ToyFace(self, path, call, name)
        await face.hold(call)
        self.host.edge.export(path, face, wing=PATH)
        return path

    async def wait(self, call: Call, gate: str) -> str:
        await self._gates.wait(gate)
        return gate

    @in_order
    async def wait_in_order(self, call: Call, gate: str) -> str:
        await self._gates.wait(gate)
        return gate

    def open(self, call: Call, gate: str) -> int:
        return self._gates.open(gate)

    def take(self, call: Call, files: list[int]) -> list[str]:
        return [os.pread(file, 100, 0).decode() for file in files]

    async def take_and_wait(self, call: Call, file: int, gate: str) -> str:
        await self._gates.wait(gate)
        return os.pread(file, 100, 0).decode()

    def give(self, call: Call, text: str) -> int:
        file = os.memfd_create("toy")
        os.write(file, text.encode())
        return file

    def fail(self, call: Call) -> None:
        raise ZeroDivisionError("the toy broke; /root/secret is in the text")

    def guarded(self, call: Call, text: str) -> str:
        return text


@dataclass
class NoLimits:
    """The toys have none."""


class ToyWing:
    def __init__(self, host: Host) -> None:
        self._host = host

    async def start(self) -> None:
        self._host.edge.export(PATH, ToysFace(self._host), wing=PATH, manager=True)

    async def stop(self, *, for_good: bool) -> None:
        pass


def _lower_limits() -> None:
    def number(name: str, default: float) -> float:
        return float(os.environ.get(f"TOY_{name}", default))

    plain = number("PLAIN_SECONDS", polkit.PLAIN_SECONDS)
    interactive = number("INTERACTIVE_SECONDS", polkit.INTERACTIVE_SECONDS)
    for module in (polkit, authority):
        module.PLAIN_SECONDS = plain  # type: ignore[attr-defined]
        module.INTERACTIVE_SECONDS = interactive  # type: ignore[attr-defined]
    service.DRAIN_SECONDS = number("DRAIN_SECONDS", service.DRAIN_SECONDS)
    caller.MAX_KNOWN = int(number("MAX_KNOWN", caller.MAX_KNOWN))


if __name__ == "__main__":
    _lower_limits()
    daemon.WINGS["toy"] = Kind(lambda host, limits, options: ToyWing(host), limits=NoLimits)
    sys.exit(daemon.main())
