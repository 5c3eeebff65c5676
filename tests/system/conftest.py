"""Callers of the daemon of a file, and what its tests start for it to look into.

A file says what `machine` and `daemon` are, and has callers of its own where these don't do.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.inspected import People
from support.machine import Client, Daemon, Machine


@pytest.fixture
def people(machine: Machine, daemon: Daemon) -> Iterator[People]:
    people = People(machine)
    yield people
    people.end()
    assert daemon.was_killed or daemon.process.poll() is None, daemon.log()
    assert "Traceback" not in daemon.log(), daemon.log()


@pytest.fixture
def alice(machine: Machine, daemon: Daemon) -> Iterator[Client]:
    client = machine.client("alice")
    yield client
    client.close()


@pytest.fixture
def bob(machine: Machine, daemon: Daemon) -> Iterator[Client]:
    client = machine.client("bob")
    yield client
    client.close()
