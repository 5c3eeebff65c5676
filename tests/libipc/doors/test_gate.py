"""Who comes in, and how many."""

import socket
import struct
from contextlib import contextmanager

import pytest
from libipc.doors.house import HOST, UID, settled

from buswork.errors import AccessDenied
from buswork.libipc.doors import gate as module
from buswork.libipc.doors.gate import Gate
from buswork.libipc.wire.forms import Form
from buswork.native.loopback import PortOwner

OTHER = UID + 1


@contextmanager
def connected():
    """A client's end, and ours."""
    with socket.create_server((HOST, 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
        with client, ours:
            yield client, ours


class Remote:
    """A socket whose other end is on another host."""

    def __init__(self, host):
        self.address = (host, 4711) if "." in host else (host, 4711, 0, 0)

    def getpeername(self):
        return self.address

    def getsockname(self):
        return ("192.0.2.1", 9000) if len(self.address) == 2 else ("2001:db8::1", 9000, 0, 0)


def test_a_program_of_this_machine_is_its_user(caplog):
    gate = Gate(settled("--serve-uid", UID))
    with connected() as (_, ours):
        guest = gate.enter(ours)
        assert (guest.uid, guest.is_remote) == (UID, False)
        assert len(gate) == 1
        guest.leave()
        guest.leave()
        assert len(gate) == 0
    assert not caplog.text


@pytest.mark.attack(43)
def test_who_was_not_named_is_sent_away(caplog):
    gate = Gate(settled("--serve-uid", OTHER, "--ipc-remote-user", OTHER))
    with connected() as (_, ours):
        assert gate.enter(ours) is None
    assert len(gate) == 0
    assert f"uid {UID}: is not served here (--serve-uid)" in caplog.text


def test_who_has_left_is_nobody(caplog):
    gate = Gate(settled("--serve-uid", UID, "--serve-uid", 0, "--ipc-remote-user", UID))
    with connected() as (client, ours):
        client.close()
        assert gate.enter(ours) is None
    assert "somebody: nobody knows who it is" in caplog.text


@pytest.mark.attack(43)
def test_43_who_leaves_while_it_is_looked_who_it_is_is_nobody(monkeypatch, caplog):
    """The port may have been found in the hands of the next one."""
    gate = Gate(settled("--serve-uid", UID))
    with connected() as (client, ours):

        def tcp_owner(theirs, here):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            return PortOwner(UID, 4711)

        monkeypatch.setattr(module, "tcp_owner", tcp_owner)
        assert gate.enter(ours) is None
    assert len(gate) == 0
    assert "not connected" in caplog.text


@pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7", "2001:db8::8"])
def test_another_host_needs_a_user_to_be(host, caplog):
    assert Gate(settled("--serve-uid", UID)).enter(Remote(host)) is None
    assert "is another host" in caplog.text
    guest = Gate(settled("--ipc-remote-user", OTHER)).enter(Remote(host))
    assert (guest.uid, guest.is_remote) == (OTHER, True)


def test_other_hosts_that_are_let_in(caplog):
    gate = Gate(settled("--ipc-remote-user", UID, "--ipc-peer", "192.0.2.0/28"))
    assert gate.enter(Remote("192.0.2.15")) is not None
    assert gate.enter(Remote("192.0.2.16")) is None
    assert gate.enter(Remote("2001:db8::1")) is None
    assert "192.0.2.16 is not let in (--ipc-peer)" in caplog.text


def test_who_has_left_does_not_pass_for_another_host_s(monkeypatch, caplog):
    """Not at another of this machine's addresses either, where others may come in."""
    monkeypatch.setattr(module, "is_here", lambda address: address[0] == "192.0.2.7")
    gate = Gate(settled("--serve-uid", UID, "--ipc-remote-user", UID, "--ipc-peer", "192.0.2.0/24"))
    assert gate.enter(Remote("192.0.2.7")) is None
    assert "nobody knows who it is" in caplog.text
    assert gate.enter(Remote("192.0.2.8")) is not None


def test_each_user_has_some_places_and_all_have_some(monkeypatch, caplog):
    monkeypatch.setattr(module, "MAX_GUESTS_PER_UID", 2)
    monkeypatch.setattr(module, "MAX_GUESTS", 3)
    # Those of other hosts have the rights of this user, and take none of his places.
    gate = Gate(settled("--serve-uid", UID, "--ipc-remote-user", UID))
    with connected() as (_, ours):
        assert gate.enter(Remote("192.0.2.7")) is not None
        first, _ = gate.enter(ours), gate.enter(ours)
        assert gate.enter(ours) is None
        assert f"uid {UID}: has 2 connections here" in caplog.text
        assert gate.enter(Remote("192.0.2.7")) is None
        assert "3 connections are all" in caplog.text
        first.leave()
        assert gate.enter(ours) is not None


async def test_services_that_are_on_the_list(daemon):
    words = ("--serve-uid", UID, "--ipc-service", "pong", "--ipc-socket", daemon.path)
    gate = Gate(settled(*words))
    with connected() as (_, ours):
        guest = gate.enter(ours)
        with await gate.connect(guest, Form.C, "pong"):
            assert daemon.asked == [f"connect {UID} c pong\n"]
        with pytest.raises(AccessDenied, match="--ipc-service"):
            await gate.connect(guest, Form.C, "ping")
    assert len(daemon.asked) == 1
