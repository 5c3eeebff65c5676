"""Attack 8: polkit ignores a file of actions that it can't read. What it does not know is a no."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.machine import CallError, Client, Daemon, Machine
from support.places import (
    DBUS_ERROR,
    READ,
    STORE,
    WRITE,
    check_unharmed,
    eventually,
    get_key,
    refused,
    set_key,
)

pytestmark = [pytest.mark.system, pytest.mark.attack(8)]

FILE = "org.mapipc.store.policy"
VERSION = ("/org/fsct/Driver", "org.fsct.Driver", "GetProtocolVersion")


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine() as machine:
        yield machine


@pytest.fixture(scope="module")
def daemon(machine: Machine) -> Daemon:
    return machine.start_daemon()


def replace(machine: Machine, text: str) -> None:
    """polkit sees it whole or not at all."""
    draft = machine.base / FILE
    draft.write_text(text)
    draft.rename(machine.base / "actions" / FILE)


def is_denied(client: Client) -> bool:
    try:
        set_key(client, "key", "value")
    except CallError as error:
        return error.name == f"{DBUS_ERROR}AccessDenied" and WRITE in error.text
    return False


@pytest.mark.parametrize("user", ["alice", "root"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: text.replace("</action>", "", 1),
        lambda text: text.replace(">yes<", ">maybe<"),
    ],
    ids=["empty", "without an end", "a word that polkit does not know"],
)
def test_what_polkit_does_not_know_is_denied(
    machine: Machine, daemon: Daemon, user: str, spoil
) -> None:
    whole = (machine.base / "actions" / FILE).read_text()
    client = machine.client(user)
    set_key(client, "key", "value")
    replace(machine, spoil(whole))
    try:
        eventually(lambda: is_denied(client))
        with refused("AccessDenied", READ):
            client.get(*STORE, "Count")
        # What another file says still holds.
        assert client.call(*VERSION).body
    finally:
        replace(machine, whole)
    eventually(lambda: not is_denied(client))
    assert get_key(client, "key") == "value"
    check_unharmed(machine, daemon, client)
    client.close()
