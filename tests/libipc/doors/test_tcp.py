"""The TCP leg: in, as the originals' clients come, and out, to the originals' daemons."""

import asyncio
import json
import socket
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from libipc.doors.house import (
    HOST,
    UID,
    message,
    received,
    received_exactly,
    sent,
    settled,
    tcp_client,
    until,
)

from buswork.errors import AccessDenied, BusworkError, InvalidArgs, LimitsExceeded, TimedOut
from buswork.libipc.doors import relay, tcp
from buswork.libipc.doors.gate import Gate
from buswork.libipc.doors.options import Place
from buswork.libipc.doors.relay import LIMITS
from buswork.libipc.doors.tcp import Dialler, TcpDoor
from buswork.libipc.library.contexts import Context
from buswork.libipc.wire.forms import Form, most_payload

VECTORS = Path(__file__).parents[2] / "vectors/libipc"


def vectors(name):
    return {each["name"]: each for each in json.loads((VECTORS / name).read_text())["vectors"]}


ZIG = vectors("zig_tcpd.json")
C = vectors("c_switching.json")


@pytest.fixture
async def context():
    context = Context(limits=LIMITS)
    yield context
    assert not context.connections
    context.close()


# In


class Doorstep:
    """A door of each form."""

    def __init__(self, daemon, context, *words):
        words = words or ("--serve-uid", UID, "--ipc-service", "pong", "--ipc-service", "pongs")
        self.daemon = daemon
        self.gate = Gate(settled(*words, "--ipc-socket", daemon.path))
        self.doors = {
            form: TcpDoor(Place(HOST, 0), form, self.gate, context) for form in (Form.C, Form.ZIG)
        }
        self.places = {}

    async def open(self):
        for form, door in self.doors.items():
            self.places[form] = await door.open()

    @asynccontextmanager
    async def client(self, form, name=b"pong"):
        async with tcp_client(self.places[form]) as sock:
            await sent(sock, name)
            yield sock

    async def close(self):
        for door in self.doors.values():
            await door.close()


@pytest.fixture
async def doorstep(daemon, context):
    doorstep = Doorstep(daemon, context)
    await doorstep.open()
    yield doorstep
    await doorstep.close()
    assert len(doorstep.gate) == 0


async def played(doorstep, form, steps):
    async with tcp_client(doorstep.places[form]) as sock:
        for word, data in steps:
            raw = bytes.fromhex(data)
            if word == "send":
                await sent(sock, raw)
            else:
                assert await (received_exactly(sock, len(raw)) if raw else received(sock)) == raw


@pytest.mark.parametrize("name", ["tcp ok", "tcp no_service", "tcp connect_and_close"])
async def test_recorded_clients_of_the_form_zig(doorstep, name):
    await played(doorstep, Form.ZIG, ZIG[name]["steps"])


@pytest.mark.parametrize("name", ["switch_default", "switch_empty"])
async def test_recorded_clients_of_the_form_c(doorstep, name):
    await played(doorstep, Form.C, C[name]["tcp_client"])


@pytest.mark.parametrize(
    ("form", "sends"),
    [
        (Form.ZIG, [step for step in ZIG["tcp two_coalesced"]["steps"] if step[0] == "send"]),
        (Form.C, [step for step in C["switch_two_coalesced"]["tcp_client"] if step[0] == "send"]),
    ],
)
async def test_two_messages_in_one_segment_that_are_too_much_for_the_originals(
    doorstep, form, sends
):
    (_, name), (_, both) = sends
    agreed = "4f4b" if form is Form.C else "6f6b"
    await played(doorstep, form, [("send", name), ("recv", agreed), ("send", both), ("recv", both)])
    # The service has seen one after the other: it answered the first before the second came.
    assert len(doorstep.daemon.of(form).reads) == 2


async def test_many_messages_at_once_come_in_order(doorstep):
    service = doorstep.daemon.of(Form.C)
    many = [message(Form.C, b"%d" % number) for number in range(300)]
    async with doorstep.client(Form.C) as sock:
        await received_exactly(sock, 2)
        await until(lambda: service.socks)
        await sent(service.socks[0], b"".join(many))
        assert await received_exactly(sock, len(b"".join(many))) == b"".join(many)


@pytest.mark.parametrize("form", list(Form))
async def test_a_client_that_does_not_wait_for_the_answer(doorstep, form):
    hello = message(form, b"hello", 0)
    agreed = b"OK" if form is Form.C else b"ok"
    async with doorstep.client(form, b"pong" + hello) as sock:
        assert await received_exactly(sock, len(agreed + hello)) == agreed + hello


async def test_a_name_that_comes_in_pieces(doorstep):
    async with doorstep.client(Form.ZIG, b"po") as sock:
        await until(lambda: len(doorstep.gate))
        await asyncio.sleep(0.01)
        await sent(sock, b"ng")
        assert await received_exactly(sock, 2) == b"ok"


@pytest.mark.parametrize(
    "name",
    [b"ping", b"pong/", b"pon\0", b"po\xff", b"POST / HTTP/1.1\r\n\r\n", b"\0", b"x" * 200],
)
async def test_names_that_lead_nowhere(doorstep, name):
    async with doorstep.client(Form.C, name) as sock:
        assert await end_of(sock) == b""
    assert not doorstep.daemon.asked


async def end_of(sock):
    """What came before the end; one with something unread resets the connection."""
    try:
        return await received(sock)
    except ConnectionResetError:
        return b""


async def test_a_service_that_is_not_there_refuses_that_client_alone(doorstep, caplog):
    async with doorstep.client(Form.C, b"pongs") as sock:
        assert await received(sock) == b""
    assert "nobody serves it" in caplog.text
    async with doorstep.client(Form.C) as sock:
        assert await received_exactly(sock, 2) == b"OK"


async def test_who_is_not_served_is_not_asked(daemon, context):
    doorstep = Doorstep(daemon, context, "--serve-uid", UID + 1, "--ipc-service", "pong")
    await doorstep.open()
    async with doorstep.client(Form.C) as sock:
        assert await end_of(sock) == b""
    await doorstep.close()
    assert not daemon.asked


async def test_who_says_no_name_is_not_waited_for(doorstep, monkeypatch):
    monkeypatch.setattr(tcp, "NAME_SECONDS", 0.01)
    async with doorstep.client(Form.C, b"po") as sock:
        assert await end_of(sock) == b""


@pytest.mark.parametrize("form", list(Form))
async def test_the_longest_messages(doorstep, form):
    long = message(form, bytes(most_payload(form)))
    async with doorstep.client(form) as sock:
        await received_exactly(sock, 2)
        task = asyncio.create_task(sent(sock, long))
        assert await received_exactly(sock, len(long)) == long
        await task


@pytest.mark.parametrize(
    ("form", "raw"),
    [
        (Form.C, b"\x02\x00\x1e\x84\x7b\x00"),
        (Form.ZIG, b"\x00\x01\x86\x99"),
        (Form.ZIG, b"\xff" * 9),
    ],
)
async def test_longer_ones_end_the_connection(doorstep, form, raw, caplog):
    async with doorstep.client(form) as sock:
        await received_exactly(sock, 2)
        await sent(sock, raw)
        assert await end_of(sock) == b""
        await until(lambda: caplog.text)
    await until(lambda: not len(doorstep.gate))


async def test_an_empty_message_of_the_form_zig_is_an_end(doorstep):
    async with doorstep.client(Form.ZIG) as sock:
        await received_exactly(sock, 2)
        await sent(sock, bytes(4))
        assert await received(sock) == b""
    assert not doorstep.daemon.of(Form.ZIG).reads


async def test_what_a_service_says_last_still_arrives(doorstep):
    service = doorstep.daemon.of(Form.C)
    async with doorstep.client(Form.C) as sock:
        await received_exactly(sock, 2)
        await until(lambda: service.socks)
        last = message(Form.C, bytes(30_000), 9)
        await sent(service.socks[0], last)
        service.socks[0].shutdown(socket.SHUT_RDWR)
        assert await received_exactly(sock, len(last)) == last
        assert await received(sock) == b""


async def test_what_a_client_says_last_still_arrives(doorstep):
    service = doorstep.daemon.of(Form.C)
    async with doorstep.client(Form.C) as sock:
        await received_exactly(sock, 2)
        both = [message(Form.C, b"one"), message(Form.C, b"two")]
        await sent(sock, b"".join(both))
        sock.shutdown(socket.SHUT_WR)
        assert await received_exactly(sock, len(b"".join(both))) == b"".join(both)
        assert await received(sock) == b""
    assert service.reads == both


async def test_a_service_that_does_not_read_stops_the_reading_of_its_client(doorstep):
    service = doorstep.daemon.of(Form.C)
    service.is_reading.clear()
    async with doorstep.client(Form.C) as sock:
        await received_exactly(sock, 2)
        each = message(Form.C, bytes(9000))
        count = await sent_until_full(sock, each)
        assert count < 64 * 1024 * 1024  # what the kernel holds, and no more
        service.is_reading.set()
        rest = len(each) - count % len(each)
        await asyncio.gather(sent(sock, each[-rest:]), received_exactly(sock, count + rest))
    assert len(service.reads) == (count + rest) // len(each)


async def sent_until_full(sock, each):
    """How many bytes of it, again and again, are taken before nothing moves any more."""
    count, still = 0, 0
    while still < 20:
        try:
            count += sock.send(each[count % len(each) :])
            still = 0
        except BlockingIOError:
            still += 1
            await asyncio.sleep(0.005)
    return count


async def test_a_service_that_reads_nothing_for_long_is_left(doorstep, monkeypatch, caplog):
    monkeypatch.setattr(relay, "STUCK_SECONDS", 0.01)
    service = doorstep.daemon.of(Form.C)
    service.is_reading.clear()
    async with doorstep.client(Form.C) as sock:
        await received_exactly(sock, 2)
        await sent(sock, 3 * message(Form.C, b"x"))
        assert await end_of(sock) == b""
        await until(lambda: "nothing was read" in caplog.text)


async def test_a_client_that_reads_nothing_for_long_is_left(doorstep, monkeypatch, caplog):
    monkeypatch.setattr(relay, "STUCK_SECONDS", 0.05)
    service = doorstep.daemon.of(Form.C)
    async with doorstep.client(Form.C) as sock:
        await received_exactly(sock, 2)
        await until(lambda: service.socks)
        flood = asyncio.create_task(sent(service.socks[0], 40 * message(Form.C, bytes(500_000))))
        await until(lambda: "nothing was read" in caplog.text)
        with pytest.raises(OSError, match=r"pipe|reset"):
            await flood


# Out


class Far:
    """Another host's door: what one of the originals says and hears."""

    def __init__(self, answer=b"ok", *, is_cut_off=False):
        self.answer = answer
        self.is_cut_off = is_cut_off
        self.heard = []
        self.listener = socket.create_server((HOST, 0))
        self.listener.setblocking(False)
        self.port = self.listener.getsockname()[1]
        self.sock = None
        self._task = asyncio.create_task(self._serve())

    async def _serve(self):
        loop = asyncio.get_running_loop()
        self.sock, _ = await loop.sock_accept(self.listener)
        self.heard.append(await loop.sock_recv(self.sock, 4096))
        if self.answer is None:
            self.sock.close()
            return
        await loop.sock_sendall(self.sock, self.answer)
        if self.is_cut_off:
            self.sock.shutdown(socket.SHUT_RDWR)
        while data := await loop.sock_recv(self.sock, 1 << 20):
            self.heard.append(data)
            await loop.sock_sendall(self.sock, data)
        self.sock.close()

    async def close(self):
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.listener.close()
        if self.sock is not None:
            self.sock.close()


@pytest.fixture
async def far():
    far = Far()
    yield far
    await far.close()


def dialler(context, far, host=HOST):
    return Dialler(frozenset({(host, far.port)}), context)


@asynccontextmanager
async def carried(way):
    """What the daemon hands on."""
    asked, daemon = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    task = asyncio.create_task(way.carry(asked))
    handed = socket.socket(fileno=way.handed.detach())
    handed.setblocking(False)
    with asked, daemon, handed:
        yield handed
    async with asyncio.timeout(10):
        await task
    way.close()


async def test_the_recorded_daemon_is_dialled(context, far):
    """As the recorded bytes have it: client, ipcd, tcpd, TCP, tcpd, pong."""
    recorded = ZIG["chain client->ipcd->tcpd->(TCP)->tcpd->pong"]["tcp_bytes"]
    says = [bytes.fromhex(data) for who, data in recorded if who == "tcpd->remote"]
    name, *messages, _ = says
    way = await dialler(context, far).dial(f"zig tcp://{HOST}:{far.port}/{name.decode()}")
    assert way.told == f"{HOST}:{far.port}"
    async with carried(way) as handed:
        for each in messages:
            await sent(handed, each)
            assert await received_exactly(handed, len(each)) == each
    assert far.heard == [name, *messages]


async def test_messages_that_come_right_behind_the_answer(context):
    both = message(Form.C, b"one", 1) + message(Form.C, b"two", 2)
    far = Far(b"OK" + both)
    way = await dialler(context, far).dial(f"c tcp://{HOST}:{far.port}/pong")
    async with carried(way) as handed:
        # The originals' rules: no two messages at once.
        assert await received(handed) == both[:9]
        assert await received(handed) == both[9:]
    await far.close()


async def test_a_door_that_leaves(context, far):
    way = await dialler(context, far).dial(f"c tcp://{HOST}:{far.port}/pong")
    async with carried(way) as handed:
        far.sock.close()
        far._task.cancel()
        assert await received(handed) == b""


@pytest.mark.parametrize("answer", [None, b"no", b"o"])
async def test_a_door_that_does_not_let_us_in(context, answer):
    far = Far(answer, is_cut_off=answer == b"o")
    with pytest.raises(BusworkError, match="did not let us in"):
        await dialler(context, far).dial(f"zig tcp://{HOST}:{far.port}/a/b")
    assert far.heard[0] == b"a/b"
    await far.close()


async def test_a_name_is_looked_up(context, far):
    way = await dialler(context, far, "localhost").dial(f"c tcp://LocalHost:{far.port}/pong")
    async with carried(way) as handed:
        await sent(handed, message(Form.C, b"x"))
        assert await received(handed) == message(Form.C, b"x")


async def test_what_is_not_on_the_list_is_not_dialled(context, far):
    with pytest.raises(AccessDenied, match="--ipc-dial"):
        await dialler(context, far).dial(f"c tcp://localhost:{far.port}/pong")
    assert not far.heard


@pytest.mark.parametrize(
    "text",
    [
        "c",
        "d tcp://127.0.0.1:1/pong",
        "c 127.0.0.1:1/pong",
        "c tls://127.0.0.1:1/pong",
        "c tcp://127.0.0.1/pong",
        "c tcp://127.0.0.1:1",
        "c tcp://127.0.0.1:1/" + "x" * 256,
    ],
)
async def test_what_can_not_be_dialled(context, far, text):
    with pytest.raises(InvalidArgs):
        await dialler(context, far).dial(text)


async def test_a_port_where_nobody_listens(context, far):
    far.listener.close()
    with pytest.raises(BusworkError, match="no way to"):
        await dialler(context, far).dial(f"c tcp://{HOST}:{far.port}/pong")


async def test_a_door_that_does_not_answer(context, monkeypatch):
    monkeypatch.setattr(tcp, "DIAL_SECONDS", 0.05)
    far = Far(b"")
    with pytest.raises(TimedOut):
        await dialler(context, far).dial(f"c tcp://{HOST}:{far.port}/pong")
    await far.close()


async def test_so_many_and_no_more(context, far, monkeypatch):
    monkeypatch.setattr(tcp, "MAX_DIALLED", 1)
    dials = dialler(context, far)
    way = await dials.dial(f"c tcp://{HOST}:{far.port}/pong")
    with pytest.raises(LimitsExceeded):
        await dials.dial(f"c tcp://{HOST}:{far.port}/pong")
    way.close()
    far.listener.close()
    with pytest.raises(BusworkError, match="no way"):
        await dials.dial(f"c tcp://{HOST}:{far.port}/pong")
