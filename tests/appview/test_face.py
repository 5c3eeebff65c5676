"""Tests of buswork.appview.face, on a scripted bus, with an inspector that answers at once."""

import asyncio
import gc
import json
import re

import pytest
from support.fakebus import DRIVER, ERROR, FakeBus, FakePolkit
from support.reference import PATH as PATH_FIELD
from support.toyface import ALICE, ALICE_UID, BOB, BOB_UID, Stack

from buswork.appview import errors, face
from buswork.appview.face import (
    INSPECTOR,
    PROCESS,
    ROOT,
    Faces,
    InspectorFace,
    ProcessFace,
    process_path,
)
from buswork.appview.model import Asker, Process, Processes, State
from buswork.appview.wire import requests
from buswork.appview.wire.requests import MOST_DEPTH
from buswork.bus.caller import Call
from buswork.bus.contract import load
from buswork.bus.library import variant

PROPERTIES, MANAGER = DRIVER + ".Properties", DRIVER + ".ObjectManager"
INSPECT, CONFIGURE = "org.appview.inspect", "org.appview.configure"
ASKS = {
    "GetSupportedCommands": requests.SUPPORTED,
    "GetStatus": requests.STATUS,
    "GetConfiguration": requests.GET_CONFIGURATION,
    "GetTransportStatus": requests.TRANSPORTS,
    "GetProcessDetails": requests.DETAILS,
}
TELLS = {
    "SetConfiguration": ("s", ["{}"]),
    "MergeConfiguration": ("s", ["{}"]),
    "Attach": ("a{ss}", [{"APPVIEW_TAG_A": "b"}]),
    "Detach": ("", []),
}
FACTS = {
    "Pid": 11,
    "Uid": ALICE_UID,
    "Name": "sleep",
    "Command": "sleep 5",
    "State": "Active",
    "Viewed": True,
    "Uuid": "u",
    "Id": "i",
    "MachineId": "m",
}


class FakeInspector:
    """Answers at once; what it was asked for is kept as it came."""

    def __init__(self):
        self.unreadable = 7
        self.asked = []
        self.answer = {"status": 200}
        self.failure = None
        self.owners = {}

    async def scan(self, uid, *, of_all):
        self.asked.append(("scan", uid, of_all))

    def owner(self, process):
        process.owner = self.owners.get(process.pid, process.owner)
        return process.owner

    async def ask(self, process, asker, request):
        return self._done(process, asker, request)

    async def set_configuration(self, process, asker, text):
        self._done(process, asker, "set", text)

    async def merge_configuration(self, process, asker, text):
        return self._done(process, asker, "merge", text)

    async def attach(self, process, asker, settings):
        self._done(process, asker, "attach", settings)

    async def detach(self, process, asker):
        self._done(process, asker, "detach")

    def _done(self, process, asker, *what):
        self.asked.append((process.pid, asker, *what))
        if self.failure is not None:
            raise self.failure
        return self.answer


class World:
    def __init__(self, bus, polkit, stack):
        self.bus, self.polkit, self.stack = bus, polkit, stack
        self.known, self.inspector = Processes(), FakeInspector()
        face = InspectorFace(self.known, self.inspector, 64)
        self.faces = Faces(stack.edge, self.known, self.inspector, face)
        self.mine = self.add(11, ALICE_UID)
        self.roots = self.add(12, None, uid=0)

    def add(self, pid, owner, uid=None):
        names = {"uuid": "u", "id": "i", "machine_id": "m"}
        uid = owner if uid is None else uid
        process = Process(pid, 1, uid, owner, "sleep", "sleep 5", State.ACTIVE, **names)
        return self.known.meet(process)

    def allow(self, *actions):
        for action in (INSPECT, CONFIGURE):
            self.polkit.rules[action] = "yes" if action in actions else "no"
        self.polkit.change()

    async def answer(self, sender, path, interface, member, signature="", *values):
        call = self.bus.call(sender, path, interface, member, signature, values)
        return await self.bus.answer_to(call)

    async def call(self, *words):
        answer = await self.answer(*words)
        assert answer.error == "", answer.values
        return answer.values[0] if len(answer.values) == 1 else answer.values

    async def process(self, sender, process, member, signature="", *values):
        return await self.answer(sender, process_path(process), PROCESS, member, signature, *values)

    async def facts(self, sender, process):
        path = process_path(process)
        found = await self.call(sender, path, PROPERTIES, "GetAll", "s", PROCESS)
        return {name: each.value for name, each in found.items()}


@pytest.fixture
async def world():
    async with FakeBus() as bus:
        world = World(bus, FakePolkit(bus), await Stack.make(bus))
        world.allow()
        yield world


# -- who may ---------------------------------------------------------------------------------------


def test_nothing_of_a_process_of_others_is_open():
    contract = load(PROCESS)
    for name, method in contract.methods.items():
        assert method.guard.action == "none"
        assert method.guard.others == (INSPECT if name in ASKS else CONFIGURE), name
    for property_ in contract.properties.values():
        assert (property_.read.action, property_.read.others) == ("none", INSPECT)
        assert not property_.is_told_with_value
        assert not property_.writable


@pytest.mark.parametrize("member", [*ASKS, *TELLS])
async def test_nobody_is_asked_about_his_own(world, member):
    answer = await world.process(ALICE, world.mine, member, *flat(TELLS.get(member)))
    assert answer.error == "", answer.values
    assert world.inspector.asked[0][:2] == (11, Asker(ALICE_UID, is_owner=True))
    assert not world.polkit.questions


@pytest.mark.parametrize("member", [*ASKS, *TELLS])
async def test_those_of_others_need_an_action(world, member):
    wanted, other = (INSPECT, CONFIGURE) if member in ASKS else (CONFIGURE, INSPECT)
    for process, sender, sender_uid in (
        (world.mine, BOB, BOB_UID),
        (world.roots, ALICE, ALICE_UID),
    ):
        world.allow(other)
        answer = await world.process(sender, process, member, *flat(TELLS.get(member)))
        assert answer.error == ERROR + "AccessDenied"
        assert wanted in answer.values[0]
        assert world.inspector.asked == []
        world.allow(wanted)
        answer = await world.process(sender, process, member, *flat(TELLS.get(member)))
        assert answer.error == "", answer.values
        asked = world.inspector.asked.pop()
        assert asked[:2] == (process.pid, (sender_uid, False))


async def test_whose_it_is_is_asked_afresh(world):
    world.inspector.owners[11] = None
    answer = await world.process(ALICE, world.mine, "GetStatus")
    assert answer.error == ERROR + "AccessDenied"
    world.inspector.owners[11] = BOB_UID
    assert (await world.process(BOB, world.mine, "GetStatus")).error == ""


@pytest.mark.parametrize("member", [*ASKS, *TELLS])
async def test_as_whom_one_is_let_in_is_noted_at_once(world, member):
    """Another call may find at once that the process has become another program."""
    real = world.inspector.owner

    def owner(process):
        asyncio.get_running_loop().call_soon(setattr, process, "owner", None)
        return real(process)

    world.inspector.owner = owner
    answer = await world.process(ALICE, world.mine, member, *flat(TELLS.get(member)))
    assert (answer.error, world.mine.owner) == ("", None)
    assert world.inspector.asked[0][1].is_owner


@pytest.mark.parametrize("member", [*ASKS, *TELLS])
async def test_a_handler_that_is_not_begun_leaves_nothing(world, member):
    """One for which there is no place is closed at once (and nothing may be left to be awaited)."""
    process_face = ProcessFace(world.mine, world.inspector, asyncio.Lock())
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", member).lower()
    _, *values = flat(TELLS.get(member))
    getattr(process_face, name)(Call(ALICE, ALICE_UID, 0, ""), *values).close()
    gc.collect()
    assert world.inspector.asked == []


def flat(signature_and_values):
    signature, values = signature_and_values or ("", [])
    return signature, *values


# -- the inspector ---------------------------------------------------------------------------------


async def test_a_scan_returns_ones_own(world):
    assert await world.call(ALICE, ROOT, INSPECTOR, "Scan") == [f"{ROOT}/processes/11"]
    assert await world.call(BOB, ROOT, INSPECTOR, "Scan") == []
    assert world.inspector.asked == [("scan", ALICE_UID, False), ("scan", BOB_UID, False)]
    assert not world.polkit.questions


async def test_a_scan_of_all_needs_an_action(world):
    answer = await world.answer(ALICE, ROOT, INSPECTOR, "ScanAll")
    assert (answer.error, world.inspector.asked) == (ERROR + "AccessDenied", [])
    world.allow(INSPECT)
    found = await world.call(ALICE, ROOT, INSPECTOR, "ScanAll")
    assert found == [f"{ROOT}/processes/11", f"{ROOT}/processes/12"]
    assert world.inspector.asked == [("scan", ALICE_UID, True)]


async def test_what_everybody_may_know(world):
    found = await world.call(ALICE, ROOT, PROPERTIES, "GetAll", "s", INSPECTOR)
    assert {name: each.value for name, each in found.items()} == {
        "Unreadable": 7,
        "LeftOut": 0,
        "Conversations": 64,
    }


# -- objects ---------------------------------------------------------------------------------------


async def test_properties(world):
    assert await world.facts(ALICE, world.mine) == FACTS
    assert await world.facts(BOB, world.mine) == {}
    world.allow(INSPECT)
    assert (await world.facts(BOB, world.roots))["Uid"] == 0


async def test_the_list_leaves_out_what_one_may_not_know(world):
    objects = await world.call(ALICE, ROOT, MANAGER, "GetManagedObjects")
    found = {path: sorted(faces[PROCESS]) for path, faces in objects.items()}
    assert found == {process_path(world.mine): sorted(FACTS), process_path(world.roots): []}


async def test_coming_and_going_is_told_without_facts(world):
    process = world.add(13, BOB_UID)
    world.known.forget(process)
    await world.bus.settle()
    (added,) = [each for each in world.bus.signals("InterfacesAdded") if "13" in each.values[0]]
    assert added.values == [process_path(process), {PROCESS: {}}]
    (removed,) = world.bus.signals("InterfacesRemoved")
    assert removed.values == [process_path(process), [PROCESS]]
    assert removed.fields[PATH_FIELD] == ROOT
    assert (await world.process(BOB, process, "GetStatus")).error == ERROR + "UnknownObject"


async def test_changes_are_told_without_values(world):
    world.known.learn(world.mine, state=State.LATENT, uuid="v", owner=None)
    await world.bus.settle()
    (told,) = world.bus.signals("PropertiesChanged")
    assert told.fields[PATH_FIELD] == process_path(world.mine)
    assert told.values == [PROCESS, {}, ["State", "Viewed", "Uuid"]]
    world.known.learn(world.mine, owner=BOB_UID)
    await world.bus.settle()
    assert len(world.bus.signals("PropertiesChanged")) == 1


async def test_one_of_the_same_number_is_another_object(world):
    another = world.known.meet(Process(11, 2, BOB_UID, BOB_UID, "other", "other"))
    assert (await world.facts(BOB, another))["Name"] == "other"
    assert await world.facts(ALICE, another) == {}


async def test_names_that_no_message_can_carry(world):
    world.known.learn(world.mine, name="a\0b", command="half \udc80")
    facts = await world.facts(ALICE, world.mine)
    assert (facts["Name"], facts["Command"]) == ("a?b", "half ?")


async def test_the_end_leaves_nothing(world):
    world.faces.close()
    assert not world.stack.tree.children("/")
    world.add(14, ALICE_UID)
    assert not world.stack.tree.children("/")


# -- asking and telling ----------------------------------------------------------------------------


@pytest.mark.parametrize("member", ASKS)
async def test_each_question_has_its_request(world, member):
    world.inspector.answer = {"status": 200, "it": "is"}
    answer = await world.process(ALICE, world.mine, member)
    values, text = answer.values
    assert values == {"status": variant("x", 200), "it": variant("s", "is")}
    assert text == '{"status":200,"it":"is"}'
    ((_, _, request),) = world.inspector.asked
    assert request is ASKS[member]


async def test_what_is_told(world):
    for member, words in TELLS.items():
        answer = await world.process(ALICE, world.mine, member, *flat(words))
        assert len(answer.values) == (2 if member == "MergeConfiguration" else 0)
    assert [asked[2:] for asked in world.inspector.asked] == [
        ("set", "{}"),
        ("merge", "{}"),
        ("attach", {"APPVIEW_TAG_A": "b"}),
        ("detach",),
    ]


@pytest.mark.parametrize(
    ("json_value", "value"),
    [
        (True, variant("b", True)),
        (2**63 - 1, variant("x", 2**63 - 1)),
        (-(2**63), variant("x", -(2**63))),
        (2**63, variant("s", str(2**63))),
        (10**400, variant("s", str(10**400))),
        (1.5, variant("d", 1.5)),
        ("text", variant("s", "text")),
        ("a\0b \ud800", variant("s", "a?b ?")),
        (None, variant("s", "")),
        ([1, "a"], variant("av", [variant("x", 1), variant("s", "a")])),
        ({"a\0": {}}, variant("a{sv}", {"a?": variant("a{sv}", {})})),
    ],
)
async def test_values_are_typed(world, json_value, value):
    world.inspector.answer = {"a": json_value}
    values, text = (await world.process(ALICE, world.mine, "GetStatus")).values
    assert values == {"a": value}
    if "\ud800" not in str(json_value):
        assert json.loads(text) == {"a": json_value}


async def test_the_deepest_answer_fits_into_a_message(world):
    deep = 0
    for _ in range(MOST_DEPTH - 1):
        deep = [deep]
    world.inspector.answer = {"a": deep}
    assert (await world.process(ALICE, world.mine, "GetStatus")).error == ""


async def test_between_two_answers_others_have_their_turn(world, monkeypatch):
    """An answer may be long, and all that it is made of is made in one go."""
    turns, made_in = 0, []

    def turn():
        nonlocal turns
        turns += 1
        asyncio.get_running_loop().call_soon(turn)

    def made(value):
        made_in.append(turns)
        return variant("s", "x")

    monkeypatch.setattr(face, "_value", made)
    turn()
    path = process_path(world.mine)
    calls = [world.bus.call(ALICE, path, PROCESS, "GetStatus", "", ()) for _ in range(5)]
    for call in calls:
        assert (await world.bus.answer_to(call)).error == ""
    assert len(set(made_in)) == 5


async def test_failures_have_their_names(world):
    world.inspector.failure = errors.NotAnswering("process 11 did not answer")
    for member in ("GetStatus", "Detach"):
        answer = await world.process(ALICE, world.mine, member)
        assert (answer.error, answer.values) == (
            "org.appview.Error.NotAnswering",
            ["process 11 did not answer"],
        )
