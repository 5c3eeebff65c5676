"""buswork.native.inflight: what was sent counts until nobody can receive it any more."""

import asyncio
import errno
import os
import socket

import pytest

from buswork.errors import LimitsExceeded
from buswork.native import inflight
from buswork.native.inflight import PER_UID, InFlight


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflight, "LOOK_SECONDS", 0.005)


def send(in_flight: InFlight, uid: int = 1) -> socket.socket:
    """The client's end."""
    ours, theirs = socket.socketpair()
    fd = os.memfd_create("in flight")
    try:
        in_flight.send(uid, ours, b"reply", fd)
    except BaseException:
        theirs.close()
        raise
    finally:
        os.close(fd)
        ours.close()
    return theirs


async def emptied(in_flight: InFlight) -> bool:
    for _ in range(100):
        if not in_flight:
            return True
        await asyncio.sleep(0.005)
    return False


async def test_who_receives_at_once_is_not_counted() -> None:
    in_flight = InFlight()
    for _ in range(3 * PER_UID):
        client = send(in_flight)
        reply, (fd,), _, _ = socket.recv_fds(client, 100, 1)
        assert reply == b"reply"
        assert client.recv(1) == b""  # the end is there already
        os.close(fd)
        client.close()
    assert await emptied(in_flight)
    assert in_flight._count == {}


@pytest.mark.parametrize("passed_on", [False, True])
async def test_who_does_not_receive_gets_no_more(passed_on: bool) -> None:
    in_flight = InFlight()
    clients = [send(in_flight) for _ in range(PER_UID)]
    kept = [socket.socketpair() for _ in clients]
    if passed_on:
        for client, (to, _) in zip(clients, kept, strict=True):
            socket.send_fds(to, [b"x"], [client.fileno()])
            client.close()
    else:
        for client in clients:
            client.shutdown(socket.SHUT_RDWR)
            assert client.recv(1, socket.MSG_PEEK) == b"r"
    await asyncio.sleep(0.05)
    with pytest.raises(LimitsExceeded, match="received"):
        send(in_flight)
    send(in_flight, uid=2).close()
    for client in clients:
        client.close()
    for pair in kept:
        for end in pair:
            end.close()
    assert await emptied(in_flight)
    send(in_flight).close()
    in_flight.close()


async def test_all_together_have_a_bound() -> None:
    in_flight = InFlight(total=3)
    clients = [send(in_flight, uid) for uid in range(3)]
    with pytest.raises(LimitsExceeded):
        send(in_flight, 4)
    clients.pop().close()
    clients.append(send(in_flight, 4))  # no need to wait until it is looked
    for client in clients:
        client.close()
    in_flight.close()
    assert len(in_flight) == 0


@pytest.mark.parametrize("number", [errno.ETOOMANYREFS, errno.EMFILE])
async def test_where_the_kernel_has_no_more_that_one_is_refused(number: int) -> None:
    class Sock:
        def sendmsg(self, *_: object) -> int:
            raise OSError(number, "no")

    in_flight = InFlight()
    with pytest.raises(LimitsExceeded):
        in_flight.send(1, Sock(), b"reply", 0)  # type: ignore[arg-type]
    assert len(in_flight) == 0


async def test_who_has_gone_is_an_error_of_its_own() -> None:
    in_flight = InFlight()
    ours, theirs = socket.socketpair()
    theirs.close()
    with pytest.raises(BrokenPipeError):
        in_flight.send(1, ours, b"reply", 0)
    ours.close()
