"""buswork-appview under a real systemd: what its sandbox leaves it is what it needs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from support.container import HOME, Container, ContainerError, Process

pytestmark = [pytest.mark.processes, pytest.mark.systemd]

SERVICE = "buswork-appview.service"
NAME, ROOT = "org.buswork.AppView", "/org/appview"
INSPECTOR, PROCESS = "org.appview.Inspector", "org.appview.Process"
CONTAINER = ["unshare", "--ipc", "--pid", "--fork", "--mount-proc"]
SQUATTER = """\
import os, sys
from buswork.appview.native import mqueue
mqueue.create(f"AppViewIPCIn.{sys.argv[1]}", os.O_RDWR, 1, 64)
"""


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    with Container() as container:
        yield container


class Viewed:
    """A simulated process; it ends with the container, or by `end`."""

    def __init__(self, process: Process) -> None:
        assert process.stdout is not None
        self._process = process
        self.own_pid = int(process.stdout.readline())

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def start(container: Container, user: str, *options: str, inside: Sequence[str] = ()) -> Viewed:
    command = [*inside, f"{HOME}/bin/python", "-m", "buswork.sim.viewed", *options]
    return Viewed(container.popen(command, user, stdin=subprocess.PIPE, stdout=subprocess.PIPE))


def call(container: Container, user: str, path: str, interface: str, *words: str) -> Any:
    command = ["busctl", "--system", "--json=short", "call", NAME, path, interface, *words]
    said = container.run(command, user).stdout
    return json.loads(said)["data"] if said.strip() else None


def ask(container: Container, user: str, path: str, *words: str) -> Any:
    return json.loads(call(container, user, path, PROCESS, *words)[1])


def main_pid(container: Container, unit: str) -> int:
    return int(container.show(unit, "MainPID"))


def test_the_first_call_starts_it(container: Container) -> None:
    assert container.show(SERVICE, "ActiveState") == "inactive"
    assert container.show(SERVICE, "UnitFileState") == "static"
    assert call(container, "alice", ROOT, INSPECTOR, "Scan") == [[]]
    container.until_ready(SERVICE)
    assert container.show(SERVICE, "StatusText") == "serving appview"
    text = container.run(["cat", f"/proc/{main_pid(container, SERVICE)}/status"]).stdout
    status = dict(line.split(":\t", 1) for line in text.splitlines())
    assert status["Uid"].split()[1] == str(container.uid("buswork-appview"))
    for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 1 << 0 | 1 << 3 | 1 << 19 | 1 << 21, name
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_all_that_it_does(container: Container) -> None:
    """Queues for the user of a process, a file of commands where it looks for one."""
    viewed = start(container, "alice", "--period", "0.05")
    path = f"{ROOT}/processes/{viewed.own_pid}"
    assert path in call(container, "alice", ROOT, INSPECTOR, "Scan")[0]
    merge = ["MergeConfiguration", "s", '{"tags":{"a":"b"}}']
    assert ask(container, "alice", path, *merge)["tags"] == {"a": "b"}
    call(container, "alice", path, PROCESS, "Detach")
    assert not ask(container, "alice", path, "GetStatus")["viewed"]
    call(container, "alice", path, PROCESS, "Attach", "a{ss}", "0")
    assert ask(container, "root", path, "GetStatus")["viewed"]
    with pytest.raises(ContainerError, match="denied"):
        ask(container, "bob", path, "GetStatus")
    viewed.end()


def test_where_there_is_somebody_elses_queue(container: Container) -> None:
    """To see whose, the file system of queues is mounted for nobody else to see."""
    viewed = start(container, "alice")
    path = f"{ROOT}/processes/{viewed.own_pid}"
    call(container, "alice", ROOT, INSPECTOR, "Scan")
    container.python(SQUATTER, "bob", str(viewed.own_pid))
    with pytest.raises(ContainerError, match=f"uid {container.uid('bob')} has made"):
        ask(container, "alice", path, "GetStatus")
    viewed.end()


def test_it_goes_into_containers(container: Container) -> None:
    viewed = start(container, "root", "--period", "0.05", inside=CONTAINER)
    (paths,) = call(container, "root", ROOT, INSPECTOR, "ScanAll")
    details = {path: ask(container, "root", path, "GetProcessDetails") for path in paths}
    (path,) = [path for path, each in details.items() if each["pid"] == viewed.own_pid]
    assert not path.endswith(f"/{viewed.own_pid}")
    call(container, "root", path, PROCESS, "Detach")
    assert not ask(container, "root", path, "GetStatus")["viewed"]
    viewed.end()


def test_nothing_went_wrong(container: Container) -> None:
    assert "Traceback" not in container.journal(SERVICE)
    container.run(["systemctl", "stop", SERVICE])
    assert container.show(SERVICE, "Result") == "success"
