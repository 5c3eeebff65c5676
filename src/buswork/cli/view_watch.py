"""buswork view watch."""

import argparse
from typing import Any

from buswork.cli.clients import user_name
from buswork.cli.exits import Exit
from buswork.cli.output import Output
from buswork.cli.run import while_somebody_reads
from buswork.client import Client, ProcessFacts

SIGNS = {"added": ("+", "green"), "changed": ("~", "yellow"), "removed": ("-", "red")}


async def watch(client: Client, options: argparse.Namespace, out: Output) -> int:
    async with client.appview.watch(others=options.others) as changes:
        with while_somebody_reads():
            async for change in changes:
                _show(change.what, change.process, out)
    return Exit.OK


def _show(what: str, facts: ProcessFacts, out: Output) -> None:
    if out.json:
        out.document({"event": what} | _plain(facts))
        return
    sign, style = SIGNS[what]
    who = f"{facts.pid:<7} {user_name(facts.uid)}"
    out.prose(f"{out.styled(sign, style)} {out.styled(facts.state.ljust(7), style)} "
              f"{out.styled(who, 'bold')} {out.styled(facts.command, 'dim')}")  # fmt: skip


def _plain(facts: ProcessFacts) -> dict[str, Any]:
    return {
        "pid": facts.pid,
        "user": user_name(facts.uid),
        "command": facts.command,
        "name": facts.name,
        "state": facts.state,
        "uuid": facts.uuid,
        "id": facts.id,
        "machine_id": facts.machine_id,
    }
