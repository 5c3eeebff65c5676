"""buswork store watch, and buswork store wait."""

import argparse
import asyncio
import os

from buswork.cli import program
from buswork.cli.exits import Exit
from buswork.cli.output import CommandError, Output
from buswork.cli.run import while_somebody_reads
from buswork.client import Change, Client, RevisionGone, TimedOut

# The kernel lets one string of an environment have 128 KiB (MAX_ARG_STRLEN).
MAX_IN_ENVIRONMENT = 100_000


async def watch(client: Client, options: argparse.Namespace, out: Output) -> int:
    left = options.count
    if left is not None and left < 1:
        raise CommandError("--count is 1 or more")
    if options.program is not None:
        program.check("--exec", options.program)
    async with client.store.watch(options.prefix, options.from_) as changes:
        with while_somebody_reads():
            async for change in changes:
                if options.program is not None:
                    await _execute(options.program, change, out)
                else:
                    _show(change, out)
                left = None if left is None else left - 1
                if left == 0:
                    break
    return Exit.OK


def _show(change: Change, out: Output) -> None:
    if out.json:
        out.document(_plain(change))
        return
    revision = out.styled(str(change.revision), "dim")
    if change.key is None:
        out.prose(f"{revision} {out.styled('all keys went', 'red')}")
    elif change.value is None:
        out.prose(f"{revision} {out.styled(change.key, 'bold')} {out.styled('went', 'red')}")
    else:
        key = out.styled(change.key, "bold")
        out.prose(f"{revision} {key} = {out.styled(change.value, 'green')}")


def _plain(change: Change) -> dict[str, object]:
    """The very members that org.mapipc.Store.Watch gives."""
    if change.key is None:
        return {"revision": change.revision, "kind": "clear"}
    if change.value is None:
        return {"revision": change.revision, "key": change.key}
    return {"revision": change.revision, "key": change.key, "value": change.value}


async def _execute(command: list[str], change: Change, out: Output) -> None:
    """Runs the command. Foreign text is on stdin and in the environment, never an argument."""
    facts = {"BUSWORK_REVISION": str(change.revision), "BUSWORK_KIND": change.kind}
    if change.key is not None:
        facts["BUSWORK_KEY"] = change.key
    value = (change.value or "").encode()
    if change.value is not None and len(value) <= MAX_IN_ENVIRONMENT:
        facts["BUSWORK_VALUE"] = change.value
    inherited = {name: text for name, text in os.environ.items() if name not in _OUR_NAMES}
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, env=inherited | facts
        )
    except OSError as error:
        raise CommandError(f"{command[0]}: {error.strerror}") from None
    await process.communicate(value)
    if process.returncode:
        out.note(f"{command[0]} ended with {process.returncode} at revision {change.revision}")


_OUR_NAMES = ("BUSWORK_REVISION", "BUSWORK_KIND", "BUSWORK_KEY", "BUSWORK_VALUE")


async def wait(client: Client, options: argparse.Namespace, out: Output) -> int:
    try:
        async with asyncio.timeout(options.wait_timeout):
            value, revision = await _wait(client, options.key, options.value)
    except TimeoutError:
        raise TimedOut(f"{options.key} did not become so in {options.wait_timeout:g} s") from None
    if out.json:
        out.document({"key": options.key, "value": value or None, "revision": revision})
    else:
        out.value(value, newline=not options.no_newline)
    return Exit.OK


async def _wait(client: Client, key: str, wanted: str | None) -> tuple[str, int]:
    """Begins anew when the daemon does; what was set before is set no longer then."""
    while True:
        try:
            return await _wait_in_one_epoch(client, key, wanted)
        except RevisionGone:
            continue


async def _wait_in_one_epoch(client: Client, key: str, wanted: str | None) -> tuple[str, int]:
    """The watch is open before the value is read, so nothing falls between the two."""
    async with client.store.watch(key) as changes:
        _, value, revision = await client.store.lookup(key)
        if _is_it(value, wanted):
            return value, revision
        async for change in changes:
            if change.key not in (key, None):
                continue  # a longer key that begins so
            if _is_it(change.value or "", wanted):
                return change.value or "", change.revision
    raise AssertionError("a watch ends only with an error")


def _is_it(value: str, wanted: str | None) -> bool:
    return bool(value) if wanted is None else value == wanted
