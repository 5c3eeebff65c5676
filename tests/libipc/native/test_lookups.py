"""Look-ups, as unmodified clients ask, with plain sockets and what section 8 says they read."""

import array
import asyncio
import os
import socket

import pytest
from libipc.native.test_dialling import Doors
from libipc.native.town import PATIENCE, STRANGER, UID, until

from buswork.libipc.library.contexts import Context
from buswork.libipc.library.rundirs import RunDir
from buswork.libipc.native import lookups as module
from buswork.libipc.wire.forms import Form, frame
from buswork.libipc.wire.lookups import MAX_REQUEST_BYTES, Request, encode_request
from buswork.native import inflight

BIG = 2_000_000


class Refused(Exception):
    """The daemon closed the connection."""


class Client:
    """One original, in a thread of its own."""

    def __init__(self, town, form):
        self.form = form
        directory, name = (town.c, "network") if form is Form.C else (town.zig, "ipc")
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(f"{directory.path}/{name}")
        town.things.append(self)

    def close(self):
        self.sock.close()

    def ask(self, service, network):
        self.sock.sendall(encode_request(self.form, Request(service, network)))

    async def take(self):
        return await asyncio.to_thread(self.read_c if self.form is Form.C else self.read_zig)

    def read_c(self):
        """One plain recv, of which the length counts; then one byte and the descriptor."""
        agreement = self.sock.recv(BIG)
        if not agreement:
            raise Refused
        assert int.from_bytes(agreement[1:5], "big") == 2
        assert len(agreement) == 8, "errors 78 or 79 in the original"
        return self.descriptor(1, b"\0")

    def read_zig(self):
        return self.descriptor(1500, b"ok")

    def descriptor(self, most, wanted):
        data, control, _, _ = self.sock.recvmsg(most, socket.CMSG_SPACE(4))
        if not data:
            raise Refused
        assert data == wanted
        ((level, kind, raw),) = control
        assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        return socket.socket(fileno=array.array("i", raw)[0])


@pytest.fixture
def asking(town):
    town.hub.make_lookups()

    async def asking(service, network, form):
        client = Client(town, form)
        client.ask(service, network)
        return await client.take()

    return asking


def directory_of(town, form):
    return town.c if form is Form.C else town.zig


def clients(town):
    return len(town.hub._lookups.crowd)


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize(
    "network",
    [
        "pong unix://zong",
        "audio tcp://x:1/audio;pong unix://zong",
        "audio tcp://x:1/audio ; pong unix://zong ",
        "pong unix://other;pong unix://zong",
        "pongd unix://other;pong unix://zong",
    ],
)
async def test_a_client_gets_a_connected_descriptor(town, asking, form, network):
    service = town.service("zong", directory_of(town, form))
    with await asking("pong", network, form) as sock:
        assert sock.getblocking()
        assert os.get_blocking(sock.fileno())
        sock.send(b"x")
        assert (await service.accept()).sock.recv(10) == b"x"
    await until(lambda: not clients(town))


async def test_the_descriptor_comes_after_the_agreement_was_read(town, asking):
    """Together, or one right after the other, the C client loses it (errors 65 and 78)."""
    town.service("zong")
    client = Client(town, Form.C)
    client.ask("pong", "pong unix://zong")
    for _ in range(1000):
        await asyncio.sleep(0)
    assert len(client.sock.recv(BIG, socket.MSG_PEEK)) == 8
    (await client.take()).close()


async def test_one_recv_never_takes_the_agreement_and_the_descriptors_byte(town, asking):
    """Also if it has not returned yet when the agreement is read: what has a descriptor with it is
    not joined to what follows, so the agreement has one that means nothing."""
    town.service("zong")
    client = Client(town, Form.C)
    client.ask("pong", "pong unix://zong")
    agreement, control, _, _ = await asyncio.to_thread(
        client.sock.recvmsg, BIG, socket.CMSG_SPACE(4)
    )
    assert len(agreement) == 8
    ((_, _, raw),) = control
    os.close(*array.array("i", raw))
    (await asyncio.to_thread(client.descriptor, 1, b"\0")).close()


@pytest.mark.parametrize("form", Form)
async def test_our_own_library_asks_too(town, asking, form, monkeypatch):
    directory = directory_of(town, form)
    service = town.service("zong", directory)
    monkeypatch.setenv("IPC_NETWORK", "pong unix://zong")
    async with Context(RunDir.of(directory.path, form)) as context:
        connection = await context.connect("pong", fallback=False)
        connection.send(b"x")
        assert (await (await service.accept()).receive()).payload == b"x"


async def test_the_zig_client_gets_both_at_once(town, asking):
    town.service("zong", town.zig)
    client = Client(town, Form.ZIG)
    client.ask("pong", "pong unix://zong")
    with await client.take():
        pass


async def test_a_request_in_pieces(town, asking):
    town.service("zong")
    client = Client(town, Form.C)
    for byte in encode_request(Form.C, Request("pong", "pong unix://zong")):
        client.sock.send(bytes((byte,)))
        await asyncio.sleep(0)
    (await client.take()).close()


async def test_a_zig_client_that_asks_for_no_entry_gets_what_is_here(town, asking):
    town.service("pong", town.zig)
    for network in ("", "other tcp://x:1/x"):
        (await asking("pong", network, Form.ZIG)).close()


async def test_a_c_client_connects_by_itself_then(town, asking):
    town.service("pong")
    with pytest.raises(Refused):
        await asking("pong", "pongd unix://zong", Form.C)


# Who may


@pytest.mark.attack(42)
@pytest.mark.parametrize("form", Form)
async def test_42_a_client_gets_only_what_it_might_connect_to(town, asking, form, monkeypatch):
    service = town.service("zong", directory_of(town, form), mode=0o755)
    if UID == 0:
        monkeypatch.setattr(module, "Who", lambda uid, *others: STRANGER)
    else:
        os.chmod(service.path, 0)
    with pytest.raises(Refused):
        await asking("pong", "pong unix://zong", form)


@pytest.mark.parametrize("form", Form)
async def test_nobody_is_brought_to_the_look_ups_as_the_daemon(town, asking, form):
    for name in ("network", "ipc"):
        with pytest.raises(Refused):
            await asking("pong", f"pong unix://{name}", form)


async def test_polkit_is_not_asked_for_what_is_here(town, asking):
    town.service("zong")
    (await asking("pong", "pong unix://zong", Form.C)).close()
    assert not town.polkit.asked


# Elsewhere


@pytest.fixture
async def doors(town):
    doors = Doors(town.path / "doors.sock")
    yield doors
    doors.close()


@pytest.mark.parametrize("form", Form)
async def test_tcp_goes_through_the_doors(town, asking, doors, form):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        taken = asyncio.create_task(asking("pong", "pong tcp://far:9000/pong", form))
        await doors.answer(b"ok far\n", theirs.fileno())
        with await taken as sock:
            assert os.get_blocking(sock.fileno())
            sock.send(b"x")
            assert ours.recv(1) == b"x"
    assert doors.asked == [f"ipc {form} tcp://far:9000/pong\n".encode()]
    assert town.polkit.asked == ["org.libipc.dial"]


async def test_polkit_says_who_may_dial(town, asking, doors):
    town.polkit.denied.add("org.libipc.dial")
    with pytest.raises(Refused):
        await asking("pong", "pong tcp://far:9000/pong", Form.ZIG)
    with pytest.raises(BlockingIOError):
        doors.listener.accept()


async def test_there_are_no_doors(asking):
    with pytest.raises(Refused):
        await asking("pong", "pong tcp://far:9000/pong", Form.ZIG)


@pytest.mark.parametrize("scheme", ["tls", "tcp"])
async def test_a_protocol_daemon_takes_the_uri_and_is_the_connection(town, asking, scheme):
    daemon = town.service(scheme, town.zig)
    taken = asyncio.create_task(asking("pong", f"pong {scheme}://far:9000/pong", Form.ZIG))
    program = await daemon.accept()
    assert (await program.receive()).payload == f"{scheme}://far:9000/pong".encode()
    await program.send(b"ok")
    with await taken as sock:
        sock.send(frame(Form.ZIG, b"hello"))
        assert (await program.receive()).payload == b"hello"


async def test_a_protocol_daemon_that_refuses(town, asking):
    daemon = town.service("tls", town.zig)
    taken = asyncio.create_task(asking("pong", "pong tls://far:9000/pong", Form.ZIG))
    program = await daemon.accept()
    await program.receive()
    await program.send(b"no")
    with pytest.raises(Refused):
        await taken
    assert await program.ends()


@pytest.mark.skipif(UID != 0, reason="only root has files of several users")
async def test_a_strangers_protocol_daemon_is_not_believed(town, asking):
    """Else anybody would get what others send, under a name that everybody may take."""
    daemon = town.service("tls", town.zig)
    os.chown(daemon.path, 4711, 4711)
    with pytest.raises(Refused):
        await asking("pong", "pong tls://far:9000/pong", Form.ZIG)
    with pytest.raises(BlockingIOError):
        daemon.listener.accept()


# Bad clients, each of which goes alone


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize(
    "network",
    [
        "pong unix://none",
        "pong",
        "pong unix://a unix://b",
        "pong ://x",
        "pong unix://..",
        "pong unix://a\nb",
        "pong tls://x",
    ],
)
async def test_a_request_that_can_not_be_met_ends_that_client_alone(town, asking, form, network):
    town.service("zong", directory_of(town, form))
    other = Client(town, form)
    with pytest.raises(Refused):
        await asking("pong", network, form)
    other.ask("pong", "pong unix://zong")
    (await other.take()).close()


@pytest.mark.parametrize(
    "request_bytes",
    [
        frame(Form.C, b"pong;pong unix://zong", 3, 2),
        frame(Form.C, b"no semicolon", 3, 3),
        frame(Form.C, b";pong unix://zong", 3, 3),
        frame(Form.C, b"a/b;pong unix://zong", 3, 3),
        frame(Form.C, b"pong;\xff\xff", 3, 3),
        frame(Form.C, bytes(MAX_REQUEST_BYTES + 1), 3, 3),
        b"\x03\xff\xff\xff\xff\x03",
    ],
)
async def test_what_is_no_request(town, asking, request_bytes):
    client = Client(town, Form.C)
    await asyncio.to_thread(client.sock.sendall, request_bytes[:200_000])
    with pytest.raises((Refused, ConnectionResetError)):
        await client.take()


@pytest.mark.parametrize("entries", [1, 16_000])
async def test_a_huge_request(town, asking, entries):
    town.service("zong")
    filling = "a" * (MAX_REQUEST_BYTES // 2) if entries == 1 else ";".join(["a b"] * entries)
    (await asking("pong", f"{filling};pong unix://zong", Form.C)).close()


async def test_who_says_nothing_is_left(town, asking, monkeypatch):
    monkeypatch.setattr(module, "LOOKUP_SECONDS", 0.01)
    with pytest.raises(Refused):
        await Client(town, Form.C).take()
    await until(lambda: not clients(town))


async def test_who_never_reads_the_agreement_is_left(town, asking, monkeypatch):
    monkeypatch.setattr(module, "LOOKUP_SECONDS", 0.05)
    town.service("zong")
    client = Client(town, Form.C)
    client.ask("pong", "pong unix://zong")
    await until(lambda: clients(town))
    await until(lambda: not clients(town))
    assert len(town.hub._lookups.in_flight) == 0


async def test_who_goes_meanwhile_takes_the_request_along(town, asking):
    service = town.service("zong")
    client = Client(town, Form.C)
    client.ask("pong", "pong unix://zong")
    await service.accept()
    client.close()
    await until(lambda: not clients(town))


async def test_descriptors_that_nobody_takes_are_few(town, asking):
    service = town.service("zong", town.zig)
    asked = [Client(town, Form.ZIG) for _ in range(inflight.PER_UID + 3)]
    for client in asked:
        client.ask("pong", "pong unix://zong")
        await service.accept()
    await until(lambda: not clients(town))
    assert len(town.hub._lookups.in_flight) == inflight.PER_UID
    got = 0
    for client in asked:
        try:
            (await client.take()).close()
            got += 1
        except Refused:
            pass
    assert got == inflight.PER_UID
    (await asking("pong", "pong unix://zong", Form.ZIG)).close()
    service.close()


async def test_each_user_has_so_many_clients(town, asking):
    town.authority.quotas.limits = type(town.quotas.limits)(native_connections=2)
    for _ in range(2):
        Client(town, Form.C)
    with pytest.raises((Refused, BrokenPipeError, ConnectionResetError)):
        await asking("pong", "x", Form.C)


async def test_all_together_have_so_many_and_the_oldest_goes(town, asking):
    town.hub._lookups.crowd.most = 2
    oldest, second = Client(town, Form.C), Client(town, Form.C)
    await until(lambda: clients(town) == 2)
    third = Client(town, Form.C)
    with pytest.raises(Refused):
        await oldest.take()
    town.service("zong")
    for client in (second, third):
        client.ask("pong", "pong unix://zong")
        (await client.take()).close()


async def test_a_defect_ends_that_client_alone(town, asking, monkeypatch, caplog):
    town.service("zong")
    with monkeypatch.context() as broken:
        broken.setattr(module.wire, "target", lambda request: 1 / 0)
        with pytest.raises(Refused):
            await asking("pong", "pong unix://zong", Form.C)
    assert "a look-up failed" in caplog.text
    (await asking("pong", "pong unix://zong", Form.C)).close()


# Where they are answered


async def test_sockets_that_were_passed_are_used(town):
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(f"{town.c.path}//network")
    sock.listen()
    town.hub.open_lookups(sock)
    town.hub.make_lookups()
    assert sorted(os.listdir(town.zig.path)) == ["ipc"]
    town.service("zong")
    client = Client(town, Form.C)
    client.ask("pong", "pong unix://zong")
    (await client.take()).close()


async def test_a_socket_that_is_elsewhere_is_not(town, caplog):
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(town.path / "network"))
    sock.listen()
    town.hub.open_lookups(sock)
    assert "no run directory" in caplog.text
    assert sock.fileno() < 0


async def test_what_was_made_goes_at_the_end(town):
    town.hub.make_lookups()
    client = Client(town, Form.C)
    await until(lambda: clients(town))
    await town.hub.stop()
    assert os.listdir(town.c.path) == os.listdir(town.zig.path) == []
    with pytest.raises(Refused):
        await client.take()
