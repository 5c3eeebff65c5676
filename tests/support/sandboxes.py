"""A shipped unit's sandbox around another program, as properties for systemd-run."""

from __future__ import annotations

from support.container import REPOSITORY, Container

# What is about running a service, not about what it may do.
OTHER = ("Type", "NotifyAccess", "BusName", "ExecStart", "Environment", "WatchdogSec")
OTHER += ("Restart", "RestartSec", "RestartPreventExitStatus", "TimeoutStartSec", "TimeoutStopSec")
OTHER += ("FileDescriptorStoreMax",)
# Who somebody is, and with what rights: what is left of a service without its sandbox.
IDENTITY = ("User", "UMask", "StateDirectory", "CapabilityBoundingSet", "AmbientCapabilities")


def properties(unit: str, **changes: str | None) -> list[tuple[str, str]]:
    """Those of the shipped unit; None: without this one."""
    text = (REPOSITORY / "systemd" / unit).read_text()
    section = text.partition("\n[Service]\n")[2].partition("\n[")[0]
    lines = (line for line in section.splitlines() if line and not line.startswith("#"))
    shipped = [(name, value) for name, _, value in (line.partition("=") for line in lines)]
    assert {name for name, _ in shipped} >= {name for name in changes if changes[name] is None}
    kept = [each for each in shipped if each[0] not in OTHER and each[0] not in changes]
    return kept + [(name, value) for name, value in changes.items() if value is not None]


def identity(unit: str) -> list[tuple[str, str]]:
    return [each for each in properties(unit) if each[0] in IDENTITY]


def command(around: list[tuple[str, str]]) -> list[str]:
    """Runs in there what follows."""
    start = ["systemd-run", "--pipe", "--wait", "--collect", "--quiet"]
    return start + [f"--property={name}={value}" for name, value in around]


def run(container: Container, around: list[tuple[str, str]], program: list[str]) -> str:
    """What it prints in there."""
    return container.run([*command(around), *program]).stdout.strip()
