"""How soon an installed buswork answers, and how still it is when nobody asks.

    ./dev bench start [--quick] [--only PART ...] [--update-docs]

Needs to be root, and systemd-nspawn: the shipped units run under a systemd of their own, in a
container on an overlay of this machine's root, which is gone afterwards. Status 0: every goal was
met.
"""

import compileall
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import report
from command import Part, run
from edge_rig import PROJECT
from report import Goal, Result, Table
from support.container import HOME, Container
from support.machine import Client
from support.places import get_key
from support.seats import Caller

METHOD = """\
The shipped units in a container with a systemd, a dbus-daemon and a polkit of its own. Cold is a
service that does not run, nor does polkit, which is started along with it; the modules are compiled
as an installation leaves them, and the page cache is as the round before left it. The clock runs
from before `systemctl start` (or before a call that has the service started) until an ordinary
user's call is answered, about which polkit was asked; {rounds} rounds, medians. Idle is after
{settle:g} s of rest, without a device, a client or a door: how often in {seconds:g} s, as the
scheduler counts, a thread of the process went to sleep of its own accord, for which it had to be
woken up before (voluntary_ctxt_switches of all threads). Others are those that had to make way for
other programs. Written by `./dev bench start --update-docs`."""

SERVICE, DOORS, APPVIEW = "buswork.service", "buswork-doors.service", "buswork-appview.service"
SERVICES = {"busworkd": SERVICE, "buswork-doors": DOORS, "buswork-appview": APPVIEW}
START_SECONDS, WAKE_UPS = 0.6, 1.0
ROUNDS, QUICK_ROUNDS = 15, 3
SETTLE_SECONDS, IDLE_SECONDS = 10.0, 60.0
QUICK_SECONDS = 20.0

READY = "systemctl start, until it is ready"
PROCESSOR = "the daemon's own processor time of that"

SWITCHES = "cat /proc/{pid}/task/*/status"
INSPECTOR = ("/org/appview", "org.appview.Inspector")


@contextmanager
def container() -> Iterator[Container]:
    compileall.compile_dir(PROJECT / "src", quiet=1)
    with Container() as container:
        yield container


# -- how soon --------------------------------------------------------------------------------------


def start(quick: bool) -> Iterator[Result]:
    rounds = QUICK_ROUNDS if quick else ROUNDS
    with container() as machine:
        alice = Caller(machine, "alice")
        ways = {
            "systemctl start, and a call": lambda: started_and_asked(machine, alice),
            "a call starts it": lambda: get_key(alice, "key"),
            READY: lambda: systemctl(machine, "start", SERVICE),
            "a native client starts it": lambda: machine.run(["globstash", "get", "key"], "alice"),
            "buswork-appview, a call starts it": lambda: scan(alice),
            "Python alone": lambda: machine.run([f"{HOME}/bin/python", "-I", "-c", "pass"]),
            "Python with all modules of busworkd": lambda: imported(machine),
        }
        times: dict[str, list[float]] = {name: [] for name in (*ways, PROCESSOR)}
        for _ in range(rounds):
            for name, way in ways.items():
                systemctl(machine, "stop", SERVICE, APPVIEW, "polkit")
                # So many starts in a minute are a crash loop else.
                names = [SERVICE, APPVIEW, "polkit"]
                machine.run(["systemctl", "reset-failed", *names], check=False)
                times[name].append(seconds(way))
                if name == READY:
                    times[PROCESSOR].append(processor_seconds(machine, SERVICE))
        alice.close()
    first = statistics.median(times["systemctl start, and a call"])
    goal = Goal(
        "a cold systemctl start to the first answered call",
        f"<= {START_SECONDS:g} s",
        f"{first:.2f} s",
        first <= START_SECONDS,
    )
    rows = [
        [name, f"{statistics.median(found):.2f}", f"{min(found):.2f}", f"{max(found):.2f}"]
        for name, found in times.items()
    ]
    table = Table("From nothing, in s", ["what", "median", "least", "most"], rows)
    yield Result([goal], [table], {"seconds": times})


def started_and_asked(machine: Container, client: Client) -> None:
    systemctl(machine, "start", SERVICE)
    get_key(client, "key")


def systemctl(machine: Container, *words: str) -> None:
    machine.run(["systemctl", *words])


def scan(client: Client) -> None:
    client.call(*INSPECTOR, "Scan", destination="org.buswork.AppView")


def imported(machine: Container) -> None:
    machine.python("import buswork.daemon")


def processor_seconds(machine: Container, unit: str) -> float:
    """What a service has used until now, all its threads together."""
    pid = machine.show(unit, "MainPID")
    text = machine.run(["sh", "-c", f"cat /proc/{pid}/task/*/schedstat"]).stdout
    return sum(int(line.split()[0]) for line in text.splitlines()) / 1e9


def seconds(what: Callable[[], object]) -> float:
    begin = time.perf_counter()
    what()
    return time.perf_counter() - begin


# -- how still -------------------------------------------------------------------------------------


def idle(quick: bool) -> Iterator[Result]:
    length = QUICK_SECONDS if quick else IDLE_SECONDS
    with container() as machine:
        systemctl(machine, "start", SERVICE, DOORS, APPVIEW)
        time.sleep(SETTLE_SECONDS)
        before = {name: switches(machine, unit) for name, unit in SERVICES.items()}
        time.sleep(length)
        after = {name: switches(machine, unit) for name, unit in SERVICES.items()}
    rates = {
        name: [(after[name][at] - before[name][at]) / length for at in (0, 1)] for name in SERVICES
    }
    goals = [
        Goal(
            f"idle {name}, wake-ups a second",
            f"<= {WAKE_UPS:g}",
            f"{voluntary:.2f}",
            voluntary <= WAKE_UPS,
        )
        for name, (voluntary, _) in rates.items()
    ]
    rows = [
        [name, str(after[name][2]), *(f"{each:.2f}" for each in rate)]
        for name, rate in rates.items()
    ]
    head = ["process", "threads", "voluntary", "others"]
    yield Result(goals, [Table("Switches a second", head, rows)], {"rates": rates})


def switches(machine: Container, unit: str) -> Sequence[int]:
    """Voluntary ones, others, and how many threads there are."""
    pid = machine.show(unit, "MainPID")
    text = machine.run(["sh", "-c", SWITCHES.format(pid=pid)]).stdout
    lines = [line.split(":\t") for line in text.splitlines()]
    voluntary, others = (
        [int(value) for name, value in lines if name == f"{kind}_ctxt_switches"]
        for kind in ("voluntary", "nonvoluntary")
    )
    return sum(voluntary), sum(others), len(voluntary)


PARTS: dict[str, Part] = {"start": start, "idle": idle}


def machine_facts() -> dict[str, str]:
    version = report.last_word("systemctl", "--version").strip("()")
    return report.machine_facts() | {"systemd": version}


if __name__ == "__main__":
    method = METHOD.format(rounds=ROUNDS, settle=SETTLE_SECONDS, seconds=IDLE_SECONDS)
    sys.exit(run("start", __doc__, PARTS, method, machine_facts))
