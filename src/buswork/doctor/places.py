"""What is installed where, and whether it is as it was shipped."""

import os
import re
import stat
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

from buswork.doctor.findings import Finding, Severity, failure, note, ok, warning
from buswork.doctor.patient import Patient
from buswork.installation.files import Item, Link, mark

TMPFILES = "systemd/tmpfiles.d/buswork.conf"
MAKE = "systemd-tmpfiles --create buswork.conf"

# Without these the daemon is not started, is denied or finds nothing; the others it can do without.
_VITAL = re.compile(r"\.(conf|service|socket|policy|rules)$")
_FOR_PEOPLE = re.compile(r"/(doc|user)/")
# Where an administrator's file of the same name stands in front of ours.
_IN_FRONT = {
    "/usr/lib/systemd/system": "/etc/systemd/system",
    "/usr/lib/udev/rules.d": "/etc/udev/rules.d",
    "/usr/lib/tmpfiles.d": "/etc/tmpfiles.d",
    "/usr/lib/sysusers.d": "/etc/sysusers.d",
    "/usr/share/dbus-1/system.d": "/etc/dbus-1/system.d",
}
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


async def files(patient: Patient) -> AsyncIterator[Finding]:
    vital = [path for path in patient.wanted if _is_vital(path)]
    if not any(patient.facts(path) for path in vital):
        yield failure("buswork is not installed on this system", patient.mend())
        return
    wrong = False
    for path in vital:
        for finding in _judged(patient, path, patient.wanted[path]):
            wrong = wrong or finding.severity is not Severity.NOTE
            yield finding
    if not wrong:
        yield ok(f"what the system has to know is in its {len(vital)} places, as it was shipped")
    others = [path for path in patient.wanted if not _is_vital(path) and _differs(patient, path)]
    if others:
        text = f"what the daemon can do without is not all as it was shipped: {others[0]}"
        more = f" and {len(others) - 1} more files" if len(others) > 1 else ""
        yield note(text + more, patient.mend(changed=True))


def _is_vital(path: str) -> bool:
    return bool(_VITAL.search(path)) and not _FOR_PEOPLE.search(path)


def _judged(patient: Patient, path: str, item: Item) -> Iterator[Finding]:
    try:
        found = mark(patient.at(path))
    except OSError as error:
        yield warning(f"{path} can't be read: {error.strerror}", f"chmod 644 {path}")
        return
    if found is None:
        yield failure(f"{path} is missing", patient.mend())
        return
    if found != item.mark:
        yield warning(f"{path} is not as it was shipped", patient.mend(changed=True))
    yield from _trusted(patient, path, item)
    yield from _in_front(patient, path)


def _differs(patient: Patient, path: str) -> bool:
    try:
        return mark(patient.at(path)) != patient.wanted[path].mark
    except OSError:
        return True


def _trusted(patient: Patient, path: str, item: Item) -> Iterator[Finding]:
    facts = patient.facts(path)
    if facts is None or isinstance(item, Link):
        return
    if facts.st_uid:
        owner = patient.user_name(facts.st_uid)
        yield failure(f"{path} belongs to {owner}, who may change it", f"chown root:root {path}")
    if facts.st_mode & _OTHERS_MAY_WRITE:
        yield failure(f"others than root may write to {path}", f"chmod go-w {path}")


def _in_front(patient: Patient, path: str) -> Iterator[Finding]:
    folder, name = os.path.split(path)
    if folder in _IN_FRONT:
        other = f"{_IN_FRONT[folder]}/{name}"
        facts = patient.facts(other)
        if facts is not None and not stat.S_ISLNK(facts.st_mode):  # which masks or is an alias
            yield note(f"{other} stands in front of, or beside, what was shipped")


# -- programs ------------------------------------------------------------------------------------

_STARTED = re.compile(r"^ExecStart=(\S+)|PROGRAM\}=\"(\S+)|program\}=\"(\S+)", re.MULTILINE)


async def programs(patient: Patient) -> AsyncIterator[Finding]:
    """Those that the system starts."""
    wrong, started = False, sorted(set(_started(patient)))
    for path in started:
        trouble = _trouble(patient, path)
        if trouble:
            wrong = True
            yield failure(f"{path} can't be started: {trouble}", patient.mend(changed=True))
    if started and not wrong:
        yield ok("the programs that the system starts are there")


def _started(patient: Patient) -> Iterator[str]:
    """As installed units and rules have it, for an administrator may have moved them."""
    for path in patient.wanted:
        if path.endswith((".service", ".rules")) and "/dbus-1/" not in path:
            for words in _STARTED.findall(patient.text(path) or ""):
                yield "".join(words).rstrip('"')


def _trouble(patient: Patient, path: str) -> str:
    target = patient.at(path)
    if not target.exists():
        return "it leads to nothing" if target.is_symlink() else "it is not there"
    if not target.is_file() or not os.access(target, os.X_OK):
        return "it is no program"
    first = (patient.text(path) or "").partition("\n")[0]
    words = first.removeprefix("#!").split()
    if first.startswith("#!") and words and not patient.at(words[0]).exists():
        return f"{words[0]}, which runs it, is not there"
    return ""


# -- directories ---------------------------------------------------------------------------------


class Directory(NamedTuple):
    path: str
    mode: int
    user: str
    group: str


async def directories(patient: Patient) -> AsyncIterator[Finding]:
    wrong = False
    for wanted in _wanted(patient):
        finding = _as_wanted(patient, wanted)
        if finding is not None:
            wrong = True
            yield finding
    if not wrong:
        yield ok("the run directories are there, and whose they are to be")


def _wanted(patient: Patient) -> Iterator[Directory]:
    for line in patient.shipped[TMPFILES].content.decode().splitlines():
        words = line.split()
        if words and words[0] == "d":
            yield Directory(words[1], int(words[2], 8), words[3], words[4])


def _as_wanted(patient: Patient, wanted: Directory) -> Finding | None:
    facts = patient.facts(wanted.path)
    if facts is None:
        return failure(f"the directory {wanted.path} is missing", MAKE)
    if not stat.S_ISDIR(facts.st_mode):
        text = f"{wanted.path} is to be a directory, and is something else"
        return failure(text, f"rm {wanted.path} && {MAKE}")
    found = Directory(
        wanted.path,
        stat.S_IMODE(facts.st_mode),
        patient.user_name(facts.st_uid),
        patient.group_name(facts.st_gid),
    )
    if found == wanted:
        return None
    text = f"the directory {wanted.path} is {_told(found)}, and is to be {_told(wanted)}"
    return failure(text, MAKE)


def _told(each: Directory) -> str:
    return f"{each.user}:{each.group}'s with the mode {each.mode:04o}"
