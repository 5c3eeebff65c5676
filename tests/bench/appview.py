"""How fast viewed processes are asked: every goal, in one run.

    ./dev bench appview [--quick] [--only PART ...] [--update-docs]

Needs dbus-daemon and a C compiler, and to be root, as the service that is measured. Everything is
started for the run and ends with it. Status 0: every goal was met.
"""

import asyncio
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator

import report
from appview_rig import INSPECTOR, PROCESS, ROOT, Rig, open_rig, process_path
from command import Part, run
from report import Goal, Result, Table

from buswork.appview.native import processes
from buswork.appview.native.conversations import (
    CONVERSATIONS_PER_UID,
    MOST_LONG_MESSAGES,
    MOST_MESSAGES,
    Conversation,
    Conversations,
    most_conversations,
)
from buswork.appview.wire import requests
from buswork.appview.wire.frames import FRAME_BYTES, MOST_REQUEST_BYTES, request_frames
from buswork.sim.viewed import TICK_SECONDS

METHOD = """\
Processes are simulated ones, in Python, with the real library's habit to look for a question every
1.1 ms, or a program in C that answers at once, for what is ours alone. Raw: a client in C, with
such a program at the other end, queues of the same size, and no check of what it is told. Of a long
request, the library looks for the next frame every 50 us. Many
processes that look every 1.1 ms keep two processors busy with that alone, and those in Python more
than that: the goal is for those in C. The service is on a private dbus-daemon, called by a program
in C. Written by `./dev bench appview --update-docs`."""

POLLING_MS = TICK_SECONDS * 1e3
CROWD = 200
SLEEPERS = 5_000


def at_most(figure: str, goal: str, limit: float, measured: float, unit: str) -> Goal:
    return Goal(figure, f"<= {goal}", f"{measured:.2f} {unit}", measured <= limit)


def ms(ns: float) -> str:
    return f"{ns / 1e6:.2f} ms"


def us(ns: float) -> str:
    return f"{ns / 1e3:.1f} us"


# -- over D-Bus ------------------------------------------------------------------------------------


def calls(quick: bool) -> Iterator[Result]:
    count = 300 if quick else 3_000
    rows = []
    with open_rig() as rig:
        simulated, bare = rig.simulated(), rig.queues("answer", 100)
        caller = rig.start_service()
        caller.call(ROOT, INSPECTOR, "Scan")
        found = {}
        for title, process in (("looks every 1.1 ms", simulated), ("answers at once", bare)):
            figures = rig.calls(process_path(process.pid), PROCESS, "GetStatus", count)
            found[title] = figures["p50_ns"] / 1e6
            rows.append([title, *(ms(figures[name]) for name in ("p50_ns", "p90_ns", "p99_ns"))])
    limit = POLLING_MS + 1
    yield Result(
        [
            at_most(
                "GetStatus over D-Bus, p50",
                f"{limit:.1f} ms (polling, and 1 ms)",
                limit,
                found["looks every 1.1 ms"],
                "ms",
            )
        ],
        [
            Table(
                "GetStatus over D-Bus, one at a time", ["a process that", "p50", "p90", "p99"], rows
            )
        ],
    )


# -- on the queues ---------------------------------------------------------------------------------


def timed(pid: int, count: int, what: Callable[[Conversation], Awaitable[object]]) -> list[float]:
    """How long it took each time, in ns, in one conversation."""

    async def ask() -> list[float]:
        conversations, took = Conversations(), []
        seen = processes.look(pid)
        assert seen is not None
        with processes.held(seen) as target:
            speaking = conversations.speak(target, os.getuid(), MOST_LONG_MESSAGES)
            async with speaking as conversation:
                await what(conversation)
                for _ in range(count):
                    begin = time.perf_counter_ns()
                    await what(conversation)
                    took.append(time.perf_counter_ns() - begin)
        conversations.close()
        return sorted(took)

    return asyncio.run(ask())


def queue(quick: bool) -> Iterator[Result]:
    count = 500 if quick else 5_000
    with open_rig() as rig:
        bare = rig.queues("answer")
        ours = timed(bare.pid, count, lambda conversation: conversation.ask(requests.STATUS))
        raw = rig.figures("ask", bare.pid, count)
        simulated = rig.simulated()
        polled = timed(
            simulated.pid, count // 5, lambda conversation: conversation.ask(requests.STATUS)
        )
    yield Result(
        [
            at_most(
                "a request on the queues, in one conversation, p50",
                "0.6 ms",
                0.6,
                statistics.median(ours) / 1e6,
                "ms",
            )
        ],
        [
            Table(
                "A request on the queues, in one conversation",
                ["from, to", "p50", "p99"],
                [
                    ["in C, to a program in C: the unit", us(raw["p50_ns"]), us(raw["p99_ns"])],
                    ["ours, to a program in C", us(ours[count // 2]), us(ours[count * 99 // 100])],
                    [
                        "ours, to a process that looks every 1.1 ms",
                        us(polled[len(polled) // 2]),
                        us(polled[len(polled) * 99 // 100]),
                    ],
                ],
            )
        ],
    )


def mebibyte(quick: bool) -> Iterator[Result]:
    count = 10 if quick else 50
    payload = b"x" * MOST_REQUEST_BYTES
    frames = len(list(request_frames(payload, 0)))

    async def exchange(conversation: Conversation) -> None:
        if await conversation.exchange(payload) != payload:
            raise SystemExit("the answer is another one")

    goals = []
    for title, mode in PEERS.items():
        with open_rig() as rig:
            peer = rig.queues(mode)
            rounds = [
                (rig.figures("send", peer.pid, count)["p50_ns"], timed(peer.pid, count, exchange))
                for _ in range(3 if quick else 9)
            ]
        raw = statistics.median(each for each, _ in rounds)
        ours = statistics.median(statistics.median(each) for _, each in rounds)
        figure = f"1 MiB and back, to its {frames} frames each way raw, {title}"
        measured = f"x ({ms(ours)} to {ms(raw)})"
        goals.append(at_most(figure, "1.5 x", 1.5, ours / raw, measured))
    yield Result(goals)


PEERS = {
    "to a process that waits as the library does": "wait",
    "to one that is woken for each": "answer",
}


# -- many ------------------------------------------------------------------------------------------


def many(quick: bool) -> Iterator[Result]:
    """A process that looks every 1.1 ms takes 2 % of a processor for that, the real one too; one in
    Python takes more than that. So many take all there is, and a scan has what they leave."""
    rows, goals = [], []
    for title, start in CROWDS.items():
        with open_rig() as rig:
            start(rig)
            busy = busy_share()
            caller = rig.start_service()
            took = []
            for _ in range(3 if quick else 9):
                begin = time.perf_counter()
                found = caller.call(ROOT, INSPECTOR, "Scan")
                took.append(time.perf_counter() - begin)
            active = [caller.get(path, PROCESS, "State") for path in found].count("Active")
        seconds = statistics.median(took)
        answered = f"{active} of {CROWD}"
        rows.append([title, answered, f"{seconds:.2f} s", f"{took[0]:.2f} s", f"{busy:.0%}"])
        if title == LIKE_THE_LIBRARY:
            goals.append(
                Goal(
                    f"Scan with the status of {CROWD} processes, {title}",
                    "<= 1 s",
                    f"{seconds:.2f} s, {answered} answered",
                    seconds <= 1 and active >= CROWD,
                )
            )
    head = ["processes", "answered", "median", "the first", "processors busy before it"]
    yield Result(goals, [Table(f"Scan, {at_once()} processes at once", head, rows)])


def at_once() -> int:
    return min(CONVERSATIONS_PER_UID, most_conversations())


def crowd_in_c(rig: Rig, look_us: int) -> None:
    for _ in range(CROWD):
        rig.queues("answer", look_us)


LIKE_THE_LIBRARY = "in C, each looking every 1.1 ms"
CROWDS: dict[str, Callable[[Rig], object]] = {
    "simulated, each looking every 1.1 ms": lambda rig: rig.crowd(CROWD),
    LIKE_THE_LIBRARY: lambda rig: crowd_in_c(rig, int(TICK_SECONDS * 1e6)),
    "in C, each looking every 20 ms": lambda rig: crowd_in_c(rig, 20_000),
}


def busy_share() -> float:
    """Of all processors, for a second."""
    before = processor_times()
    time.sleep(1)
    spent = [now - then for now, then in zip(processor_times(), before, strict=True)]
    return 1 - (spent[3] + spent[4]) / sum(spent)


def processor_times() -> list[int]:
    with open("/proc/stat") as file:
        return [int(word) for word in file.readline().split()[1:9]]


# -- looking ---------------------------------------------------------------------------------------


def proc(quick: bool) -> Iterator[Result]:
    """What nobody set a goal for; a scan must not hold the loop."""
    count = 1_000 if quick else SLEEPERS
    with open_rig() as rig:
        rig.queues("sleep", count)
        listing = best(processes.pids)
        there = processes.pids()
        scanning = best(lambda: processes.scan(there))
        waits = asyncio.run(waits_while(lambda: processes.scan(there)))
    rows = [
        ["all pids: what a look for new ones takes", us(listing * 1e9)],
        ["all of them looked into, in a thread", ms(scanning * 1e9)],
        ["of that, for each", us(scanning / len(there) * 1e9)],
        ["the loop waits meanwhile, p99", ms(waits[len(waits) * 99 // 100] * 1e9)],
        ["the same, at the most", ms(waits[-1] * 1e9)],
    ]
    yield Result([], [Table(f"/proc with {len(there):,} processes", ["", "measured"], rows)])


def best(what: Callable[[], object], times: int = 5) -> float:
    took = []
    for _ in range(times):
        begin = time.perf_counter()
        what()
        took.append(time.perf_counter() - begin)
    return min(took)


async def waits_while(what: Callable[[], object]) -> list[float]:
    """How much later than asked for the loop woke up, each time, in order of length."""
    work = asyncio.create_task(asyncio.to_thread(what))
    waits = []
    while not work.done():
        begin = time.perf_counter()
        await asyncio.sleep(0.001)
        waits.append(time.perf_counter() - begin - 0.001)
    return sorted(waits)


# -- the bench -------------------------------------------------------------------------------------

PARTS: dict[str, Part] = {
    "calls": calls,
    "queue": queue,
    "mebibyte": mebibyte,
    "many": many,
    "proc": proc,
}


def machine_facts() -> dict[str, str]:
    queues = f"{most_conversations()} pairs of {MOST_MESSAGES} x {FRAME_BYTES} bytes at once"
    return report.machine_facts() | {"RLIMIT_MSGQUEUE": queues}


if __name__ == "__main__":
    sys.exit(run("appview", __doc__, PARTS, METHOD, machine_facts))
