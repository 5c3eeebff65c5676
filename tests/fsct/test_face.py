"""Tests of buswork.fsct.face, on a scripted bus."""

import re
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import pytest
from support.displays import device, device_id
from support.fakebus import DRIVER, ERROR, FakeBus, FakePolkit, Refused
from support.reference import PATH as PATH_FIELD
from support.toyface import ALICE, ALICE_UID, BOB, BOB_UID, ROOT_USER, Stack

from buswork.authority import Limits
from buswork.bus import dispatch, news
from buswork.bus.contract import DOC, load, snake_case
from buswork.bus.library import variant
from buswork.bus.objects import escape_name
from buswork.bus.ownership import Holdings
from buswork.fsct import face as module
from buswork.fsct.face import DEVICE, INTERFACE, PATH, PLAYER, ROOT, DriverFace, Faces, position_ms
from buswork.fsct.model.driver import Driver
from buswork.fsct.model.driver import Limits as DriverLimits
from buswork.fsct.model.players import MAX_PLAYERS, MAX_TEXT_BYTES
from buswork.fsct.model.selection import Reason
from buswork.fsct.native.calls import RIGHTS
from buswork.fsct.wing import Registrar
from buswork.fsct.wire.methods import METHODS
from buswork.fsct.wire.terms import (
    TRACK_TEXTS,
    Coding,
    Functionality,
    PlayerState,
    Status,
    TextId,
    Texts,
    Timeline,
)

PROPERTIES = DRIVER + ".Properties"
UNIT = Path(__file__).parents[2] / "systemd/buswork.service"
MANAGER = DRIVER + ".ObjectManager"
ACTIONS = ("observe", "observe-others", "register", "route", "manage")
ONE, TWO = device_id(1), device_id(2)
EVIL = "\x1b[31m\n\u202e" + "\U0001f3b5" * 3
SONG = variant("a{ss}", {"title": "Song", "artist": "Singer"})
PLACE = {"position_ms": variant("x", 1000), "duration_ms": variant("t", 60_000)}
RUNNING = PLACE | {"rate": variant("d", 1.0)}


class World:
    """A driver on a bus, and the words for what callers do most."""

    def __init__(self, bus, polkit, stack, *, players=5):
        self.bus, self.polkit, self.stack = bus, polkit, stack
        self.allow("observe", "register")
        self.driver = Driver(DriverLimits(players=players))
        register = Registrar(self.driver, stack.authority.quotas).register
        self.holdings = Holdings(stack.callers)
        self.face = DriverFace(self.driver, register, self.holdings, seated_users_first=True)
        self.faces = Faces(stack.edge, self.driver, self.face)

    def allow(self, *names):
        for name in ACTIONS:
            self.polkit.rules[f"org.fsct.driver.{name}"] = "yes" if name in names else "no"
        self.polkit.change()

    async def answer(self, sender, member, signature="", *values, path=PATH, interface=INTERFACE):
        call = self.bus.call(sender, path, interface, member, signature, values)
        return await self.bus.answer_to(call)

    async def call(self, sender, member, signature="", *values, **where):
        answer = await self.answer(sender, member, signature, *values, **where)
        assert answer.error == "", answer.values
        return answer.values[0] if len(answer.values) == 1 else answer.values

    async def refused(self, sender, member, signature="", *values, **where):
        """The error's name (freedesktop's are short), and its text."""
        answer = await self.answer(sender, member, signature, *values, **where)
        assert answer.error != "", answer.values
        return answer.error.removeprefix(ERROR), answer.values[0]

    async def register(self, sender, self_id="player"):
        return await self.call(sender, "RegisterPlayer", "s", self_id)

    async def get_all(self, sender, path, interface):
        found = await self.call(sender, "GetAll", "s", interface, path=path, interface=PROPERTIES)
        return {name: value.value for name, value in found.items()}

    async def player(self, sender, player_id):
        return await self.get_all(sender, f"{ROOT}/players/{player_id}", PLAYER)

    async def device(self, sender, name=ONE):
        return await self.get_all(sender, f"{ROOT}/devices/{escape_name(name)}", DEVICE)

    async def news(self):
        """What PropertiesChanged said since the last time: path and names."""
        await self.bus.settle()
        told = [
            (message.fields[PATH_FIELD], *message.values)
            for message in self.bus.signals("PropertiesChanged")
        ]
        self.bus.received.clear()
        return told


@pytest.fixture
async def world(monkeypatch):
    monkeypatch.setattr(dispatch, "SHARE_SECONDS", 1e6)
    async with FakeBus() as bus:
        polkit = FakePolkit(bus)
        yield World(bus, polkit, await Stack.make(bus, Limits(objects=3)))


@pytest.fixture
async def polite(world):
    """With a player of Alice's and one of Bob's."""
    await world.register(ALICE, "alice's")
    await world.register(BOB, "bob's")
    return world


# -- the contract --------------------------------------------------------------------------------


def test_the_contract_asks_for_the_rights_of_the_socket():
    contract = load(INTERFACE)
    found = {
        snake_case(name): (method.guard.action, method.guard.others)
        for name, method in contract.methods.items()
    }
    listed = {"list_players", "list_devices"}
    assert set(found) == set(METHODS) | listed
    for name in METHODS:
        assert found[name] == tuple(RIGHTS.get(name, ("none", "none"))), name
    for name in listed:
        assert found[name] == tuple(RIGHTS["get_detected_devices"])


def test_what_others_play_has_an_action_of_its_own():
    others = {
        name
        for name, property_ in load(PLAYER).properties.items()
        if property_.read.others == "org.fsct.driver.observe-others"
    }
    open_to_observers = {"PlayerId", "Uid", "Status", "AssignedDevice"}
    assert others == set(load(PLAYER).properties) - open_to_observers
    for name in (INTERFACE, PLAYER, DEVICE):
        for property_ in load(name).properties.values():
            assert property_.read.is_open or property_.read.action == "org.fsct.driver.observe"


def test_a_running_position_is_never_told():
    assert load(PLAYER).properties["Position"].emits_changed == "false"


def test_all_reasons_are_documented():
    (element,) = (member for member in load(DEVICE).element if member.get("name") == "ActiveReason")
    text = element.find(f"annotation[@name='{DOC}']").get("value")
    assert all(f"{reason.value} (" in text for reason in Reason)


# -- players -------------------------------------------------------------------------------------


async def test_version(world):
    assert await world.call(ALICE, "GetProtocolVersion") == [1, 0]


async def test_a_player_comes_and_goes(world):
    assert await world.call(ALICE, "ListPlayers") == []
    first = await world.register(ALICE)
    second = await world.register(BOB)
    assert await world.call(ALICE, "ListPlayers") == [first, second]
    assert world.driver.players[first].uid == ALICE_UID
    assert [held.path for held in world.holdings.all()] == [
        f"{ROOT}/players/{first}",
        f"{ROOT}/players/{second}",
    ]
    await world.call(ALICE, "UnregisterPlayer", "u", first)
    assert await world.call(ALICE, "ListPlayers") == [second]
    assert len(world.holdings.all()) == 1
    name, _ = await world.refused(ALICE, "UnregisterPlayer", "u", first)
    assert name == "org.fsct.Error.NoSuchPlayer"


async def test_all_players_go_with_their_caller(world):
    for _ in range(3):
        await world.register(ALICE)
    left = await world.register(BOB)
    world.bus.leave(ALICE)
    await world.bus.settle()
    assert list(world.driver.players) == [left]
    assert [held.client for held in world.holdings.all()] == [BOB]
    assert not any(ALICE in rule for rule in world.bus.matches)
    assert world.stack.authority.quotas.used(ALICE_UID, "objects") == 0


async def test_a_caller_that_left_leaves_no_player(world):
    """It goes between its call and the look whether it still is there."""
    take, answers = world.bus.uids.pop, world.bus.answers
    ask = answers[DRIVER, "GetNameOwner"]

    def gone(call):
        take(ALICE, None)
        return ask(call)

    await world.stack.callers.uid(ALICE)
    answers[DRIVER, "GetNameOwner"] = gone
    world.bus.call(ALICE, PATH, INTERFACE, "RegisterPlayer", "s", ["x"])
    await world.bus.settle()
    assert not world.driver.players
    assert world.holdings.all() == []
    assert world.stack.authority.quotas.used(ALICE_UID, "objects") == 0


async def test_a_bus_that_lets_us_watch_nobody_more(world):
    def full(call):
        raise Refused(ERROR + "LimitsExceeded")

    await world.call(BOB, "UnregisterPlayer", "u", await world.register(BOB))
    world.bus.answers[DRIVER, "AddMatch"] = full
    heard = []
    world.driver.on_change.append(heard.append)
    name, text = await world.refused(BOB, "RegisterPlayer", "s", "x")
    assert heard == [], "a player that can't be watched is never seen"
    assert (name, "nobody watch more" in text) == ("LimitsExceeded", True)
    assert not world.driver.players
    assert world.stack.authority.quotas.used(BOB_UID, "objects") == 0


async def test_force_takes_a_player_away(polite):
    (path, other) = [held.path for held in polite.holdings.all()]
    polite.holdings.force(path, SimpleNamespace(uid=0, sender=ROOT_USER))
    assert list(polite.driver.players) == [2]
    assert [held.path for held in polite.holdings.all()] == [other]


async def test_a_user_has_so_many_players(world):
    for _ in range(3):
        await world.register(ALICE)
    name, text = await world.refused(ALICE, "RegisterPlayer", "s", "x")
    assert (name, "3 objects" in text) == ("LimitsExceeded", True)
    await world.register(BOB)
    await world.call(ALICE, "UnregisterPlayer", "u", 1)
    await world.register(ALICE)
    # A fourth of all is one too many for the driver: what was taken of the quota is given back.
    await world.register(BOB)
    name, text = await world.refused(BOB, "RegisterPlayer", "s", "x")
    assert (name, "MaxPlayers" in text) == ("LimitsExceeded", True)
    assert world.stack.authority.quotas.used(BOB_UID, "objects") == 2


async def test_hostile_self_ids(world):
    player_id = await world.register(ALICE, EVIL)
    assert (await world.player(ALICE, player_id))["SelfId"] == EVIL
    (held,) = world.holdings.all()
    assert held.what.isprintable()
    name, text = await world.refused(ALICE, "RegisterPlayer", "s", "x" * 257)
    assert (name, "256 bytes" in text) == ("InvalidArgs", True)
    assert len(world.driver.players) == 1
    await world.register(ALICE, "")
    await world.register(ALICE, "y" * 256)
    assert len(world.holdings.all()[2].what) < 100


# -- what players say ----------------------------------------------------------------------------


async def test_updates(polite):
    world = polite
    player = world.driver.players[1]
    state = {
        "status": variant("u", 1),
        "timeline": variant("a{sv}", RUNNING | {"update_unix_ms": variant("x", 5)}),
        "texts": SONG,
    }
    await world.call(ALICE, "UpdatePlayerState", "ua{sv}", 1, state)
    assert player.status is Status.PLAYING
    assert player.timeline == Timeline(1000, 5, 60_000, 1.0)
    assert player.texts == Texts("Song", "Singer")
    await world.call(ALICE, "UpdatePlayerStatus", "uu", 1, 2)
    assert player.status is Status.PAUSED
    await world.call(ALICE, "UpdatePlayerMetadata", "uus", 1, 3, EVIL)
    assert player.texts == Texts("Song", "Singer", EVIL)
    await world.call(ALICE, "UpdatePlayerMetadata", "uus", 1, 1, "")
    assert player.texts.title is None
    await world.call(ALICE, "UpdatePlayerTimeline", "ua{sv}", 1, {})
    assert player.timeline is None
    await world.call(ALICE, "UpdatePlayerState", "ua{sv}", 1, {})
    assert (player.status, player.texts) == (Status.UNKNOWN, Texts())


async def test_a_timeline_that_says_no_time_is_of_now(polite):
    before = time.time_ns() // 1_000_000
    await polite.call(ALICE, "UpdatePlayerTimeline", "ua{sv}", 1, RUNNING)
    after = time.time_ns() // 1_000_000
    assert before <= polite.driver.players[1].timeline.update_unix_ms <= after
    await polite.call(
        ALICE, "UpdatePlayerState", "ua{sv}", 1, {"timeline": variant("a{sv}", RUNNING)}
    )
    assert polite.driver.players[1].timeline.update_unix_ms >= before


@pytest.mark.parametrize(
    ("member", "signature", "values"),
    [
        ("UpdatePlayerStatus", "uu", [6]),
        ("UpdatePlayerStatus", "uu", [257]),
        ("UpdatePlayerMetadata", "uus", [0, "x"]),
        ("UpdatePlayerMetadata", "uus", [0x31, "a queue's"]),
        ("UpdatePlayerMetadata", "uus", [257, "x"]),
        ("UpdatePlayerTimeline", "ua{sv}", [{"position_ms": variant("x", 1)}]),
        ("UpdatePlayerTimeline", "ua{sv}", [RUNNING | {"position_ms": variant("x", -1)}]),
        ("UpdatePlayerTimeline", "ua{sv}", [RUNNING | {"position_ms": variant("b", True)}]),
        ("UpdatePlayerTimeline", "ua{sv}", [RUNNING | {"position_ms": variant("t", 2**63)}]),
        ("UpdatePlayerTimeline", "ua{sv}", [RUNNING | {"position_ms": variant("d", 1.0)}]),
        ("UpdatePlayerTimeline", "ua{sv}", [RUNNING | {"rate": variant("d", float("nan"))}]),
        ("UpdatePlayerTimeline", "ua{sv}", [RUNNING | {"rate": variant("d", float("inf"))}]),
        ("UpdatePlayerTimeline", "ua{sv}", [RUNNING | {"rate": variant("s", "1")}]),
        ("UpdatePlayerTimeline", "ua{sv}", [RUNNING | {"other": variant("d", 1.0)}]),
        ("UpdatePlayerTimeline", "ua{sv}", [RUNNING | {EVIL: variant("d", 1.0)}]),
        ("UpdatePlayerState", "ua{sv}", [{"other": variant("u", 1)}]),
        ("UpdatePlayerState", "ua{sv}", [{"status": variant("s", "playing?")}]),
        ("UpdatePlayerState", "ua{sv}", [{"texts": variant("as", ["x"])}]),
        ("UpdatePlayerState", "ua{sv}", [{"texts": variant("a{ss}", {"lyrics": "x"})}]),
        ("UpdatePlayerState", "ua{sv}", [{"timeline": variant("s", "x")}]),
        ("UpdatePlayerState", "ua{sv}", [{"timeline": variant("a{sv}", PLACE)}]),
        ("AssignPlayerToDevice", "us", [""]),
        ("AssignPlayerToDevice", "us", ["not a device"]),
        ("UnassignPlayerFromDevice", "us", [ONE[:-1]]),
    ],
)
async def test_26_bad_values(polite, member, signature, values):
    polite.allow("register", "route", "observe")
    name, text = await polite.refused(ALICE, member, signature, 1, *values)
    assert name == "InvalidArgs"
    assert text
    player = polite.driver.players[1]
    assert (player.status, player.timeline, player.texts) == (Status.UNKNOWN, None, Texts())
    # The next one is as good as ever.
    await polite.call(ALICE, "UpdatePlayerStatus", "uu", 1, 1)


@pytest.mark.parametrize(
    ("member", "signature", "values"),
    [
        ("UnregisterPlayer", "u", []),
        ("UpdatePlayerStatus", "uu", [1]),
        ("UpdatePlayerState", "ua{sv}", [{}]),
        ("UpdatePlayerTimeline", "ua{sv}", [{}]),
        ("UpdatePlayerMetadata", "uus", [1, "x"]),
        ("AssignPlayerToDevice", "us", [ONE]),
        ("UnassignPlayerFromDevice", "us", [ONE]),
        ("GetPlayerAssignedDevice", "u", []),
        ("SetPreferredPlayer", "u", []),
    ],
)
async def test_there_is_no_such_player(polite, member, signature, values):
    polite.allow("register", "route", "observe")
    for number in (0, 3, 2**32 - 1):
        if (member, number) == ("SetPreferredPlayer", 0):
            continue
        name, _ = await polite.refused(ALICE, member, signature, number, *values)
        assert name == "org.fsct.Error.NoSuchPlayer"


# -- who may -------------------------------------------------------------------------------------


WRITES = {
    "UpdatePlayerStatus": ("uu", [1]),
    "UpdatePlayerState": ("ua{sv}", [{}]),
    "UpdatePlayerTimeline": ("ua{sv}", [{}]),
    "UpdatePlayerMetadata": ("uus", [1, "x"]),
    "AssignPlayerToDevice": ("us", [ONE]),
    "UnassignPlayerFromDevice": ("us", [ONE]),
    "SetPreferredPlayer": ("u", []),
    "UnregisterPlayer": ("u", []),
}


@pytest.mark.parametrize("member", WRITES)
async def test_each_write_needs_its_right(polite, member):
    guard = load(INTERFACE).methods[member].guard
    signature, values = WRITES[member]
    for player_id, action in ((1, guard.action), (2, guard.others)):
        short = action.removeprefix("org.fsct.driver.")
        polite.allow(*(set(ACTIONS) - {short}))
        name, text = await polite.refused(ALICE, member, signature, player_id, *values)
        assert (name, action in text) == ("AccessDenied", True)
        polite.allow(short)
        answer = await polite.answer(ALICE, member, signature, player_id, *values)
        assert answer.error in ("", "org.fsct.Error.NotAssigned")


@pytest.mark.parametrize(
    ("action", "member", "signature", "values"),
    [
        ("register", "RegisterPlayer", "s", ["x"]),
        ("route", "SetPreferredPlayer", "u", [0]),
        ("observe", "GetPreferredPlayer", "", []),
        ("observe", "GetPlayerAssignedDevice", "u", [1]),
        ("observe", "GetPlayerAssignedDevice", "u", [2]),
        ("observe", "ListPlayers", "", []),
        ("observe", "ListDevices", "", []),
    ],
)
async def test_each_other_method_needs_its_right(polite, action, member, signature, values):
    polite.allow(*(set(ACTIONS) - {action}))
    name, text = await polite.refused(ALICE, member, signature, *values)
    assert (name, f"org.fsct.driver.{action}" in text) == ("AccessDenied", True)
    polite.allow(action)
    await polite.call(ALICE, member, signature, *values)


async def test_what_others_play_is_theirs(polite):
    await polite.call(BOB, "UpdatePlayerState", "ua{sv}", 2, {"texts": SONG})
    assert await polite.player(ALICE, 2) == {
        "PlayerId": 2,
        "Uid": BOB_UID,
        "Status": 15,
        "AssignedDevice": "",
    }
    found = await polite.call(ALICE, "GetManagedObjects", path=ROOT, interface=MANAGER)
    assert "Title" not in found[f"{ROOT}/players/2"][PLAYER]
    assert found[f"{ROOT}/players/1"][PLAYER]["SelfId"].value == "alice's"
    where = {"path": f"{ROOT}/players/2", "interface": PROPERTIES}
    name, text = await polite.refused(ALICE, "Get", "ss", PLAYER, "Title", **where)
    assert (name, "observe-others" in text) == ("AccessDenied", True)
    assert (await polite.player(BOB, 2))["Title"] == "Song"
    polite.allow("observe", "observe-others")
    assert (await polite.player(ALICE, 2))["Title"] == "Song"
    polite.allow()
    assert await polite.player(BOB, 2) == {}


async def test_no_signal_has_a_value_in_it(polite):
    polite.driver.add_device(device(vendor="Vendor", serial="12345"))
    await polite.call(ALICE, "UpdatePlayerState", "ua{sv}", 1, {"texts": SONG})
    await polite.bus.settle()
    added = dict(message.values for message in polite.bus.signals("InterfacesAdded"))
    assert len(added) == 4
    assert "PreferredPlayer" not in added.pop(PATH)[INTERFACE]
    assert all(facts == {} for faces in added.values() for facts in faces.values())
    for message in polite.bus.signals("PropertiesChanged"):
        assert message.values[1] == {}


# -- who is shown where --------------------------------------------------------------------------


async def test_assigning(polite):
    polite.allow("register", "route", "observe")
    assert await polite.call(ALICE, "GetPlayerAssignedDevice", "u", 1) == ""
    await polite.call(ALICE, "AssignPlayerToDevice", "us", 1, ONE.upper())
    assert await polite.call(BOB, "GetPlayerAssignedDevice", "u", 1) == ONE
    assert (await polite.player(ALICE, 1))["AssignedDevice"] == ONE
    name, _ = await polite.refused(ALICE, "UnassignPlayerFromDevice", "us", 1, TWO)
    assert name == "org.fsct.Error.NotAssigned"
    await polite.call(ALICE, "UnassignPlayerFromDevice", "us", 1, ONE)
    assert await polite.call(ALICE, "GetPlayerAssignedDevice", "u", 1) == ""


async def test_preferring(polite):
    polite.allow("route", "observe")
    assert await polite.call(ALICE, "GetPreferredPlayer") == 0
    await polite.call(ALICE, "SetPreferredPlayer", "u", 1)
    assert await polite.call(ALICE, "GetPreferredPlayer") == 1
    assert (await polite.get_all(BOB, PATH, INTERFACE))["PreferredPlayer"] == 1
    assert (PATH, INTERFACE, {}, ["PreferredPlayer"]) in await polite.news()
    await polite.call(ALICE, "SetPreferredPlayer", "u", 0)
    assert await polite.call(ALICE, "GetPreferredPlayer") == 0


async def test_devices(polite):
    assert await polite.call(ALICE, "ListDevices") == []
    polite.driver.add_device(
        device(
            functionality=Functionality.METADATA | Functionality.STATUS,
            texts={TextId.CURRENT_TITLE: 10},
            coding=Coding.UCS2,
            vendor_id=0x1209,
            product_id=1,
            vendor=EVIL,
            product="Amplifier",
            serial="S1",
            port="1-2.3",
        )
    )
    polite.driver.add_device(device(2, coding=None))
    assert await polite.call(ALICE, "ListDevices") == [ONE, TWO]
    assert await polite.device(BOB) == {
        "DeviceId": ONE,
        "Vendor": EVIL,
        "Product": "Amplifier",
        "Serial": "S1",
        "VendorId": 0x1209,
        "ProductId": 1,
        "Port": "1-2.3",
        "Functionality": ["metadata", "status"],
        "Texts": {1: 10},
        "Coding": "ucs2",
        "Connected": True,
        "ActivePlayer": 1,
        "ActiveReason": "idle",
        "LastError": "",
    }
    assert (await polite.device(ALICE, TWO))["Coding"] == ""
    polite.driver.set_error(ONE, "it is broken")
    assert (await polite.device(ALICE))["LastError"] == "it is broken"
    polite.driver.remove_device(ONE)
    assert await polite.call(ALICE, "ListDevices") == [TWO]
    where = {"path": f"{ROOT}/devices/{escape_name(ONE)}", "interface": PROPERTIES}
    name, _ = await polite.refused(ALICE, "Get", "ss", DEVICE, "Port", **where)
    assert name == "UnknownObject"


async def test_why_a_player_is_shown(polite):
    polite.allow("register", "route", "observe")
    polite.driver.add_device(device())
    await polite.news()
    await polite.call(BOB, "UpdatePlayerStatus", "uu", 2, 1)
    found = await polite.device(ALICE)
    assert (found["ActivePlayer"], found["ActiveReason"]) == (2, "playing")
    path = f"{ROOT}/devices/{escape_name(ONE)}"
    told = await polite.news()
    assert (path, DEVICE, {}, ["ActivePlayer", "ActiveReason"]) in told
    await polite.call(ALICE, "SetPreferredPlayer", "u", 1)
    found = await polite.device(ALICE)
    assert (found["ActivePlayer"], found["ActiveReason"]) == (1, "preferred")


# -- positions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timeline", "now", "position"),
    [
        (Timeline(1000, 0, 60_000, 1.0), 0, 1000),
        (Timeline(1000, 0, 60_000, 1.0), 500, 1500),
        (Timeline(1000, 0, 60_000, 0.0), 500, 1000),
        (Timeline(1000, 0, 60_000, 2.0), 500, 2000),
        (Timeline(1000, 0, 60_000, -4.0), 500, 0),
        (Timeline(1000, 0, 60_000, 1.0), 100_000, 60_000),
        (Timeline(1000, 0, 0, 1.0), 100_000, 101_000),
        (Timeline(1000, 1000, 60_000, 1.0), 0, 1000),  # of the future
        (Timeline(2**63 - 1, -(2**63), 2**64 - 1, 3e38), 2**62, 2**63 - 1),
        (Timeline(2**63 - 1, 0, 0, 1.0), 0, 2**63 - 1),
        (Timeline(0, -(2**63), 0, -3e38), 2**62, 0),
    ],
)
def test_where_a_track_is(timeline, now, position):
    assert position_ms(timeline, now) == position


async def test_the_position_is_reckoned_when_it_is_read(polite, monkeypatch):
    await polite.call(ALICE, "UpdatePlayerTimeline", "ua{sv}", 1, RUNNING)
    now = polite.driver.players[1].timeline.update_unix_ms
    monkeypatch.setattr(module, "_now_ms", lambda: now + 2500)
    found = await polite.player(ALICE, 1)
    assert found["Position"] == 3500
    assert {name: value.value for name, value in found["Timeline"].items()} == {
        "position_ms": 1000,
        "duration_ms": 60_000,
        "rate": 1.0,
        "update_unix_ms": now,
    }
    polite.driver.update_timeline(1, None)
    found = await polite.player(ALICE, 1)
    assert (found["Position"], found["Timeline"]) == (0, {})


async def test_a_clock_that_is_set_moves_no_position(polite, monkeypatch):
    await polite.call(ALICE, "UpdatePlayerTimeline", "ua{sv}", 1, RUNNING)
    player = polite.driver.players[1]
    hour_ms, said = 3_600_000, player.timeline.update_unix_ms
    monkeypatch.setattr(module, "wall_offset_ms", lambda: player.wall_offset_ms + hour_ms)
    monkeypatch.setattr(module, "_now_ms", lambda: said + hour_ms + 2500)
    found = await polite.player(ALICE, 1)
    assert found["Position"] == 3500
    assert found["Timeline"]["update_unix_ms"].value == said + hour_ms


# -- signals -------------------------------------------------------------------------------------


async def test_texts_that_the_bus_cannot_carry(world, caplog):
    """The socket's protocols and devices know a NUL."""
    world.driver.register("a\0b", ALICE_UID, "a connection")
    world.driver.update_text(1, TextId.CURRENT_TITLE, "\0")
    world.driver.add_device(device(vendor="\0x", product="\0", serial="\0"))
    world.driver.set_error(ONE, "\0")
    found = await world.player(ALICE, 1)
    assert (found["SelfId"], found["Title"], found["Album"]) == ("a?b", "?", "")
    found = await world.device(ALICE)
    assert (found["Vendor"], found["LastError"]) == ("?x", "?")
    assert not caplog.records


async def test_all_players_are_told_of_in_one_answer_and_kept_in_what_the_unit_counts(monkeypatch):
    monkeypatch.setattr(dispatch, "SHARE_SECONDS", 1e6)
    async with FakeBus() as bus:
        polkit = FakePolkit(bus)
        world = World(bus, polkit, await Stack.make(bus), players=MAX_PLAYERS)
        world.allow(*ACTIONS)
        writer, number = world.stack.connection.writer, 50
        tracemalloc.start()
        for each in range(number):
            # One wide character in each makes all of them wide in memory; and no two are alike.
            player = world.driver.register("\U0001f3b5" + "x" * 252, 2**32 - 2 - each, each)
            texts = ["\U0001f3b5" + "x" * (MAX_TEXT_BYTES - 4) for _ in TRACK_TEXTS]
            timeline = Timeline(2**62, 2**62 + each, 2**63, 1.5)
            state = PlayerState(Status.PLAYING, timeline, Texts(*texts))
            world.driver.update_state(player.id, state)
            world.driver.assign(player.id, str(UUID(int=each)))
            del texts, timeline, state
        each_bytes = tracemalloc.get_traced_memory()[0] / number
        tracemalloc.stop()
        (most,) = re.findall(r"(\d+) of players", UNIT.read_text())
        assert MAX_PLAYERS * each_bytes < int(most) << 20

        sent = writer.sent
        objects = await world.call(ALICE, "GetManagedObjects", path=ROOT, interface=MANAGER)
        found = [faces[PLAYER]["Title"] for faces in objects.values() if PLAYER in faces]
        assert len(found) == number
        assert MAX_PLAYERS * (writer.sent - sent) / number < dispatch.MAX_REPLY


async def test_only_what_changed_is_told(polite):
    await polite.news()
    path = f"{ROOT}/players/1"
    await polite.call(ALICE, "UpdatePlayerMetadata", "uus", 1, 1, "Song")
    assert await polite.news() == [(path, PLAYER, {}, ["Title"])]
    await polite.call(ALICE, "UpdatePlayerMetadata", "uus", 1, 1, "Song")
    await polite.call(ALICE, "UpdatePlayerStatus", "uu", 1, 15)
    assert await polite.news() == []
    at = {"update_unix_ms": variant("x", 0), "rate": variant("d", 1.0)}
    await polite.call(ALICE, "UpdatePlayerTimeline", "ua{sv}", 1, PLACE | at)
    assert await polite.news() == [(path, PLAYER, {}, ["Timeline"])]
    later = {"position_ms": variant("x", 6000), "update_unix_ms": variant("x", 5000)}
    await polite.call(ALICE, "UpdatePlayerTimeline", "ua{sv}", 1, PLACE | at | later)
    assert await polite.news() == [], "it just goes on"


async def test_32_a_flood_of_one_users_players_is_told_in_a_few_signals(polite, monkeypatch):
    """And another user's player, and the devices, are told of at once."""
    monkeypatch.setattr(news, "A_SECOND", 0.001)
    monkeypatch.setattr(news, "AT_ONCE", 5)
    polite.driver.add_device(device())
    await polite.news()
    polite.stack.edge._news._lines.clear()
    for number in range(1, 101):
        polite.driver.update_text(1, TextId.CURRENT_TITLE, str(number))
    polite.driver.update_status(2, Status.PLAYING)
    told = await polite.news()
    assert told[:5] == [(f"{ROOT}/players/1", PLAYER, {}, ["Title"])] * 5
    assert [path for path, *_ in told[5:]] == [
        f"{ROOT}/players/2",
        f"{ROOT}/devices/{escape_name(ONE)}",
    ]


async def test_objects_are_announced(world):
    await world.register(ALICE)
    world.driver.add_device(device())
    await world.bus.settle()
    paths = [message.values[0] for message in world.bus.signals("InterfacesAdded")]
    assert paths == [PATH, f"{ROOT}/players/1", f"{ROOT}/devices/{escape_name(ONE)}"]
    assert {message.fields[PATH_FIELD] for message in world.bus.signals("InterfacesAdded")} == {
        ROOT
    }
    found = await world.call(ALICE, "GetManagedObjects", path=ROOT, interface=MANAGER)
    assert list(found) == paths
    await world.call(ALICE, "UnregisterPlayer", "u", 1)
    world.driver.remove_device(ONE)
    await world.bus.settle()
    gone = [message.values for message in world.bus.signals("InterfacesRemoved")]
    assert gone == [[paths[1], [PLAYER]], [paths[2], [DEVICE]]]


async def test_introspection(polite):
    polite.driver.add_device(device())
    where = {"interface": DRIVER + ".Introspectable"}
    text = await polite.call(ALICE, "Introspect", path=ROOT, **where)
    for name in ("Driver", "players", "devices"):
        assert f'<node name="{name}"' in text
    text = await polite.call(ALICE, "Introspect", path=f"{ROOT}/players", **where)
    assert text.count("<node name=") == 2
    text = await polite.call(ALICE, "Introspect", path=PATH, **where)
    assert "Ferrum Streaming Control Technology\N{TRADE MARK SIGN} (FSCT)" in text


async def test_nothing_is_left_in_the_end(polite):
    polite.driver.add_device(device())
    polite.faces.close()
    assert not polite.stack.tree.children("/")
    polite.driver.update_status(1, Status.PLAYING)
    polite.driver.unregister(1)


async def test_limits_can_be_read(world):
    found = await world.get_all(ALICE, PATH, INTERFACE)
    assert found == {
        "PreferredPlayer": 0,
        "SeatedUsersFirst": True,
        "MaxPlayers": 5,
        "MaxDevices": 127,
        "MaxTextBytes": 640,
    }
