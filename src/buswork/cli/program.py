"""The command of the user's that another command runs: --exec and --while."""

import asyncio
import os
import shutil
import signal
from collections.abc import Mapping, Sequence

from buswork.cli.output import CommandError


def check(option: str, program: list[str]) -> None:
    """Before anything is done or waited for."""
    if not program:
        raise CommandError(f"{option} takes a command")
    if shutil.which(program[0]) is None:
        raise CommandError(f"{option}: {program[0]}: there is no such command")


async def run(
    program: list[str], facts: Mapping[str, str] | None = None, descriptors: Sequence[int] = ()
) -> int:
    """Its exit status, as a shell has it; Ctrl-C is for the command, which decides.

    facts: what its environment has beside ours. descriptors: what it inherits.
    """
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    try:
        process = await asyncio.create_subprocess_exec(
            *program, env=os.environ | (facts or {}), pass_fds=descriptors
        )
    except OSError as error:
        raise CommandError(f"{program[0]}: {error.strerror}") from None
    loop.add_signal_handler(signal.SIGTERM, process.terminate)
    status = await process.wait()
    return status if status >= 0 else 128 - status
