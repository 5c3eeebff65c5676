"""A system that is well, until a test spoils it."""

import grp
import os
import pwd
import socket
from pathlib import Path
from typing import Any

from buswork import __version__
from buswork.bus.transport import BUS
from buswork.doctor import polkit, units
from buswork.doctor.findings import Finding, Severity
from buswork.doctor.patient import Patient
from buswork.errors import FREEDESKTOP, BusworkError, Disconnected
from buswork.installation.activation import OFF_AT_FIRST, SERVICES, SOCKETS
from buswork.installation.files import place

USERS = {"root": 0, "buswork": 901, "buswork-doors": 902, "buswork-appview": 903, "alice": 1000}
WINGS = {"store": ("running", ""), "fsct": ("running", "")}


class FakePatient(Patient):
    """Its files are in a folder, its users in a table, and what its bus answers in tables too."""

    def __init__(self, root: Path) -> None:
        super().__init__(root=root)
        self.bus_is_there = True
        self.uids = dict(USERS)
        self.gids = dict(USERS)
        self.members: list[str] = []
        self.owners: dict[str, tuple[int, int]] = {}
        self.names = {BUS: 0, "org.buswork": 901, units.NAME: 0, polkit.NAME: 0}
        self.activatable = ["org.buswork", "org.buswork.AppView"]
        # Errors, or what is answered, by name and member.
        self.answers: dict[tuple[str, str], Any] = {("org.buswork", "Ping"): None}
        self.actions = dict(polkit._shipped(self))
        self.daemons = {"org.buswork": {"Version": __version__, "Wings": dict(WINGS)}}
        self.units = {name: _service() for name in SERVICES}
        self.units |= {name: _socket(f"/run/{name}") for name in SOCKETS}
        self.units |= {name: _socket(f"/tmp/{name}", on=False) for name in OFF_AT_FIRST}

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass

    @property
    def has_bus(self):
        return self.bus_is_there

    def install(self):
        """All that is shipped, the programs that are started, and the run directories."""
        for path, item in self.wanted.items():
            place(self.root / path[1:], item)
        for name in ("busworkd", "buswork-appview", "buswork-doors", "buswork-agent"):
            self.write(f"/usr/bin/{name}", "#!/bin/sh\n", 0o755)
        self.write("/usr/bin/buswork-probe-fsct", "#!/bin/sh\n", 0o755)
        self.write("/bin/sh", "")
        for path in ("/run/buswork", "/run/fsct"):
            self.directory(path, 0o755)
        for path in ("/run/ipc", "/tmp/libipc-run", "/tmp/.libipc-run"):
            self.directory(path, 0o1777)

    def listen(self, *names):
        """The sockets of units."""
        for name in names:
            for _, path in self.units[name]["Listen"]:
                self.socket(path)

    def socket(self, path, mode=0o666):
        target = self.root / path[1:]
        target.parent.mkdir(parents=True, exist_ok=True)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(target))
        target.chmod(mode)

    def write(self, path, text, mode=0o644):
        target = self.root / path[1:]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def directory(self, path, mode=0o755):
        target = self.root / path[1:]
        target.mkdir(parents=True, exist_ok=True)
        target.chmod(mode)

    # -- what checks ask -----------------------------------------------------------------------

    async def ask(self, name, path, interface, member, signature="", values=(), *, start=False):
        if not self.bus_is_there:
            raise Disconnected("there is no connection to the bus")
        if (name, member) in self.answers:
            answer = self.answers[name, member]
            if isinstance(answer, BusworkError):
                raise answer
            return answer
        if member == "LoadUnit":
            return f"/{values[0]}"
        if member == "EnumerateActions":
            return [
                [action, *["x"] * 8, {} if owner is None else {polkit.OWNER: owner}]
                for action, owner in self.actions.items()
            ]
        if member == "ListActivatableNames":
            return self.activatable
        wanted = values[0] if values else name
        if wanted not in self.names:
            raise BusworkError("nobody has it", FREEDESKTOP + "NameHasNoOwner")
        answers = {
            "GetNameOwner": ":1.7",
            "GetConnectionUnixUser": self.names[wanted],
            "GetConnectionUnixProcessID": 4711,
        }
        return answers[member]

    async def properties(self, name, path, interface, *, start=False):
        if not self.bus_is_there:
            raise Disconnected("there is no connection to the bus")
        if isinstance(error := self.answers.get((name, "GetAll")), BusworkError):
            raise error
        if name == units.NAME and path != units.PATH:
            return dict(self.units[path[1:]])
        if interface == "org.buswork.Daemon":
            return self.daemons[name]
        return {"Version": "252", "BackendVersion": "122"}

    def facts(self, path):
        found = super().facts(path)
        if found is None:
            return None
        uid, gid = self.owners.get(path, (0, 0))
        return os.stat_result((*found[:4], uid, gid, *found[6:10]))

    def user(self, name):
        uid = self.uids.get(name)
        if uid is None:
            return None
        gid = self.gids.get(f"of {name}", self.gids.get(name, 100))
        return pwd.struct_passwd((name, "x", uid, gid, "", "/", "/bin/sh"))

    def group(self, name):
        gid = self.gids.get(name)
        return None if gid is None else grp.struct_group((name, "x", gid, self.members))

    def user_name(self, uid):
        return next((name for name, each in self.uids.items() if each == uid), f"uid {uid}")

    def group_name(self, gid):
        return next((name for name, each in self.gids.items() if each == gid), f"gid {gid}")


def _unit(**facts):
    plain = {
        "LoadState": "loaded",
        "LoadError": ["", ""],
        "ActiveState": "active",
        "SubState": "running",
        "UnitFileState": "enabled",
        "NeedDaemonReload": False,
        "DropInPaths": [],
        "Result": "success",
    }
    return plain | facts


def _service():
    return _unit(StatusText="serving store", NRestarts=0, ExecMainStatus=0)


def _socket(path, *, on=True):
    state = "active" if on else "inactive"
    file_state = "enabled" if on else "disabled"
    return _unit(
        ActiveState=state,
        UnitFileState=file_state,
        SocketMode=0o666,
        Listen=[["Stream", path]],
    )


async def findings(check, patient) -> list[Finding]:
    return [finding async for finding in check(patient)]


async def troubles(check, patient) -> list[Finding]:
    """All but what is well."""
    return [each for each in await findings(check, patient) if each.severity is not Severity.OK]


async def trouble(check, patient) -> Finding:
    """The only one."""
    (found,) = await troubles(check, patient)
    return found
