"""The one list of checks, and making them."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Sequence

from buswork.doctor import bus, devices, people, places, polkit, units, versions, wings
from buswork.doctor.findings import Finding, Severity, failure, note
from buswork.doctor.patient import Patient
from buswork.errors import BusworkError, Disconnected

# How often a check may wait in full for an answer that is late, or does not come.
WAITS = 8

Check = Callable[[Patient], AsyncIterator[Finding]]

# In the order of what rests on what; the names are what scripts know them by.
CHECKS: dict[str, Check] = {
    "bus.reachable": bus.reachable,
    "bus.names": bus.names,
    "bus.policy": bus.policy,
    "polkit.actions": polkit.actions,
    "units.services": units.services,
    "units.sockets": units.sockets,
    "places.files": places.files,
    "places.programs": places.programs,
    "places.directories": places.directories,
    "people.users": people.users,
    "people.groups": people.groups,
    "devices.udev": devices.udev,
    "devices.plugged": devices.plugged,
    "wings.states": wings.states,
    "versions": versions.versions,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Diagnosis:
    """A finding, and which check has found it."""

    check: str
    severity: Severity
    text: str
    mend: str


async def examine(patient: Patient) -> list[Diagnosis]:
    """All that is found, in the list's order."""
    async with patient:
        found = await asyncio.gather(*(_made(check, patient) for check in CHECKS.values()))
    return [
        Diagnosis(name, each.severity, each.text, each.mend)
        for name, findings in zip(CHECKS, found, strict=True)
        for each in findings
    ]


async def _made(check: Check, patient: Patient) -> Sequence[Finding]:
    """What it finds until it has to end, whatever the reason is: the others go on."""
    findings: list[Finding] = []
    try:
        async with asyncio.timeout(WAITS * patient.seconds):
            async for finding in check(patient):
                findings.append(finding)  # noqa: PERF401  # what came before a failure counts
    except Disconnected as error:
        findings.append(note(f"this was not looked at: {error}"))
    except TimeoutError:
        findings.append(failure("this took too long to be looked at"))
    except (BusworkError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        # Whoever answers may answer nonsense.
        findings.append(
            failure(f"this could not be looked at: {str(error) or type(error).__name__}")
        )
    return findings
