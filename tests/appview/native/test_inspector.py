import asyncio
import errno
import json
import os
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from appview.people import Viewed, queues_of, until

from buswork.appview import errors
from buswork.appview.model import Added, Asker, Changed, Processes, Removed, State
from buswork.appview.native import commands, inspector, owning, processes
from buswork.appview.native.conversations import (
    MOST_LONG_MESSAGES,
    Conversation,
    Conversations,
)
from buswork.appview.native.inspector import Inspector
from buswork.appview.wire import requests
from buswork.errors import AccessDenied, InvalidArgs, LimitsExceeded

pytestmark = pytest.mark.processes

OTHER = 65534
# Who was let in as somebody who may ask those of others.
ANYBODY = Asker(0, is_owner=False)


class World:
    def __init__(self):
        self.known = Processes()
        self.changes = []
        self.known.on_change.append(self.changes.append)
        self.inspector = Inspector(self.known, Conversations(seconds=20))
        self.people = []

    async def start(self, *options):
        """A process, and what is known of it."""
        viewed = await Viewed.start(*options)
        self.people.append(viewed)
        await self.inspector.scan(0, of_all=True)
        return viewed, self.known.by_pid[viewed.pid]

    async def end(self):
        for viewed in self.people:
            await viewed.kill()
        await self.inspector.stop()


@pytest.fixture
async def world(monkeypatch):
    world = World()
    # Other tests have such processes as well, which nobody else should ask.
    monkeypatch.setattr(processes, "pids", lambda: {viewed.pid for viewed in world.people})
    yield world
    await world.end()


# -- finding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["active", "latent", "setup", "inert"])
async def test_states(world, state):
    _, process = await world.start("--state", state)
    assert process.state == State(state.capitalize())
    assert process.is_viewed == (state == "active")
    assert bool(process.uuid) == (state in ("active", "latent"))


async def test_changes_are_told(world):
    viewed, process = await world.start("--state", "latent")
    kinds = [type(change) for change in world.changes if change.process is process]
    assert kinds == [Added, Changed, Changed]
    await viewed.kill()
    await world.inspector.scan(0, of_all=True)
    assert world.changes[-1] == Removed(process)


async def test_many_processes(world):
    people = [await Viewed.start() for _ in range(12)]
    world.people += people
    await world.inspector.scan(0, of_all=True)
    states = {world.known.by_pid[viewed.pid].state for viewed in people}
    assert states == {State.ACTIVE}
    uuids = {world.known.by_pid[viewed.pid].uuid for viewed in people}
    assert len(uuids) == 12


async def test_one_that_has_gone(world):
    viewed, process = await world.start()
    await viewed.kill()
    with pytest.raises(errors.ProcessGone):
        await world.inspector.ask(process, ANYBODY, requests.STATUS)
    await world.inspector.scan(0, of_all=True)
    with pytest.raises(errors.NoSuchProcess):
        await world.inspector.ask(process, ANYBODY, requests.STATUS)


async def test_one_that_has_ended_is_forgotten(world):
    _, process = await world.start()
    world.inspector.ended(process)
    assert world.changes[-1] == Removed(process)
    with pytest.raises(errors.NoSuchProcess):
        await world.inspector.ask(process, ANYBODY, requests.STATUS)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be several users")
async def test_a_scan_asks_ones_own_alone(world):
    """And each on the account of its user: many that do not answer hold up nobody else's."""
    mine, _ = await world.start()
    theirs = await Viewed.start("--uid", str(OTHER))
    world.people.append(theirs)
    accounts = []
    real = world.inspector._conversations.speak

    def speak(target, uid, *rest):
        accounts.append((target.pid, uid))
        return real(target, uid, *rest)

    world.inspector._conversations.speak = speak
    await world.inspector.scan(os.geteuid(), of_all=False)
    assert accounts == [(mine.pid, os.geteuid())]
    assert world.known.by_pid[theirs.pid].state is State.INERT
    await world.inspector.scan(os.geteuid(), of_all=True)
    assert set(accounts) == {(mine.pid, os.geteuid()), (theirs.pid, OTHER)}
    assert world.known.by_pid[theirs.pid].state is State.ACTIVE
    assert not world.inspector._scans


async def test_a_scan_holds_so_many_open_and_no_more(world, monkeypatch):
    """Of all that there may be, each held, the service would have no descriptors left."""
    known, held, most = Processes(), 0, 0

    @contextmanager
    def counted(seen):
        nonlocal held, most
        held += 1
        most = max(most, held)
        with processes.held(seen) as target:
            yield target
        held -= 1

    monkeypatch.setattr(inspector, "SCANNED_PER_UID", 2)
    narrow = Inspector(known, Conversations())
    for _ in range(4):
        await world.start()
    monkeypatch.setattr(inspector, "processes", SimpleNamespace(held=counted))
    await narrow.scan(0, of_all=True)
    assert (most, held) == (2, 0)
    assert [each.state for each in known.by_pid.values()].count(State.ACTIVE) >= 4
    await narrow.stop()


async def test_without_descriptors_nothing_is_learned(world, monkeypatch):
    _, process = await world.start()

    @contextmanager
    def none_left(seen):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        yield

    monkeypatch.setattr(processes, "held", none_left)
    with pytest.raises(LimitsExceeded):
        await world.inspector.ask(process, ANYBODY, requests.STATUS)
    await world.inspector.scan(0, of_all=True)
    assert process.state is State.ACTIVE


async def test_what_was_known_stays_of_who_is_not_reached(world, monkeypatch):
    viewed, process = await world.start()
    monkeypatch.setattr(inspector, "WHOLE_SCAN_SECONDS", 0.05)
    monkeypatch.setattr(inspector, "SCAN_SECONDS", 60)
    os.kill(viewed.pid, 19)
    await world.inspector.scan(0, of_all=True)
    assert process.state is State.ACTIVE
    assert queues_of(viewed.pid) == []


async def test_what_a_process_says_of_itself(world, monkeypatch):
    async def ask(conversation, request):
        assert conversation.seconds == inspector.SCAN_SECONDS
        return {
            "viewed": True,
            "uuid": "a\0b\ud800\x1b[2J",
            "id": "\u00e9" * 9999,
            "machine_id": "",
        }

    monkeypatch.setattr(Conversation, "ask", ask)
    _, process = await world.start()
    assert (process.uuid, process.id) == ("a?b??[2J", "\u00e9" * inspector.MOST_FACT)


# -- whose it is -----------------------------------------------------------------------------------


async def test_ones_own(world, monkeypatch):
    _, process = await world.start()
    assert world.inspector.owner(process) == os.geteuid()
    monkeypatch.setattr(owning, "owner", lambda seen: None)
    assert world.inspector.owner(process) is None


async def test_ones_own_with_other_rights_by_now(world, monkeypatch):
    _, process = await world.start()
    monkeypatch.setattr(processes, "look_again", lambda seen: replace(seen, uids=(1, 2, 3, 4)))
    assert world.inspector.owner(process) is None


async def test_one_that_is_just_ending(world, monkeypatch):
    """Whose it is does not show any more, and a moment later it is gone."""
    _, process = await world.start()
    real = processes.look_again

    def owner(seen):
        monkeypatch.setattr(processes, "look_again", lambda seen: None)

    monkeypatch.setattr(owning, "owner", owner)
    assert world.inspector.owner(process) == os.geteuid()
    monkeypatch.setattr(processes, "look_again", real)
    with pytest.raises(errors.ProcessGone):
        await world.inspector.ask(process, process.asker(os.geteuid()), requests.STATUS)


async def test_who_had_one_that_has_ended_is_told_so(world):
    viewed, process = await world.start()
    await viewed.kill()
    assert world.inspector.owner(process) == os.geteuid()
    with pytest.raises(errors.ProcessGone):
        await world.inspector.ask(process, process.asker(os.geteuid()), requests.STATUS)


@pytest.mark.parametrize(
    "what",
    [
        lambda inspector, *who: inspector.ask(*who, requests.STATUS),
        lambda inspector, *who: inspector.set_configuration(*who, "{}"),
        lambda inspector, *who: inspector.merge_configuration(*who, "{}"),
        lambda inspector, *who: inspector.attach(*who, {}),
        lambda inspector, *who: inspector.detach(*who),
    ],
)
async def test_who_came_as_the_owner_stays_that(world, monkeypatch, what):
    """Meanwhile it has become a program with other rights, as somebody else's call has found."""
    viewed, process = await world.start()
    asker = process.asker(os.geteuid())
    monkeypatch.setattr(owning, "owner", lambda seen: None)
    assert world.inspector.owner(process) is None
    with pytest.raises(AccessDenied, match="another program"):
        await what(world.inspector, process, asker)
    assert queues_of(viewed.pid) == []
    assert (await world.inspector.ask(process, ANYBODY, requests.STATUS))["viewed"]


@pytest.mark.parametrize(
    "what",
    [
        lambda inspector, *who: inspector.merge_configuration(*who, '{"tags":{"a":"1"}}'),
        lambda inspector, *who: inspector.detach(*who),
    ],
)
async def test_one_that_becomes_another_program_meanwhile(world, monkeypatch, what):
    """Between two requests, or between one and the file of commands."""
    _, process = await world.start()
    owner = process.asker(os.geteuid())
    asked, real = [], Conversation.ask

    async def ask(conversation, request, **fields):
        answer = await real(conversation, request, **fields)
        asked.append(request)
        monkeypatch.setattr(owning, "owner", lambda seen: None)
        return answer

    monkeypatch.setattr(Conversation, "ask", ask)
    monkeypatch.delattr(commands.CommandFile, "written")
    with pytest.raises(AccessDenied, match="another program"):
        await what(world.inspector, process, owner)
    assert asked == [requests.GET_CONFIGURATION]


# -- configuring ---------------------------------------------------------------------------------


async def current(world, process):
    answer = await world.inspector.ask(process, ANYBODY, requests.GET_CONFIGURATION)
    return answer["cfg"]["current"]


async def test_all_is_replaced(world):
    _, process = await world.start()
    await world.inspector.set_configuration(process, ANYBODY, '{"tags":{"a":"1"}}')
    await world.inspector.set_configuration(process, ANYBODY, '{"libappview":{"summaryperiod":4}}')
    found = await current(world, process)
    assert (found["tags"], found["libappview"]["summaryperiod"]) == ({}, 4)


async def test_what_is_merged_comes_to_the_rest(world):
    _, process = await world.start()
    await world.inspector.merge_configuration(process, ANYBODY, '{"tags":{"a":"1"}}')
    result = await world.inspector.merge_configuration(
        process, ANYBODY, '{"tags":{"b":"2"},"libappview":{"summaryperiod":4}}'
    )
    assert result == await current(world, process)
    assert (result["tags"], result["libappview"]["summaryperiod"]) == ({"a": "1", "b": "2"}, 4)


@pytest.mark.parametrize("how", ["set", "merge", "get"])
async def test_what_may_be_long_has_deep_queues(world, monkeypatch, how):
    depths = []
    real = Conversation.exchange

    async def exchange(conversation, payload):
        depths.append(conversation._pair.ask.attributes.most_messages)
        return await real(conversation, payload)

    _, process = await world.start()
    monkeypatch.setattr(Conversation, "exchange", exchange)
    if how == "get":
        await world.inspector.ask(process, ANYBODY, requests.GET_CONFIGURATION)
    else:
        await getattr(world.inspector, f"{how}_configuration")(process, ANYBODY, "{}")
    assert set(depths) == {MOST_LONG_MESSAGES}


@pytest.mark.parametrize("how", ["set", "merge"])
async def test_protocols_do_not_kill(world, how):
    viewed, process = await world.start()
    change = getattr(world.inspector, f"{how}_configuration")
    await change(process, ANYBODY, '{"protocol":[{"name":"a","regex":"^a"}]}')
    await change(process, ANYBODY, json.dumps(await current(world, process)))
    await change(process, ANYBODY, '{"protocol":[{"name":"b"}]}')
    names = [each["name"] for each in (await current(world, process))["protocol"]]
    assert names == ["a", "b"]
    with pytest.raises(errors.BadConfiguration, match="'a'"):
        await change(process, ANYBODY, '{"protocol":[{"name":"a","regex":"^b"}]}')
    assert viewed.process.returncode is None


@pytest.mark.parametrize("how", ["set", "merge"])
async def test_odd_protocols_of_a_process_are_left_to_it(world, monkeypatch, how):
    async def odd(conversation):
        return {"protocol": [5]}

    _, process = await world.start()
    monkeypatch.setattr(inspector, "_current", odd)
    await getattr(world.inspector, f"{how}_configuration")(process, ANYBODY, '{"tags":{"a":"1"}}')
    monkeypatch.undo()
    assert (await current(world, process))["tags"] == {"a": "1"}


@pytest.mark.parametrize("how", ["set", "merge"])
async def test_what_is_wrong_is_never_sent(world, how):
    viewed, process = await world.start()
    await viewed.kill()  # nobody would answer
    change = getattr(world.inspector, f"{how}_configuration")
    for text in ('{"tags":{"a":1}}', "{", "[" * 100_000):
        with pytest.raises(errors.BadConfiguration):
            await change(process, ANYBODY, text)


@pytest.mark.parametrize("how", ["set", "merge"])
async def test_too_long_a_configuration(world, how):
    _, process = await world.start()
    change = getattr(world.inspector, f"{how}_configuration")
    with pytest.raises(errors.BadConfiguration, match="1048575"):
        await change(process, ANYBODY, json.dumps({"tags": {"a": "x" * 2**21}}))
    assert (await current(world, process))["tags"] == {}


# -- attaching and detaching ---------------------------------------------------------------------


def commands_of(viewed):
    return Path(f"/dev/shm/appview_dconf.{viewed.pid}")


async def test_there_and_back(world):
    viewed, process = await world.start("--period", "0.05")
    await world.inspector.detach(process, ANYBODY)
    assert process.state is State.LATENT
    await world.inspector.attach(process, ANYBODY, {"APPVIEW_TAG_SIMULATED": "yes"})
    assert process.state is State.ACTIVE
    assert (await current(world, process))["tags"] == {"SIMULATED": "yes"}
    assert queues_of(viewed.pid) == []


@pytest.mark.parametrize(
    ("current", "period"),
    [
        ({"libappview": {"summaryperiod": 3}}, 3),
        ({"libappview": {"summaryperiod": "3"}}, 10),
        ({"libappview": {"summaryperiod": 10**400}}, inspector.MOST_PERIOD_SECONDS),
        ({"libappview": {"summaryperiod": -3}}, 0),
        ({"libappview": []}, 10),
        ({}, 10),
    ],
)
def test_the_period_is_the_default_of_who_says_something_odd(current, period):
    assert inspector._period(current) == period


async def test_two_files_never_have_the_same_second(world):
    """The library drops the second one of a second."""
    _, process = await world.start("--period", "0.02")
    began = int(time.time())
    for _ in range(3):
        await world.inspector.detach(process, ANYBODY)
        assert process.state is State.LATENT
        await world.inspector.attach(process, ANYBODY, {})
        assert process.state is State.ACTIVE
    assert int(time.time()) - began < 6


async def test_one_that_was_never_begun(world):
    viewed, process = await world.start("--state", "setup")
    with pytest.raises(errors.Unsupported, match=f"appview attach {viewed.pid}"):
        await world.inspector.attach(process, ANYBODY, {})


async def test_settings_that_are_none(world):
    _, process = await world.start()
    with pytest.raises(InvalidArgs):
        await world.inspector.attach(process, ANYBODY, {"LD_PRELOAD": "/x"})


async def test_one_that_does_not_answer(world, monkeypatch):
    viewed, process = await world.start("--fault", "mute")
    world.inspector._conversations.seconds = 0.05
    with pytest.raises(errors.NotAnswering, match=f"appview attach {viewed.pid}"):
        await world.inspector.attach(process, ANYBODY, {})


async def test_where_no_file_can_be(world, monkeypatch):
    viewed, process = await world.start()
    monkeypatch.setattr(commands, "DIRECTORY", "dev/null/shm")
    with pytest.raises(AccessDenied, match="Not a directory"):
        await world.inspector.detach(process, ANYBODY)
    assert not commands_of(viewed).exists()


async def test_a_file_that_is_not_read_goes(world, monkeypatch):
    monkeypatch.setattr(inspector, "PATIENCE_SECONDS", 0.1)
    viewed, process = await world.start("--period", "1000")
    await world.inspector.merge_configuration(
        process, ANYBODY, '{"libappview":{"summaryperiod":1}}'
    )
    with pytest.raises(errors.NotAnswering, match="not read"):
        await world.inspector.detach(process, ANYBODY)
    assert not commands_of(viewed).exists()


async def test_a_file_of_somebody_else(world):
    viewed, process = await world.start("--period", "1000")
    path = commands_of(viewed)
    path.write_text("theirs")
    try:
        with pytest.raises(errors.FileTaken, match="already"):
            await world.inspector.detach(process, ANYBODY)
        assert path.read_text() == "theirs"
    finally:
        path.unlink()


async def test_a_process_that_ends_before_there_is_a_file(world, monkeypatch):
    viewed, process = await world.start()

    async def last_words(conversation):
        await viewed.kill()
        return {}

    monkeypatch.setattr(inspector, "_current", last_words)
    with pytest.raises(errors.ProcessGone):
        await world.inspector.detach(process, ANYBODY)


async def test_a_process_that_ends_meanwhile(world):
    viewed, process = await world.start("--period", "1000")
    detaching = asyncio.create_task(world.inspector.detach(process, ANYBODY))
    path = commands_of(viewed)
    await until(path.exists)
    await viewed.kill()
    with pytest.raises(errors.ProcessGone):
        await detaching
    assert not path.exists()
