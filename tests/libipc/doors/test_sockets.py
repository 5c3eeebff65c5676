"""What the doors do with sockets."""

import asyncio
import socket

import pytest

from buswork.libipc.doors.options import Place
from buswork.libipc.doors.sockets import SILENT_SECONDS, listening, prepare, readable


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_place_is_one_doors_alone(host):
    if host == "::1" and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    with listening(Place(host, 0)) as sock:
        assert not sock.getblocking()
        assert sock.getsockname()[0] == host
        with pytest.raises(OSError, match="in use"):
            listening(Place(host, sock.getsockname()[1]))


def test_messages_leave_at_once():
    with socket.socket() as sock:
        prepare(sock)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == SILENT_SECONDS


async def test_a_socket_that_is_waited_for():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        task = asyncio.create_task(readable(ours))
        await asyncio.sleep(0)
        assert not task.done()
        theirs.send(b"x")
        async with asyncio.timeout(10):
            await task
        assert ours.recv(9) == b"x"
