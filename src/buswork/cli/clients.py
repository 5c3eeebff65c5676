"""buswork clients."""

import argparse
import dataclasses
import pwd

from buswork.cli.exits import Exit
from buswork.cli.output import Output, when
from buswork.client import Client, Held

HEAD = ("SINCE", "USER", "CLIENT", "WING", "WHAT", "PATH")


async def show(client: Client, options: argparse.Namespace, out: Output) -> int:
    if options.release is not None:
        await client.daemon.force_release(options.release)
        if out.json:
            out.document({"released": options.release})
        return Exit.OK
    held = sorted(await client.daemon.list_clients(), key=lambda each: each.since_unix_us)
    if out.json:
        out.document([dataclasses.asdict(each) for each in held])
    elif not held:
        out.note("nobody holds anything")
    else:
        out.table(HEAD, map(_row, held))
    return Exit.OK


def _row(held: Held) -> tuple[str, ...]:
    since = when(held.since_unix_us)
    return since, user_name(held.uid), held.client, held.wing, held.what, held.path


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
