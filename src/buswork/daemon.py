"""busworkd: the process of all wings but those that need rights of their own."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from buswork import service, systemd
from buswork.flipper.wing import FLIPPER
from buswork.fsct.wing import FSCT
from buswork.host import Kind
from buswork.libipc.wing import LIBIPC
from buswork.service import Program
from buswork.store.wing import STORE

WINGS: dict[str, Kind] = {"store": STORE, "fsct": FSCT, "flipper": FLIPPER, "libipc": LIBIPC}


def _socket_dirs(options: argparse.Namespace) -> list[Path] | None:
    """Where to make native sockets, if that was said; under systemd, whose units do, nowhere."""
    named = options.socket_dir
    if named is None:
        named = [Path(word) for word in os.environ.get("RUNTIME_DIRECTORY", "").split(":") if word]
        if not named and not systemd.has_manager():
            return None
    return list(named)


def _state_dir(options: argparse.Namespace) -> Path | None:
    named = options.state_dir or os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return Path(named) if named else None


def _surroundings(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "passed": systemd.take_listen_fds(),
        "has_manager": systemd.has_manager(),
        "socket_dirs": _socket_dirs(options),
        "tmp_dir": Path(os.environ.get("TMPDIR") or "/tmp") if options.tmp_sockets else None,
        "state_dir": _state_dir(options),
        "simulate": options.simulate,
    }


def _wing_names(text: str) -> list[str]:
    names = list(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in WINGS:
            raise argparse.ArgumentTypeError(f"no wing {name!r}; there are {', '.join(WINGS)}")
    return names


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wings",
        type=_wing_names,
        default=list(WINGS),
        metavar="NAME,...",
        help="which wings to start (default: all)",
    )
    parser.add_argument(
        "--socket-dir",
        action="append",
        type=Path,
        metavar="DIR",
        help="make the native sockets in this directory; may be repeated "
        "(default: $RUNTIME_DIRECTORY if set; else where each belongs, below /run, but none "
        "under systemd, whose units make them)",
    )
    parser.add_argument(
        "--tmp-sockets",
        action="store_true",
        help="make them in $TMPDIR or /tmp too, where the original mapipc looks; anybody can take "
        "these names while the daemon is not running",
    )
    parser.add_argument(
        "--state-dir",
        type=Path,
        metavar="DIR",
        help="what is remembered over restarts (default: $STATE_DIRECTORY if set; else nothing is)",
    )
    parser.add_argument(
        "--simulate",
        action="store_true",
        help="simulated devices instead of those that are plugged in",
    )


PROGRAM = Program(
    "busworkd",
    "org.buswork",
    "Puts four small IPC worlds on the D-Bus system bus, guarded by polkit.",
    WINGS,
    _add_options,
    _surroundings,
)


def make_parser() -> argparse.ArgumentParser:
    return service.make_parser(PROGRAM)


def main(arguments: Sequence[str] | None = None) -> int:
    return service.main(PROGRAM, arguments)


if __name__ == "__main__":
    sys.exit(main())
