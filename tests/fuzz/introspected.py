"""Calls everything that a service shows of itself, with anything at all.

    python tests/fuzz/introspected.py [--service daemon|appview] [--seconds N] [--seed N]

Needs to be root. It has a bus, polkit, the service with simulated devices, and processes of its
own, and prints what it found, in JSON, in the end. Each call depends on the seed and its number,
and on what was heard before. Status 0: every call was answered, in time, with a value of the type
that the contract has or with a named error that says something, and with none of a defect; the
service lived on, grew within bounds, and was well.
"""

import argparse
import json
import os
import shlex
import sys
import time
from collections import Counter, deque
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random, SystemRandom
from subprocess import PIPE
from typing import Any

from introspected_tree import PROPERTIES, Member, Tree
from introspected_values import Descriptors, Values, Words, busctl_words
from support.apart import go_apart
from support.machine import (
    APPVIEW_NAME,
    BUS_NAME,
    OPEN_POLICY,
    CallError,
    Daemon,
    Machine,
    Process,
    Variant,
)
from support.raw import ERROR, NO_REPLY, SIGNATURE, Crowd, Heard, Raw

# Longer than any of the service's own deadlines, polkit's among them.
DEADLINE = 60.0
# What moves data without an end, or very many, need not be answered before it has one.
ENDLESS_SECONDS = 0.3
# Calls under way, and calls of one connection: what it holds goes with it.
UNDER_WAY, LIFE = 24, 150
# How often it is looked whether the service is well, and what there is, in calls.
LOOK = 400
# Calls of one user to one interface, most of them.
MOOD = 30
# What it may take beyond what it took in the beginning; the unit allows four times as much in all.
MOST_GROWTH = 512 << 20
# How a defect looks to a caller, and in the log.
DEFECT, DEFECTS = "the daemon failed to answer", ("a defect in", "Traceback")
NAMES = ("org.freedesktop.DBus.Error.", "org.buswork.Error.", "org.mapipc.Error.")
NAMES += tuple(f"org.{wing}.Error." for wing in ("fsct", "flipper", "libipc", "appview"))
PORTS = {
    ("/org/buswork/simulator", "org.buswork.Simulator"): ("1-1", "1-2"),
    ("/org/buswork/simulator/boards", "org.buswork.Simulator.Boards"): ("1-3", "1-4"),
}
LOG = "org.freedesktop.LogControl1"
LEVEL = ("/org/freedesktop/LogControl1", PROPERTIES, "Set", "ssv", LOG, "LogLevel")
PLANTED = str(Path(__file__).with_name("planted.py"))
RULE = 'polkit.addRule(function (action, subject) { if (subject.user == "bob") return "yes"; });'


@dataclass
class Call:
    number: int
    user: str
    path: str
    member: Member
    signature: str
    values: list[Any]
    fds: list[int]
    descriptors: Descriptors
    is_as_it_should: bool

    @property
    def is_endless(self) -> bool:
        return self.descriptors.is_endless or {"h", "t"} <= {*self.signature}

    def command(self, service: str) -> str:
        """For a shell, as far as busctl can say it."""
        member = self.member
        words = busctl_words(self.signature, self.values)
        target = ["busctl", "--system", "call", service, self.path, member.interface, member.name]
        if words is None or any("\0" in word for word in words):
            return f"{shlex.join(target)} {self.signature}  # with {str(self.values)[:300]}"
        options = [self.signature, "--", *words] if self.signature else []
        return shlex.join([*target, *options])


@dataclass
class Findings:
    seed: str
    service: str
    calls: int = 0
    answered: Counter[str] = field(default_factory=Counter)
    refused: dict[str, Counter[str]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    grown: int = 0

    def add(self, what: str, call: Call | None = None) -> None:
        text = what
        if call is not None:
            text += f"\n    {call.user}: {call.command(self.service)}"
            text += f"\n    call {call.number} of --seed {self.seed}"
        self.wrong.append(text)
        print(f"FOUND {text}", file=sys.stderr, flush=True)


# -- the house -------------------------------------------------------------------------------------


class House:
    """A service on a bus of its own, which two users call: polkit lets bob do everything."""

    users = ("alice", "bob")

    def __init__(self, stack: ExitStack, kind: str) -> None:
        self.machine = stack.enter_context(Machine(users=self.users, rules=[RULE]))
        self.kind = kind
        self.service = APPVIEW_NAME if kind == "appview" else BUS_NAME
        self.daemon = self._start()
        self._viewed: list[Process] = []
        self.eyes = self.machine.client("bob")
        self.root = self.machine.client()

    def _start(self) -> Daemon:
        machine = self.machine
        if self.kind == "appview":
            return machine.start_appview()
        if self.kind != "daemon":
            machine.add_policy(OPEN_POLICY)  # the shipped one knows the shipped interfaces
            return machine.start_daemon(command=[sys.executable, PLANTED, self.kind])
        sockets = machine.tmp / "sockets"
        sockets.mkdir()
        sockets.chmod(0o1777)
        return machine.start_daemon("--simulate", "--socket-dir", str(sockets))

    def refill(self) -> None:
        """What calls have taken away: devices are unplugged, viewed processes die easily, and the
        log may be silent."""
        self.root.call(*LEVEL, Variant("s", "info"), destination=self.service)
        if self.kind == "appview":
            self._start_viewed()
        elif self.kind == "daemon":
            for simulator, ports in PORTS.items():
                for port in ports:
                    self.root.call(*simulator, "Plug", "s", port)

    def _start_viewed(self) -> None:
        self._viewed = [process for process in self._viewed if process.poll() is None]
        for user in (self.users * 2)[len(self._viewed) :]:
            command = [sys.executable, "-m", "buswork.sim.viewed", "--period", "1"]
            process = self.machine.popen(command, user, stdin=PIPE, stdout=PIPE)
            assert process.stdout is not None
            process.stdout.readline()
            self._viewed.append(process)
        inspector = ("/org/appview", "org.appview.Inspector")
        self.root.call(*inspector, "ScanAll", destination=APPVIEW_NAME)

    def memory(self) -> int:
        pages = Path(f"/proc/{self.daemon.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGESIZE")


# -- the fuzzer ------------------------------------------------------------------------------------


class Fuzzer:
    def __init__(self, house: House, seed: str, deadline: float, *, is_short: bool) -> None:
        """is_short: what was found first is enough."""
        self._is_short = is_short
        self._house = house
        self._seed = seed
        self._deadline = deadline
        self._words = Words()
        self.tree = Tree(house.service, self._words)
        self.found = Findings(seed, house.service)
        self._lives: dict[str, tuple[Crowd, int]] = {}
        self._waiting: deque[tuple[Call, Raw, int, float]] = deque()
        self._memory = house.memory()
        self._logged = 0

    def run(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self._look()
        while time.monotonic() < until and self._house.daemon.process.poll() is None:
            if self.found.wrong and self._is_short:
                break
            self._send(self._next())
            if self.found.calls % LOOK == 0:
                self._look()
        self._answers(0)
        for crowd, _ in self._lives.values():
            crowd.close()
        self._look()

    # -- calls -----------------------------------------------------------------------------------

    def _next(self) -> Call:
        number = self.found.calls
        random = Random(f"{self._seed} {number}")
        mood = Random(f"{self._seed} mood {number // MOOD}")
        path, member = self.tree.pick(random, mood)
        descriptors = Descriptors()
        values = Values(random, self._words, descriptors, member.doc)
        is_as_it_should = random.random() < 0.96
        if is_as_it_should:
            signature, made = self._arguments(member, values)
        else:
            signature = random.choice(("", "s", "ss", "v", "a{sv}", "u", "h", "(s)", member.takes))
            made = values.of(signature)
        # Bob gets further.
        user = (mood if random.random() < 0.8 else random).choice(("alice", "bob", "bob", "bob"))
        return Call(
            number, user, path, member, signature, made, values.fds, descriptors, is_as_it_should
        )

    @staticmethod
    def _arguments(member: Member, values: Values) -> tuple[str, list[Any]]:
        made = values.of(member.takes, member.names)
        if not member.before:
            return member.takes, made
        given = [Variant(member.takes, made[0])] if made else []
        return "ssv"[: 2 + len(given)], [*member.before, *given]

    def _send(self, call: Call) -> None:
        self.found.calls += 1
        line = self._line(call.user)
        flags = NO_REPLY if call.number % 97 == 0 else 0
        member = call.member
        line.sock.settimeout(self._deadline)
        try:
            serial = line.call(
                call.path,
                member.interface,
                member.name,
                call.signature,
                *call.values,
                destination=self._house.service,
                flags=flags,
                fds=call.fds,
            )
        except (OSError, EOFError) as error:
            self._thrown_out(call, line, error)
            return
        if flags or not call.is_endless:
            call.descriptors.close()
        if not flags:
            self._waiting.append((call, line, serial, time.monotonic()))
        self._answers(UNDER_WAY)

    def _line(self, user: str) -> Raw:
        crowd, left = self._lives.get(user, (None, 0))
        if crowd is None or not left:
            self._forget(user)
            crowd, left = Crowd(self._house.machine, user), LIFE
        self._lives[user] = crowd, left - 1
        return crowd[0]

    def _forget(self, user: str) -> None:
        """The connection ends, when what was asked over it is answered."""
        if user in self._lives:
            self._answers(0)
            self._lives.pop(user)[0].close()

    # -- answers ---------------------------------------------------------------------------------

    def _answers(self, most: int) -> None:
        """Waits until so many are under way, and no more."""
        while len(self._waiting) > most:
            call, line, serial, since = self._waiting.popleft()
            seconds = ENDLESS_SECONDS if call.is_endless else self._deadline
            try:
                heard = line.answer(serial, max(0.01, since + seconds - time.monotonic()))
            except TimeoutError:
                if not call.is_endless:
                    self.found.add(f"no answer in {seconds:g} s", call)
            except (OSError, EOFError) as error:
                self._thrown_out(call, line, error)
            else:
                self._judge(call, heard)
            call.descriptors.close()
            line.signals.clear()

    def _thrown_out(self, call: Call, line: Raw, error: Exception) -> None:
        """By what was sent before; then it is a mistake of ours."""
        self.found.add(f"the bus threw the caller out: {error}", call)
        for each in [*self._waiting]:
            if each[1] is line:
                self.found.add("or by this", each[0])
                self._waiting.remove(each)
        self._lives.pop(call.user)[0].close()

    def _judge(self, call: Call, heard: Heard) -> None:
        title = call.member.title
        if heard.kind == ERROR:
            self.found.refused.setdefault(title, Counter())[heard.error] += 1
            if DEFECT in heard.text:
                self.found.add(f"a defect: {heard.error}: {heard.text}", call)
            elif not heard.error.startswith(NAMES) or not heard.text.strip():
                self.found.add(f"an error that says nothing: {heard.error}: {heard.text!r}", call)
            elif heard.error.endswith((".NoReply", ".ServiceUnknown", ".NameHasNoOwner")):
                self.found.add(f"the service is gone: {heard.error}", call)
            return
        self.found.answered[title] += 1
        signature = str(heard.fields.get(SIGNATURE, ""))
        if call.is_as_it_should and signature != call.member.gives:
            self.found.add(f"the answer is {signature!r}, not {call.member.gives!r}", call)
        self._words.hear(heard.body)
        for name, value in zip(call.member.given_names, heard.body, strict=False):
            self._words.hear_named(name, value)

    # -- looking ---------------------------------------------------------------------------------

    def _look(self) -> None:
        """Whether the service is well, and what there is now."""
        house = self._house
        self._answers(0)
        if (status := house.daemon.process.poll()) is not None:
            self.found.add(
                f"the service has ended with {status}; its log: {house.daemon.log()[-2000:]}"
            )
            return
        try:
            house.root.call("/", "org.freedesktop.DBus.Peer", "Ping", destination=house.service)
            if house.kind != "appview":
                self._look_at_store()
            house.refill()
        except (CallError, TimeoutError) as error:
            self.found.add(f"the service is not well: {error}")
            return
        log = house.daemon.log()
        if any(words in log[self._logged :] for words in DEFECTS):
            self.found.add(f"a defect in the log: {log[self._logged :][:2000]}")
        self._logged = len(log)
        self.found.grown = max(self.found.grown, house.memory() - self._memory)
        if self.found.grown > MOST_GROWTH:
            self.found.add(f"the service has grown by {self.found.grown >> 20} MiB")
        self.tree.walk(house.eyes)

    def _look_at_store(self) -> None:
        store, key = ("/org/mapipc/Store", "org.mapipc.Store"), "~0/known"
        value = f"{self.found.calls}"
        self._house.root.call(*store, "Set", "ss", key, value)
        if (is_now := self._house.root.call(*store, "Get", "s", key).value) != value:
            self.found.add(f"what was set to {value} is {is_now}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", default=f"{SystemRandom().randrange(1_000_000)}")
    parser.add_argument("--deadline", type=float, default=DEADLINE, help="for an answer")
    parser.add_argument("--first", action="store_true", help="end when something was found")
    parser.add_argument("--service", default="daemon", help="daemon, appview, or what is planted")
    options = parser.parse_args()
    go_apart()
    with ExitStack() as stack:
        fuzzer = Fuzzer(
            House(stack, options.service), options.seed, options.deadline, is_short=options.first
        )
        fuzzer.run(options.seconds)
    found = fuzzer.found
    everything, methods = fuzzer.tree.titles, fuzzer.tree.methods
    never = sorted(methods - {*found.answered})
    told = {
        "seed": options.seed,
        "calls": found.calls,
        "errors": sum(found.refused.values(), Counter()).most_common(),
        "never called": sorted(everything - {*found.answered, *found.refused}),
        "methods": len(methods),
        "never answered with a value": {title: found.refused.get(title) for title in never},
        "grown by MiB": found.grown >> 20,
        "wrong": found.wrong,
    }
    print(json.dumps(told))
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
