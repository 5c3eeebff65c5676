import asyncio
import os
import socket

import pytest
from support.fakebus import OWN_NAME

from buswork.bus import address
from buswork.bus.transport import Connection

# Names


@pytest.mark.parametrize(
    ("bus", "environment", "expected"),
    [
        ("system", {}, "unix:path=/run/dbus/system_bus_socket"),
        ("system", {"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/x"}, "unix:path=/x"),
        ("session", {"XDG_RUNTIME_DIR": "/run/user/5"}, "unix:path=/run/user/5/bus"),
        ("session", {"DBUS_SESSION_BUS_ADDRESS": "unix:abstract=y"}, "unix:abstract=y"),
        ("unix:path=/z", {}, "unix:path=/z"),
    ],
)
def test_addresses_of_the_buses(monkeypatch, bus, environment, expected):
    for name in ("DBUS_SYSTEM_BUS_ADDRESS", "DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert address.bus_address(bus) == expected


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("unix:path=/a/b", [b"/a/b"]),
        ("unix:path=/a%20b%2c,guid=77", [b"/a b,"]),
        ("unix:abstract=x", [b"\0x"]),
        ("tcp:host=localhost,port=1;unix:path=/a;unix:abstract=b", [b"/a", b"\0b"]),
        ("tcp:host=localhost", []),
        ("", []),
    ],
)
def test_socket_names_in_an_address(text, names):
    assert address.socket_names(text) == names


# Connecting and authenticating


async def test_opening_authenticates_by_uid_and_says_hello(bus):
    connection = await bus.connect()
    assert connection.unique_name == OWN_NAME
    assert bus.auth_lines == [
        b"\0AUTH EXTERNAL %b\r\n" % str(os.geteuid()).encode().hex().encode(),
        b"NEGOTIATE_UNIX_FD\r\n",
    ]
    assert [call.member for call in bus.received] == ["Hello"]


async def test_who_has_another_number_for_the_bus_lets_it_say_which(bus):
    """As in a user namespace, that of a container without root's rights for one."""
    bus.auth_answers = [b"REJECTED EXTERNAL\r\n", b"DATA\r\n", *bus.auth_answers]
    connection = await bus.connect()
    assert connection.unique_name == OWN_NAME
    assert bus.auth_lines[1:3] == [b"AUTH EXTERNAL\r\n", b"DATA\r\n"]


async def test_the_first_address_that_works_is_taken(bus):
    bus.address = f"unix:path=/nonexistent/bus;{bus.address}"
    await bus.connect()


@pytest.mark.parametrize("text", ["unix:path=/nonexistent/bus", "tcp:host=x", "nonsense"])
async def test_no_bus_is_an_os_error(text):
    with pytest.raises(OSError):  # noqa: PT011
        await Connection.open(text)


@pytest.mark.parametrize(
    "answers",
    [
        [b"REJECTED EXTERNAL\r\n", b"REJECTED EXTERNAL\r\n"],
        [b"REJECTED EXTERNAL\r\n", b"DATA\r\n", b"REJECTED EXTERNAL\r\n"],
        [b"OK 77\r\n", b"ERROR\r\n"],
        [b"x" * (address.MAX_LINE + 1) + b"\r\n"],
    ],
)
async def test_a_bus_that_refuses_is_a_connection_error_and_leaks_nothing(bus, open_fds, answers):
    bus.auth_answers = answers
    before = open_fds()
    with pytest.raises(ConnectionError):
        await bus.connect()
    bus.hang_up()
    assert open_fds() == before


async def test_31_a_bus_that_is_not_there_leaks_nothing(open_fds):
    before = open_fds()
    with pytest.raises(ConnectionRefusedError):
        await address.connect("unix:path=/nonexistent/bus;unix:abstract=buswork-test-nobody")
    assert open_fds() == before


async def test_31_who_gives_up_connecting_leaks_nothing(bus, open_fds, monkeypatch):
    loop = asyncio.get_running_loop()
    connecting = asyncio.Event()

    async def connect(sock, name):
        connecting.set()
        await loop.create_future()

    monkeypatch.setattr(loop, "sock_connect", connect)
    before = open_fds()
    task = asyncio.create_task(address.connect(bus.address))
    await connecting.wait()
    assert open_fds() == before + 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert open_fds() == before


@pytest.mark.parametrize("answer", [b"", b"OK 77"])
async def test_a_bus_that_hangs_up_in_the_middle_ends_the_authentication(answer):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.send(answer)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionError, match="ended"):
            await address.authenticate(ours)


async def test_26_a_line_without_end_is_not_read_for_ever():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for end in (ours, theirs):
            end.setblocking(False)
        theirs.send(b"O" * (address.MAX_LINE + 1))
        with pytest.raises(ConnectionError, match="ended"):
            await address.authenticate(ours)


async def test_the_socket_is_kept_from_children(bus):
    sock = await address.connect(bus.address)
    with sock:
        assert not sock.get_inheritable()
        assert not sock.getblocking()
