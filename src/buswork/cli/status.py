"""buswork status."""

import argparse
import dataclasses
from datetime import timedelta

from buswork.cli.exits import Exit
from buswork.cli.output import Output
from buswork.client import Client
from buswork.client.daemon import Facts

_COLORS = {"running": "green", "failed": "red", "off": "dim"}


async def show(client: Client, options: argparse.Namespace, out: Output) -> int:
    # Asking how it is must not start it.
    if client.owner is None:
        if out.json:
            out.document({"running": False})
        else:
            out.prose("busworkd is not running")
        return Exit.NOT_RUNNING
    facts = await client.daemon.facts()
    if out.json:
        out.document({"running": True, **_plain(facts)})
    else:
        _show(facts, out)
    return Exit.OK


def _plain(facts: Facts) -> dict[str, object]:
    wings = {name: state._asdict() for name, state in facts.wings.items()}
    return dataclasses.asdict(facts) | {"wings": wings}


def _show(facts: Facts, out: Output) -> None:
    statistics = dict(facts.statistics)
    up = timedelta(seconds=statistics.pop("uptime_us", 0) // 1_000_000)
    out.prose(f"busworkd {out.styled(facts.version, 'bold')} is running (for {up})")
    out.prose(f"  {'interfaces':16} version {facts.api_version}")
    out.prose(f"  {'epoch':16} {out.styled(facts.epoch, 'dim')}")
    for name, wing in sorted(facts.wings.items()):
        state = out.styled(wing.state, _COLORS.get(wing.state, "yellow"))
        reason = f": {out.styled(wing.reason, 'bold')}" if wing.reason else ""
        out.prose(f"  {out.styled(f'wing {name}'.ljust(16), 'bold')} {state}{reason}")
    for name, number in sorted(statistics.items()):
        out.prose(f"  {out.styled(name.replace('_', ' ').ljust(16), 'dim')} {number:,}")
