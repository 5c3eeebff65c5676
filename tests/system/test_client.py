"""The client library on a real system bus: other users, stock limits, real polkit."""

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
from support.machine import Machine

pytestmark = pytest.mark.system

GATHER = """
import asyncio, json
from buswork.client import Client

async def main():
    async with Client() as client:
        keys = [f"gather/{n}" for n in range(1000)]
        await asyncio.gather(*(client.store.set(key, key) for key in keys))
        values = await asyncio.gather(*map(client.store.get, keys))
        print(json.dumps(values == keys))

asyncio.run(main())
"""

ERRORS = """
from buswork.client import AccessDenied, InteractiveAuthorizationRequired
from buswork.client.blocking import Client

def outcome(interactive, call):
    with Client(interactive=interactive) as client:
        try:
            call(client)
        except (AccessDenied, InteractiveAuthorizationRequired) as error:
            return type(error).__name__

print(outcome(False, lambda client: client.store.clear()))
print(outcome(True, lambda client: client.store.clear()))
print(outcome(False, lambda client: client.store.get("~0/key")))
"""

OVER_A_RESTART = """
import sys
from buswork.client import RevisionGone
from buswork.client.blocking import Client

with Client() as client, client.store.watch() as changes:
    client.store.set("key", "value")
    print(next(changes).value, flush=True)
    sys.stdin.readline()
    try:
        next(changes)
    except RevisionGone:
        print("gone", repr(client.store.get("key")), flush=True)
"""


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine() as machine:
        machine.start_daemon()
        yield machine


def run(machine: Machine, code: str, user: str) -> str:
    return machine.run([sys.executable, "-c", code], user=user).stdout


def test_a_thousand_gathered_calls_on_stock_limits(machine: Machine) -> None:
    assert json.loads(run(machine, GATHER, "alice")) is True


def test_denials_have_their_classes(machine: Machine) -> None:
    lines = run(machine, ERRORS, "alice").splitlines()
    # Nobody is there to type a password, so being allowed to ask does not help.
    assert lines == ["InteractiveAuthorizationRequired", "AccessDenied", "AccessDenied"]


def test_a_watch_over_kill_and_restart() -> None:
    with Machine() as machine:
        daemon = machine.start_daemon()
        program = machine.popen(
            [sys.executable, "-c", OVER_A_RESTART],
            user="bob",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert program.stdout is not None
        assert program.stdout.readline() == "value\n"
        daemon.kill()
        machine.wait_owner("org.buswork", owned=False)
        machine.start_daemon()
        out, _ = program.communicate("go\n", timeout=20)
        assert out == "gone ''\n"
