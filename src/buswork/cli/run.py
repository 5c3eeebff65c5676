"""Runs a command that was parsed: the client around it, and an exit status for every end."""

import argparse
import asyncio
import contextlib
import importlib
import os
import stat
import sys
from collections.abc import Awaitable, Callable, Iterator

from buswork.cli.agent import Agent
from buswork.cli.exits import Exit
from buswork.cli.output import CommandError, InputError, Output
from buswork.client import (
    AccessDenied,
    BusworkError,
    Client,
    Disconnected,
    InteractiveAuthorizationRequired,
    NoReply,
    NotRunning,
    RevisionGone,
    TimedOut,
)

Command = Callable[[Client, argparse.Namespace, Output], Awaitable[int]]

_EXITS: dict[type[BusworkError], Exit] = {
    NotRunning: Exit.NOT_RUNNING,
    NoReply: Exit.NOT_RUNNING,
    Disconnected: Exit.NOT_RUNNING,
    AccessDenied: Exit.DENIED,
    InteractiveAuthorizationRequired: Exit.DENIED,
    TimedOut: Exit.TIMED_OUT,
    RevisionGone: Exit.GAP,
}
# Those of libipc, whether the library or the daemon says so.
_EXITS_BY_NAME = {
    "org.libipc.Error.NoSuchService": Exit.NOT_RUNNING,
    "org.libipc.Error.PeerGone": Exit.NOT_RUNNING,
    "org.libipc.Error.NotAllowed": Exit.DENIED,
}


def run(options: argparse.Namespace) -> int:
    out = Output(json=options.json, no_color=options.no_color)
    try:
        status = asyncio.run(_run(_command(options.run), options, out))
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        _abandon_stdout()
        return Exit.NOBODY_READS
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except CommandError as error:
        print(options.usage(), end="", file=sys.stderr)
        out.error(str(error))
        return Exit.USAGE
    except BusworkError as error:
        out.error(str(error), error.name)
        return _EXITS.get(type(error)) or _EXITS_BY_NAME.get(error.name, Exit.FAILED)
    except (InputError, OSError) as error:
        out.error(str(error))
        return Exit.FAILED


def _command(name: str) -> Command:
    module, _, function = name.partition(".")
    command: Command = getattr(importlib.import_module(f"buswork.cli.{module}"), function)
    return command


async def _run(command: Command, options: argparse.Namespace, out: Output) -> int:
    agent = Agent()
    client = Client(
        options.bus,
        interactive=not options.no_interaction,
        timeout=options.timeout,
        before_prompt=agent.start,
    )
    try:
        if not getattr(options, "opens_bus", True):
            return await command(client, options, out)
        async with client:
            return await command(client, options, out)
    finally:
        await agent.stop()


def _abandon_stdout() -> None:
    """Python flushes stdout at its end, and would complain once more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


@contextlib.contextmanager
def while_somebody_reads() -> Iterator[None]:
    """Inside, BrokenPipeError as soon as the reader of stdout goes, and not at the next line."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    number = sys.stdout.fileno()
    gone = False

    def reader_gone() -> None:
        nonlocal gone
        gone = True
        loop.remove_reader(number)
        task.cancel()

    # The writing end of a pipe is never readable; what wakes it is that the reader closed.
    is_pipe = stat.S_ISFIFO(os.fstat(number).st_mode)
    if is_pipe:
        loop.add_reader(number, reader_gone)
    try:
        yield
    except asyncio.CancelledError:
        if not gone:
            raise
        raise BrokenPipeError("nobody reads stdout") from None
    finally:
        if is_pipe:
            loop.remove_reader(number)
