import asyncio
import os
import socket

import pytest
from libipc.library.waiting import until
from libipc.world import World, c, zig

from buswork.errors import Busy
from buswork.libipc.errors import ClosedContext, NameTaken, NoSuchService, PeerGone
from buswork.libipc.library import rundirs
from buswork.libipc.library.contexts import FEW_EVENTS, MOST_EVENTS, Context, connect, serve
from buswork.libipc.library.events import Connected, Disconnected, External, Received, Timer
from buswork.libipc.library.rundirs import RunDir
from buswork.libipc.library.switching import Switched, Unswitched
from buswork.libipc.wire.forms import Form
from buswork.libipc.wire.names import BadName

FORMS = pytest.mark.parametrize("form", list(Form))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.delenv("IPC_NETWORK", raising=False)


async def turns():
    for _ in range(20):
        await asyncio.sleep(0)


def echo(event):
    if isinstance(event, Received):
        event.connection.send_message(event.message)


async def test_a_name_is_served_once(world):
    await world.context.serve("pong")
    with pytest.raises(NameTaken):
        await world.context.serve("pong")
    with pytest.raises(BadName):
        await world.context.serve("a/b")


# -- connecting --------------------------------------------------------------------------------


@FORMS
async def test_who_connects_speaks_the_form_of_the_directory(make_world, form):
    world = make_world(form)
    await world.context.serve("pong")
    connection = await world.context.connect("pong")
    assert (connection.form, connection.name) == (form, "pong")
    connection.send(b"hello")
    assert isinstance(await world.event(), Connected)
    received = await world.event()
    assert received.connection is not connection
    received.connection.send(b"answer")
    assert (await world.event()).connection is connection


async def test_nobody_serves_it(world):
    with pytest.raises(NoSuchService):
        await world.context.connect("pong")
    with pytest.raises(BadName):
        await world.context.connect("../pong")


async def test_a_backlog_that_is_full_is_waited_for(world):
    path = world.rundir.path / "pong"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        world.dial("pong")
        connecting = asyncio.create_task(world.context.connect("pong"))
        await turns()
        assert not connecting.done()
        listener.accept()[0].close()
        async with asyncio.timeout(20):
            await connecting


async def test_but_not_for_ever(world, monkeypatch):
    monkeypatch.setattr(rundirs, "CONNECT_SECONDS", 0.0)
    path = world.rundir.path / "pong"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        world.dial("pong")
        with pytest.raises(Busy):
            await world.context.connect("pong")


async def test_the_network_is_asked_as_the_environment_says(world, monkeypatch):
    monkeypatch.setenv("IPC_NETWORK", "pong unix://other")
    await world.context.serve("network")
    connecting = asyncio.create_task(world.context.connect("pong", fallback=False))
    asked = await world.event()
    assert isinstance(asked, Connected)
    assert (await world.event()).message.payload == b"pong;pong unix://other"
    asked.connection.close()
    with pytest.raises(NoSuchService):
        await connecting


async def test_a_socket_that_waits_is_made_one_that_does_not(world):
    ours, theirs = socket.socketpair()
    ours.settimeout(20)
    connection = world.context.adopt(ours)
    connection._read(0)
    theirs.close()


# -- events ------------------------------------------------------------------------------------


async def test_events_go_to_a_function(make_world):
    told = []
    world = make_world(on_event=told.append)
    connection, peer = world.pair()
    await peer.write(c(b"a"))
    await until(lambda: told)
    peer.close()
    await until(lambda: not connection.is_open)
    assert [type(event) for event in told] == [Received, Disconnected]
    with pytest.raises(RuntimeError, match="on_event"):
        await world.context.wait_event()


async def test_also_those_that_waited_already(world):
    told = []
    connection, peer = world.pair()
    await peer.write(c(b"a"))
    peer.close()
    await until(lambda: len(world.context._events) == 2)
    world.context.on_event = told.append
    assert [type(event) for event in told] == [Received, Disconnected]
    await until(lambda: not connection.is_open)


async def test_a_function_that_fails_stops_nothing(make_world):
    failures, told = [], []

    def happened(event):
        told.append(event)
        raise ValueError("a defect of the program")

    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: failures.append(context["exception"])
    )
    world = make_world(on_event=happened)
    _, peer = world.pair()
    for count in (1, 2):
        await peer.write(c(b"a"))
        await until(lambda count=count: len(told) == count)
    assert len(failures) == 2


async def test_one_that_fails_at_a_message_gets_the_next(make_world):
    failures, told = [], []

    def happened(event):
        told.append(event)
        raise ValueError("a defect of the program")

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: failures.append(context["exception"]))
    world = make_world(on_event=happened)
    connection, peer = world.pair()
    await peer.write(c(b"a") + c(b"b") + c(b"c") + c(b"d")[:-1])
    await until(lambda: len(told) == 3)
    await peer.write(c(b"d")[-1:])
    peer.close()
    await until(lambda: not connection.is_open)
    payloads = [event.message.payload for event in told[:-1]]
    assert payloads == [b"a", b"b", b"c", b"d"]
    assert isinstance(told[-1], Disconnected)
    assert len(failures) == 5


async def test_no_more_is_read_than_is_taken(world):
    peers = [world.pair()[1] for _ in range(2 * MOST_EVENTS)]
    for peer in peers:
        await peer.write(c(b"a"))
    await turns()
    assert len(world.context._events) < 2 * MOST_EVENTS
    for _ in peers:
        assert isinstance(await world.event(), Received)
        assert len(world.context._events) < 2 * MOST_EVENTS
    assert FEW_EVENTS < MOST_EVENTS
    await peers[0].write(c(b"b"))
    assert (await world.event()).message.payload == b"b"


async def test_one_task_waits_at_a_time(world):
    waiting = asyncio.create_task(world.context.wait_event())
    await turns()
    with pytest.raises(RuntimeError, match="another task"):
        await world.context.wait_event()
    waiting.cancel()
    await turns()
    _, peer = world.pair()
    await peer.write(c(b"a"))
    assert isinstance(await world.event(), Received)


async def test_busy_connections_have_turns(make_world):
    """The originals serve low indexes first (section 10)."""
    counts = {}

    def happened(event):
        counts[event.connection] = counts.get(event.connection, 0) + 1
        echo(event)

    world = make_world(on_event=happened)
    pairs = [world.pair() for _ in range(40)]

    async def ask(peer):
        while True:
            await peer.write(c(b"a"))
            await peer.read()

    asking = [asyncio.create_task(ask(peer)) for _, peer in pairs]
    await until(lambda: sum(counts.values()) > 2000)
    for task in asking:
        task.cancel()
    assert len(counts) == len(pairs)
    assert max(counts.values()) <= 2 * min(counts.values())


async def test_one_that_never_stops_sending_does_not_keep_others_waiting(make_world):
    told = []
    world = make_world(on_event=told.append)
    greedy, flood = world.pair()
    _, modest = world.pair()
    flood.sock.setblocking(False)

    def fill():
        try:
            while True:
                flood.sock.send(c(b"x" * 1000) * 60)
        except BlockingIOError:
            pass

    fill()
    await modest.write(c(b"modest"))
    await until(lambda: any(event.message.payload == b"modest" for event in told))
    assert len(told) < 500
    assert greedy.is_open


# -- what else a program waits for ---------------------------------------------------------------


async def test_a_timer_goes_on_whatever_happens(world):
    world.context.set_timer(0.01)
    for _ in range(3):
        assert await world.event() == Timer()
    world.context.set_timer(None)
    await turns()
    assert not world.context._events


async def test_one_that_nobody_takes_stands_for_all(world):
    world.context.set_timer(0.001)
    await until(lambda: world.context._events)
    timer = world.context._timer
    await until(lambda: world.context._timer is not timer)
    assert list(world.context._events) == [Timer()]


@pytest.mark.parametrize("seconds", [0, -1])
async def test_a_timer_needs_some_time(world, seconds):
    with pytest.raises(ValueError, match="some time"):
        world.context.set_timer(seconds)


async def test_a_timer_is_set_anew(world):
    world.context.set_timer(1000)
    world.context.set_timer(0.01)
    assert await world.event() == Timer()


async def test_a_foreign_descriptor_is_told_and_not_read(world):
    ours, theirs = os.pipe()
    world.context.add_external(ours)
    os.write(theirs, b"x")
    for _ in range(2):  # as long as it is not read
        assert await world.event() == External(ours)
    os.read(ours, 1)
    await turns()
    assert not world.context._events
    os.write(theirs, b"y")
    assert await world.event() == External(ours)
    world.context.remove_external(ours)
    world.context.remove_external(ours)
    os.write(theirs, b"z")
    await turns()
    assert not world.context._events
    os.close(ours)
    os.close(theirs)


async def test_one_that_nobody_takes_does_not_turn_in_circles(world):
    ours, theirs = os.pipe()
    world.context.add_external(ours)
    os.write(theirs, b"x")
    await turns()
    assert list(world.context._events) == [External(ours)]
    os.close(ours)
    os.close(theirs)


async def test_one_that_was_closed_is_in_nobodys_way(world):
    ours, theirs = os.pipe()
    world.context.add_external(ours)
    os.write(theirs, b"x")
    assert await world.event() == External(ours)
    os.close(ours)
    os.close(theirs)
    world.context.set_timer(0.001)
    assert await world.event() == Timer()
    world.context.remove_external(ours)


async def test_one_that_is_removed_after_it_was_closed_neither(world):
    ours, theirs = os.pipe()
    world.context.add_external(ours)
    os.close(ours)
    os.close(theirs)
    world.context.remove_external(ours)


async def test_a_function_is_told_until_it_reads(make_world):
    told = []
    ours, theirs = os.pipe()

    def happened(event):
        told.append(event)
        if len(told) == 3:
            os.read(ours, 1)

    world = make_world(on_event=happened)
    world.context.add_external(ours)
    os.write(theirs, b"x")
    await until(lambda: len(told) == 3)
    await turns()
    assert told == [External(ours)] * 3
    os.write(theirs, b"y")
    await until(lambda: len(told) > 3)
    world.context.remove_external(ours)
    os.close(ours)
    os.close(theirs)


async def test_two_connections_are_switched(world):
    (first, peer), (second, other) = world.pair(), world.pair(form=Form.ZIG)
    switch = world.context.switch(first, second)
    await peer.write(c(b"hello"))
    assert await other.read() == zig(b"hello")
    event = await world.event()
    assert isinstance(event, Switched)
    assert event[:2] == (first, second)
    peer.close()
    assert isinstance(await world.event(), Unswitched)
    assert switch.is_closed
    assert await other.read() == b""


# -- the end -----------------------------------------------------------------------------------


async def test_closing_closes_all(world, tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    other = World(tmp_path / "other")
    await other.context.serve("pong")
    connection, peer = other.pair()
    ends = [other.pair() for _ in range(2)]
    switch = other.context.switch(ends[0][0], ends[1][0])
    ours, theirs = os.pipe()
    other.context.add_external(ours)
    other.context.set_timer(0.001)
    other.context.close()
    other.context.close()
    assert not connection.is_open
    assert switch.is_closed
    assert not (tmp_path / "other" / "pong").exists()
    assert await peer.read() == b""
    os.close(ours)
    os.close(theirs)
    other.close()
    await turns()
    assert len(os.listdir("/proc/self/fd")) == before
    for use in (other.context.serve, other.context.connect):
        with pytest.raises(ClosedContext):
            await use("pong")


async def test_who_waits_for_an_event_is_told_that_there_is_none(tmp_path):
    async with Context(RunDir(tmp_path, Form.C)) as context:
        waiting = asyncio.create_task(context.wait_event())
        iterating = Context(RunDir(tmp_path, Form.C))
        await turns()
    with pytest.raises(ClosedContext):
        await waiting
    iterating.close()
    assert [event async for event in iterating] == []


async def test_a_context_may_be_closed_by_what_happens_in_it(make_world):
    world = make_world(on_event=lambda event: world.context.close())
    connection, peer = world.pair()
    await peer.write(c(b"a") + c(b"b"))
    assert await peer.read() == b""
    assert not connection.is_open


# -- in short ----------------------------------------------------------------------------------


@FORMS
async def test_a_service_and_a_client_in_few_lines(tmp_path, form):
    rundir = RunDir(tmp_path, form)
    async with serve("pong", rundir=rundir) as service:

        async def answer():
            async for event in service:
                echo(event)

        answering = asyncio.create_task(answer())
        async with connect("pong", rundir=rundir) as connection:
            for number in range(3):
                connection.send(b"%d" % number)
            for number in range(3):
                assert (await connection.receive()).payload == b"%d" % number
        answering.cancel()
    assert not service.path.exists()


async def test_a_service_by_a_function(tmp_path):
    rundir = RunDir(tmp_path, Form.C)
    serving = serve("pong", rundir=rundir, on_event=echo, mode=0o600)
    async with serving as service, connect("pong", rundir=rundir) as connection:
        assert service.path.stat().st_mode & 0o777 == 0o600
        connection.send(b"x", 7)
        assert await connection.receive() == (b"x", 7, 2)
    with pytest.raises(PeerGone):
        await connection.receive()
