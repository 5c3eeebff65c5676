"""Whether polkit knows our actions, and lets our users ask about their callers."""

import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Final

from buswork.doctor.findings import Finding, failure, ok
from buswork.doctor.patient import Patient
from buswork.errors import BusworkError, Disconnected

NAME: Final = "org.freedesktop.PolicyKit1"
PATH: Final = "/org/freedesktop/PolicyKit1/Authority"
AUTHORITY: Final = "org.freedesktop.PolicyKit1.Authority"
OWNER: Final = "org.freedesktop.policykit.owner"
RESTART: Final = "systemctl restart polkit"
# Where they are in what EnumerateActions says of one.
_ID, _ANNOTATIONS = 0, 9


async def actions(patient: Patient) -> AsyncIterator[Finding]:
    try:
        found = await patient.ask(NAME, PATH, AUTHORITY, "EnumerateActions", "s", ("",), start=True)
    except Disconnected:
        raise
    except BusworkError as error:
        yield failure(f"polkit can't be asked, so that only root may do anything: {error}", RESTART)
        return
    owners = {each[_ID]: each[_ANNOTATIONS].get(OWNER, "") for each in found}
    troubles: dict[str, list[str]] = defaultdict(list)
    for action, owner in _shipped(patient).items():
        trouble = _trouble(owner, owners.get(action))
        if trouble:
            troubles[trouble].append(action)
    for trouble, denied in troubles.items():
        text = f"{', '.join(denied)}: denied to all, as polkit {trouble}"
        yield failure(text, f"{patient.mend(changed=True)} && {RESTART}")
    if not troubles:
        yield ok("polkit knows all actions, and lets the daemons' users ask")


def _shipped(patient: Patient) -> dict[str, str]:
    """The actions, and who is their owner."""
    policies = (file for name, file in patient.shipped.items() if name.endswith(".policy"))
    actions = (each for file in policies for each in ET.fromstring(file.content).iter("action"))
    return {each.get("id", ""): each.findtext(f"annotate[@key='{OWNER}']", "") for each in actions}


def _trouble(wanted: str, found: str | None) -> str:
    """Only root may ask about the actions of others, which our daemons are not."""
    if found is None:
        return "does not know it"
    if set(wanted.split()) <= set(found.split()):
        return ""
    return f"has {found or 'nobody'} as its owner, and not {wanted}"
