"""buswork.native.loopback: whose a port is."""

import os
import socket

import pytest

from buswork.native import loopback
from buswork.native.loopback import PortOwner, udp_owner

HOST = "127.0.0.1"


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


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
@pytest.mark.parametrize("host", ["::", "::ffff:127.0.0.1"])
def test_a_socket_of_ipv6_may_send_from_it_too(host):
    with bound(host, family=socket.AF_INET6) as sock:
        assert udp_owner(HOST, port_of(sock)) == owner(sock)


def test_of_two_it_may_be_either():
    with bound(HOST, shared=True) as first, bound("", port_of(first), shared=True):
        assert udp_owner(HOST, port_of(first)) is None


def test_a_kernel_without_a_table(monkeypatch, tmp_path):
    monkeypatch.setattr(loopback, "TABLES", (tmp_path / "udp", *loopback.TABLES))
    with bound(HOST) as sock:
        assert udp_owner(HOST, port_of(sock)) == owner(sock)
