"""buswork.native.loopback: whose a port is, by the kernel's answer and by its tables."""

import errno
import os
import socket
from contextlib import contextmanager

import pytest

from buswork.native import loopback, sock_diag
from buswork.native.loopback import PortOwner, is_here, tcp_owner, udp_owner

HOST = "127.0.0.1"
needs_ipv6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")


def refused(*_):
    raise OSError("no such question")


@pytest.fixture(params=["asked", "read"], autouse=True)
def way(request, monkeypatch):
    """The kernel is asked, or its tables are read where it can't be; never both."""
    if request.param == "read":
        monkeypatch.setattr(sock_diag, "udp_sockets", refused)
        monkeypatch.setattr(sock_diag, "tcp_socket", refused)
    else:
        monkeypatch.setattr(loopback, "_in_tables", refused)


def bound(host, port=0, family=socket.AF_INET, *, shared=False):
    sock = socket.socket(family, socket.SOCK_DGRAM)
    if shared:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host, port))
    return sock


def owner(sock):
    return PortOwner(os.geteuid(), os.fstat(sock.fileno()).st_ino)


def port_of(sock):
    return sock.getsockname()[1]


# UDP


@pytest.mark.parametrize("host", [HOST, ""], ids=["of this address", "of any"])
def test_who_has_a_port(host):
    with bound(host) as sock:
        port = port_of(sock)
        assert udp_owner(HOST, port) == owner(sock)
        sock.connect((HOST, 9))
        assert udp_owner(HOST, port) == owner(sock)
    assert udp_owner(HOST, port) is None


def test_another_address_is_another_place():
    with bound("127.0.0.2") as sock:
        assert udp_owner(HOST, port_of(sock)) is None
        assert udp_owner("127.0.0.2", port_of(sock)) == owner(sock)


@needs_ipv6
@pytest.mark.parametrize("host", ["::", "::ffff:127.0.0.1"])
def test_a_socket_of_ipv6_may_send_from_it_too(host):
    with bound(host, family=socket.AF_INET6) as sock:
        assert udp_owner(HOST, port_of(sock)) == owner(sock)


def test_of_two_it_may_be_either():
    with bound(HOST, shared=True) as first, bound("", port_of(first), shared=True):
        assert udp_owner(HOST, port_of(first)) is None


# TCP


@contextmanager
def connected(host=HOST, family=socket.AF_INET, to=None):
    """The client's end, and ours."""
    with socket.create_server((host, 0), family=family) as listener:
        client = socket.create_connection((to or host, port_of(listener)))
        ours, _ = listener.accept()
        with client, ours:
            yield client, ours


def owner_of(ours):
    return tcp_owner(ours.getpeername(), ours.getsockname())


@pytest.mark.parametrize("bound_to", [HOST, ""], ids=["of this address", "of any"])
def test_who_has_connected(bound_to):
    with connected(bound_to, to=HOST) as (client, ours):
        assert owner_of(ours) == owner(client)
        assert owner_of(client) == owner(ours)


def test_one_who_has_nothing_more_to_say_is_still_there():
    with connected() as (client, ours):
        client.shutdown(socket.SHUT_WR)
        assert ours.recv(1) == b""
        assert owner_of(ours) == owner(client)


def test_who_has_left_is_nobody():
    with connected() as (client, ours):
        client.close()  # the kernel goes on with it, as root
        assert ours.getpeername()
        assert owner_of(ours) is None


def test_who_listens_there_has_not_connected():
    with connected() as (_, ours), socket.create_server((HOST, 0)) as other:
        assert tcp_owner(other.getsockname(), ours.getsockname()) is None
        assert tcp_owner(("127.0.0.2", ours.getpeername()[1]), ours.getsockname()) is None


@needs_ipv6
def test_connections_over_ipv6():
    with connected("::1", socket.AF_INET6) as (client, ours):
        assert owner_of(ours) == owner(client)


@needs_ipv6
def test_a_client_with_a_socket_of_ipv6():
    with socket.create_server((HOST, 0)) as listener, socket.socket(socket.AF_INET6) as client:
        client.connect((f"::ffff:{HOST}", port_of(listener)))
        ours, _ = listener.accept()
        with ours:
            assert owner_of(ours) == owner(client)
            assert owner_of(client) == owner(ours)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (("127.0.0.1", 4711), True),
        (("127.5.0.1", 4711), True),
        (("192.0.2.1", 4711), False),
        (("2001:db8::1", 4711, 0, 0), False),
    ],
)
def test_addresses_of_this_machine(address, expected):
    assert is_here(address) is expected


def test_an_address_that_can_not_be_tried_may_be_here(monkeypatch):
    class Broken(socket.socket):
        def bind(self, address):
            raise OSError(errno.EACCES, "no")

    monkeypatch.setattr(socket, "socket", Broken)
    assert is_here(("192.0.2.1", 4711))


@needs_ipv6
def test_addresses_of_this_machine_over_ipv6():
    assert is_here(("::1", 4711, 0, 0))


# The tables


def test_a_kernel_without_a_table(monkeypatch, tmp_path):
    text = (loopback.NET / "udp").read_text()
    monkeypatch.setattr(loopback, "_in_tables", in_tables)
    monkeypatch.setattr(sock_diag, "udp_sockets", refused)
    monkeypatch.setattr(loopback, "NET", tmp_path)
    assert udp_owner(HOST, 9) is None
    (tmp_path / "udp").write_text(text.splitlines()[0] + "\n" + LINE)
    assert udp_owner(HOST, 0x1234) == PortOwner(77, 4711)


LINE = "1: 0100007F:1234 00000000:0000 07 00000000:00000000 00:00000000 00000000 77 0 4711 2 0 0\n"
in_tables = loopback._in_tables
