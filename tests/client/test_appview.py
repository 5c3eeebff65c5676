"""Tests of buswork.client.appview, and of its blocking face, on a private bus."""

import asyncio
import inspect
import os

import pytest
from appview.people import Viewed
from client.private_bus import PrivateBus

from buswork.appview import errors
from buswork.client import (
    AccessDenied,
    BusworkError,
    Client,
    Disconnected,
    InvalidArgs,
    NoReply,
    NotRunning,
    ProcessChange,
    ProcessFacts,
    TimedOut,
    appview,
    appview_blocking,
    blocking,
    connection,
)
from buswork.client.appview import PROCESSES

pytestmark = pytest.mark.processes

PATIENCE = 20.0


@pytest.fixture(scope="module")
def appview_bus():
    with PrivateBus() as bus:
        bus.start_appview()
        yield bus


@pytest.fixture
async def client(appview_bus):
    async with Client(appview_bus.address) as client:
        yield client


@pytest.fixture
async def viewed():
    viewed = await Viewed.start("--period", "0.05", "--name", "toy")
    yield viewed
    await viewed.kill()


@pytest.fixture
async def process(client, viewed):
    await client.appview.scan()
    return client.appview.process(viewed.pid)


async def next_of(changes, pid):
    """The next change of this process; there may be others on this machine."""
    async with asyncio.timeout(PATIENCE):
        while (change := await anext(changes)).process.pid != pid:
            pass
        return change


async def test_a_scan(client, viewed):
    (facts,) = [each for each in await client.appview.scan() if each.pid == viewed.pid]
    assert isinstance(facts, ProcessFacts)
    assert facts == await client.appview.process(viewed.pid).facts()
    assert (facts.uid, facts.name, facts.state, facts.viewed) == (
        os.geteuid(),
        "toy",
        "Active",
        True,
    )
    assert facts.command.endswith("-m buswork.sim.viewed --period 0.05 --name toy")
    assert facts.uuid


async def test_questions(process):
    commands = await process.supported_commands()
    assert [each["id"] for each in commands["commands_appview"]] == list(range(6))
    assert await process.is_viewed()
    assert "libappview" in await process.configuration()
    assert (await process.transport_status())[0]["name"] == "log"
    assert (await process.details())["pid"] == process.pid


async def test_configuring(process):
    await process.set_configuration({"tags": {"a": "1"}})
    assert (await process.configuration())["tags"] == {"a": "1"}
    changed = await process.merge_configuration('{"tags":{"b":"2"}}')
    assert changed == await process.configuration()
    assert changed["tags"] == {"a": "1", "b": "2"}
    with pytest.raises(BusworkError, match=r"tags\.a") as caught:
        await process.merge_configuration({"tags": {"a": 1}})
    assert caught.value.name == "org.appview.Error.BadConfiguration"


@pytest.mark.parametrize("odd", [{"tags": {1, 2}}, {"tags": {"a": b"b"}}])
async def test_what_is_no_json_is_not_sent(process, odd):
    with pytest.raises(InvalidArgs, match="JSON"):
        await process.set_configuration(odd)


async def test_attaching_and_detaching(process):
    await process.detach()
    assert not await process.is_viewed()
    await process.attach({"APPVIEW_TAG_SIMULATED": "yes"})
    assert await process.is_viewed()
    assert (await process.configuration())["tags"] == {"SIMULATED": "yes"}


async def test_no_period_is_too_long(client, process, monkeypatch):
    """But for who has set a timeout."""
    monkeypatch.setattr(connection, "PLAIN_SECONDS", 0.0)
    with pytest.raises(TimedOut):
        await process.is_viewed()
    await process.detach()
    client.timeout = 0.0
    with pytest.raises(TimedOut):
        await process.attach()


async def test_there_is_none(client):
    with pytest.raises(BusworkError, match="no process 1073741824") as caught:
        await client.appview.process(1 << 30).is_viewed()
    assert caught.value.name == errors.NoSuchProcess.name == appview.NO_SUCH_PROCESS


async def test_changes(client, viewed):
    async with client.appview.watch() as changes:
        await client.appview.scan()
        added = await next_of(changes, viewed.pid)
        assert added == ProcessChange("added", await client.appview.process(viewed.pid).facts())
        await client.appview.process(viewed.pid).detach()
        changed = await next_of(changes, viewed.pid)
        assert (changed.what, changed.process.state) == ("changed", "Latent")
        await viewed.kill()
        assert await next_of(changes, viewed.pid) == ProcessChange("removed", changed.process)


async def test_one_that_comes_later_is_told(client):
    async with client.appview.watch() as changes:
        viewed = await Viewed.start()
        try:
            await client.appview.scan()
            added = await next_of(changes, viewed.pid)
        finally:
            await viewed.kill()
        assert added.what == "added"


async def test_news_of_one_are_told_once():
    waiting = appview._Waiting()
    for path in ("1", "2", "1"):
        waiting.put(f"{PROCESSES}/{path}")
    waiting.put(appview.ROOT)
    assert [await waiting.next() for _ in range(2)] == [f"{PROCESSES}/1", f"{PROCESSES}/2"]
    waiting.put(f"{PROCESSES}/3")
    waiting.end(Disconnected("over"))
    with pytest.raises(Disconnected):
        await waiting.next()


def test_facts_that_one_may_not_know():
    with pytest.raises(AccessDenied):
        appview._facts({})


async def test_watching_ends_with_the_client(appview_bus):
    async with Client(appview_bus.address) as client, client.appview.watch() as changes:
        await client.close()
        with pytest.raises(Disconnected, match="bus is gone"):
            await next_of(changes, 0)


async def test_watching_ends_with_the_service_and_can_begin_anew():
    with PrivateBus() as bus:
        bus.start_appview()
        async with Client(bus.address) as client:
            async with client.appview.watch() as changes:
                bus.kill_appview()
                with pytest.raises(NoReply):
                    await next_of(changes, 0)
            with pytest.raises(NotRunning):
                await client.appview.scan()
            bus.start_appview()
            viewed = await Viewed.start()
            try:
                async with client.appview.watch() as changes:
                    assert (await next_of(changes, viewed.pid)).what == "added"
            finally:
                await viewed.kill()


async def test_the_daemon_need_not_run(client):
    assert client.owner is None
    with pytest.raises(NotRunning):
        await client.store.get("key")


# -- blocking ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["AppView", "ViewedProcess"])
def test_the_signatures_are_those_of_the_asyncio_client(name):
    def public(kind):
        functions = inspect.getmembers(kind, inspect.isfunction)
        return {
            name: inspect.signature(function).replace(return_annotation=None)
            for name, function in functions
            if name[0] != "_"
        }

    assert public(getattr(appview_blocking, name)) == public(getattr(appview, name))


async def test_without_asyncio(appview_bus, viewed):
    await asyncio.to_thread(use_blocking, appview_bus.address, viewed.pid)


def use_blocking(address, pid):
    with blocking.Client(address) as client:
        assert pid in [facts.pid for facts in client.appview.scan()]
        process = client.appview.process(pid)
        assert process.facts().pid == pid == process.details()["pid"]
        assert process.supported_commands()["status"] == 200
        process.set_configuration({"tags": {"a": "1"}})
        assert process.merge_configuration({}) == process.configuration()
        assert process.transport_status()
        with client.appview.watch() as changes:
            process.detach()
            assert not process.is_viewed()
            process.attach()
            assert next(changes).what == "added"
            client.close()
            with pytest.raises(Disconnected):
                next(changes)
