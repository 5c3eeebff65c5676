"""Simulated viewed processes, forks of one: python tests/bench/appview_crowd.py COUNT

Says READY when all can be asked; they end with its standard input.
"""

import ctypes
import os
import select
import signal
import sys

from buswork.sim.viewed import TICK_SECONDS, Knowledge, Library, _map_library

PR_SET_PDEATHSIG = 1


def main(count: int) -> None:
    with _map_library():
        for _ in range(count):
            if os.fork() == 0:
                ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                be_viewed()
        print("READY", flush=True)
        sys.stdin.read()


def be_viewed() -> None:
    library = Library(Knowledge())
    while True:
        select.select([], [], [], TICK_SECONDS)
        library.tick()


if __name__ == "__main__":
    main(int(sys.argv[1]))
