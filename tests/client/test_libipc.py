"""Tests of buswork.client.libipc, and of its blocking face, on a private bus."""

import asyncio
import os
import socket
import threading

import pytest
from client.private_bus import PrivateBus

from buswork.client import BusworkError, Client, Disconnected, InvalidArgs, NoReply, TimedOut
from buswork.client import blocking as blocking_client
from buswork.client import libipc as module
from buswork.client.libipc import Connected, Received
from buswork.libipc import Form, Message
from buswork.libipc.errors import NoSuchService, PeerGone, QueueFull
from buswork.libipc.wire import forms
from buswork.libipc.wire.forms import encode

PATIENCE = 10.0
LONG = bytes(range(256)) * 1000
ME = (os.getuid(), os.getpid())


@pytest.fixture(scope="module")
def bus():
    with PrivateBus() as bus:
        bus.start_daemon("--wings", "libipc", "--simulate")
        yield bus


@pytest.fixture
async def client(bus):
    async with Client(bus.address) as client:
        yield client


@pytest.fixture
async def other(bus):
    async with Client(bus.address) as client:
        yield client


async def event(service):
    async with asyncio.timeout(PATIENCE):
        return await service.next_event()


async def received(channel):
    async with asyncio.timeout(PATIENCE):
        return await channel.receive()


async def echo(service):
    """Sends back what comes."""
    async for news in service:
        if isinstance(news, Received):
            await service.send(news.client, news.message.payload, news.message.user_type)


@pytest.fixture
async def pong(client):
    async with client.libipc.serve("pong") as service:
        task = asyncio.create_task(echo(service))
        yield service
        task.cancel()


async def test_a_program_with_a_socket(bus, client):
    async with client.libipc.serve("pong") as service:
        path = bus.folder / "ipc-c" / "pong"
        assert await service.socket_path() == str(path)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(str(path))
            assert await event(service) == Connected(1, *ME)
            sock.send(encode(Form.C, Message(b"hello", 42)))
            assert await event(service) == Received(1, Message(b"hello", 42))
            await service.send(1, b"back", 7)
            assert await asyncio.to_thread(sock.recv, 100) == encode(Form.C, Message(b"back", 7))
        assert await event(service) == module.Disconnected(1)
        with pytest.raises(BusworkError) as caught:
            await service.send(1, b"late")
        assert caught.value.name == "org.libipc.Error.NoSuchClient"
    assert path.name not in os.listdir(path.parent)


async def test_services_are_listed(bus, client, pong):
    async with client.libipc.serve("ping", form="zig", access="own"):
        found = {facts.name: facts for facts in await client.libipc.list() if facts.served}
    directory = str(bus.folder / "ipc-c")
    assert found["pong"] == module.ServiceFacts(
        "pong", "c", directory, True, os.getuid(), found["pong"].mode, 0, True
    )
    assert (found["ping"].form, found["ping"].directory) == ("zig", str(bus.folder / "ipc-zig"))


async def test_changes_are_told(client, other):
    changed = asyncio.Event()
    end = await other.libipc.on_services_changed(changed.set)
    async with client.libipc.serve("new"), asyncio.timeout(PATIENCE):
        await changed.wait()
    end()


async def test_a_channel(pong, other):
    async with other.libipc.channel("pong") as channel:
        await channel.send(b"hello", 3)
        assert await received(channel) == Message(b"hello", 3)
        await channel.send(LONG)
        assert await received(channel) == Message(LONG)


async def test_the_longest_message(pong, other):
    async with other.libipc.channel("pong") as channel:
        longest = bytes(forms.most_payload(Form.C))
        await channel.send(longest, 255)
        assert await received(channel) == Message(longest, 255)
        with pytest.raises(InvalidArgs):
            await channel.send(longest + b"x")


async def test_more_messages_than_credits(pong, other):
    async with other.libipc.channel("pong") as channel:
        for number in range(100):
            await channel.send(b"", number)
        assert [(await received(channel)).user_type for _ in range(100)] == list(range(100))


async def test_messages_in_order_from_many_senders(pong, other):
    async with other.libipc.channel("pong") as channel:
        await asyncio.gather(*(channel.send(b"", number) for number in range(200)))
        assert [(await received(channel)).user_type for _ in range(200)] == list(range(200))


async def test_who_sends_more_than_is_read_waits(bus, other, monkeypatch):
    """The service reads nothing before the sender had to wait."""
    path, full = str(bus.folder / "ipc-c" / "slow"), told_when_full(other, monkeypatch)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        async with other.libipc.channel("slow") as channel:
            theirs, _ = listener.accept()
            with theirs:
                sending = asyncio.create_task(send_all(channel, 40))
                async with asyncio.timeout(PATIENCE):
                    await full.wait()
                theirs.settimeout(PATIENCE)
                got = await asyncio.to_thread(read, theirs, 40 * (6 + len(LONG)))
                await sending
                assert got == b"".join(encode(Form.C, Message(LONG, n)) for n in range(40))
    os.unlink(path)


async def send_all(channel, count):
    for number in range(count):
        await channel.send(LONG, number)


def told_when_full(client, monkeypatch):
    full = asyncio.Event()
    call = client.call

    async def watched(*words, **how):
        try:
            return await call(*words, **how)
        except BusworkError as error:
            if error.name == QueueFull.name:
                full.set()
            raise

    monkeypatch.setattr(client, "call", watched)
    return full


def read(sock, size):
    got = bytearray()
    while len(got) < size:
        got += sock.recv(1 << 20)
    return bytes(got)


async def test_a_connection_of_ones_own(pong, other):
    async with other.libipc.connect("pong") as connection:
        connection.send(b"hello", 3)
        assert await received(connection) == Message(b"hello", 3)
    async with other.libipc.connect("pong", form="c") as connection:
        connection.send(b"hello", 3)
        assert await received(connection) == Message(b"hello", 3)
    with await other.libipc.connect_socket("pong") as sock:
        sock.settimeout(PATIENCE)
        await asyncio.to_thread(sock.send, encode(Form.C, Message(b"raw")))
        assert await asyncio.to_thread(sock.recv, 100) == encode(Form.C, Message(b"raw"))


async def test_the_form_is_that_of_the_directory(client, other):
    async with client.libipc.serve("both", form="zig") as service:
        async with other.libipc.connect("both") as connection:
            assert connection.form is Form.ZIG
        async with client.libipc.serve("both", form="c"):
            with pytest.raises(NoSuchService, match="both forms"):
                async with other.libipc.connect("both"):
                    pass
            directory = os.path.dirname(await service.socket_path())
            async with other.libipc.connect("both", directory=directory) as connection:
                assert connection.form is Form.ZIG


async def test_there_is_no_such_service(client):
    with pytest.raises(NoSuchService):
        async with client.libipc.connect("nope"):
            pass
    for way in (client.libipc.connect_socket("nope"), client.libipc.channel("nope").__aenter__()):
        with pytest.raises(BusworkError) as caught:
            await way
        assert caught.value.name == NoSuchService.name
    with pytest.raises(InvalidArgs):
        await client.libipc.connect_socket("a/b")
    with pytest.raises(BusworkError) as caught:
        await client.libipc.dial_socket("tcp://localhost:1/pong", form="zig")
    assert caught.value.name == "org.libipc.Error.NoDoors"


async def test_the_service_ends_a_channel(client, other):
    async with client.libipc.serve("pong") as service, other.libipc.channel("pong") as channel:
        assert isinstance(await event(service), Connected)
        await service.send(1, b"last")
        async with asyncio.timeout(PATIENCE):
            await channel.send(b"first")
            assert isinstance(await event(service), Received)
            assert await channel.receive() == Message(b"last")
        await service.disconnect(1)
        async with asyncio.timeout(PATIENCE):
            assert [message async for message in channel] == []
        for _ in range(2):
            with pytest.raises(PeerGone):
                await channel.receive()
        with pytest.raises(PeerGone):
            await channel.send(b"late")


async def test_what_is_taken_away_by_force(client, other):
    async with client.libipc.serve("pong") as service:
        await other.daemon.force_release(service.path)
        with pytest.raises(PeerGone, match="by force"):
            await event(service)


async def test_a_first_word_is_not_missed(bus, client):
    """It may be there before the caller knows the channel's path."""
    path = str(bus.folder / "ipc-c" / "eager")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def greet():
            for _ in range(20):
                with listener.accept()[0] as sock:
                    sock.send(encode(Form.C, Message(b"hello", 1)))

        thread = threading.Thread(target=greet)
        thread.start()
        for _ in range(20):
            async with client.libipc.channel("eager") as channel:
                assert await received(channel) == Message(b"hello", 1)
        thread.join()
    os.unlink(path)


async def test_closing_the_client_ends_it(pong, bus):
    async with Client(bus.address) as other:
        context = other.libipc.channel("pong")
        channel = await context.__aenter__()
        await other.close()
        with pytest.raises(Disconnected):
            await received(channel)
        with pytest.raises(Disconnected):
            await channel.send(b"late")
        await context.__aexit__(None, None, None)


async def test_a_daemon_that_dies_ends_it():
    with PrivateBus() as bus:
        bus.start_daemon("--wings", "libipc")
        async with Client(bus.address) as client, client.libipc.serve("pong") as service:
            bus.kill_daemon()
            with pytest.raises(NoReply):
                await event(service)


# -- blocking --------------------------------------------------------------------------------------


@pytest.fixture
def blocking(bus):
    with blocking_client.Client(bus.address) as client:
        yield client


def test_blocking(bus, blocking):
    with (
        blocking_client.Client(bus.address) as server,
        server.libipc.serve("pong", form="zig") as service,
        blocking.libipc.channel("pong") as channel,
    ):
        assert service.next_event(PATIENCE) == Connected(1, *ME)
        channel.send(b"hello")
        assert service.next_event(PATIENCE) == Received(1, Message(b"hello"))
        service.send(1, b"back")
        assert channel.receive(PATIENCE) == Message(b"back")
        with pytest.raises(TimedOut):
            channel.receive(0.01)
        with blocking.libipc.connect("pong") as connection:
            assert next(service) == Connected(2, *ME)
            connection.send(b"direct")
            assert next(service) == Received(2, Message(b"direct"))
        with blocking.libipc.connect_socket("pong") as sock:
            assert sock.family is socket.AF_UNIX
        assert "pong" in [facts.name for facts in blocking.libipc.list()]
        assert service.socket_path().endswith("/ipc-zig/pong")
        service.disconnect(1)
        assert list(channel) == []
        with pytest.raises(BusworkError, match="doors"):
            blocking.libipc.dial_socket("tcp://localhost:1/pong")


def test_blocking_changes(bus, blocking):
    changed = threading.Event()
    end = blocking.libipc.on_services_changed(changed.set)
    with blocking_client.Client(bus.address) as server, server.libipc.serve("new") as service:
        assert changed.wait(PATIENCE)
        blocking.daemon.force_release(service.path)
        assert list(service) == []
    end()
