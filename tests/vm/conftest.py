"""One virtual machine for all of this folder: it takes half a minute until there is one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.vm import VirtualMachine

SERVICE = "buswork.service"


@pytest.fixture(scope="session")
def booted() -> Iterator[VirtualMachine]:
    with VirtualMachine() as machine:
        yield machine


@pytest.fixture
def machine(booted: VirtualMachine) -> Iterator[VirtualMachine]:
    """With the daemon running, and nothing plugged in."""
    booted.run(["systemctl", "reset-failed", SERVICE], check=False)  # else: too many starts
    booted.run(["systemctl", "start", SERVICE])
    yield booted
    booted.unplug_all()


@pytest.fixture
def idle(booted: VirtualMachine) -> Iterator[VirtualMachine]:
    """Without the daemon, which would hold devices, and with nothing plugged in."""
    booted.run(["systemctl", "stop", SERVICE])
    yield booted
    booted.unplug_all()
