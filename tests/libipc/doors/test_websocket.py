"""Services for browsers: who comes in, what a frame is, and what abuse comes to."""

import asyncio
import base64
import logging
import os
import socket
import ssl
import struct
import tracemalloc
from contextlib import asynccontextmanager, suppress

import pytest
from libipc.doors.house import (
    HOST,
    UID,
    message,
    received_exactly,
    sent,
    settled,
    tcp_client,
    until,
)
from libipc.doors.tls import certificate
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from buswork.libipc.doors import relay
from buswork.libipc.doors import websocket as module
from buswork.libipc.doors.gate import Gate
from buswork.libipc.doors.options import Place
from buswork.libipc.doors.relay import LIMITS
from buswork.libipc.doors.websocket import SUBPROTOCOLS, WebSocketDoor
from buswork.libipc.library.contexts import Context
from buswork.libipc.wire.forms import Form, most_payload
from buswork.log import Sparing

TOKEN = "0123456789abcdefABCD_-"
ORIGIN = "http://localhost:8000"
PROTOCOLS = {form: name for name, form in SUBPROTOCOLS.items()}
PATIENCE = 10


class Doorstep:
    def __init__(self, daemon, tmp_path, *words):
        token = tmp_path / "token"
        token.write_text(TOKEN)
        token.chmod(0o600)
        said = ("--ipc-origin", ORIGIN, "--ipc-token-file", token, "--ipc-socket", daemon.path)
        words = words or ("--serve-uid", UID, "--ipc-service", "pong")
        self.daemon = daemon
        self.gate = Gate(settled(*said, *words))
        self.context = Context(limits=LIMITS)
        self.door = WebSocketDoor(Place(HOST, 0), self.gate, self.context)

    async def open(self):
        self.place = await self.door.open()
        return self

    def connect(self, path="/pong", form=Form.C, *, protocols=None, scheme="ws", **options):
        options.setdefault("ping_interval", None)
        options.setdefault("max_size", None)
        return connect(
            f"{scheme}://{self.place}{path}",
            subprotocols=protocols or [PROTOCOLS[form]],
            proxy=None,
            **options,
        )

    async def refusal(self, *arguments, **options):
        with pytest.raises(InvalidStatus) as caught:
            async with self.connect(*arguments, **options):
                pass
        response = caught.value.response
        return response.status_code, response.body.decode()

    async def close(self):
        async with asyncio.timeout(PATIENCE):
            await self.door.close()
        assert not self.context.connections
        self.context.close()
        assert len(self.gate) == 0


@pytest.fixture
async def doorstep(daemon, tmp_path):
    doorstep = await Doorstep(daemon, tmp_path).open()
    yield doorstep
    await doorstep.close()


async def heard(websocket):
    async with asyncio.timeout(PATIENCE):
        return await websocket.recv()


async def ending(websocket):
    """The code and the reason that it was closed with."""
    async with asyncio.timeout(PATIENCE):
        await websocket.wait_closed()
    return websocket.close_code, websocket.close_reason


# Messages


async def test_a_frame_of_the_form_c_has_the_user_type_in_front(doorstep):
    async with doorstep.connect() as websocket:
        assert websocket.subprotocol == "buswork.libipc.c"
        for frame in (b"\x2acoucou\0", b"\xff", b"\x00" + bytes(100_000)):
            await websocket.send(frame)
            assert await heard(websocket) == frame
    reads = doorstep.daemon.of(Form.C).reads
    assert reads[0] == bytes.fromhex("02000000072a636f75636f7500")
    assert reads[1] == message(Form.C, b"", 255)


async def test_a_frame_of_the_form_zig_is_the_payload(doorstep):
    async with doorstep.connect(form=Form.ZIG) as websocket:
        await websocket.send(b"hello")
        assert await heard(websocket) == b"hello"
    assert doorstep.daemon.of(Form.ZIG).reads == [b"\0\0\0\x05hello"]
    assert doorstep.daemon.asked == [f"connect {UID} zig pong\n"]


async def test_many_messages_come_in_order_and_one_at_a_time(doorstep):
    frames = [struct.pack(">BI", number % 256, number) for number in range(300)]
    async with doorstep.connect() as websocket:
        for frame in frames:
            await websocket.send(frame)
        assert [await heard(websocket) for _ in frames] == frames
    assert len(doorstep.daemon.of(Form.C).reads) == len(frames)


@pytest.mark.parametrize("form", list(Form))
async def test_the_longest_message_and_one_longer(doorstep, form):
    extra = b"\x07" if form is Form.C else b""
    async with doorstep.connect(form=form) as websocket:
        longest = extra + bytes(most_payload(form))
        await websocket.send(longest)
        assert await heard(websocket) == longest
        await websocket.send(longest + b"x")
        assert (await ending(websocket))[0] == 1009


async def test_a_message_in_fragments(doorstep):
    async with doorstep.connect() as websocket:
        await websocket.send([b"\x01", b"a", b"", b"b"])
        assert await heard(websocket) == b"\x01ab"


@pytest.mark.parametrize("form", list(Form))
async def test_an_empty_frame_is_no_message(doorstep, form):
    async with doorstep.connect(form=form) as websocket:
        await websocket.send(b"")
        assert await ending(websocket) == (1008, "an empty frame is no message of either form")


async def test_text_is_no_message(doorstep):
    async with doorstep.connect() as websocket:
        await websocket.send("hello")
        assert await ending(websocket) == (1003, "messages are binary frames")


async def test_a_service_that_leaves(doorstep):
    async with doorstep.connect() as websocket:
        await until(lambda: doorstep.daemon.of(Form.C).socks)
        sock = doorstep.daemon.of(Form.C).socks[0]
        await sent(sock, message(Form.C, b"bye", 3))
        sock.shutdown(socket.SHUT_RDWR)
        assert await heard(websocket) == b"\x03bye"
        assert await ending(websocket) == (1001, "the service left")


async def test_a_browser_that_leaves_ends_the_service_s_connection(doorstep):
    async with doorstep.connect():
        await until(lambda: doorstep.daemon.of(Form.C).socks)
    await until(lambda: doorstep.daemon.of(Form.C).socks[0].fileno() < 0)


async def test_a_service_that_talks_nonsense(doorstep, caplog):
    async with doorstep.connect(form=Form.ZIG) as websocket:
        await until(lambda: doorstep.daemon.of(Form.ZIG).socks)
        await sent(doorstep.daemon.of(Form.ZIG).socks[0], b"\xff" * 8)
        code, reason = await ending(websocket)
        assert code == 1011
        assert reason in caplog.text


async def test_the_doors_close_with_a_word(daemon, tmp_path):
    doorstep = await Doorstep(daemon, tmp_path).open()
    async with doorstep.connect() as websocket:
        await until(lambda: daemon.of(Form.C).socks)
        task = asyncio.create_task(ending(websocket))
        await doorstep.close()
        assert (await task)[0] == 1001


# Who comes in


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1", "[::1]:9001"])
async def test_names_of_this_host(doorstep, host):
    status = await raw_status(doorstep, host=host)
    assert status == 101


@pytest.mark.attack(43)
@pytest.mark.parametrize("host", ["attacker.example", "localhost.attacker.example:80", "", "[::2]"])
async def test_a_name_that_was_made_to_mean_this_host(doorstep, host):
    assert await raw_status(doorstep, host=host) == 403
    assert not doorstep.daemon.asked


async def test_names_that_were_allowed(daemon, tmp_path):
    words = ("--serve-uid", UID, "--ipc-service", "pong", "--ipc-host", "Board.Local")
    doorstep = await Doorstep(daemon, tmp_path, *words).open()
    assert await raw_status(doorstep, host="board.local:8080") == 101
    await doorstep.close()


async def raw_status(doorstep, *, host="localhost", more=()):
    async with tcp_client(doorstep.place) as sock:
        await sent(sock, handshake(host, *more))
        head = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 4096), PATIENCE)
    return int(head.split()[1])


def handshake(host="localhost", *more, path="/pong"):
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: buswork.libipc.c",
        *more,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


async def test_two_hosts_are_none(doorstep):
    assert await raw_status(doorstep, more=["Host: localhost"]) == 403


def with_token(token=TOKEN):
    return [PROTOCOLS[Form.C], f"buswork.token.{token}"]


async def test_a_page_that_is_allowed_and_knows_the_token(doorstep):
    async with doorstep.connect(origin=ORIGIN, protocols=with_token()[::-1]) as websocket:
        assert websocket.subprotocol == PROTOCOLS[Form.C]
        assert TOKEN not in str(websocket.response.headers)
        await websocket.send(b"\x01x")
        assert await heard(websocket) == b"\x01x"


@pytest.mark.attack(43)
@pytest.mark.parametrize(
    "origin", ["http://attacker.example", "null", ORIGIN + "0", "http://localhost"]
)
async def test_a_page_from_elsewhere_is_not_let_in_with_the_token_either(doorstep, origin):
    status, why = await doorstep.refusal(origin=origin, protocols=with_token())
    assert (status, "--ipc-origin" in why) == (403, True)
    assert not doorstep.daemon.asked


@pytest.mark.attack(43)
@pytest.mark.parametrize("protocols", [with_token()[:1], with_token("wrong" * 5), with_token("")])
async def test_a_page_that_does_not_know_the_token(doorstep, protocols, caplog):
    status, why = await doorstep.refusal(
        origin=ORIGIN, protocols=[each.rstrip(".") for each in protocols]
    )
    assert status == 401
    assert "the token is missing" in why
    assert not doorstep.daemon.asked
    assert TOKEN not in caplog.text
    assert "wrong" not in caplog.text


async def test_neither_the_log_nor_an_answer_has_the_token(doorstep, caplog):
    caplog.set_level(logging.DEBUG)
    logging.getLogger("websockets.client").setLevel(logging.ERROR)
    async with doorstep.connect(origin=ORIGIN, protocols=with_token()):
        pass
    await doorstep.refusal("/ping", origin=ORIGIN, protocols=with_token())
    line = f"Sec-WebSocket-Protocol: buswork.token.{TOKEN},,;"
    assert await raw_status(doorstep, more=[line]) == 400
    assert TOKEN not in caplog.text


async def test_a_program_of_a_user_who_was_not_named(daemon, tmp_path, caplog):
    words = ("--serve-uid", UID + 1, "--ipc-service", "pong")
    doorstep = await Doorstep(daemon, tmp_path, *words).open()
    async with tcp_client(doorstep.place) as sock:
        assert await closed(sock)
    assert f"uid {UID}: is not served here" in caplog.text
    await doorstep.close()
    assert not daemon.asked


@pytest.mark.parametrize(
    ("path", "status", "why"),
    [
        ("/ping", 403, "--ipc-service"),
        ("/pong/", 404, "without its directory"),
        ("/", 404, "not empty"),
        ("/%00", 404, "printable"),
        ("/%ff", 404, "UTF-8"),
        ("/pong?token=x", 403, "--ipc-service"),
        ("/..%2fpong", 404, "without its directory"),
    ],
)
async def test_paths_that_lead_nowhere(doorstep, path, status, why):
    said = await doorstep.refusal(path)
    assert said[0] == status
    assert why in said[1]
    assert not doorstep.daemon.asked


async def test_a_name_that_is_written_in_the_way_of_urls(daemon, tmp_path):
    words = ("--serve-uid", UID, "--ipc-service", "é b")
    doorstep = await Doorstep(daemon, tmp_path, *words).open()
    assert (await doorstep.refusal("/%C3%A9%20b"))[0] == 404
    assert daemon.asked == [f"connect {UID} c é b\n"]
    await doorstep.close()


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"denied its mode is 0600\n", 403),
        (b"error org.freedesktop.DBus.Error.InteractiveAuthorizationRequired ask\n", 403),
        (b"error org.libipc.Error.NoSuchService nobody serves it\n", 404),
        (b"error org.buswork.Error.Busy it takes no clients\n", 504),
        (b"error org.freedesktop.DBus.Error.Timeout nobody answered\n", 504),
        (b"error org.freedesktop.DBus.Error.LimitsExceeded no descriptor is left\n", 502),
        (b"", 502),
    ],
)
async def test_what_the_daemon_refuses(doorstep, answer, status):
    doorstep.daemon.answer = answer
    assert (await doorstep.refusal())[0] == status


async def test_a_subprotocol_is_needed(doorstep):
    for protocols in (["chat"], ["buswork.libipc.d"]):
        status, why = await doorstep.refusal(protocols=protocols)
        assert status == 400
        assert "buswork.libipc.c and buswork.libipc.zig" in why


async def test_so_many_connections_and_no_more(doorstep, monkeypatch, caplog):
    monkeypatch.setattr("buswork.libipc.doors.gate.MAX_GUESTS_PER_UID", 2)
    async with doorstep.connect(), doorstep.connect():
        async with tcp_client(doorstep.place) as third:
            assert await closed(third)
        assert "has 2 connections here" in caplog.text
    await until(lambda: len(doorstep.gate) == 0)
    async with doorstep.connect():
        pass


async def closed(sock):
    """Whether it was closed without a word."""
    async with asyncio.timeout(PATIENCE):
        try:
            return await asyncio.get_running_loop().sock_recv(sock, 1) == b""
        except ConnectionResetError:
            return True


# Abuse


def frame(opcode, payload, *, masked=True, head=None):
    """One frame as a client sends it; its mask is all zeros."""
    length = len(payload)
    size = bytes([length]) if length < 126 else b"\x7e" + struct.pack(">H", length)
    size = bytes([size[0] | 0x80]) + size[1:] if masked else size
    return bytes([head if head is not None else 0x80 | opcode]) + size + bytes(4 * masked) + payload


@asynccontextmanager
async def opened(doorstep):
    async with tcp_client(doorstep.place) as sock:
        await sent(sock, handshake())
        head = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 4096), PATIENCE)
        assert b" 101 " in head
        yield sock


async def code_of(sock):
    """Of the close frame, which has no mask."""
    async with asyncio.timeout(PATIENCE):
        data = await asyncio.get_running_loop().sock_recv(sock, 4096)
    assert data[0] == 0x88, data
    return int.from_bytes(data[2:4])


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (frame(1, b"\xff\xfe"), 1007),
        (frame(2, b"\x01x", masked=False), 1002),
        (frame(2, b"\x01x", head=0xC2), 1002),  # compressed, which was not agreed upon
        (frame(3, b"x"), 1002),
        (frame(9, bytes(126)), 1002),
        (frame(0, b"x"), 1002),
        (b"\x82\xff" + struct.pack(">Q", 1 << 40) + bytes(4), 1009),
        (b"\x82\xff" + b"\xff" * 8 + bytes(4), 1002),
    ],
    ids=[
        "text that is no UTF-8", "no mask", "compressed", "unknown", "a long ping", "no beginning",
        "a terabyte", "a negative length",
    ],
)  # fmt: skip
async def test_frames_that_are_none(doorstep, raw, code):
    async with opened(doorstep) as sock:
        await sent(sock, raw)
        assert await code_of(sock) in (code, 1009)
    assert not doorstep.daemon.of(Form.C).reads


async def test_compression_is_not_agreed_upon(doorstep):
    async with doorstep.connect(compression="deflate") as websocket:
        assert websocket.protocol.extensions == []


async def test_fragments_without_end(doorstep):
    async with opened(doorstep) as sock:
        await sent(sock, frame(2, b"\x01", head=0x02))
        for _ in range(40):
            await sent(sock, frame(0, bytes(60_000), head=0x00))
        assert await code_of(sock) == 1009


async def test_a_handshake_that_takes_its_time(doorstep, monkeypatch, daemon, tmp_path):
    monkeypatch.setattr(module, "OPEN_SECONDS", 0.05)
    slow = await Doorstep(daemon, tmp_path).open()
    async with tcp_client(slow.place) as sock:
        await sent(sock, handshake()[:-4])
        assert await closed(sock)
    await slow.close()


@pytest.mark.parametrize("raw", [b"GET " + b"x" * 10_000, b"\x16\x03\x01\n" * 5, b"\r\n\r\n"])
async def test_what_is_no_handshake(doorstep, raw):
    async with tcp_client(doorstep.place) as sock:
        await sent(sock, raw)
        await until_closed(sock)
    assert not doorstep.daemon.asked


async def test_nonsense_before_a_refusal_does_not_fill_the_log(doorstep, caplog):
    for _ in range(3 * Sparing.LINES):
        async with tcp_client(doorstep.place) as sock:
            await sent(sock, handshake(path="/none") + frame(2, b"x", masked=False))
            await until_closed(sock)
    assert caplog.text.count("unexpected internal error") <= Sparing.LINES
    await until(lambda: len(doorstep.gate) == 0)


async def until_closed(sock):
    async with asyncio.timeout(PATIENCE):
        try:
            while await asyncio.get_running_loop().sock_recv(sock, 4096):
                pass
        except ConnectionResetError:
            pass


async def test_who_does_not_answer_pings_is_left(daemon, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PING_SECONDS", 0.05)
    doorstep = await Doorstep(daemon, tmp_path).open()
    async with opened(doorstep) as sock:
        await until_closed(sock)
    await doorstep.close()


async def test_a_read_takes_no_memory_but_for_what_came(doorstep):
    async with opened(doorstep) as sock:
        tracemalloc.start()
        try:
            await sent(sock, frame(9, b"ping"))
            assert await received_exactly(sock, 6) == frame(10, b"ping", masked=False)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < module.PIECE_BYTES / 2


async def test_who_pings_and_does_not_read_the_answers_is_left(doorstep):
    pings = 200_000 * frame(9, bytes(125))
    async with opened(doorstep) as sock:
        with pytest.raises(OSError, match=r"pipe|reset"):
            await sent(sock, pings)
        await until(lambda: len(doorstep.gate) == 0)


async def test_an_address_that_comes_again_is_another_guest(doorstep):
    """It may, before it was seen that the one who had it has gone: nothing more is read of him."""
    doorstep.daemon.of(Form.C).is_reading.clear()
    flood = 100 * frame(2, bytes(60_000))
    async with opened(doorstep) as sock:
        address = sock.getsockname()
        (visit,) = doorstep.door._server.all_connections
        flooding = asyncio.create_task(sent(sock, flood))
        await until(lambda: not visit.transport.is_reading())
        flooding.cancel()
        await asyncio.wait([flooding])
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    async with doorstep.connect(local_addr=address):
        assert len(doorstep.gate) == 2
        visit.transport.abort()
        await until(lambda: len(doorstep.gate) == 1)
    doorstep.daemon.of(Form.C).is_reading.set()
    await until(lambda: len(doorstep.gate) == 0)


async def test_who_reads_nothing_for_long_is_left(doorstep, monkeypatch, caplog):
    monkeypatch.setattr(relay, "STUCK_SECONDS", 0.05)
    async with opened(doorstep):
        await until(lambda: doorstep.daemon.of(Form.C).socks)
        service = doorstep.daemon.of(Form.C).socks[0]
        flood = 40 * message(Form.C, bytes(500_000))
        with pytest.raises(OSError, match=r"pipe|reset"):
            await sent(service, flood)
        await until(lambda: len(doorstep.gate) == 0)


async def full(doorstep):
    """A service that has filled its way to a browser that does not read."""
    await until(lambda: doorstep.daemon.of(Form.C).socks)
    service = doorstep.daemon.of(Form.C).socks[-1]
    flood = asyncio.create_task(sent(service, 40 * message(Form.C, bytes(500_000))))
    (visit,) = doorstep.door._server.all_connections
    await until(lambda: visit.paused)
    flood.cancel()
    return service


async def test_a_service_leaves_and_its_browser_does_not_read(doorstep, monkeypatch):
    monkeypatch.setattr(relay, "STUCK_SECONDS", 0.05)
    monkeypatch.setattr(relay, "LINGER_SECONDS", 0.05)
    async with opened(doorstep):
        (await full(doorstep)).shutdown(socket.SHUT_RDWR)
        await until(lambda: len(doorstep.gate) == 0)


async def test_the_doors_close_on_one_that_does_not_read(daemon, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.05)
    doorstep = await Doorstep(daemon, tmp_path).open()
    async with opened(doorstep):
        await full(doorstep)
        await doorstep.close()


@pytest.mark.parametrize("said", [handshake(), b"GET"], ids=["asked", "not asked"])
async def test_the_doors_close_before_somebody_is_let_in(daemon, tmp_path, monkeypatch, said):
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.05)
    doorstep = await Doorstep(daemon, tmp_path).open()
    doorstep.gate.connect = lambda *_: asyncio.Event().wait()
    async with tcp_client(doorstep.place) as sock:
        await sent(sock, said)
        await until(lambda: len(doorstep.gate))
        await asyncio.sleep(0.01)
        await doorstep.close()


async def test_who_leaves_in_the_middle_of_the_handshake_leaves_nothing_behind(doorstep):
    gone = asyncio.Event()

    async def slowly(*arguments):
        theirs, ours = socket.socketpair()
        doorstep.sock = ours
        await gone.wait()
        return theirs

    doorstep.gate.connect = slowly
    async with tcp_client(doorstep.place) as sock:
        await sent(sock, handshake())
        await until(lambda: hasattr(doorstep, "sock"))
    await until(lambda: len(doorstep.gate) == 0)
    gone.set()
    await until(lambda: is_closed(doorstep.sock))
    doorstep.sock.close()


def is_closed(sock):
    sock.setblocking(False)
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False


# TLS


async def test_with_a_certificate_it_is_wss(daemon, tmp_path):
    cert, key = certificate(tmp_path)
    words = ("--serve-uid", UID, "--ipc-service", "pong", "--ipc-cert", cert, "--ipc-key", key)
    doorstep = await Doorstep(daemon, tmp_path, *words).open()
    trusting = ssl.create_default_context(cafile=cert)
    async with doorstep.connect(scheme="wss", ssl=trusting) as websocket:
        await websocket.send(b"\x01x")
        assert await heard(websocket) == b"\x01x"
    async with tcp_client(doorstep.place) as sock:  # who speaks no TLS
        await sent(sock, handshake())
        await until_closed(sock)
    await until(lambda: len(doorstep.gate) == 0)
    await doorstep.close()


async def test_what_came_before_one_left_without_a_word_counts(daemon, tmp_path):
    """Over TLS too, which may have more by then than there is room for in one read."""
    cert, key = certificate(tmp_path)
    words = ("--serve-uid", UID, "--ipc-service", "pong", "--ipc-cert", cert, "--ipc-key", key)
    doorstep = await Doorstep(daemon, tmp_path, *words).open()
    part = b"\x01" + bytes(39_999)
    parts = [frame(2, part, head=0x02), *8 * [frame(0, part, head=0)], frame(0, part)]
    await asyncio.to_thread(says_and_leaves, doorstep.place, cert, b"".join(parts))
    await until(lambda: daemon.of(Form.C).reads)
    assert daemon.of(Form.C).reads == [message(Form.C, (10 * part)[1:], 1)]
    await doorstep.close()


def says_and_leaves(place, cert, data):
    trusting = ssl.create_default_context(cafile=cert)
    bare = socket.create_connection(tuple(place), timeout=PATIENCE)
    with trusting.wrap_socket(bare, server_hostname="localhost") as sock:
        sock.sendall(handshake())
        assert b" 101 " in sock.recv(4096)
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        with suppress(OSError):
            while sock.recv(4096):
                pass


async def test_other_hosts_need_the_token_whoever_they_are(doorstep, monkeypatch):
    enter = doorstep.gate.enter

    def remote(sock):
        guest = enter(sock)
        guest.is_remote = True
        return guest

    monkeypatch.setattr(doorstep.gate, "enter", remote)
    assert (await doorstep.refusal())[0] == 401
    async with doorstep.connect(protocols=with_token()):
        pass
