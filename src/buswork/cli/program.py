"""The command of the user's that another command runs: --exec and --while."""

import shutil

from buswork.cli.output import CommandError


def check(option: str, program: list[str]) -> None:
    """Before anything is done or waited for."""
    if not program:
        raise CommandError(f"{option} takes a command")
    if shutil.which(program[0]) is None:
        raise CommandError(f"{option}: {program[0]}: there is no such command")
