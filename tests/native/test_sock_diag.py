"""buswork.native.sock_diag: what the kernel is asked, and what of its answers is believed."""

import errno
import os
import socket
import struct
from ipaddress import ip_address

import pytest

from buswork.native import sock_diag
from buswork.native.sock_diag import End, answers, tcp_socket, udp_sockets

HOST = "127.0.0.1"


def end(address):
    return End(ip_address(address[0]), address[1])


def inode(sock):
    return os.fstat(sock.fileno()).st_ino


def test_all_sockets_of_a_port():
    with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as two:
        one.bind((HOST, 0))
        two.bind(("127.0.0.2", one.getsockname()[1]))
        found = udp_sockets(socket.AF_INET, one.getsockname()[1])
        assert {(each.local, each.inode) for each in found} == {
            (end(one.getsockname()), inode(one)),
            (end(two.getsockname()), inode(two)),
        }
        assert {each.uid for each in found} == {os.geteuid()}
        assert udp_sockets(socket.AF_INET6, one.getsockname()[1]) == []


def test_more_than_one_answer_holds():
    socks = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(300)]
    try:
        port = 0
        for number, sock in enumerate(socks):
            sock.bind((f"127.0.{number // 200}.{number % 200 + 1}", port))
            port = sock.getsockname()[1]
        found = udp_sockets(socket.AF_INET, port)
        assert {each.inode for each in found} == {inode(sock) for sock in socks}
    finally:
        for sock in socks:
            sock.close()


def test_one_connection():
    with socket.create_server((HOST, 0)) as listener:
        place = listener.getsockname()
        with socket.create_connection(place) as client:
            found = tcp_socket(end(client.getsockname()), end(place))
            assert found is not None
            assert (found.inode, found.uid) == (inode(client), os.geteuid())
            assert (found.local, found.remote) == (end(client.getsockname()), end(place))
        # It is the listener that the kernel finds for the other way round.
        assert tcp_socket(end(place), End(ip_address(HOST), 1)) is None
        assert tcp_socket(End(ip_address(HOST), 1), end(place)) is None


def test_a_kernel_that_does_not_know_the_question(monkeypatch):
    monkeypatch.setattr(sock_diag, "_SOCK_DIAG_BY_FAMILY", 19)
    with pytest.raises(OSError, match="nvalid"):
        udp_sockets(socket.AF_INET, 9)
    monkeypatch.undo()
    # What a module would answer that is not there: as a socket that is not.
    monkeypatch.setattr(socket, "IPPROTO_TCP", socket.IPPROTO_ICMP)
    with pytest.raises(FileNotFoundError):
        tcp_socket(End(ip_address(HOST), 1), End(ip_address(HOST), 2))


ERROR, DONE, SOCKET = 2, 3, 20


def told(kind, body):
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body + bytes(-len(body) % 4)


def test_one_read_brings_several_sockets_and_the_end():
    assert answers(told(SOCKET, b"one") + told(SOCKET, b"two2")) == ([b"one", b"two2"], False)
    assert answers(told(SOCKET, b"one") + told(DONE, bytes(4))) == ([b"one"], True)


@pytest.mark.parametrize("kind", [ERROR, DONE])
def test_a_failure_is_told_alone_or_at_the_end_of_a_list(kind):
    with pytest.raises(FileNotFoundError):
        answers(told(SOCKET, b"one") + told(kind, struct.pack("=i", -errno.ENOENT)))
