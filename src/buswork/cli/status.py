"""buswork status."""

import argparse
import dataclasses
from datetime import timedelta
from typing import Any

from buswork.cli.exits import Exit
from buswork.cli.output import Output
from buswork.client import BusworkError, Client
from buswork.client.appview import BUS_NAME as APPVIEW
from buswork.client.daemon import Facts, WingState

_COLORS = {"running": "green", "failed": "red", "off": "dim"}

# Where systemd tells of the process that has the doors, whether it has read the unit or not.
SYSTEMD = "org.freedesktop.systemd1"
DOORS_PATH = "/org/freedesktop/systemd1/unit/buswork_2ddoors_2eservice"


async def show(client: Client, options: argparse.Namespace, out: Output) -> int:
    # Asking how it is must not start it.
    if client.owner is None:
        if out.json:
            out.document({"running": False})
        else:
            out.prose("busworkd is not running")
        return Exit.NOT_RUNNING
    facts = await client.daemon.facts()
    facts.wings.update(await _appview(client))
    doors = await _doors(client)
    if out.json:
        out.document({"running": True, **_plain(facts), "doors": doors})
    else:
        _show(facts, doors, out)
    return Exit.OK


async def _appview(client: Client) -> dict[str, WingState]:
    """The wing of the other process, if that is running."""
    await client.track(APPVIEW, lambda: None)
    if client.owner_of(APPVIEW) is None:
        return {}
    try:
        return (await client.daemon.facts(APPVIEW)).wings
    except BusworkError as error:
        return {"appview": WingState("failed", f"it does not answer: {error}")}


async def _doors(client: Client) -> str:
    """What buswork-doors says, or how it failed; empty where it is not wanted."""
    try:
        unit = await _of_systemd(client, "Unit")
        if unit["ActiveState"] == "inactive":
            return ""
        service = await _of_systemd(client, "Service")
        state, result = unit["ActiveState"], service["Result"]
        text = service["StatusText"] or (result if result != "success" else "")
        return f"{state}: {text}" if text else str(state)
    except (BusworkError, KeyError):  # no systemd
        return ""


async def _of_systemd(client: Client, interface: str) -> dict[str, Any]:
    return await client.get_all((DOORS_PATH, f"{SYSTEMD}.{interface}"), to=SYSTEMD)


def _plain(facts: Facts) -> dict[str, object]:
    wings = {name: state._asdict() for name, state in facts.wings.items()}
    return dataclasses.asdict(facts) | {"wings": wings}


def _show(facts: Facts, doors: str, out: Output) -> None:
    statistics = dict(facts.statistics)
    up = timedelta(seconds=statistics.pop("uptime_us", 0) // 1_000_000)
    out.prose(f"busworkd {out.styled(facts.version, 'bold')} is running (for {up})")
    out.prose(f"  {'interfaces':16} version {facts.api_version}")
    out.prose(f"  {'epoch':16} {out.styled(facts.epoch, 'dim')}")
    for name, wing in sorted(facts.wings.items()):
        state = out.styled(wing.state, _COLORS.get(wing.state, "yellow"))
        reason = f": {out.styled(wing.reason, 'bold')}" if wing.reason else ""
        out.prose(f"  {out.styled(f'wing {name}'.ljust(16), 'bold')} {state}{reason}")
    if doors:
        out.prose(f"  {out.styled('doors'.ljust(16), 'bold')} {out.styled(doors, 'bold')}")
    for name, number in sorted(statistics.items()):
        out.prose(f"  {out.styled(name.replace('_', ' ').ljust(16), 'dim')} {number:,}")
