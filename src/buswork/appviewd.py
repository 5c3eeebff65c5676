"""buswork-appview: the process of the wing of viewed processes, whose rights are equal to root's.

It is a process of its own, so that no other wing has them, and imports no other wing.
"""

import argparse
import sys
from collections.abc import Sequence

from buswork import service
from buswork.appview.wing import APPVIEW
from buswork.service import Program

PROGRAM = Program(
    "buswork-appview",
    "org.buswork.AppView",
    "Puts processes under AppView on the D-Bus system bus, guarded by polkit.",
    {"appview": APPVIEW},
)


def make_parser() -> argparse.ArgumentParser:
    return service.make_parser(PROGRAM)


def main(arguments: Sequence[str] | None = None) -> int:
    return service.main(PROGRAM, arguments)


if __name__ == "__main__":
    sys.exit(main())
