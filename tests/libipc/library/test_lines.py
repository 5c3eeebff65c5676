"""Callbacks over real sockets; the callbacks are those of the recorded daemon."""

import asyncio
import re
import socket

import pytest
from libipc.library.waiting import until
from libipc.wire.vectors import recorded

from buswork.libipc.errors import PeerGone
from buswork.libipc.library.lines import FULL_BYTES, Line, SocketEnd, plain_in, plain_out
from buswork.libipc.library.switching import Code, Switch, Switched, Taken, Unswitched
from buswork.libipc.wire.forms import BadMessage, Form, Message, encode

RECORDED = {vector["name"]: vector for vector in recorded("c_switching")["vectors"]}
CODES = {b"Q": Code.CLOSING, b"E": Code.ERROR, b"B": Code.PARSING, b"P": Code.IGNORE}


def take(line):
    """Its first letter says what becomes of what was read."""
    data = line.receive()
    if not data:
        return Taken(Code.CLOSING)
    code = CODES.get(data[:1], Code.OK)
    return Taken(code, Message(data, 7) if code is Code.OK else None)


def give(line, message):
    payload, user_type, kind = message
    line.write(b"[%d/%d/%d]%s\n" % (kind, user_type, len(payload), payload))
    return Code.OK


class Tied:
    """A switch between two socket pairs; the far ends are ours."""

    def __init__(self):
        self.told = []
        self.lines = []
        self.far = []

    def end(self, take, give, form=None):
        near, far = socket.socketpair()
        far.setblocking(False)
        self.far.append(far)
        self.lines.append(Line(near))
        return SocketEnd(self.lines[-1], take, give, form)

    def tie(self, a, b):
        self.switch = Switch(a, b, on_event=self.told.append)

    async def say(self, number, data):
        await asyncio.get_running_loop().sock_sendall(self.far[number], data)

    async def hear(self, number, size):
        loop = asyncio.get_running_loop()
        heard = b""
        async with asyncio.timeout(20):
            while len(heard) < size and (data := await loop.sock_recv(self.far[number], 1 << 20)):
                heard += data
        return heard

    async def flood(self, number, data):
        """Until nothing more is taken; how much that was."""
        sent = 0
        try:
            while True:
                sent += self.far[number].send(data)
                for _ in range(10):
                    await asyncio.sleep(0)
        except BlockingIOError:
            return sent

    def close(self):
        self.switch.close()
        for sock in self.far:
            sock.close()
        assert all(line.socket.fileno() < 0 for line in self.lines)
        assert isinstance(self.told[-1], Unswitched)
        assert sum(isinstance(event, Unswitched) for event in self.told) == 1


@pytest.fixture
async def tied():
    tied = Tied()
    yield tied
    tied.close()


@pytest.fixture
async def recorded_daemon(tied):
    """The client's side speaks the callbacks' tongue, the service's the plain format."""
    tied.tie(
        tied.end(take, give), tied.end(plain_in(Form.C), plain_out(Form.C), Form.C)
    )  # fmt: skip
    return tied


@pytest.mark.parametrize(
    "name", ["callbacks", "callback_Q", "callback_E", "callback_B", "switch_default"]
)
async def test_what_was_recorded(name, tied):
    """As far as it went well: with pong, which sends back what it gets."""
    vector = RECORDED[name]
    plain = name == "switch_default"
    client = (plain_in(Form.C), plain_out(Form.C), Form.C) if plain else (take, give)
    tied.tie(tied.end(*client), tied.end(plain_in(Form.C), plain_out(Form.C), Form.C))
    for way, said in vector["tcp_client"][2:]:
        if way == "send":
            before = len(tied.told)
            await tied.say(0, bytes.fromhex(said))
            await until(lambda before=before: len(tied.told) > before)
        elif said == "TimeoutError":
            assert await tied.hear(0, 1) == b""
        else:
            expected = bytes.fromhex(said)
            shown = re.fullmatch(rb"\[(\d)/(\d)/\d+\](.*)\n", expected)
            echoed = expected
            if shown is not None:
                echoed = encode(Form.C, Message(shown[3], int(shown[2]), int(shown[1])))
            await tied.say(1, await tied.hear(1, len(echoed)))
            assert await tied.hear(0, len(expected)) == expected


@pytest.mark.parametrize(("letter", "code"), CODES.items())
async def test_each_code(recorded_daemon, letter, code):
    tied = recorded_daemon
    await tied.say(0, letter)
    await until(lambda: tied.told)
    (client, service), switch = [line.socket for line in tied.lines], tied.switch
    if code is Code.IGNORE:
        assert tied.told == [Switched(client, service, None)]
    else:
        assert tied.told == [Unswitched(switch, client, code, None)]


async def test_a_code_of_the_callback_that_writes(tied):
    tied.tie(
        tied.end(take, lambda line, message: Code.CLOSING),
        tied.end(plain_in(Form.C), plain_out(Form.C), Form.C),
    )
    await tied.say(1, encode(Form.C, Message(b"x")))
    assert await tied.hear(1, 1) == b""
    assert tied.told == [Unswitched(tied.switch, tied.told[0].source, Code.CLOSING, None)]


async def test_a_callback_that_writes_may_ignore(tied):
    tied.tie(
        tied.end(take, lambda line, message: Code.IGNORE),
        tied.end(plain_in(Form.C), plain_out(Form.C), Form.C),
    )
    await tied.say(1, encode(Form.C, Message(b"x")))
    await until(lambda: tied.told)
    assert not tied.switch.is_closed


@pytest.mark.parametrize(
    ("raised", "code", "told"),
    [
        (BadMessage("no"), Code.PARSING, BadMessage),
        (ConnectionResetError("reset"), Code.ERROR, PeerGone),
        (KeyError("a defect"), Code.ERROR, KeyError),
    ],
)
@pytest.mark.parametrize("reading", [True, False])
async def test_a_callback_that_raises(tied, raised, code, told, reading):
    def fails(line, message=None):
        raise raised

    client = tied.end(fails, give) if reading else tied.end(take, fails)
    tied.tie(client, tied.end(plain_in(Form.C), plain_out(Form.C), Form.C))
    await tied.say(0 if reading else 1, encode(Form.C, Message(b"x")))
    assert await tied.hear(1, 1) == b""
    assert tied.told[-1][1:3] == (tied.lines[0].socket, code)
    assert isinstance(tied.told[-1].error, told)


async def test_more_is_asked_for_until_there_is_none(tied):
    """Also after a pause, and without anything new to read."""
    letters = []

    def one_by_one(line):
        if not letters:
            letters.extend(line.receive())
        return Taken(Code.OK, Message(bytes([letters.pop(0)])), more=bool(letters))

    tied.tie(
        tied.end(one_by_one, give), tied.end(plain_in(Form.ZIG), plain_out(Form.ZIG), Form.ZIG)
    )
    text = b"abcdefgh" * 100
    await tied.say(0, text)
    frames = b"".join(encode(Form.ZIG, Message(bytes([letter]))) for letter in text)
    assert await tied.hear(1, len(frames)) == frames


async def test_more_is_asked_for_after_a_pause():
    """Nothing new has come to read; the callback has it already."""
    near, far = socket.socketpair()
    with far:
        letters = list(b"abc")
        took = []

        class Pausing:
            def took(self, message):
                took.append(message.payload)
                end.pause()

        def one_by_one(line):
            if len(letters) == 3:
                line.receive()
            return Taken(Code.OK, Message(bytes([letters.pop(0)])), more=bool(letters))

        end = SocketEnd(Line(near), one_by_one, give, None)
        far.send(b"x")
        end.start(Pausing())
        for count in (1, 2, 3):
            await until(lambda count=count: len(took) == count)
            end.resume()
        assert took == [b"a", b"b", b"c"]
        end.close()


async def test_nothing_is_there_after_all(tied):
    asked = []

    def not_yet(line):
        asked.append(line.receive(1))
        if len(asked) < 3:
            return Taken(Code.OK)
        raise BlockingIOError

    tied.tie(tied.end(not_yet, give), tied.end(take, give))
    await tied.say(0, b"abc")
    await until(lambda: len(asked) == 3)
    assert tied.told == []


# -- backpressure ----------------------------------------------------------------------------------


async def test_a_slow_reader_stops_the_fast_writer(tied):
    both = plain_in(Form.C), plain_out(Form.C), Form.C
    tied.tie(tied.end(plain_in(Form.C), plain_out(Form.C), Form.C), tied.end(*both))
    frame = encode(Form.C, Message(bytes(10_000), 1))
    sent = await tied.flood(0, frame)
    assert len(tied.lines[1].unsent) < FULL_BYTES + 2 * len(frame)
    heard = await tied.hear(1, sent)
    assert heard == (frame * (sent // len(frame) + 1))[:sent]


async def test_who_only_asks_and_reads_no_answers_is_read_no_more(tied):
    """What a callback answers by itself is bounded like all else."""

    def answers(line):
        line.write(line.receive())
        return Taken(Code.IGNORE)

    tied.tie(tied.end(answers, give), tied.end(take, give))
    sent = await tied.flood(0, bytes(50_000))
    assert FULL_BYTES <= len(tied.lines[0].unsent) < FULL_BYTES + 65_536
    assert len(await tied.hear(0, sent)) == sent


async def test_what_is_unsent_at_the_end_still_leaves(tied):
    plain = plain_in(Form.C), plain_out(Form.C), Form.C
    tied.tie(tied.end(plain_in(Form.C), plain_out(Form.C), Form.C), tied.end(*plain))
    frame = encode(Form.C, Message(bytes(FULL_BYTES - 6)))
    await tied.say(0, frame)
    tied.far[0].shutdown(socket.SHUT_WR)
    await until(lambda: tied.lines[0].socket.fileno() < 0)
    assert not tied.switch.is_closed
    assert await tied.hear(1, len(frame) + 1) == frame
    assert tied.told[-1][1:] == (tied.told[0].source, Code.CLOSING, None)


# -- peers that go ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1])
async def test_a_peer_that_goes_takes_the_other_along(recorded_daemon, number):
    tied = recorded_daemon
    tied.far[number].close()
    assert await tied.hear(1 - number, 1) == b""
    unswitched = Unswitched(tied.switch, tied.told[0].source, Code.CLOSING, None)
    assert tied.told == [unswitched]


async def test_a_peer_that_goes_with_something_unread(recorded_daemon):
    tied = recorded_daemon
    await tied.say(1, encode(Form.C, Message(b"x")))
    await until(lambda: tied.told)
    tied.far[0].close()
    assert await tied.hear(1, 1) == b""
    assert tied.told[-1][1:3] == (tied.lines[0].socket, Code.ERROR)


async def test_a_peer_that_goes_is_written_to(recorded_daemon):
    """Before its end is read; nothing is left of it, nor the process killed."""
    tied = recorded_daemon
    tied.far[0].close()
    tied.far[1].send(encode(Form.C, Message(b"x")) * 3)
    assert await tied.hear(1, 1) == b""


async def test_a_peer_that_goes_amid_a_message_at_any_byte():
    data = encode(Form.C, Message(b"abc", 1))
    for length in range(len(data)):
        tied = Tied()
        ends = [tied.end(plain_in(Form.C), plain_out(Form.C), Form.C) for _ in range(2)]
        tied.tie(*ends)
        await tied.say(0, data + data[:length])
        tied.far[0].close()
        assert await tied.hear(1, 100) == data
        tied.close()


async def test_a_bad_announcement_after_what_was_whole(recorded_daemon):
    tied = recorded_daemon
    await tied.say(1, encode(Form.C, Message(b"x", 1)) + b"\x02\xff\xff\xff\xff\x00")
    assert await tied.hear(0, 100) == b"[2/1/1]x\n"
    assert tied.told[-1][1:3] == (tied.lines[1].socket, Code.PARSING)
    assert "announced" in str(tied.told[-1].error)
