"""Our users, and who is in their groups."""

import re
from collections.abc import AsyncIterator

from buswork.doctor.findings import Finding, failure, ok, warning
from buswork.doctor.patient import Patient

SYSUSERS = "systemd/sysusers.d/buswork.conf"
# Whose group has the devices.
DEVICES = "buswork"
MAKE = "systemd-sysusers buswork.conf"


def _names(patient: Patient) -> list[str]:
    text = patient.shipped[SYSUSERS].content.decode()
    return re.findall(r"^u\s+(\S+)", text, re.MULTILINE)


async def users(patient: Patient) -> AsyncIterator[Finding]:
    wrong = False
    for name in _names(patient):
        user, group = patient.user(name), patient.group(name)
        if user is None or group is None:
            wrong = True
            yield failure(f"there is no {'group' if user else 'user'} {name}", MAKE)
        elif 0 in (user.pw_uid, group.gr_gid):
            wrong = True
            yield failure(f"{name} is root by another name", f"userdel -f {name}; {MAKE}")
        elif user.pw_gid != group.gr_gid:
            wrong = True
            text = f"the user {name} is not in the group {name} but in another one"
            yield failure(text, f"usermod -g {name} {name}")
    if not wrong:
        yield ok("the daemons' users are there")


async def groups(patient: Patient) -> AsyncIterator[Finding]:
    group = patient.group(DEVICES)
    members = [] if group is None else [each for each in group.gr_mem if each != DEVICES]
    for name in members:
        text = f"{name} is in the group {DEVICES}, and may use boards past the daemon"
        yield warning(text, f"gpasswd -d {name} {DEVICES}")
    if not members:
        yield ok(f"nobody but the daemon is in the group {DEVICES}; nobody needs to be")
