"""A long time of mixed load on all wings, while things go wrong: nothing grows, nothing is lost.

    ./dev bench soak [--minutes 30] [--seed N] [--json FILE] [--update-docs]

Needs to be root. All daemons run on a private bus, with simulated devices, in namespaces of their
own; everything is started for the run and ends with it. Status 0: every goal was met.

The daemon and the one of viewed processes are restarted in the first tenth of the time, and at the
end; between, they are measured. Until a fifth of the time is over they warm up.
"""

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from random import SystemRandom

import report
from command import DOCUMENT, conclude, end_in_order
from report import Goal, Result, Table
from soak_chaos import Chaos, Crowd, remark_table
from soak_growth import MEASURES, MIB, Growth, growth, sizes
from soak_house import House
from soak_load import LOADS
from support.apart import go_apart
from support.machine import CallError

METHOD = """\
{minutes:g} minutes with seed {seed}: {count} processes of two users ask for everything that the
five wings have, over D-Bus and in the native protocols, {rate:,.0f} requests a second in all, while
things go wrong on purpose. A request is answered; refused, by an error that it may have at any time
(a board that somebody has claimed); cut off, where something was done to its target meanwhile, or
polkit answered nobody, and the error says so; or it died with the process that asked. All else is
lost. What the services take is looked at every {every:g} s, from a fifth of the time on (the doors:
from {doors:.0%}): the medians of the first and the last quarter, and a line through all of it.
There is growth where both say so. What the services keep up to a limit (the history of the store,
what is known of callers) has a low one here, and garbage is looked for more often: as shipped, that
takes 10 to 30 MiB more after some hours. Written by `./dev bench soak --update-docs`."""

EVERY_SECONDS, PROGRESS_SECONDS = 5.0, 30.0
# Shares of the time.
EARLY_RESTARTS = (0.02, 0.04, 0.06, 0.08)
DOORS_KEPT = 0.45
WARM = {"daemon": 0.2, "appview": 0.2, "doors": 0.55}
MEASURED, LATE_RESTARTS = 0.95, (0.955, 0.975)
SERVICES = {"daemon": "busworkd", "appview": "buswork-appview", "doors": "buswork-doors"}
# What a quiet house has let go of.
QUIET_SECONDS = 20.0
DEFECTS = ("Traceback", "a defect in")


class Soak:
    """One run."""

    def __init__(self, house: House, minutes: float, seed: str) -> None:
        self.house = house
        self.crowd = Crowd(house, seed)
        self.chaos = Chaos(house, self.crowd, seed)
        self.samples: dict[str, list[dict[str, float]]] = {name: [] for name in SERVICES}
        self.is_quiet = False
        self.statuses: list[int] = []
        self._eyes = house.machine.client()
        self._seconds = minutes * 60
        self._begin = time.monotonic()

    @property
    def now(self) -> float:
        return time.monotonic() - self._begin

    async def run(self) -> None:
        for load in LOADS:
            self.crowd.start(load)
        tasks = [*self.chaos.start(), asyncio.create_task(self._look())]
        tasks.append(asyncio.create_task(self._tell()))
        script = asyncio.create_task(self._script())
        done, _ = await asyncio.wait([script, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in done:
            task.result()  # a mistake of our own
        await asyncio.to_thread(self.house.settle)
        await asyncio.to_thread(self.crowd.end)
        self.is_quiet = await asyncio.to_thread(self._wait_quiet)
        self.statuses = [self.house.services[name].stop(30) for name in SERVICES]

    async def _script(self) -> None:
        for number, share in enumerate(EARLY_RESTARTS):
            await self._until(share)
            await self._restart(kills=number % 2 == 0)
        await self._until(DOORS_KEPT)
        self.chaos.keeps_doors = True
        await self._until(MEASURED)
        self.chaos.keeps_doors = False
        for number, share in enumerate(LATE_RESTARTS):
            await self._until(share)
            await self._restart(kills=number % 2 == 0)
        await self._until(1.0)

    async def _until(self, share: float) -> None:
        await asyncio.sleep(max(0.0, share * self._seconds - self.now))

    async def _restart(self, *, kills: bool) -> None:
        await self.chaos.restart("daemon", kills=kills)
        await self.chaos.restart("appview", kills=kills)

    # -- looking ---------------------------------------------------------------------------------

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            self.crowd.look()
            for name in SERVICES:
                with suppress(OSError, CallError):  # it is being restarted
                    self.samples[name].append(self._sample(name))

    def _sample(self, name: str) -> dict[str, float]:
        """Of what is the whole house's, the daemon is told."""
        service = self.house.services[name]
        found = {"at": self.now, "pid": service.pid, **sizes(service.pid)}
        rules = self.house.rules(self._eyes, name)
        if rules is not None:
            found["rules"] = rules
        if name == "appview":
            found["queues"] = len(self.house.queues())
        if name == "daemon":
            found["files"] = len(list(self.house.sockets.rglob("*")))
        return found

    async def _tell(self) -> None:
        told = 0
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            fates, memory = self.crowd.now(), []
            for name, title in SERVICES.items():
                if self.samples[name]:
                    memory.append(f"{title} {self.samples[name][-1]['rss'] / MIB:.1f} MiB")
            words = ", ".join(f"{fates[fate]:,} {fate}" for fate in sorted(fates))
            print(f"{self.now / 60:5.1f} min: {words}; {', '.join(memory)}", flush=True)
            lost = [remark for remark in self.crowd.remarks.all() if remark[2] == "lost"]
            for remark in lost[told : told + 20]:
                print(f"    lost: {remark}", flush=True)
            told = len(lost)

    def _wait_quiet(self) -> bool:
        """Whether nothing is held any more once nobody is there."""
        until = time.monotonic() + QUIET_SECONDS
        while time.monotonic() < until:
            held = self._eyes.call("/org/buswork", "org.buswork.Daemon", "ListClients").value
            if not held and not self.house.queues():
                return True
            time.sleep(0.1)
        print(f"still held: {held}; queues: {self.house.queues()}", flush=True)
        return False

    # -- what was found --------------------------------------------------------------------------

    def growths(self) -> dict[str, dict[str, Growth]]:
        return {name: self._growths(name) for name in SERVICES}

    def _growths(self, name: str) -> dict[str, Growth]:
        begin, end = WARM[name] * self._seconds, MEASURED * self._seconds
        warm = [sample for sample in self.samples[name] if begin <= sample["at"] <= end]
        times = [sample["at"] for sample in warm]
        found = {}
        for kind, measure in MEASURES.items():
            values = [sample[kind] for sample in warm if kind in sample]
            if len(values) == len(times) > 3:
                found[kind] = growth(measure, times, values)
        return found

    def tell_unless_met(self) -> None:
        """The logs, which are gone soon."""
        if not all(goal.met for goal in self.result().goals):
            print(self.crowd.log()[-4000:], self.house.logs()[-8000:], file=sys.stderr)

    def result(self) -> Result:
        fates = sum(self.crowd.fates.values(), Counter())
        lost = sum(remark[2] == "lost" for remark in self.crowd.remarks.all())
        logs = self.house.logs()
        defects = sum(logs.count(words) for words in DEFECTS)
        goals = [
            Goal("requests that nobody answered, or wrongly", "0", f"{lost:,}", lost == 0),
            Goal("defects in the logs of the services", "0", f"{defects}", defects == 0),
            Goal(
                "things held, and message queues, when all have left",
                "none",
                "none" if self.is_quiet else "some",
                self.is_quiet,
            ),
            Goal(
                "the services end in order",
                "status 0 each",
                ", ".join(map(str, self.statuses)),
                not any(self.statuses),
            ),
            *self._growth_goals(),
        ]
        tables = [self._wings(), self._wrongs(), self._growth_table(), self._remarks()]
        return Result(goals, tables, {"samples": self.samples, "fates": dict(fates)})

    def _growth_goals(self) -> list[Goal]:
        goals = []
        for name, growths in self.growths().items():
            grown = [MEASURES[kind].title for kind, each in growths.items() if not each.is_none]
            title = f"growth of {SERVICES[name]}"
            goals.append(
                Goal(title, "none", ", ".join(grown) or "none", bool(growths) and not grown)
            )
        return goals

    def _wings(self) -> Table:
        kinds = ("asked", "answered", "refused", "cut", "died", "lost")
        rows = [[load, *(f"{self.crowd.fates[load][kind]:,}" for kind in kinds)] for load in LOADS]
        head = ["load", "asked", "answered", "refused", "cut off", "died with who asked", "lost"]
        return Table("Requests", head, rows)

    def _wrongs(self) -> Table:
        rows = [[what, f"{count:,}"] for what, count in sorted(self.chaos.done.items())]
        return Table("What went wrong on purpose", ["", "times"], rows)

    def _growth_table(self) -> Table:
        rows = []
        for name, growths in self.growths().items():
            for kind, each in growths.items():
                figures = [shown(kind, each.first), shown(kind, each.last)]
                figures += [shown(kind, each.fitted), shown(kind, each.limit)]
                rows.append([SERVICES[name], MEASURES[kind].title, *figures, MEASURES[kind].why])
        head = ["service", "what", "first quarter", "last quarter", "the line rises by"]
        return Table("What the services take", [*head, "no growth up to", "which is for"], rows)

    def _remarks(self) -> Table:
        rows = remark_table(self.crowd.remarks)
        return Table("Answers that were errors", ["fate", "error", "times"], rows)


def shown(kind: str, value: float) -> str:
    return f"{value / MIB:.1f} MiB" if kind in ("rss", "pss") else f"{value:.0f}"


# -- the command -----------------------------------------------------------------------------------


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", default=f"{SystemRandom().randrange(1_000_000)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all that was looked at")
    parser.add_argument(
        "--update-docs", action="store_true", help=f"writes the section of {DOCUMENT.name}"
    )
    return parser


def main() -> int:
    parser = make_parser()
    options = parser.parse_args()
    if options.update_docs and not report.has_markers(DOCUMENT, "soak"):
        parser.error(f"{DOCUMENT} lacks the markers of a section bench:soak")
    go_apart()
    end_in_order()
    print(f"seed {options.seed}, {options.minutes:g} minutes", flush=True)
    with ExitStack() as stack:
        soak = Soak(House(stack), options.minutes, options.seed)
        stack.callback(soak.tell_unless_met)
        asyncio.run(soak.run())
        result = soak.result()
    if options.json:
        options.json.write_text(json.dumps(report.as_json({"soak": result}, facts()), default=str))
    method = METHOD.format(
        minutes=options.minutes,
        seed=options.seed,
        count=len(LOADS),
        rate=result.samples["fates"]["asked"] / options.minutes / 60,
        every=EVERY_SECONDS,
        doors=WARM["doors"],
    )
    return conclude(options, "soak", [result], method, facts())


def facts() -> dict[str, str]:
    return report.machine_facts()


if __name__ == "__main__":
    sys.exit(main())
