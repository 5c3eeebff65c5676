import asyncio
import os
import socket
from collections import deque

import pytest
from support import reference
from support.fakebus import DRIVER, DRIVER_PATH, ERROR, Refused

from buswork.bus import transport
from buswork.bus.library import variant
from buswork.bus.message import Flag, FrameBuffer, SignalTemplate
from buswork.bus.writer import close_all
from buswork.errors import BusworkError, Disconnected, TimedOut

TOY = "/org/toy"
FACE = "org.toy"


@pytest.fixture
async def connection(bus):
    return await bus.connect()


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    close_all(ends)


def small_buffers(connection, bus, size=4096):
    connection._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    bus.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def ticks(bus):
    return [message.values[0] for message in bus.signals("Tick")]


def send_tick(connection, number, text=""):
    template = SignalTemplate(TOY, FACE, "Tick", "us", None)
    connection.send(template.message(connection.next_serial(), (number, text)))


async def until(condition):
    """Lets the loop turn until this is so; gives up after very many turns."""
    for _ in range(100_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to that")


# Opening


async def test_a_bus_that_refuses_hello_is_named(bus):
    def refuse(call):
        raise Refused(ERROR + "LimitsExceeded")

    bus.answers[DRIVER, "Hello"] = refuse
    with pytest.raises(BusworkError) as caught:
        await bus.connect()
    assert caught.value.name == ERROR + "LimitsExceeded"


# Calling


def serve(bus, name, member, answer):
    bus.answers[name, member] = answer


async def test_a_call_returns_the_reply(bus, connection):
    serve(bus, "org.other", "Add", lambda call: ("u", [sum(call.values)]))
    frame = await connection.call("org.other", "/o", "org.other", "Add", "uu", (2, 3))
    assert list(frame.values()) == [5]
    call = bus.calls("Add")[0]
    assert call.fields[reference.PATH] == "/o"
    assert call.fields[reference.INTERFACE] == "org.other"
    assert call.flags == 0


async def test_an_error_reply_is_raised_with_its_name(bus, connection):
    def refuse(call):
        raise Refused("org.other.Error.No", "because")

    serve(bus, "org.other", "Add", refuse)
    with pytest.raises(BusworkError, match="because") as caught:
        await connection.call("org.other", "/o", "org.other", "Add")
    assert caught.value.name == "org.other.Error.No"


async def test_replies_find_their_calls_in_any_order(bus, connection):
    serve(bus, "org.other", "Wait", lambda call: None)
    calls = [
        asyncio.create_task(connection.call("org.other", "/o", "org.other", "Wait", "u", (n,)))
        for n in range(10)
    ]
    await bus.asked("Wait", 10)
    for call in reversed(bus.calls("Wait")):
        bus.reply(call, "u", call.values)
    frames = await asyncio.gather(*calls)
    assert [frame.values()[0] for frame in frames] == list(range(10))


async def test_a_reply_that_nobody_waits_for_is_passed_over(bus, connection):
    hello = bus.calls("Hello")[0]
    bus.reply(hello, "s", ["again"])
    hello.serial = 4711
    bus.reply(hello, "s", ["to whom?"])
    await bus.settle()
    assert connection.is_open


async def test_a_call_that_is_not_answered_times_out_and_is_forgotten(bus, connection):
    serve(bus, "org.other", "Wait", lambda call: None)
    with pytest.raises(TimedOut) as caught:
        await connection.call("org.other", "/o", "org.other", "Wait", timeout=0)
    assert caught.value.name == ERROR + "Timeout"
    await bus.settle()
    bus.reply(bus.calls("Wait")[0], "s", ["too late"])
    await bus.settle()
    assert connection._pending == {}
    assert connection.is_open


async def test_a_call_that_is_cancelled_is_forgotten(bus, connection):
    serve(bus, "org.other", "Wait", lambda call: None)
    task = asyncio.create_task(connection.call("org.other", "/o", "org.other", "Wait"))
    await bus.asked("Wait")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert connection._pending == {}


async def test_a_call_that_cannot_be_written_is_not_sent_and_forgotten(bus, connection):
    sent = len(bus.received)
    with pytest.raises(ValueError, match="string"):
        await connection.call("org.other", "/o", "org.other", "M", "s", (5,))
    assert connection._pending == {}
    await bus.settle()
    assert bus.calls("M") == []
    assert len(bus.received) > sent


async def test_to_tell_is_to_want_no_reply(bus, connection):
    connection.tell("org.other", "/o", "org.other", "Know", "s", ("x",), flags=Flag.NO_AUTO_START)
    call = await bus.asked("Know")
    assert call.flags == Flag.NO_AUTO_START | Flag.NO_REPLY_EXPECTED
    assert call.values == ["x"]


async def test_serials_begin_anew_before_they_are_zero(bus, connection):
    connection._serial = 0xFFFFFFFE
    assert [connection.next_serial() for _ in range(3)] == [0xFFFFFFFF, 1, 2]


async def test_a_connection_that_exports_nothing_still_answers(bus, connection):
    call = bus.call(":1.7", TOY, FACE, "Echo", "s", ["x"])
    answer = await bus.answer_to(call)
    assert answer.error == ERROR + "UnknownObject"
    assert answer.fields[reference.DESTINATION] == ":1.7"
    bus.call(":1.7", TOY, FACE, "Echo", flags=Flag.NO_REPLY_EXPECTED)
    silent = len(bus.received)
    bus.call(":1.7", TOY, FACE, "Echo")
    await bus.next(lambda message: True)
    assert len(bus.received) == silent + 1


# The end of the connection (ATTACKS 36)


async def test_36_all_that_waits_fails_when_the_bus_dies(bus, connection):
    serve(bus, "org.other", "Wait", lambda call: None)
    calls = [
        asyncio.create_task(connection.call("org.other", "/o", "org.other", "Wait"))
        for _ in range(3)
    ]
    await bus.asked("Wait", 3)
    bus.hang_up()
    for call in calls:
        with pytest.raises(Disconnected):
            await call
    assert await connection.closed is not None
    assert not connection.is_open
    with pytest.raises(Disconnected):
        await connection.call("org.other", "/o", "org.other", "Wait")
    connection.tell("org.other", "/o", "org.other", "Wait")
    connection.send(b"to nobody")
    await connection.writer.drain()


async def test_closing_twice_is_closing_once(bus, connection, open_fds):
    bus_end = bus.sock.fileno()
    connection.close()
    connection.close()
    assert await connection.closed is None
    assert bus_end >= 0


@pytest.mark.parametrize(
    "data",
    [
        b"x" * 16,
        b"l\1\0\2" + bytes(12),
        b"l\1\0\1" + b"\0\0\0\x7f" + b"\1\0\0\0" + b"\0\0\0\x7f",
        # REPLY_SERIAL of type s
        b"l\2\0\1\0\0\0\0\1\0\0\0\x0d\0\0\0\5\1s\0\4\0\0\0abcd\0\0\0\0",
    ],
)
async def test_26_a_stream_without_sense_ends_the_connection(bus, connection, data):
    bus.write(data)
    assert isinstance(await connection.closed, transport.ProtocolError)


async def test_messages_of_unknown_kind_are_passed_over(bus, connection):
    bus.write(bus.message(77, {}, "s", ["x"]).write())
    await bus.settle()
    assert connection.is_open


# Descriptors that come in


def counting(bus, connection):
    """Takes calls, and keeps how many descriptors each has."""
    seen = []

    def on_call(raw, now):
        frame = connection.frame(raw)
        seen.append(len(frame.fds))
        close_all(frame.fds)
        connection.send_error(frame, BusworkError("seen"))

    connection.on_call = on_call
    return seen


async def test_31_ten_thousand_calls_with_16_descriptors_leak_nothing(
    bus, connection, pipe, open_fds
):
    connection.on_call = connection._refuse_call
    before = open_fds()
    message = bus.call_message(":1.7", TOY, FACE, "Take", flags=1, fds=[pipe[0]] * 16)
    data = message.write()
    fds = [pipe[0]] * 16
    for _ in range(100):
        for _ in range(100):
            bus.write(data, fds)
        await bus.settle()
        bus.received.clear()
    assert open_fds() == before


@pytest.mark.parametrize("pieces", [[1], [16, 1], [40, 7], [100]])
async def test_descriptors_of_messages_that_come_in_pieces(bus, connection, pipe, pieces):
    seen = counting(bus, connection)
    for count in (0, 3, 1, 16):
        fds = [pipe[0]] * count
        data = bus.call_message(":1.7", TOY, FACE, "Take", "s", ["x" * 50], fds=fds).write()
        sizes = deque(pieces)
        while data:
            size = sizes.popleft() if len(sizes) > 1 else sizes[0]
            bus.write(data[:size], fds)
            data, fds = data[size:], []
    await bus.settle()
    assert [count for count in seen if count] == [3, 1, 16]


async def test_26_descriptors_that_are_missing_end_the_connection(bus, connection, pipe, open_fds):
    message = bus.call_message(":1.7", TOY, FACE, "Take", fds=[pipe[0]] * 2)
    bus.write(message.write(), [pipe[0]])
    assert isinstance(await connection.closed, transport.ProtocolError)
    before = open_fds()
    bus.hang_up()
    assert open_fds() == before - 1


async def test_31_stray_descriptors_are_closed(bus, connection, pipe, open_fds):
    counting(bus, connection)
    before = open_fds()
    for _ in range(50):
        bus.write(bus.call_message(":1.7", TOY, FACE, "Take").write(), [pipe[0]] * 3)
        await bus.settle()
    assert open_fds() == before
    assert connection.is_open


async def test_31_descriptors_of_signals_and_of_stray_replies_are_closed(
    bus, connection, pipe, open_fds
):
    heard = []
    connection.listen(FACE, "Tick", heard.append, sender=":1.7")
    before = open_fds()
    for sender in (":1.7", ":1.8"):
        bus.signal(sender, TOY, FACE, "Tick", fds=[pipe[0]] * 4)
    bus.reply(bus.calls("Hello")[0], "s", ["again"], fds=[pipe[0]] * 4)
    await bus.settle()
    assert len(heard) == 1
    assert open_fds() == before


async def test_31_descriptors_of_the_drivers_answers_are_closed(bus, connection, pipe, open_fds):
    """Newer buses tell of a process with one (ProcessFD)."""
    facts = {"ProcessFD": variant("h", 0)}
    bus.answers[DRIVER, "GetConnectionCredentials"] = lambda call: bus.reply(
        call, "a{sv}", [facts], fds=pipe[:1]
    )
    before = open_fds()
    (found,) = await connection.call_bus("GetConnectionCredentials", "s", (":1.7",))
    assert list(found) == ["ProcessFD"]
    assert open_fds() == before


async def test_31_descriptors_of_an_error_reply_are_closed(bus, connection, pipe, open_fds):
    serve(bus, "org.other", "Wait", lambda call: None)
    task = asyncio.create_task(connection.call("org.other", "/o", "org.other", "Wait"))
    call = await bus.asked("Wait")
    before = open_fds()
    fields = {reference.ERROR_NAME: "org.other.No", reference.REPLY_SERIAL: call.serial}
    fields[reference.UNIX_FDS] = 2
    bus.write(reference.Message(reference.ERROR, 77, fields).write(), [pipe[0]] * 2)
    with pytest.raises(BusworkError):
        await task
    assert open_fds() == before


# Signals (ATTACKS 37)


@pytest.mark.attack(37)
async def test_37_a_listener_hears_only_whom_it_expects(bus, connection):
    heard = []
    connection.listen(FACE, "Tick", lambda frame: heard.append(frame.values()[0]), sender=":1.7")
    for sender, number in [(":1.7", 1), (":1.8", 2), ("org.toy", 3), (":1.77", 4), (":1.7", 5)]:
        bus.signal(sender, TOY, FACE, "Tick", "u", [number])
    bus.signal(":1.7", TOY, FACE, "Tock", "u", [6])
    bus.signal(":1.7", TOY, "org.other", "Tick", "u", [7])
    await bus.settle()
    assert heard == [1, 5]


@pytest.mark.parametrize("member", ["NameOwnerChanged", "NameLost", "NameAcquired"])
async def test_37_only_the_bus_speaks_for_the_bus(bus, connection, member):
    heard = []
    connection.listen(DRIVER, member, heard.append, sender=DRIVER)
    for sender in (":1.7", "org.freedesktop.DBus.Evil", "org.freedesktop.DBusX"):
        bus.signal(sender, DRIVER_PATH, DRIVER, member, "s", ["org.buswork"])
    await bus.settle()
    assert heard == []
    bus.signal(DRIVER, DRIVER_PATH, DRIVER, member, "s", ["org.buswork"])
    await bus.settle()
    assert len(heard) == 1


async def test_37_a_signal_without_a_sender_is_nobodys(bus, connection):
    heard = []
    connection.listen(FACE, "Tick", heard.append, sender=":1.7")
    fields = {reference.PATH: TOY, reference.INTERFACE: FACE, reference.MEMBER: "Tick"}
    bus.write(reference.Message(reference.SIGNAL, 5, fields).write())
    del fields[reference.INTERFACE]
    bus.write(reference.Message(reference.SIGNAL, 5, fields).write())
    await bus.settle()
    assert heard == []


async def test_listeners_may_care_for_the_path_or_for_no_sender(bus, connection):
    heard = []
    connection.listen(FACE, "Tick", lambda _: heard.append("path"), sender=None, path=TOY)
    connection.listen(FACE, "Tick", lambda _: heard.append("any"), sender=None)
    bus.signal(":1.7", TOY, FACE, "Tick")
    bus.signal(":1.8", "/elsewhere", FACE, "Tick")
    await bus.settle()
    assert heard == ["path", "any", "any"]


async def test_who_does_not_listen_any_more_hears_nothing(bus, connection):
    heard = []
    first = connection.listen(FACE, "Tick", lambda _: heard.append(1), sender=":1.7")
    second = connection.listen(FACE, "Tick", lambda _: heard.append(2), sender=":1.7")
    connection.unlisten(first)
    connection.unlisten(first)
    bus.signal(":1.7", TOY, FACE, "Tick")
    await bus.settle()
    connection.unlisten(second)
    bus.signal(":1.7", TOY, FACE, "Tick")
    await bus.settle()
    assert heard == [2]
    assert connection._listeners == {}


async def test_a_listener_that_fails_holds_up_nothing_behind_it(bus, connection):
    heard = []

    def fail(frame):
        raise RuntimeError("a defect of ours")

    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    connection.listen(FACE, "Bad", fail, sender=":1.7")
    connection.listen(FACE, "Good", heard.append, sender=":1.7")
    bad = bus.message(4, tick_fields("Bad"), "", []).write()
    good = bus.message(4, tick_fields("Good"), "", []).write()
    bus.write(bad + good)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(heard) == 1


def tick_fields(member):
    return {
        reference.PATH: TOY,
        reference.INTERFACE: FACE,
        reference.MEMBER: member,
        reference.SENDER: ":1.7",
    }


# Match rules (ATTACKS 33)


async def test_33_equal_match_rules_are_counted_not_repeated(bus, connection):
    for _ in range(3):
        await connection.add_match("type='signal'")
    assert bus.matches["type='signal'"] == 1
    for _ in range(2):
        connection.remove_match("type='signal'")
    await bus.settle()
    assert bus.calls("RemoveMatch") == []
    connection.remove_match("type='signal'")
    connection.remove_match("type='signal'")
    await bus.settle()
    assert len(bus.calls("RemoveMatch")) == 1
    assert bus.matches == {}
    assert connection._matches == {}


def refuse_matches(call):
    raise Refused(ERROR + "LimitsExceeded")


async def test_33_a_match_rule_that_the_bus_refuses_is_forgotten(bus, connection):
    add = bus.answers[DRIVER, "AddMatch"]
    bus.answers[DRIVER, "AddMatch"] = refuse_matches
    with pytest.raises(BusworkError):
        await connection.add_match("type='signal'")
    assert connection._matches == {}
    bus.answers[DRIVER, "AddMatch"] = add
    await connection.add_match("type='signal'")
    assert bus.matches["type='signal'"] == 1


async def test_33_a_match_that_is_refused_is_refused_to_all_who_wait_for_it(bus, connection):
    """Else the second believes that it would hear, and what it watches is never let go."""
    bus.answers[DRIVER, "AddMatch"] = lambda call: None
    tasks = [asyncio.create_task(connection.add_match("type='signal'")) for _ in range(3)]
    call = await bus.asked("AddMatch")
    bus.refuse(call, ERROR + "LimitsExceeded")
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [BusworkError] * 3
    assert connection._matches == {}


# Turns (floods)


async def test_32_a_flood_does_not_hold_the_loop(bus, connection, monkeypatch):
    """With a turn of no length, what else is to be done gets its place after every message."""
    monkeypatch.setattr(transport, "TURN_SECONDS", -1.0)
    order = []
    connection.on_call = lambda raw, now: order.append("call")

    def other():
        order.append("other")
        if order.count("call") < 20:
            asyncio.get_running_loop().call_soon(other)

    data = bus.call_message(":1.7", TOY, FACE, "Echo").write()
    bus.write(data * 20)
    asyncio.get_running_loop().call_soon(other)
    await until(lambda: order.count("call") == 20)
    first = order.index("call")
    assert "callcall" not in "".join(order[first:])


async def test_within_a_turn_many_messages_are_dealt_with(bus, connection, monkeypatch):
    monkeypatch.setattr(transport, "TURN_SECONDS", 3600.0)
    turns = []
    connection.on_call = lambda raw, now: turns.append(now)
    data = bus.call_message(":1.7", TOY, FACE, "Echo").write()
    bus.write(data * 20)
    await until(lambda: len(turns) == 20)
    assert connection._reading


async def test_a_connection_knows_that_more_has_come(bus, connection, monkeypatch):
    monkeypatch.setattr(FrameBuffer, "CAPACITY", 256)
    connection._buffer = FrameBuffer()
    seen = []
    connection.on_call = lambda raw, now: seen.append(connection.is_behind)
    data = bus.call_message(":1.7", TOY, FACE, "Echo").write()
    bus.write(data * 20)
    await until(lambda: len(seen) == 20)
    assert seen[0]
    assert not connection.is_behind


async def test_so_it_does_when_a_turn_is_over_before_all_is_dealt_with(
    bus, connection, monkeypatch
):
    monkeypatch.setattr(transport, "TURN_SECONDS", -1.0)
    seen = []
    connection.on_call = lambda raw, now: seen.append(connection.is_behind)
    asyncio.get_running_loop().call_soon(lambda: None)
    data = bus.call_message(":1.7", TOY, FACE, "Echo").write()
    bus.write(data * 3)
    behind = []
    resume = connection._resume
    monkeypatch.setattr(
        connection, "_resume", lambda: (behind.append(connection.is_behind), resume())
    )
    await until(lambda: len(seen) == 3)
    await until(lambda: not connection.is_behind)
    assert behind[0]


async def test_who_took_the_time_is_charged(bus, connection):
    class Account:
        spent = 0.0

    account = Account()
    connection.on_call = lambda raw, now: account
    bus.call(":1.7", TOY, FACE, "Echo")
    await until(lambda: account.spent > 0)


async def test_32_reading_pauses_while_too_much_waits_to_be_sent_and_goes_on(
    bus, connection, monkeypatch
):
    monkeypatch.setattr(transport, "QUEUE_HIGH", 1 << 20)
    monkeypatch.setattr(transport, "QUEUE_LOW", 1 << 18)
    monkeypatch.setattr(transport, "TURN_SECONDS", 3600.0)  # so that only the queue stops us
    small_buffers(connection, bus)
    calls = []

    def on_call(raw, now):
        calls.append(raw[2])
        send_tick(connection, len(calls), "x" * 100_000)

    connection.on_call = on_call
    bus.stop_listening()
    one = bus.call_message(":1.7", TOY, FACE, "Echo").write()
    for _ in range(200):
        bus.write(one)
        await asyncio.sleep(0)
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(calls) < 200
    assert not connection._reading
    assert connection.writer.queued < 4 << 20
    bus.listen()
    while len(bus.signals("Tick")) < 200:
        await bus.next(lambda message: message.member == "Tick")
    assert ticks(bus) == list(range(1, 201))
    assert connection._reading


async def test_32_reading_goes_on_when_all_could_be_sent_at_once(bus, connection, monkeypatch):
    """More than QUEUE_HIGH waited when the reader wanted to go on, and the socket took it all."""
    monkeypatch.setattr(transport, "QUEUE_HIGH", 1000)
    monkeypatch.setattr(transport, "TURN_SECONDS", -1.0)
    loop = asyncio.get_running_loop()
    calls = []

    def on_call(raw, now):
        calls.append(raw[2])
        loop.call_soon(send_tick, connection, len(calls), "x" * 2000)

    connection.on_call = on_call
    bus.write(bus.call_message(":1.7", TOY, FACE, "Echo").write() * 5)
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(calls) == 5
