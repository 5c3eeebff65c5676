"""Where things are on the bus, and short words for what the tests of the daemon do most."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import select
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.machine import BUS_NAME, CallError, Client, Daemon, Machine

STORE = ("/org/mapipc/Store", "org.mapipc.Store")
DAEMON = ("/org/buswork", "org.buswork.Daemon")
LOG_CONTROL = ("/org/freedesktop/LogControl1", "org.freedesktop.LogControl1")
PEER = "org.freedesktop.DBus.Peer"
PROPERTIES = "org.freedesktop.DBus.Properties"
INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
OBJECT_MANAGER = "org.freedesktop.DBus.ObjectManager"
DBUS_ERROR = "org.freedesktop.DBus.Error."
BUSY = "org.buswork.Error.Busy"

READ = "org.mapipc.store.read"
WRITE = "org.mapipc.store.write"
CLEAR = "org.mapipc.store.clear"
OBSERVE = "org.buswork.observe-others"
FORCE = "org.buswork.force-release"
SET_LEVEL = "org.buswork.set-log-level"

FROM_NOW = 2**64 - 1
MIB = 1024 * 1024
# For what happens within milliseconds, on a machine that has much else to do.
SOON = 10.0


def store(client: Client, member: str, signature: str = "", *values: Any, **more: Any) -> Any:
    """Calls a method of the store: its value, or the list of its values."""
    reply = client.call(*STORE, member, signature, *values, **more)
    return reply.value if len(reply.body) < 2 else reply.body


def set_key(client: Client, key: str, value: str) -> int:
    return int(store(client, "Set", "ss", key, value))


def get_key(client: Client, key: str) -> str:
    return str(store(client, "Get", "s", key))


@contextlib.contextmanager
def refused(name: str, *words: str) -> Iterator[None]:
    """Expects an error reply of this name (short ones are freedesktop's) with these words."""
    with pytest.raises(CallError) as caught:
        yield
    full = name if "." in name else DBUS_ERROR + name
    assert caught.value.name == full, caught.value
    for word in words:
        assert word in caught.value.text, caught.value


def eventually(condition: Callable[[], Any], timeout: float = SOON) -> Any:
    """What condition returns, once that is true: for what nothing tells of, like /proc."""
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)
    return found


def deny(*actions: str, user: str = "alice") -> str:
    """A polkit rule."""
    wanted = " || ".join(f'action.id == "{action}"' for action in actions)
    return (
        "polkit.addRule(function (action, subject) {\n"
        f'  if (subject.user == "{user}" && ({wanted})) return "no";\n'
        "});"
    )


def descriptors(daemon: Daemon) -> list[str]:
    """What the daemon has open, as links of /proc."""
    found = []
    for entry in pathlib.Path(f"/proc/{daemon.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(entry))
    return sorted(found)


def resident_bytes(daemon: Daemon, what: str = "VmRSS") -> int:
    for line in pathlib.Path(f"/proc/{daemon.pid}/status").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == what:
            return int(rest.split()[0]) * 1024
    raise AssertionError(what)


def check_unharmed(machine: Machine, daemon: Daemon, *others: Client) -> None:
    """The daemon lives, has its name, had no defect, and serves others."""
    assert daemon.process.poll() is None, daemon.log()
    assert machine.owner(BUS_NAME), daemon.log()
    for other in others:
        assert other.get(*DAEMON, "ApiVersion") == 1
    assert "a defect in a handler" not in daemon.log(), daemon.log()
    assert "Traceback" not in daemon.log(), daemon.log()


class Lines:
    """What comes out of a Watch."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._input = bytearray()

    @classmethod
    def watch(cls, client: Client, prefix: str, revision: int = FROM_NOW) -> Lines:
        return cls(store(client, "Watch", "st", prefix, revision))

    def next(self, timeout: float = SOON) -> dict[str, Any] | None:
        """The next line, None at the end."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self._input:
            if not self._read(deadline):
                assert not self._input, "half a line"
                return None
        line, _, self._input = self._input.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def rest(self, timeout: float = SOON) -> list[dict[str, Any]]:
        """All the lines until the end."""
        deadline = time.monotonic() + timeout
        while self._read(deadline):
            pass
        assert not self._input or self._input.endswith(b"\n"), "half a line"
        return [json.loads(line) for line in self._input.splitlines()]

    def is_silent(self) -> bool:
        return not self._input and not select.select([self.descriptor], [], [], 0)[0]

    def close(self) -> None:
        os.close(self.descriptor)

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, deadline: float) -> bool:
        left = max(0.0, deadline - time.monotonic())
        if not select.select([self.descriptor], [], [], left)[0]:
            raise TimeoutError("the watch says nothing, nor does it end")
        piece = os.read(self.descriptor, 1 << 20)
        self._input += piece
        return bool(piece)
