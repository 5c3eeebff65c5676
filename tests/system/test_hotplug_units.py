"""Devices that come and go behind the running service, in its shipped sandbox: an emulated kernel
stands behind its libusb and its udev, and all else is real.

To the unit is added where that kernel is, and nothing else.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from support.container import PROJECT, Container
from support.machine import Client, Variant
from support.places import DAEMON, OBJECT_MANAGER, eventually, refused
from support.seats import SEAT, Caller, Person
from support.usb_kernel import PRELOAD, Kernel

pytestmark = [pytest.mark.systemd, pytest.mark.usb]

SERVICE = "buswork.service"
DRIVER = ("/org/fsct/Driver", "org.fsct.Driver")
ROOT, DEVICE = "/org/flipper", "org.flipper.Device"
DESK = f"{ROOT}/devices/desk"
DISPLAY, BOARD = "1-1", "1-4"  # the ports
# What comes to them, with what udev's rules say of it.
KINDS: dict[str, dict[str, Any]] = {
    DISPLAY: {"kind": "dac", "properties": {"ID_FSCT": "1"}},
    BOARD: {"kind": "carbon", "properties": {"BUSWORK_NAME": "desk"}},
}

# umockdev's files: those of sysfs, of /dev, and the sockets to its emulated kernel.
PLACE = "/run/emulated-usb"
DROP_IN = f"/run/systemd/system/{SERVICE}.d/usb.conf"
SETTING = "[Service]\nEnvironment=LD_PRELOAD={} UMOCKDEV_DIR={}\n"


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    with Container() as container:
        container.run(["systemctl", "stop", SERVICE])
        container.run(["systemctl", "start", "systemd-user-sessions"])
        yield container


@pytest.fixture(scope="module")
def usb(container: Container) -> Iterator[Kernel]:
    """The kernel, and the service that has it."""
    container.run(["mkdir", "--mode=777", PLACE])
    here, there = socket.socketpair()
    program = ["/usr/bin/python3", f"{PROJECT}/tests/support/usb_umockdev.py", str(there.fileno())]
    # Whatever it makes is for the service's user too.
    command = ["sh", "-c", 'umask 0; exec "$@"', "sh", "env", f"TMPDIR={PLACE}"]
    with there:
        container.popen(
            [*command, "umockdev-wrapper", *program], pass_fds=[there.fileno()], stdin=-3
        )
    with here:
        kernel = Kernel(here)
        container.run(["chmod", "777", kernel.root])
        container.run(["mkdir", "-p", DROP_IN.rpartition("/")[0]])
        container.run(["tee", DROP_IN], stdin=SETTING.format(PRELOAD, kernel.root))
        container.run(["systemctl", "daemon-reload"])
        yield kernel
        container.run(["systemctl", "stop", SERVICE])  # else it would abort


@pytest.fixture(scope="module")
def root(container: Container, usb: Kernel) -> Iterator[Client]:
    client = Caller(container)
    yield client
    client.close()


class Cables:
    """What is plugged in; the service has to notice by itself."""

    def __init__(self, usb: Kernel) -> None:
        self._usb = usb
        self._there: set[str] = set()

    def plug(self, *ports: str) -> None:
        for port in ports:
            self._usb.plug(port=port, **KINDS[port])
            self._there.add(port)

    def unplug(self, *ports: str) -> None:
        for port in ports:
            self._there.remove(port)
            self._usb.unplug(port=port)

    def unplug_all(self) -> None:
        self.unplug(*self._there)

    def lines(self, port: str) -> list[str]:
        """What somebody sees who looks at it."""
        return list(self._usb.lines(port=port))

    def shows(self, *lines: str) -> bool:
        return self.lines(DISPLAY)[: len(lines)] == list(lines)


@pytest.fixture
def cables(container: Container, root: Client, usb: Kernel) -> Iterator[Cables]:
    """A display and a board, which the service has."""
    cables = Cables(usb)
    cables.plug(DISPLAY, BOARD)
    eventually(lambda: has_both(root))
    yield cables
    cables.unplug_all()
    eventually(lambda: not displays(root) and DESK not in boards(root))
    assert "Traceback" not in container.journal(SERVICE)


def has_both(client: Client) -> bool:
    return len(displays(client)) == 1 and DESK in boards(client)


def main_pid(container: Container) -> str:
    return container.show(SERVICE, "MainPID")


def displays(client: Client) -> list[str]:
    return list(client.call(*DRIVER, "ListDevices").value)


def boards(client: Client) -> dict[str, Any]:
    found = client.call(ROOT, OBJECT_MANAGER, "GetManagedObjects").value
    assert isinstance(found, dict)
    return found


def play(client: Client, title: str) -> int:
    player = client.call(*DRIVER, "RegisterPlayer", "s", "player").value
    state = {"status": Variant("u", 1), "texts": Variant("a{ss}", {"title": title})}
    client.call(*DRIVER, "UpdatePlayerState", "ua{sv}", player, state)
    return int(player)


def light(client: Client, *colour: int) -> None:
    values = [Variant("y", number) for number in colour]
    client.call(DESK, DEVICE, "Invoke", "ssav", "led", "rgb", values)


@pytest.fixture
def player(root: Client) -> Iterator[int]:
    number = play(root, "Song")
    yield number
    root.call(*DRIVER, "UnregisterPlayer", "u", number)


def test_the_service_drives_devices_out_of_its_sandbox(
    container: Container, cables: Cables, player: int
) -> None:
    eventually(lambda: cables.shows("▶ Playing", "Song"))
    container.run(["buswork", "flipper", "led", "--board", "desk", "1", "2", "3"])
    assert "light: #010203" in cables.lines(BOARD)


def test_devices_that_go_and_come_back(
    container: Container, root: Client, cables: Cables, player: int
) -> None:
    pid = main_pid(container)
    (before,) = displays(root)
    token = root.call(DESK, DEVICE, "Claim", "su", "mine", 600).value
    for incarnation in range(root.get(DESK, DEVICE, "Incarnation") + 1, 4):
        cables.unplug(DISPLAY, BOARD)
        eventually(lambda: not displays(root) and DESK not in boards(root))
        cables.plug(DISPLAY, BOARD)
        eventually(lambda: has_both(root) and cables.shows("▶ Playing", "Song"))
        assert displays(root) == [before]
        assert root.get(DESK, DEVICE, "Incarnation") == incarnation
    light(root, 4, 5, 6)
    assert "light: #040506" in cables.lines(BOARD)
    root.call(DESK, DEVICE, "Release", "s", token)
    for _ in range(5):  # faster than anybody looks
        cables.unplug(DISPLAY, BOARD)
        cables.plug(DISPLAY, BOARD)
    eventually(lambda: has_both(root) and cables.shows("▶ Playing", "Song"))
    assert main_pid(container) == pid


def test_a_call_to_a_board_that_goes_is_answered(
    container: Container, root: Client, cables: Cables
) -> None:
    pusher = Caller(container)
    waiting = pusher.begin(DESK, DEVICE, "Push", "ssay", "usart", "push", bytes(1 << 20))
    eventually(lambda: root.call(*DAEMON, "ListClients").value)
    cables.unplug(BOARD)
    with refused("org.flipper.Error.Disconnected"):
        pusher.end(waiting)
    pusher.close()


def test_devices_are_for_who_sits_here(container: Container, root: Client, cables: Cables) -> None:
    """With logind's word for it: the board may be used, and the display shows the player."""
    bob, alice = Person(container, "bob", SEAT), Person(container, "alice", SEAT)
    titles = {"Alice's": alice, "Bob's": bob}
    for title, person in titles.items():
        play(person, title)
    for here, title, there in ((alice, "Alice's", bob), (bob, "Bob's", alice)):
        here.take_the_seat()
        eventually(lambda title=title: cables.shows("▶ Playing", title))
        light(here, 7, 8, 9)
        with refused("InteractiveAuthorizationRequired", "org.flipper.device.use"):
            light(there, 1, 1, 1)
    assert "light: #070809" in cables.lines(BOARD)
    for person in titles.values():
        person.close()


def test_devices_are_found_again_by_the_next_daemon(
    container: Container, root: Client, cables: Cables
) -> None:
    """Nobody has told the devices that the first one was killed."""
    play(root, "First")
    eventually(lambda: cables.shows("▶ Playing", "First"))
    before = main_pid(container)
    container.run(["systemctl", "kill", "--signal=KILL", SERVICE])
    eventually(lambda: main_pid(container) not in ("0", before))
    play(root, "Next")
    eventually(lambda: has_both(root) and cables.shows("▶ Playing", "Next"))
    light(root, 1, 2, 3)
    # And an orderly end leaves no light on.
    container.run(["systemctl", "stop", SERVICE])
    assert cables.lines(DISPLAY) == ["(off)"]
    assert container.show(SERVICE, "Result") == "success"
