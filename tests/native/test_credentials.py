"""buswork.native.credentials: as the kernel says."""

import asyncio
import os
import socket

from buswork.native.credentials import peer_of

OWN = (os.getpid(), os.geteuid(), os.getegid())


def test_both_ends_are_known() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_of(ours) == peer_of(theirs) == OWN
        assert peer_of(ours).uid == os.geteuid()


async def test_what_asyncio_shows_of_a_socket_will_do() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        _, writer = await asyncio.open_unix_connection(sock=ours)
        assert peer_of(writer.get_extra_info("socket")) == OWN
        writer.close()
        await writer.wait_closed()
