"""The blocking library against itself, the asyncio library and plain sockets, by many threads."""

import inspect
import os
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from buswork.errors import TimedOut
from buswork.libipc import Code, Registry, Taken, blocking
from buswork.libipc.errors import ClosedContext, NoSuchService, PeerGone, QueueFull
from buswork.libipc.library import connections, contexts
from buswork.libipc.library.blocking import (
    Connected,
    Context,
    Disconnected,
    External,
    Received,
    Switched,
    Timer,
    Unswitched,
)
from buswork.libipc.library.connections import Limits
from buswork.libipc.library.rundirs import RunDir
from buswork.libipc.library.typed import BlockingTyped
from buswork.libipc.wire.forms import BadMessage, Form, Message, encode

LONG = 20  # seconds; nothing takes so long, unless it hangs


@pytest.fixture(params=list(Form))
def rundir(request, tmp_path):
    return RunDir.of(tmp_path, request.param)


@pytest.fixture
def context(rundir):
    with Context(rundir) as context:
        yield context


@pytest.fixture
def pong(rundir):
    """A service in a thread, that sends back what it gets."""
    with blocking.serve("pong", rundir=rundir) as service, ThreadPoolExecutor() as others:
        serving = others.submit(echo, service)
        yield service
        service.context.close()
        serving.result(LONG)


def echo(service):
    for event in service:
        if isinstance(event, Received):
            event.connection.send_message(event.message, timeout=LONG)


@pytest.fixture
def pair(context):
    """A connection and the plain socket at its other end."""
    near, far = socket.socketpair()
    with far:
        far.settimeout(LONG)
        yield context.adopt(near), far


# -- the same API ----------------------------------------------------------------------------------


def public(kind):
    return {name for name in dir(kind) if name[0] != "_"} | {
        name for name in getattr(kind, "__slots__", ()) if name[0] != "_"
    }


@pytest.mark.parametrize(
    ("ours", "theirs", "only_theirs"),
    [
        (Context, contexts.Context, {"on_event", "has_room", "welcome", "left"}),
        (blocking.Service, contexts.Service, {"listen"}),
        (blocking.Connection, connections.Connection, {"divert", "finish", "late", "is_full"}),
    ],
)
def test_the_names_are_those_of_the_asyncio_library(ours, theirs, only_theirs):
    theirs = public(theirs)
    assert only_theirs <= theirs
    made = {"form", "name", "data", "context", "meter", "path", "peer", "service"}  # in __init__
    assert theirs - only_theirs - made <= public(ours)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Context.serve, contexts.Context.serve),
        (Context.connect, contexts.Context.connect),
        (Context.adopt, contexts.Context.adopt),
        (Context.switch, contexts.Context.switch),
        (Context.set_timer, contexts.Context.set_timer),
        (blocking.Connection.send, connections.Connection.send),
        (blocking.Connection.receive_descriptor, connections.Connection.receive_descriptor),
        (blocking.serve, contexts.serve),
        (blocking.connect, contexts.connect),
    ],
)
def test_the_arguments_are_those_of_the_asyncio_library(ours, theirs):
    ours, theirs = (inspect.signature(each).parameters for each in (ours, theirs))
    names = [name for name in ours if name != "timeout"]
    assert names == [name for name in theirs if name != "on_event"]
    for name in names:
        assert ours[name].default == theirs[name].default


# -- one thread ------------------------------------------------------------------------------------


def test_there_and_back(rundir, pong):
    assert pong.name == "pong"
    assert pong.path.is_socket()
    with blocking.connect("pong", rundir=rundir) as connection:
        connection.send(b"hello")
        assert connection.receive(timeout=LONG).payload == b"hello"
        assert connection.is_open
        assert connection.form is rundir.form
        assert connection.name == "pong"
        assert connection.peer.pid == os.getpid()
    assert not connection.is_open
    with pytest.raises(ClosedContext):
        connection.send(b"x")


def test_the_life_of_a_client(rundir, context):
    service = context.serve("s")
    with blocking.connect("s", rundir=rundir) as client:
        connected = context.wait_event(LONG)
        assert isinstance(connected, Connected)
        connection = connected.connection
        assert connection.service is service
        assert context.connections == [connection]
        connection.data = "state"
        client.send(b"hello")
        received = context.wait_event(LONG)
        assert received == Received(connection, Message(b"hello"))
        assert received.connection is connection
        assert received.connection.data == "state"
    assert context.wait_event(LONG) == Disconnected(connection, None)
    assert not connection.is_open
    service.close()
    with pytest.raises(NoSuchService), blocking.connect("s", rundir=rundir):
        pass


def test_typed(rundir, pong):
    @dataclass
    class Greeting:
        name: str

    registry = Registry("cbor")
    registry.register(3, Greeting)
    with blocking.connect("pong", rundir=rundir) as connection:
        typed = BlockingTyped(registry, connection)
        typed.send(Greeting("world"))
        assert typed.receive(timeout=LONG) == Greeting("world")


def test_nothing_comes(context, pair):
    with pytest.raises(TimedOut):
        context.wait_event(0.01)
    with pytest.raises(RuntimeError, match="events"):
        pair[0].receive()


def test_a_message_after_a_timeout_is_not_lost(context):
    near, far = socket.socketpair()
    with far:
        connection = context.adopt(near, pull=True)
        for _ in range(5):
            with pytest.raises(TimedOut):
                connection.receive(timeout=0.001)
        far.send(encode(connection.form, Message(b"x")))
        assert connection.receive(timeout=LONG) == Message(b"x")


def test_what_is_wrong_is_told(pair):
    connection, _ = pair
    with pytest.raises(BadMessage):
        connection.send(bytes(2_000_000))
    connection.close()
    connection.close()
    with pytest.raises(PeerGone):
        connection.send(b"x")


def test_no_such_service(context):
    with pytest.raises(NoSuchService):
        context.connect("nobody", timeout=LONG)


def test_a_context_that_is_closed(rundir):
    context = Context(rundir)
    with pytest.raises(ClosedContext):
        context.connect("pong")
    context.open()
    service = context.serve("s")
    near, far = socket.socketpair()
    with far:
        connection = context.adopt(near)
        context.close()
        assert far.recv(1) == b""
    assert list(context) == []
    service.close()
    connection.close()
    for use in (context.wait_event, lambda: context.serve("s"), connection.drain):
        with pytest.raises(ClosedContext):
            use()
    assert not service.path.exists()


def test_descriptors(context):
    near, far = socket.socketpair()
    with far:
        connection = context.adopt(near, pull=True)
        connection.send_descriptor(far.fileno())
        data, fds, _, _ = socket.recv_fds(far, 10, 1)
        assert data == b"\0"
        os.close(*fds)
        socket.send_fds(far, [b"ok"], [far.fileno()])
        data, fd = connection.receive_descriptor(2, timeout=LONG)
        assert data == b"ok"
        os.close(fd)


def test_detaching(context, pair):
    connection, far = pair
    with connection.detach() as sock:
        far.send(b"x")
        assert sock.recv(1) == b"x"
    with pytest.raises(TimedOut):
        context.wait_event(0.01)


def test_pausing(context, pair):
    connection, far = pair
    connection.pause()
    far.send(encode(connection.form, Message(b"x")))
    with pytest.raises(TimedOut):
        context.wait_event(0.01)
    connection.resume()
    assert context.wait_event(LONG) == Received(connection, Message(b"x"))


# -- timers and externals --------------------------------------------------------------------------


def test_timers_that_nobody_took_are_one(context):
    context.set_timer(0.001)
    assert context.wait_event(LONG) == Timer()
    time.sleep(0.05)  # several times over
    context.set_timer(None)
    told = []
    while True:
        try:
            told.append(context.wait_event(0.02))
        except TimedOut:
            break
    assert 1 <= len(told) <= 3
    assert set(told) == {Timer()}


def test_an_external_is_told_when_it_is_readable(context):
    readable, writable = os.pipe()
    context.add_external(readable)
    for letter in (b"a", b"b"):
        os.write(writable, letter)
        assert context.wait_event(LONG) == External(readable)
        assert os.read(readable, 9) == letter
    with pytest.raises(TimedOut):
        context.wait_event(0.01)
    os.write(writable, b"c")
    context.remove_external(readable)
    with pytest.raises(TimedOut):
        context.wait_event(0.01)
    os.close(readable)
    os.close(writable)


def test_no_two_threads_read_the_same_external(context):
    """A blocking read after the event never hangs, for nobody else was told meanwhile."""
    readable, writable = os.pipe()
    context.add_external(readable)
    heard = []

    def listen():
        try:
            while True:
                assert context.wait_event() == External(readable)
                heard.append(os.read(readable, 1))
        except ClosedContext:
            pass

    with ThreadPoolExecutor(4) as others:
        listening = [others.submit(listen) for _ in range(4)]
        for _ in range(200):
            os.write(writable, b"x")
        wait_until(lambda: len(heard) == 200)
        context.close()
        for each in listening:
            each.result(LONG)
    os.close(readable)
    os.close(writable)


def wait_until(condition):
    until = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


# -- a full queue ----------------------------------------------------------------------------------


@pytest.fixture
def narrow(rundir):
    with Context(rundir, limits=Limits(queued_messages=8, queued_bytes=100_000)) as context:
        near, far = socket.socketpair()
        with far:
            yield context.adopt(near), far


def test_sending_waits_for_room(narrow):
    connection, far = narrow
    frame = encode(connection.form, Message(b"x" * 30_000))

    def send():
        for _ in range(50):
            connection.send(b"x" * 30_000)
        connection.consumed()

    with ThreadPoolExecutor() as others:
        sending = others.submit(send)
        for _ in range(50):
            assert far.recv(1 << 20) == frame  # one at a time
        sending.result(LONG)


def test_sending_one_that_fits_only_an_empty_queue(narrow):
    """The queue is less than half full, and still has no room for it."""
    connection, far = narrow
    for _ in range(2):
        connection.send(b"first")
    long = b"x" * 99_000
    with ThreadPoolExecutor() as others:
        sending = others.submit(connection.send, long, timeout=LONG)
        heard = b""
        wanted = 2 * len(encode(connection.form, Message(b"first")))
        wanted += len(encode(connection.form, Message(long)))
        while len(heard) < wanted:
            heard += far.recv(1 << 20)
        sending.result(LONG)
    assert heard.endswith(long)


def test_sending_to_one_that_does_not_read(narrow):
    connection, _ = narrow
    for _ in range(9):  # the first one leaves
        connection.send(b"x", timeout=LONG)
    with pytest.raises(TimedOut):
        connection.send(b"x", timeout=0.01)
    with pytest.raises(QueueFull):
        connection.inner.send(b"x")
    with pytest.raises(TimedOut):
        connection.drain(timeout=0.01)


def test_sending_to_one_that_goes(narrow):
    connection, far = narrow

    def send():
        while True:
            connection.send(b"x")

    with ThreadPoolExecutor() as others:
        sending = others.submit(send)
        wait_until(lambda: connection.inner.queued[0] == 8)
        far.close()
        with pytest.raises(PeerGone):
            sending.result(LONG)


# -- switches --------------------------------------------------------------------------------------


def test_a_switch(context):
    (near, far), (other_near, other_far) = socket.socketpair(), socket.socketpair()
    with far, other_far:
        one, other = context.adopt(near), context.adopt(other_near)
        switch = context.switch(one, other)
        far.send(encode(one.form, Message(b"x")))
        assert other_far.recv(100) == encode(one.form, Message(b"x"))
        assert context.wait_event(LONG) == Switched(one, other, Message(b"x"))
        assert not switch.is_closed
        far.close()
        assert context.wait_event(LONG) == Unswitched(switch, one, Code.CLOSING, None)
        switch.wait_closed(LONG)
        assert switch.is_closed
        assert other_far.recv(1) == b""
        switch.close()


def test_a_switch_is_closed_from_here(context, pair):
    connection, far = pair
    near, other_far = socket.socketpair()
    with other_far:
        switch = context.switch(connection, context.adopt(near))
        switch.close()
        assert far.recv(1) == other_far.recv(1) == b""
        assert context.wait_event(LONG) == Unswitched(switch, None, Code.CLOSING, None)
        context.close()
        switch.close()


def test_callbacks_are_called_in_the_contexts_thread(context, pair):
    connection, far = pair
    near, raw = socket.socketpair()
    threads = []

    def take(line):
        threads.append(threading.current_thread())
        with pytest.raises(RuntimeError, match="can't wait"):
            connection.send(b"x")
        return Taken(Code.OK, Message(line.receive()))

    with raw:
        context.switch(connection, near, b_in=take)
        raw.send(b"hello")
        assert far.recv(100) == encode(connection.form, Message(b"hello"))
    assert threads
    assert threading.current_thread() not in threads


def test_a_socket_whose_first_words_were_waited_for(context, pair):
    connection, far = pair
    near, raw = socket.socketpair()
    with raw:
        context.add_external(near.fileno())
        raw.send(b"pong")
        assert context.wait_event(LONG) == External(near.fileno())
        assert near.recv(9) == b"pong"
        context.switch(connection, near, b_out=lambda line, message: Code.OK)
        raw.send(encode(Form.C, Message(b"x")))
        assert far.recv(100) == encode(connection.form, Message(b"x"))
        assert isinstance(context.wait_event(LONG), Switched)


# -- many threads ----------------------------------------------------------------------------------


def test_many_clients_and_a_service_of_many_threads(rundir):
    """Nothing is lost, doubled or out of order, whoever handles it."""
    clients, messages = 8, 100
    with blocking.serve("pong", rundir=rundir) as service, ThreadPoolExecutor(24) as others:
        serving = [others.submit(echo, service) for _ in range(8)]

        def talk(number):
            with blocking.connect("pong", rundir=rundir) as connection:
                for count in range(messages):
                    text = f"{number}/{count}".encode()
                    connection.send(text)
                    assert connection.receive(timeout=LONG).payload == text

        for talking in [others.submit(talk, number) for number in range(clients)]:
            talking.result(4 * LONG)
        service.context.close()
        for each in serving:
            each.result(LONG)


def test_many_threads_share_a_connection(rundir, pong):
    """What each one sends keeps its order; each answer goes to one."""
    threads, messages = 6, 100
    heard = []
    with (
        blocking.connect("pong", rundir=rundir) as connection,
        ThreadPoolExecutor(2 * threads) as others,
    ):

        def say(number):
            for count in range(messages):
                connection.send(b"%d %d" % (number, count), timeout=LONG)

        def hear():
            heard.extend(connection.receive(timeout=LONG).payload for _ in range(messages))

        working = [others.submit(say, number) for number in range(threads)]
        working += [others.submit(hear) for _ in range(threads)]
        for each in working:
            each.result(4 * LONG)
    assert set(Counter(heard).values()) == {1}
    assert len(heard) == threads * messages


def test_what_one_thread_sends_keeps_its_order_among_others(pair):
    connection, far = pair
    threads, messages = 4, 200

    def say(number):
        for count in range(messages):
            connection.send(b"%d %d" % (number, count), timeout=LONG)

    heard = []
    with ThreadPoolExecutor(threads) as others:
        saying = [others.submit(say, number) for number in range(threads)]
        header = len(encode(connection.form, Message(b"")))
        received = (far.recv(1000)[header:] for _ in range(threads * messages))
        heard += [tuple(map(int, data.split())) for data in received]
        for each in saying:
            each.result(LONG)
    for number in range(threads):
        assert [count for who, count in heard if who == number] == list(range(messages))


@pytest.mark.parametrize("attempt", range(5))
def test_closing_under_many_threads(rundir, attempt):
    """Whoever is at work is told, and nobody hangs."""
    with blocking.serve("pong", rundir=rundir) as service, ThreadPoolExecutor(12) as others:
        context = service.context
        near, far = socket.socketpair()
        connection = context.adopt(near, pull=True)
        uses = [
            context.wait_event, connection.receive, connection.drain,
            lambda: context.connect("pong").close(), lambda: context.wait_event(0.001),
            lambda: connection.receive(0.001), lambda: connection.send(b"x", timeout=0.001),
            lambda: context.set_timer(0.001), lambda: context.connections,
        ]  # fmt: skip
        started = threading.Barrier(len(uses) + 1)

        def work(use):
            started.wait(LONG)
            while True:
                try:
                    use()
                except ClosedContext:
                    return
                except (PeerGone, TimedOut):
                    pass

        working = [others.submit(work, use) for use in uses]
        started.wait(LONG)
        time.sleep(0.02)
        context.close()
        for each in working:
            each.result(LONG)
        far.close()


# -- peers that go ---------------------------------------------------------------------------------


def test_a_peer_that_goes_at_any_byte(context):
    near, far = socket.socketpair()
    far.close()
    connection = context.adopt(near)
    assert context.wait_event(LONG) == Disconnected(connection, None)
    data = encode(connection.form, Message(b"abc"))
    for length in range(1, len(data)):
        near, far = socket.socketpair()
        connection = context.adopt(near)
        far.send(data + data[:length])
        far.close()
        assert context.wait_event(LONG) == Received(connection, Message(b"abc"))
        gone = context.wait_event(LONG)
        assert gone.connection is connection
        assert isinstance(gone.error, PeerGone)


def test_a_peer_that_goes_while_it_is_waited_for(context):
    near, far = socket.socketpair()
    connection = context.adopt(near, pull=True)
    with ThreadPoolExecutor() as others:
        waiting = [others.submit(connection.receive) for _ in range(3)]
        far.close()
        for each in waiting:
            with pytest.raises(PeerGone):
                each.result(LONG)


def test_events_wait_for_who_takes_them(context, pair):
    """They are bounded; the rest stays with the peer."""
    connection, far = pair
    far.setblocking(False)
    frame = encode(connection.form, Message(b"x" * 1000))
    count = 0
    idle = 0
    while idle < 20:
        try:
            assert far.send(frame) == len(frame)
            count, idle = count + 1, 0
        except BlockingIOError:
            idle += 1
            time.sleep(0.005)
    assert count < 2000
    for _ in range(count):
        assert context.wait_event(LONG) == Received(connection, Message(b"x" * 1000))
