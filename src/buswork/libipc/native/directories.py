"""Where the run directories are: the originals' own, or those that were named."""

import argparse
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from buswork.libipc.model.terms import RunDirectory
from buswork.libipc.wire.forms import Form

log = logging.getLogger(__name__)

# Section 1; the newer of the two Zig versions first.
DEFAULTS: Final = (
    RunDirectory(Form.C, "/run/ipc"),
    RunDirectory(Form.ZIG, "/tmp/.libipc-run"),
    RunDirectory(Form.ZIG, "/tmp/libipc-run"),
)
# Below the directory of all native sockets, where that is somewhere else.
_NAMES: Final = {Form.C: "ipc-c", Form.ZIG: "ipc-zig"}
# Everybody's services, and nobody takes away another one's. C clients want a directory that they
# may write to, before they connect.
MODE: Final = 0o1777


def directories(
    socket_dirs: Sequence[Path] | None, named: Sequence[RunDirectory]
) -> list[RunDirectory]:
    """socket_dirs: as the host says (None: where things belong); named: on the command line."""
    if named:
        return list(named)
    if not socket_dirs:
        return list(DEFAULTS)
    return [RunDirectory(form, str(socket_dirs[0] / name)) for form, name in _NAMES.items()]


def make(directories: Iterable[RunDirectory]) -> None:
    """Those that are missing, unless we may not; under systemd, tmpfiles.d has made them."""
    for directory in directories:
        path = Path(directory.path)
        try:
            path.mkdir()
            path.chmod(MODE)
        except FileExistsError:
            pass
        except OSError as error:
            log.info("%s is not there, and can't be made: %s", path, error.strerror)


def unusable(directories: Iterable[RunDirectory]) -> Iterator[str]:
    """Where nobody can be served by us, and why."""
    for directory in directories:
        if not os.path.isdir(directory.path):
            yield f"nothing can be served in {directory.path}: there is no such directory"
        elif not os.access(directory.path, os.W_OK | os.X_OK, effective_ids=True):
            yield f"nothing can be served in {directory.path}: it is not ours to write to"


def named(text: str) -> RunDirectory:
    """As on the command line: FORM=PATH."""
    word, _, path = text.partition("=")
    if word not in list(Form) or not os.path.isabs(path):
        raise argparse.ArgumentTypeError(f"{text!r} is no c=PATH or zig=PATH, from the root on")
    return RunDirectory(Form(word), os.path.normpath(path))


def add_options(parser: argparse.ArgumentParser) -> None:
    defaults = ", ".join(f"{each.form}={each.path}" for each in DEFAULTS)
    parser.add_argument(
        "--ipc-rundir",
        action="append",
        type=named,
        default=[],
        metavar="FORM=PATH",
        help="a directory with services of libipc, and the form of their messages: c or zig; "
        f"may be repeated (default: {defaults})",
    )
