"""systemd's view of our services and sockets."""

import stat
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

from buswork.doctor.findings import Finding, failure, note, ok, warning
from buswork.doctor.patient import NOBODY, Patient
from buswork.errors import BusworkError
from buswork.installation.activation import OFF_AT_FIRST, SERVICES, SOCKETS

NAME: Final = "org.freedesktop.systemd1"
PATH: Final = "/org/freedesktop/systemd1"
MANAGER: Final = "org.freedesktop.systemd1.Manager"
UNIT: Final = "org.freedesktop.systemd1.Unit"
SERVICE: Final = "org.freedesktop.systemd1.Service"
SOCKET: Final = "org.freedesktop.systemd1.Socket"

DAEMON = "buswork.service"
DOORS = "buswork-doors.service"
RELOAD = "systemctl daemon-reload"

Facts = dict[str, Any]


async def services(patient: Patient) -> AsyncIterator[Finding]:
    if not await _has_systemd(patient):
        yield note("systemd is not running, so that somebody else has to start the daemon")
        return
    wrong = False
    for name in SERVICES:
        facts = await _facts(patient, name, SERVICE)
        for finding in (*_loaded(patient, name, facts), *_ended(name, facts)):
            wrong = True
            yield finding
    if not wrong:
        yield ok("systemd has the services, and none has failed")


async def sockets(patient: Patient) -> AsyncIterator[Finding]:
    if not await _has_systemd(patient):
        yield note("systemd is not running, so that the daemon has to make its sockets itself")
        return
    wrong = False
    for name in (*SOCKETS, *OFF_AT_FIRST):
        facts = await _facts(patient, name, SOCKET)
        for finding in (*_loaded(patient, name, facts), *_unheard(patient, name, facts)):
            wrong = True
            yield finding
    if not wrong:
        yield ok("systemd listens on the sockets")


async def _has_systemd(patient: Patient) -> bool:
    try:
        return await patient.owner(NAME) is not None
    except BusworkError as error:
        if error.name in NOBODY:
            return False
        raise


async def _facts(patient: Patient, name: str, interface: str) -> Facts:
    path = await patient.ask(NAME, PATH, MANAGER, "LoadUnit", "s", (name,))
    facts = await patient.properties(NAME, path, UNIT)
    if facts["LoadState"] == "loaded":
        facts |= await patient.properties(NAME, path, interface)
    return facts


def _loaded(patient: Patient, name: str, facts: Facts) -> Iterator[Finding]:
    state = facts["LoadState"]
    if state == "not-found":
        yield failure(f"systemd does not know {name}", f"{patient.mend()} && {RELOAD}")
    elif state == "masked":
        tell = warning if name == DAEMON else note
        yield tell(f"{name} is masked, so that nothing starts it", f"systemctl unmask {name}")
    elif state != "loaded":
        why = facts["LoadError"][1]
        text = f"systemd can't use {name}: {why or state}"
        yield failure(text, f"{patient.mend(changed=True)} && {RELOAD}")
    elif facts["NeedDaemonReload"]:
        yield warning(f"{name} has changed since systemd read it", RELOAD)
    for path in facts.get("DropInPaths", ()):
        yield note(f"{name} was changed here: {path}")


def _ended(name: str, facts: Facts) -> Iterator[Finding]:
    """How its last run ended; or, of one that runs, what it could not do."""
    if facts["ActiveState"] == "failed":
        text = f"{name} has failed ({_result(facts)}); journalctl -u {name} tells more"
        yield failure(text, f"systemctl reset-failed {name} && systemctl start {name}")
    elif facts["SubState"] == "auto-restart" or _is_tried_again(facts):
        text = f"{name} fails again and again ({_result(facts)}); journalctl -u {name} tells more"
        yield failure(text, f"systemctl restart {name}")
    elif name == DOORS and ";" in facts.get("StatusText", ""):
        yield failure(f"{name} says: {facts['StatusText']}", f"systemctl restart {name}")
    if facts.get("NRestarts"):
        yield note(f"{name} was started anew after failures: {facts['NRestarts']} times")


def _is_tried_again(facts: Facts) -> bool:
    return bool(facts["ActiveState"] == "activating" and facts.get("NRestarts"))


def _result(facts: Facts) -> str:
    words = [facts.get("Result", "")]
    if facts.get("ExecMainStatus"):
        words.append(f"status {facts['ExecMainStatus']}")
    if facts.get("StatusText"):
        words.append(facts["StatusText"])
    return ", ".join(words)


def _unheard(patient: Patient, name: str, facts: Facts) -> Iterator[Finding]:
    """Why nobody hears who comes to a socket, now or later."""
    if facts["LoadState"] != "loaded":
        return
    wanted = name not in OFF_AT_FIRST
    if wanted and facts["UnitFileState"] == "disabled":
        text = f"{name} is not enabled: after the next start of the machine nobody listens there"
        yield warning(text, f"systemctl enable --now {name}")
    if facts["ActiveState"] == "failed":
        yield from list(_in_the_way(patient, name, facts)) or _ended(name, facts)
    elif facts["ActiveState"] == "active":
        yield from _gone(patient, name, facts)
    elif wanted:
        yield failure(f"{name} does not listen", f"systemctl start {name}")


def _in_the_way(patient: Patient, name: str, facts: Facts) -> Iterator[Finding]:
    """systemd replaces a file or a socket that is in its way, but no directory."""
    for _, path in facts["Listen"]:
        found = patient.facts(path)
        if found is not None and not stat.S_ISSOCK(found.st_mode):
            text = f"{name} can't listen at {path}, where something else is"
            yield failure(text, f"mv {path} {path}.other && systemctl restart {name}")


def _gone(patient: Patient, name: str, facts: Facts) -> Iterator[Finding]:
    """systemd does not notice when somebody takes a socket's file away."""
    mend = f"systemctl stop buswork; systemctl restart {name}"
    for _, path in facts["Listen"]:
        found = patient.facts(path)
        if found is None:
            yield failure(f"{path}, where {name} listens, is gone", mend)
        elif not stat.S_ISSOCK(found.st_mode):
            yield failure(f"{path}, where {name} listens, is no socket any more", mend)
        elif stat.S_IMODE(found.st_mode) != facts["SocketMode"]:
            mode, wanted = stat.S_IMODE(found.st_mode), facts["SocketMode"]
            text = f"{path} has the mode {mode:04o}, not {wanted:04o}"
            yield failure(text, f"chmod {wanted:04o} {path}")
