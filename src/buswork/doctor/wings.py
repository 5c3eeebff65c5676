"""What daemons that run say of their wings."""

from collections.abc import AsyncIterator
from typing import Any

from buswork import __version__
from buswork.client.daemon import TARGET
from buswork.doctor.bus import NAMES
from buswork.doctor.findings import Finding, failure, note, ok, warning
from buswork.doctor.patient import Patient
from buswork.errors import AccessDenied, BusworkError
from buswork.host import NOT_PASSED

UNITS = {"org.buswork": "buswork", "org.buswork.AppView": "buswork-appview"}


async def states(patient: Patient) -> AsyncIterator[Finding]:
    for each in NAMES:
        if await patient.owner(each.name) is None:
            continue
        restart = f"systemctl restart {UNITS[each.name]}"
        try:
            facts = await patient.properties(each.name, *TARGET)
        except BusworkError as error:
            if error.name != AccessDenied.name:  # which is the policy's, told there
                yield failure(f"{each.name} does not answer: {error}", restart)
            continue
        if facts["Version"] != __version__:
            text = f"{each.name} is version {facts['Version']}, and this command {__version__}"
            yield warning(text, restart)
        for name, (state, reason) in facts["Wings"].items():
            yield _judged(name, state, reason, restart)


def _judged(name: Any, state: str, reason: str, restart: str) -> Finding:
    if state == "failed":
        return failure(f"the wing {name} could not start: {reason}", restart)
    if state != "running":
        return note(f"the wing {name} is {state}")
    if not reason:
        return ok(f"the wing {name} is running")
    if all(each.startswith(NOT_PASSED) for each in reason.split("; ")):
        # Whether that is meant so, or the unit has failed, is told with the sockets.
        return note(f"the wing {name} is running, though {reason}")
    return warning(f"the wing {name} is running, but {reason}", restart)
