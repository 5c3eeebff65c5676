"""buswork doctor."""

import argparse
import dataclasses
from collections import Counter

from buswork.cli.exits import Exit
from buswork.cli.output import Output
from buswork.client import Client
from buswork.doctor.checks import Diagnosis, examine
from buswork.doctor.findings import Severity, worst
from buswork.doctor.patient import Patient

_STYLES = {
    Severity.OK: "green",
    Severity.NOTE: "dim",
    Severity.WARNING: "yellow",
    Severity.FAILURE: "red",
}
_EXITS = {
    Severity.OK: Exit.OK,
    Severity.NOTE: Exit.OK,
    Severity.WARNING: Exit.WARNINGS,
    Severity.FAILURE: Exit.BROKEN,
}


async def show(client: Client, options: argparse.Namespace, out: Output) -> int:
    found = await examine(Patient(options.bus, timeout=options.timeout))
    result = worst(each.severity for each in found)
    if out.json:
        out.document({"result": result, "findings": [dataclasses.asdict(each) for each in found]})
    else:
        _show(found, out)
    return _EXITS[result]


def _show(found: list[Diagnosis], out: Output) -> None:
    for each in found:
        out.prose(
            f"{out.styled(each.severity.ljust(8), _STYLES[each.severity])} {_line(each, out)}"
        )
        if each.mend:
            out.prose(f"{'':9}  {out.styled(each.mend, 'bold')}")
    counts = Counter(each.severity for each in found)
    out.prose(f"failures: {counts[Severity.FAILURE]}, warnings: {counts[Severity.WARNING]}")


def _line(each: Diagnosis, out: Output) -> str:
    return f"{out.styled(each.check, 'dim')}: {out.styled(each.text, 'bold')}"
