"""buswork monitor."""

import argparse
import json
import time

from buswork.cli.output import Output
from buswork.cli.run import while_somebody_reads
from buswork.client import Client, Signal, Signals


async def show(client: Client, options: argparse.Namespace, out: Output) -> int:
    client.on_restart(lambda: out.note("the daemon started anew"))
    dropped = 0
    async with Signals(client) as signals:
        out.note("listening to org.buswork; Ctrl-C ends this")
        with while_somebody_reads():
            async for signal in signals:
                if signals.dropped > dropped:
                    out.note(f"{signals.dropped - dropped} signals came too fast and are left out")
                    dropped = signals.dropped
                _show(signal, out)
    raise AssertionError("signals end only with an error")


def _show(signal: Signal, out: Output) -> None:
    now = time.time()
    if out.json:
        out.document(
            {
                "time_unix_us": int(now * 1_000_000),
                "path": signal.path,
                "interface": signal.interface,
                "member": signal.member,
                "values": signal.values,
            }
        )
        return
    clock = out.styled(time.strftime("%H:%M:%S", time.localtime(now)), "dim")
    values = " ".join(_readable(value) for value in signal.values)
    member = out.styled(f"{signal.interface}.{signal.member}", "bold")
    out.prose(f"{clock} {out.styled(signal.path, 'dim')} {member} {values}".rstrip())


def _readable(value: object) -> str:
    """As JSON, which escapes what a terminal would obey; bytes in hexadecimal."""
    return json.dumps(value, default=lambda odd: odd.hex() if isinstance(odd, bytes) else str(odd))
