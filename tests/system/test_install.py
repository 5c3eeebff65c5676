"""`buswork install` and `uninstall` on a machine with a real systemd and a real bus.

That what was installed works, all other tests of units show."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest
from support.container import Container

pytestmark = pytest.mark.systemd

POLICY = "/usr/share/dbus-1/system.d/org.buswork.AppView.conf"
INSTALL = ["buswork", "install", "--no-programs", "--no-pages"]
CALL = ["busctl", "call", "org.buswork", "/org/mapipc/Store", "org.mapipc.Store", "List", "s", ""]


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    with Container() as container:
        yield container


def written(container: Container) -> set[str]:
    """What is ours, or there for us, and not on the host; seen from outside."""
    upper = f"/proc/{container.guard}/root/mnt/upper"
    kept = ["-path", f"{upper}/usr/bin", "-o", "-path", f"{upper}/opt"]
    kept += ["-o", "-name", "systemd-private-*"]
    command = [
        "find",
        upper,
        "(",
        *kept,
        ")",
        "-prune",
        "-o",
        "-name",
        "*buswork*",
        "-printf",
        r"/%P\n",
    ]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(found.stdout.splitlines())


def test_again_changes_nothing(container: Container) -> None:
    container.run(["systemctl", "disable", "--now", "buswork-fmr.socket"])
    before = written(container)
    said = json.loads(container.run([*INSTALL, "--json"]).stdout)
    files = said["files"]
    assert files.pop("same")
    assert not any(files.values())
    assert [outcome["failure"] for outcome in said["commands"] if outcome["failure"]] == []
    assert written(container) == before
    assert container.show("buswork-fmr.socket", "UnitFileState") == "disabled"


def test_a_command_that_fails_is_named(container: Container) -> None:
    """And the others are run all the same."""
    tool = "/usr/local/sbin/journalctl"
    text = "#!/bin/sh\necho no disk >&2; exit 1\n"
    container.run(["install", "-Dm755", "/dev/stdin", tool], stdin=text)
    try:
        done = container.run(INSTALL, check=False)
    finally:
        container.run(["rm", tool])
    assert done.returncode == 1
    assert done.stderr == "buswork: journalctl --update-catalog: no disk\n"
    assert "ran     systemctl daemon-reload\n" in done.stdout


def test_nobody_else_may(container: Container) -> None:
    done = container.run(["buswork", "uninstall"], "alice", check=False)
    assert done.returncode == 4
    assert "only root" in done.stderr


def test_out_and_in(container: Container) -> None:
    """With a daemon that runs, and a file that the administrator changed."""
    container.run(["tee", "-a", POLICY], stdin="<!-- mine -->\n")
    container.run(CALL, "alice")
    container.until_ready("buswork.service")
    done = container.run(["buswork", "uninstall"], check=False)
    assert done.returncode == 1
    assert f"kept    {POLICY} (somebody changed it)\n" in done.stdout
    assert done.stderr == ""

    assert container.show("buswork.service", "ActiveState") == "inactive"
    assert container.run(CALL, "alice", check=False).returncode == 1
    assert written(container) == {POLICY, "/var/lib/buswork"}
    assert container.run(["ls", "-d", "/run/buswork"], check=False).returncode != 0
    assert container.run(["id", "-un", "buswork"]).stdout == "buswork\n"

    done = container.run(INSTALL, check=False)
    assert f"kept    {POLICY} (not ours)\n" in done.stdout
    container.run([*INSTALL, "--force"])
    container.run(CALL, "alice")
    container.run(["buswork", "uninstall", "--purge"])
    assert written(container) == set()
