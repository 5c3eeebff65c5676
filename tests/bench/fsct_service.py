"""busworkd with simulated displays that note what they are asked, and when.

    python tests/bench/fsct_service.py DISPLAYS [OPTIONS OF busworkd]

Reads commands, a line each, and answers each with a line: `stamps` with what was noted since the
last time, in JSON: monotonic ns, serial, request, wIndex and data of each transfer; `slow SERIAL
SECONDS` makes each of its transfers take so long from now on.
"""

import json
import sys
import threading
import time

from buswork import daemon
from buswork.fsct import simulator
from buswork.sim.dac import SimDac
from buswork.sim.device import Fault, How, Outcome, Setup

stamps: list[tuple[int, str | None, int, int, str]] = []


class Stamped(SimDac):
    def transfer(self, setup: Setup, data: bytes = b"") -> Outcome:
        now = time.monotonic_ns()
        stamps.append((now, self.serial, setup.request, setup.index, data.decode(errors="replace")))
        return super().transfer(setup, data)


def answer(displays: dict[str, Stamped]) -> None:
    for line in sys.stdin:
        command, *arguments = line.split()
        said = "[]"
        if command == "stamps":
            taken = stamps[:]
            del stamps[: len(taken)]
            said = json.dumps(taken)
        elif command == "slow":
            serial, seconds = arguments
            for display in displays.values():
                if display.serial == serial:
                    display.faults = [Fault(How.DONE, delay=float(seconds))]
        print(said, flush=True)


def main() -> int:
    number = int(sys.argv[1])
    displays = {f"1-{at + 1}": Stamped(f"SIM-{at}") for at in range(number)}
    simulator._displays = lambda: dict(displays)
    threading.Thread(target=answer, args=[displays], daemon=True).start()
    return daemon.main([*sys.argv[2:], "--simulate", "--wings", "fsct", "--log-level", "err"])


if __name__ == "__main__":
    sys.exit(main())
