"""The bus, our names on it, and whether it follows our policies."""

import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

from buswork.doctor.findings import Finding, failure, ok
from buswork.doctor.patient import NOBODY, Patient
from buswork.errors import AccessDenied, BusworkError

RELOAD = "systemctl reload dbus"
POLICIES = "/usr/share/dbus-1/system.d"

# What dbus-daemon(1) has for a policy. One word that it does not know, and it ignores the file.
_POLICY_WORDS = {"context", "user", "group", "at_console"}
_RULE_WORDS = {"own", "own_prefix", "user", "group", "eavesdrop", "max_fds", "min_fds", "log"}
_OF_MESSAGES = ["interface", "member", "error", "type", "path", "requested_reply", "sender"]
_OF_MESSAGES += ["destination", "destination_prefix", "broadcast"]
_RULE_WORDS |= {f"{way}_{word}" for way in ("send", "receive") for word in _OF_MESSAGES}


class Name(NamedTuple):
    name: str
    user: str

    @property
    def policy(self) -> str:
        return f"{POLICIES}/{self.name}.conf"


NAMES = (Name("org.buswork", "buswork"), Name("org.buswork.AppView", "buswork-appview"))


async def reachable(patient: Patient) -> AsyncIterator[Finding]:
    if patient.has_bus:
        yield ok(f"the bus {patient.bus} is reachable")
    else:
        text = f"there is no connection to the bus {patient.bus}: {patient.why_no_bus}"
        yield failure(text, "systemctl start dbus")


async def names(patient: Patient) -> AsyncIterator[Finding]:
    activatable = await patient.ask_bus("ListActivatableNames")
    for each in NAMES:
        if await patient.owner(each.name) is not None:
            yield await _owned(patient, each)
        elif each.name in activatable:
            yield ok(f"{each.name} is not running; the first call starts it")
        else:
            text = f"nobody has the name {each.name}, and no call can start anybody who has it"
            yield failure(text, f"{patient.mend()} && {RELOAD}")


async def _owned(patient: Patient, each: Name) -> Finding:
    uid = await patient.ask_bus("GetConnectionUnixUser", "s", each.name)
    expected = patient.user(each.user)
    if patient.bus != "system" or uid == 0 or (expected and uid == expected.pw_uid):
        return ok(f"{each.name} is running, as {patient.user_name(uid)}")
    pid = await patient.ask_bus("GetConnectionUnixProcessID", "s", each.name)
    text = f"{each.name} was taken by {patient.user_name(uid)}, who is not {each.user}"
    return failure(text, f"kill {pid}")


async def policy(patient: Patient) -> AsyncIterator[Finding]:
    """That a file is there, and as it was shipped, is looked at with the other places."""
    for each in NAMES:
        trouble = _trouble(patient.text(each.policy))
        if trouble:
            text = f"the bus ignores {each.policy} as a whole: {trouble}"
            yield failure(text, f"{patient.mend(changed=True)} && {RELOAD}")
        if patient.has_bus:
            yield await _followed(patient, each)


def _trouble(text: str | None) -> str:
    if text is None:
        return ""
    try:
        root = ET.fromstring(text)
    except ET.ParseError as error:
        return f"it is no XML ({error})"
    if root.tag != "busconfig":
        return f"it is no busconfig but a {root.tag}"
    unknown = next(_unknown(root), None)
    return "" if unknown is None else f"it has {unknown!r}, which means nothing there"


def _unknown(root: ET.Element) -> Iterator[str]:
    for each in root.iter("policy"):
        yield from set(each.keys()) - _POLICY_WORDS
        for rule in each:
            if rule.tag not in ("allow", "deny"):
                yield rule.tag
            yield from set(rule.keys()) - _RULE_WORDS


async def _followed(patient: Patient, each: Name) -> Finding:
    """Without our policy the bus lets no call pass; we ourselves refuse nobody's Ping."""
    try:
        await patient.ask(each.name, "/", "org.freedesktop.DBus.Peer", "Ping")
    except BusworkError as error:
        if error.name in NOBODY:
            return ok(f"what the bus makes of the policy of {each.name} shows when that runs")
        if error.name == AccessDenied.name:
            text = f"the bus does not follow the policy of {each.name}: it lets no call pass"
            return failure(text, f"{patient.mend()} && {RELOAD}")
    return ok(f"the bus lets calls to {each.name} pass")
