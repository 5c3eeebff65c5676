import asyncio
import logging
import os
import random
import threading
from contextlib import asynccontextmanager
from dataclasses import replace
from unittest import mock

import pytest
from fsct.model.test_display import AHEAD, CLEARED, SWALLOWED, full_actions
from fsct.wire.vectors import vectors as blobs
from support.displays import START, vectors
from support.sessions import (
    BORN,
    UNIX_MS,
    Hasty,
    Room,
    groups,
    like,
    request,
    requests,
    taken,
)

from buswork.fsct.model.driver import Limits
from buswork.fsct.native.sessions import (
    ARRIVAL_PAUSE_S,
    ARRIVAL_TRIES,
    DEFECT,
    LINGER_S,
    RETRY_FIRST_S,
    RETRY_MAX_S,
    SYNC_S,
)
from buswork.fsct.wire.requests import Progress
from buswork.fsct.wire.terms import PlayerState, Status, TextId, Texts
from buswork.fsct.wire.uuids import device_uuid, twin_uuid
from buswork.sim.dac import fsct_bos
from buswork.sim.device import Fault, How, SimDevice, SimInterface
from buswork.usb import worker as worker_module

OUT, IN = 0x41, 0xC1
ENABLE, TIMESTAMP, PROGRESS, STATUS, TEXT = 1, 2, 3, 4, 0x10
GET_DESCRIPTOR = 6
TITLE, ARTIST, ALBUM, GENRE = list(TextId)[:4]
BLANK = ["status 15", "progress", "title", "artist", "album", "genre"]
SONG = Texts("Title", "Artist", "Album", "Genre")
PLAYING = PlayerState(Status.PLAYING, None, SONG)
TIMELINE = replace(START, update_unix_ms=UNIX_MS)


def words(dac):
    """What the device was asked since the last call, in short."""
    return [word(entry) for entry in taken(dac)]


def word(entry):
    kind, number, value, index, length, data, *stalled = entry
    text = {
        (0x80, GET_DESCRIPTOR): "BOS",
        (0x81, GET_DESCRIPTOR): f"set {length}",
        (IN, TIMESTAMP): "time",
        (OUT, ENABLE): f"enable {value}",
        (OUT, STATUS): f"status {value}",
        (OUT, PROGRESS): "progress",
        (OUT, TEXT): ["", "title", "artist", "album", "genre"][min(index >> 8, 4)],
    }[kind, number]
    if number == TEXT and data:
        text += f" {bytes.fromhex(data).decode()}"
    elif number == PROGRESS and data:
        text += f" {Progress.decode(bytes.fromhex(data)).position_ms}"
    return f"{text}!" if stalled else text


DARK = ["status 15", "title", "artist", "album", "genre"]
RECOGNISED = ["BOS", "set 5", "set 20", "enable 0"]
OPENED = ["time", "enable 1"]
FULL = ["status 1", "progress", "title Title", "artist Artist", "album Album", "genre Genre"]


@asynccontextmanager
async def a_room(**keywords):
    room = Room(**keywords)
    await room.sessions.start()
    yield room
    for plug in map(room.backend.plug_at, [device.port for device in room.backend.devices]):
        plug.release.set()
    await room.sessions.stop()
    assert room.tasks() == []
    assert not room.driver.displays
    for device in room.backend.devices:
        plug = room.backend.plug_at(device.port)
        await asyncio.to_thread(wait_for, lambda plug=plug: plug.opened == 0)
        assert plug.claims == {}


@pytest.fixture
async def room():
    async with a_room() as room:
        yield room


@pytest.fixture
async def dac(room):
    dac = await room.plug(room.dac())
    assert words(dac) == RECOGNISED
    return dac


@pytest.fixture
async def shown(room, dac):
    """A DAC that shows a player."""
    player = room.driver.register("p", 1000, "me")
    room.driver.update_state(player.id, PLAYING)
    await room.rest()
    assert words(dac) == [*OPENED, *FULL]
    return player


def title(room, player, text):
    room.driver.update_text(player.id, TITLE, text)


# What is a display


async def test_a_device_is_read_once_and_opened_when_there_is_a_player(room):
    dac = await room.plug(room.dac())
    assert words(dac) == RECOGNISED
    assert room.opened() == 0
    (display,) = room.displays
    assert display.device.id == str(device_uuid(dac.vendor, dac.product, "SIM-1"))
    assert (display.device.vendor, display.device.product) == ("buswork", "Simulated DAC")
    assert (display.device.serial, display.device.port) == ("SIM-1", "1-1")
    assert display.device.texts == {TITLE: 64, ARTIST: 64, ALBUM: 32, GENRE: 16}
    room.driver.register("p", 1000, "me")
    await room.rest()
    assert words(dac) == [*OPENED, *BLANK]
    assert room.opened() == 1


async def test_a_device_that_is_there_already_is_found():
    room = Room()
    dac = room.dac()
    room.backend.plug(dac, properties={"ID_FSCT": "1"})
    await room.sessions.start()
    await room.rest()
    assert words(dac) == RECOGNISED
    await room.sessions.stop()


@pytest.mark.parametrize("version", [0x0100, 0x0200])
async def test_rule_1_a_device_of_usb_2_0_is_asked_nothing(room, version):
    dac = room.dac()
    dac.version = version
    await room.plug(dac)
    assert (words(dac), room.workers, room.displays) == ([], [], [])


@pytest.mark.parametrize("version", [0x0201, 0x0210, 0x0300])
async def test_rule_1_later_ones_are_asked(room, version):
    dac = room.dac()
    dac.version = version
    await room.plug(dac)
    assert len(room.displays) == 1


@pytest.mark.parametrize("vector", blobs("bos_descriptors"), ids=lambda vector: vector["name"])
async def test_rules_1_to_8_as_the_original_decides(room, vector):
    facts = vector["device"]
    kind, subclass = facts["interface_class"], facts["interface_subclass"]
    dac = room.dac(bos=bytes.fromhex(vector["bos_hex"]))
    dac.version = int(facts["bcdUSB"], 16)
    dac.interfaces = (
        SimInterface(0, 0xFF, 0x01),
        SimInterface(1, kind, subclass, facts["interface_protocol"]),
    )
    await room.plug(dac)
    # Behind a capability of a reserved type it does not look.
    expected = vector["expect"] == "accept" or vector["name"] in RESERVED
    assert bool(room.displays) == expected
    assert len(dac.record) == (len(RECOGNISED) if expected else dac.version > 0x0200)


RESERVED = ("cap_type_0_before",)


async def test_rule_2_a_stall_of_the_bos_may_be_over_soon(room):
    dac = room.dac()
    dac.faults = [Fault(How.STALL, request_type=0x80, times=2)]
    await room.plug(dac)
    assert words(dac) == ["BOS!"]
    await room.later(ARRIVAL_PAUSE_S)
    await room.later(ARRIVAL_PAUSE_S)
    assert words(dac) == ["BOS!", *RECOGNISED]
    assert room.displays


async def test_what_else_is_in_the_way_is_said_too(room, caplog):
    dac = room.dac()
    dac.faults = [Fault(How.STALL, request_type=0x80)]
    await room.plug(dac)
    for _ in range(ARRIVAL_TRIES):
        await room.later(ARRIVAL_PAUSE_S)
    plug = room.backend.plug_at("1-1")
    dac.faults, plug.claims[1] = [], None  # a kernel driver has it
    for _ in range(3):
        await room.later(RETRY_MAX_S)
    plug.claims.clear()
    said = [record.getMessage() for record in caplog.records if "used yet" in record.msg]
    assert ["refused the request" in text for text in said] == [True, False]


@pytest.mark.parametrize("protocol", [0, 2])
async def test_rule_8_an_interface_of_another_protocol_is_none_of_ours(room, caplog, protocol):
    dac = await room.plug(room.dac(protocol=protocol))
    assert words(dac) == ["BOS"]
    assert f"protocol {protocol}" in caplog.text
    await room.later(RETRY_MAX_S)
    assert (words(dac), room.displays) == ([], [])


async def test_rule_8_the_first_interface_with_the_subclass_is_the_one(room):
    dac = room.dac()
    first, last = SimInterface(0, 0xFF, 0x41, 1), SimInterface(3, 0xFF, 0x42, 1)
    dac.interfaces = (last, first, *dac.interfaces)
    await room.plug(dac)
    assert {entry["wIndex"] for entry in dac.record} == {"0x0000", "0x0001"}
    room.driver.register("p", 1000, "me")
    await room.rest()
    assert set(room.backend.plug_at("1-1").claims) == {1}


async def test_rule_8_an_interface_that_is_not_there(room, caplog):
    dac = await room.plug(room.dac(bos=fsct_bos(0x43)))
    assert words(dac) == ["BOS"]
    assert "no interface of the subclass" in caplog.text


async def test_rule_8_other_settings_of_an_interface_do_not_count(room):
    dac = room.dac()
    room.backend.plug(dac, properties={"ID_FSCT": "1"})
    plug = room.backend.plug_at("1-1")
    room.backend.unplug("1-1")
    await room.rest()
    interfaces = tuple(replace(each, alternate=1) for each in plug.facts.interfaces)
    room.backend._plugs["1-1"] = replace_plug(plug, interfaces)
    for listener in room.backend.on_add:
        listener(room.backend.devices[0])
    await room.rest()
    assert not room.displays


def replace_plug(plug, interfaces):
    facts = replace(plug.facts, interfaces=interfaces)
    return type(plug)(plug.device, facts, plug.path)


async def test_a_device_without_an_interface_of_its_own_kind_is_not_opened(room):
    dac = room.dac()
    dac.interfaces = (SimInterface(0, 0x01), SimInterface(1, 0x03))
    await room.plug(dac)
    assert room.workers == []


async def test_only_what_udev_marked_is_opened(room):
    dac = await room.plug(room.dac(), marked=False)
    assert room.workers == []
    room.backend.unplug("1-1")
    room.backend.plug(dac, properties={"ID_FSCT": "yes"})
    await room.rest()
    assert room.workers == []


async def test_or_all_of_them_if_so_told(caplog):
    caplog.set_level(logging.INFO)
    async with a_room(unmarked=True) as room:
        await room.plug(room.dac(), marked=False)
        assert len(room.displays) == 1
        other = SimDevice([SimInterface(0, 0xFF)])
        other.version, other.bos = 0x0210, bytes.fromhex("050f0c000107100200000000")
        await room.plug(other, "1-2", marked=False)
        assert len(room.displays) == 1
        (line,) = [record for record in caplog.records if "1-2" in record.getMessage()]
        assert line.levelno == logging.INFO  # there is nothing wrong with it


@pytest.mark.parametrize("vector", blobs("fsct_descriptor_sets"), ids=lambda vector: vector["name"])
async def test_descriptor_sets_as_the_original_takes_them(room, vector):
    dac = await room.plug(room.dac(descriptors=bytes.fromhex(vector["set_hex"])))
    assert bool(room.displays) == (vector["expect"] == "accept")
    assert words(dac)[:2] == ["BOS", "set 5"]


async def test_a_set_longer_than_a_transfer_is_read_as_far_as_it_goes(room, caplog):
    texts = b"\x06\x32\x00\x01\xff\xff"
    dac = await room.plug(room.dac(descriptors=b"\x05\x31\xff\xff\x07" + texts))
    assert words(dac) == ["BOS", "set 5", "set 4096", "enable 0"]
    assert room.displays[0].device.texts == {TITLE: 0xFFFF}
    assert caplog.text == ""


async def test_a_text_longer_than_a_transfer_is_cut(room, caplog):
    texts = b"\x06\x32\x03\x01\xff\xff"  # UTF-32
    facts = {"coding": 3, "texts": {1: 0xFFFF}}
    dac = await room.plug(room.dac(descriptors=b"\x05\x31\x0b\x00\x07" + texts, **facts))
    room.driver.limits = Limits(text_bytes=4096)
    player = room.driver.register("p", 1000, "me")
    title(room, player, "x" * 4096)
    await room.rest()
    assert dac.texts == {1: "x" * 1024}
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("what", "length"),
    [("BOS", length) for length in (0, 1, 4, 5, 34)] + [("set", length) for length in (0, 3, 4)],
)
@pytest.mark.parametrize("times", [1, ARRIVAL_TRIES + 3])
async def test_answers_that_are_cut_short_are_asked_for_again(room, caplog, what, length, times):
    dac = room.dac()
    assert len(dac.bos) == 35
    kind = {"BOS": 0x80, "set": 0x81}[what]
    dac.faults = [
        Fault(How.DONE, request=GET_DESCRIPTOR, request_type=kind, length=length, times=times)
    ]
    await room.plug(dac)
    for _ in range(times):
        assert not room.displays
        await room.later(RETRY_MAX_S)
    assert room.displays
    assert ("can't be used yet: the device sent" in caplog.text) == (times > 1)
    assert "no display for us" not in caplog.text
    assert "Traceback" not in caplog.text


async def test_the_end_of_a_set_that_is_cut_short_in_its_beginning(room):
    dac = room.dac()
    dac.faults = [Fault(How.DONE, request_type=0x81, length=4, after=1, times=1)]
    await room.plug(dac)
    assert words(dac) == ["BOS", "set 5", "set 20"]
    await room.later(ARRIVAL_PAUSE_S)
    assert words(dac) == RECOGNISED


@pytest.mark.parametrize("bos", ["0510160001", "050f050000", "050f090001" + "02100500"])
async def test_what_is_whole_and_wrong_refuses_a_device(room, caplog, bos):
    dac = await room.plug(room.dac(bos=bytes.fromhex(bos)))
    await room.later(RETRY_MAX_S)
    assert words(dac) == ["BOS"]


async def test_no_more_devices_than_allowed(caplog):
    async with a_room(limits=Limits(devices=1)) as room:
        await room.plug(room.dac("a"))
        await room.plug(room.dac("b"), "1-2")
        assert len(room.displays) == 1
        for _ in range(ARRIVAL_TRIES):
            await room.later(ARRIVAL_PAUSE_S)
        assert caplog.text.count("MaxDevices") == 1
        for _ in range(3):
            await room.later(RETRY_MAX_S)
        assert caplog.text.count("MaxDevices") == 1
        await room.unplug()
        await room.later(RETRY_MAX_S)
        assert [display.device.serial for display in room.displays] == ["b"]


async def test_what_a_crash_left_lit_goes_dark(room):
    dac = room.dac()
    dac.power_on = lambda: None  # it has been there all the time
    dac.is_enabled = True
    await room.plug(dac)
    assert not dac.is_enabled
    assert room.displays


async def test_a_device_that_hangs_while_it_goes_dark_is_no_display_yet(monkeypatch):
    monkeypatch.setattr(worker_module, "SLACK_SECONDS", 0.01)
    async with a_room(worker=Hasty) as room:
        dac = room.dac()
        dac.faults = [Fault(How.HANG, request=ENABLE, times=1)]
        await room.plug(dac)
        assert not room.displays
        await end_hang(room, room.backend.plug_at("1-1"))
        await room.later(ARRIVAL_PAUSE_S)
        assert room.displays


@pytest.mark.parametrize("how", [How.STALL, How.SILENCE])
async def test_a_display_that_does_not_go_dark_is_one_all_the_same(how):
    async with a_room(worker=Hasty) as room:
        dac = room.dac()
        dac.faults = [Fault(how, request=ENABLE)]
        await room.plug(dac)
        assert words(dac) in (RECOGNISED, [*RECOGNISED[:-1], "enable 0!"])
        assert room.displays


# A new device may need a moment


@pytest.mark.parametrize("what", ["open", "claim", "BOS", "set", "whole set"])
async def test_a_device_that_is_not_ready_is_tried_ten_times_soon(room, caplog, what):
    dac = room.dac()
    fault = Fault(How.STALL, request=GET_DESCRIPTOR, request_type=0x81)
    dac.faults = {
        "BOS": [Fault(How.STALL, request_type=0x80)],
        "set": [fault],
        "whole set": [Fault(How.STALL, request_type=0x81, after=n + 1, times=1) for n in ()],
    }.get(what, [])
    with mock.patch.object(room.backend, "open_device", wraps=room.backend.open_device) as opening:
        room.backend.plug(dac, properties={"ID_FSCT": "1"})
        plug = room.backend.plug_at("1-1")
        plug.may_be_opened = what != "open"
        if what == "claim":
            plug.claims[1] = None  # a kernel driver has it
        if what == "whole set":
            room.backend.ctrl_transfer = refuse_long_sets(room.backend.ctrl_transfer)
        await room.rest()
        for tries in range(1, ARRIVAL_TRIES + 1):
            assert opening.call_count == tries
            assert "can't be used yet" not in caplog.text or tries == ARRIVAL_TRIES
            await room.later(ARRIVAL_PAUSE_S if tries < ARRIVAL_TRIES else RETRY_FIRST_S)
        assert room.clock.slept[:ARRIVAL_TRIES] == pytest.approx(
            [ARRIVAL_PAUSE_S] * (ARRIVAL_TRIES - 1) + [RETRY_FIRST_S]
        )
        assert caplog.text.count("can't be used yet") == 1
        # Later each time, for as long as it is there; and not in vain.
        for _ in range(10):
            await room.later(RETRY_MAX_S)
        assert max(room.clock.slept) == RETRY_MAX_S
        assert caplog.text.count("can't be used yet") == 1
        assert not room.displays
        plug.may_be_opened, plug.claims, dac.faults = True, {}, []
        if what == "whole set":
            room.backend.__dict__.pop("ctrl_transfer")
        await room.later(RETRY_MAX_S)
        assert len(room.displays) == 1


def refuse_long_sets(transfer):
    def refused(handle, kind, number, value, index, data, timeout):
        if kind == 0x81 and len(data) > 5:
            handle.plug.device.faults = [Fault(How.STALL, request_type=0x81, times=1)]
        return transfer(handle, kind, number, value, index, data, timeout)

    return refused


# The captures, transfer by transfer


def at_time_of(room, transfers, timeline):
    """Puts the clocks to where they were when the original sent this progress; returns a timeline
    that is then where it was. (Its clock knows parts of a millisecond.)"""
    for entry in transfers:
        if decoded := entry.get("decoded"):
            room.clock.time = BORN + decoded["device_timestamp_ms"] / 1000
            moved = decoded["position_ms"] - timeline.position_ms
            elapsed = moved // timeline.rate if timeline.rate else 0
            room.clock.wall_ms = timeline.update_unix_ms + elapsed - 1000 * room.clock.time
            rest = round(moved - elapsed * timeline.rate)
            return replace(timeline, position_ms=timeline.position_ms + rest)
    return timeline


DARKENED = (OUT, ENABLE, 0, 1, 0, "")


def check_arrival(found, captured):
    """The original enables the device twice, and we make it go dark before."""
    found = [entry for entry in found if entry != DARKENED]
    assert [*found, found[-1]] == requests(captured)


@pytest.mark.parametrize(
    "name",
    [
        "full_utf8",
        "full_utf16",
        "full_ucs2",
        "func_status_only",
        "func_none_no_text",
        "func_with_image_and_queue",
    ],
)
async def test_a_captured_life(room, name):
    transfers = vectors("usb_transfers")["scenarios"][name]["transfers"]
    dac = like(room, [entry for entry in transfers if "mark" not in entry])
    (_, arrival), (_, nothing), *marks = groups(transfers)
    assert not nothing
    await room.plug(dac)
    player = room.driver.register("demo", 1000, "me")
    await room.rest()
    found = taken(dac)
    length = len(requests(arrival))
    has_progress = (IN, TIMESTAMP) in [entry[:2] for entry in found]
    check_arrival(found[:length], arrival)
    # An unknown player is shown at once; what an earlier life may have left goes.
    assert {entry[5] for entry in found[length:]} == {""}
    for mark, method, *values in full_actions():
        captured_mark, captured = marks.pop(0)
        assert mark.startswith(captured_mark[:30])
        if method == "update_timeline" and captured:
            values = [at_time_of(room, captured, values[0])]
        elif method == "update_state":
            at_time_of(room, captured, values[0].timeline)
        getattr(room.driver, method)(player.id, *values)
        await room.rest()
        found = taken(dac)
        if has_progress and mark in (CLEARED, AHEAD, SWALLOWED):
            assert not captured  # what the original lost
            expected = {
                CLEARED: [(OUT, PROGRESS, 0, 1, 0)],
                AHEAD: [(OUT, PROGRESS, 0, 1, 20)],
                SWALLOWED: [(OUT, STATUS, 1, 1, 0)],
            }
            assert [entry[:5] for entry in found] == expected[mark]
        else:
            assert found == requests(captured), mark
    room.driver.unregister(player.id)
    await room.rest()
    assert taken(dac) == requests(marks.pop(0)[1])
    await room.sessions.stop()
    assert taken(dac) == requests(marks.pop(0)[1])
    assert dac.complaints == []


SHORT_LIVES = {
    "text_max0": Texts("𐐷ab", "B"),
    "text_utf16_max1_3": Texts("😀", "A"),
    "text_two_descs": Texts("𐐷ab", "B"),
    "text_queue_only": Texts("𐐷ab", "B"),
    "func_two": Texts("𐐷ab", "B"),
}


@pytest.mark.parametrize("name", SHORT_LIVES)
async def test_a_captured_short_life(room, name):
    transfers = vectors("usb_transfers")["scenarios"][name]["transfers"]
    player = room.driver.register("demo", 1000, "me")
    room.driver.update_state(player.id, PlayerState(Status.PLAYING, None, SHORT_LIVES[name]))
    dac = await room.plug(like(room, transfers))
    await room.sessions.stop()
    found = [entry for entry in taken(dac)[:-1] if entry != DARKENED] + [DARKENED]
    enabled = (OUT, ENABLE, 1, 1, 0, "")
    found.insert(found.index(enabled), enabled)
    assert found == requests(transfers)


async def test_captured_a_replug(room):
    scenario = vectors("usb_scenarios")["scenarios"]["hp_basic"]
    (_, arrival), (_, filled) = groups(scenario["first"])
    dac = await room.plug(like(room, arrival))
    player = room.driver.register("demo", 1000, "me")
    state = PlayerState(
        Status.PLAYING, replace(START, position_ms=12345), Texts("T1", "A", "B", "G")
    )
    at_time_of(room, filled, state.timeline)
    room.driver.update_state(player.id, state)
    await room.rest()
    found = taken(dac)
    check_arrival(found[: len(arrival)], arrival)
    assert found[len(arrival) :] == requests(filled)

    (_, arrival), (_, paused), (_, titled), (_, moved), (_, end) = groups(scenario["second"])
    await room.unplug()
    assert not room.displays
    await room.plug(dac)
    again = taken(dac)
    check_arrival(again[: len(arrival)], arrival)
    # The original sends nothing more.
    assert [word(entry)[:8] for entry in again[len(arrival) :]] == [
        word(request(entry))[:8] for entry in filled
    ]
    room.driver.update_status(player.id, Status.PAUSED)
    await room.rest()
    assert taken(dac) == requests(paused)
    title(room, player, "T2")
    await room.rest()
    assert taken(dac) == requests(titled)
    timeline = replace(START, position_ms=100, duration_ms=110_000)
    dac.power_on()
    dac.is_enabled = True
    decoded = next(entry["decoded"] for entry in moved if "decoded" in entry)
    room.clock.wall_ms = (
        START.update_unix_ms + decoded["position_ms"] - 100 - 1000 * room.clock.time
    )
    room.driver.update_state(
        player.id, PlayerState(Status.PAUSED, timeline, Texts("T2", "A2", "B", "G"))
    )
    await room.rest()
    progress, artist = taken(dac)
    assert artist == request(moved[1])
    assert Progress.decode(bytes.fromhex(progress[5]))[:2] == (110, 110)
    await room.sessions.stop()
    assert taken(dac) == requests(end)


@pytest.mark.parametrize("name", ["hp_proto2", "hp_notfsct", "hp_bcd200"])
async def test_captured_devices_that_are_none(room, name):
    log = vectors("usb_scenarios")["scenarios"][name]["log"]
    facts = {"protocol": 2} if name == "hp_proto2" else {}
    dac = like(room, log, **facts) if log else room.dac()
    dac.version = 0x0200 if name == "hp_bcd200" else 0x0201
    await room.plug(dac)
    for _ in range(20):
        await room.later(RETRY_MAX_S)
    assert taken(dac) == requests(log)


async def test_captured_a_set_that_stalls_three_times(room):
    log = vectors("usb_scenarios")["scenarios"]["hp_retry_set3"]["log"]
    dac = like(room, log)
    dac.faults = [Fault(How.STALL, request_type=0x81, times=3)]
    await room.plug(dac)
    for _ in range(3):
        await room.later(ARRIVAL_PAUSE_S)
    room.driver.register("p", 1000, "me")
    await room.rest()
    found = taken(dac)
    arrival = [entry for entry in log if entry["wValue"] != "0x0000" or entry["bRequest"] != "0x01"]
    check_arrival(found[: len(arrival)], arrival)


async def test_captured_an_enable_that_stalls_three_times(room):
    log = vectors("usb_scenarios")["scenarios"]["hp_retry_enable3"]["log"]
    dac = like(room, log)
    dac.faults = [Fault(How.STALL, request_type=OUT, request=ENABLE, after=1, times=3)]
    await room.plug(dac)
    room.driver.register("p", 1000, "me")
    await room.rest()
    # What the device is, is known; it is not asked for again, as the original does.
    assert words(dac) == [*RECOGNISED, "time", "enable 1!", "enable 0!"]
    assert "refused" in room.displays[0].error
    await room.later(RETRY_FIRST_S)
    assert words(dac) == ["time", "enable 1!", "enable 0"]
    await room.later(2 * RETRY_FIRST_S)
    assert words(dac) == [*OPENED, *BLANK]
    assert room.displays[0].error == ""


async def test_captured_equal_serials(room):
    scenario = vectors("usb_scenarios")["scenarios"]["same_serial"]
    dacs = [
        await room.plug(like(room, scenario[name][:6]), f"1-{at}")
        for at, name in enumerate("AB", 1)
    ]
    player = room.driver.register("p", 1000, "me")
    room.driver.update_state(player.id, PlayerState(Status.PLAYING, None, Texts("P1")))
    await room.rest()
    arrival, expected = scenario["B"][:6], requests(scenario["B"][6:])
    for dac in dacs:
        found = taken(dac)
        check_arrival(found[:6], arrival)
        assert found[6:9] == expected
        assert [entry[5] for entry in found[9:]] == ["", "", ""]
    await room.unplug("1-1")
    room.driver.update_status(player.id, Status.PAUSED)
    await room.rest()
    assert words(dacs[1]) == ["status 2"]  # the original sends nothing


async def test_captured_a_text_that_stalls(room):
    log = vectors("usb_scenarios")["scenarios"]["text_stall"]["log"]
    (_, first), (_, second), (_, third), (_, end) = groups(log)
    dac = like(room, first)
    dac.faults = [Fault(How.STALL, request=TEXT, index=0x0201)]
    await room.plug(dac)
    player = room.driver.register("p", 1000, "me")
    state = PlayerState(Status.PLAYING, None, Texts("T", "A"))
    room.driver.update_state(player.id, state)
    await room.rest()
    found = taken(dac)
    check_arrival(found[:6], first[:6])
    # The original stops at the artist.
    assert found[6:] == [
        *requests(first[6:]), (OUT, TEXT, 0, 0x0301, 0, ""), (OUT, TEXT, 0, 0x0401, 0, "")
    ]  # fmt: skip
    room.driver.update_state(player.id, replace(state, status=Status.PAUSED))
    await room.rest()
    # It sends all again, up to the artist.
    assert taken(dac) == requests(second)[:1]
    room.driver.update_text(player.id, ALBUM, "Album")
    await room.rest()
    assert third == []
    assert words(dac) == ["album Album"]
    assert "refused" in room.displays[0].error
    await room.later(RETRY_FIRST_S)
    assert words(dac) == ["artist A!"]
    dac.faults = []
    await room.later(2 * RETRY_FIRST_S)
    assert words(dac) == ["artist A"]
    assert room.displays[0].error == ""
    await room.sessions.stop()
    assert taken(dac) == requests(end)


# What a display shows


async def test_the_newest_always_arrives(room, dac, shown):
    for number in range(600):
        title(room, shown, f"t{number}")
    await room.rest()
    assert words(dac) == ["title t599"]
    for number in range(100):
        title(room, shown, f"u{number}")
        await asyncio.sleep(0)
    await room.rest()
    assert words(dac)[-1] == "title u99"
    assert dac.texts[1] == "u99"


async def test_clearing_reaches_the_device(room, dac, shown):
    room.driver.update_timeline(shown.id, TIMELINE)
    await room.rest()
    assert words(dac) == ["progress 0"]
    room.driver.update_timeline(shown.id, None)
    room.driver.update_text(shown.id, ALBUM, None)
    await room.rest()
    assert words(dac) == ["progress", "album"]


async def test_a_second_player_is_shown_when_the_first_one_goes(room, dac, shown):
    other = room.driver.register("q", 1000, "me")
    room.driver.update_state(other.id, replace(PLAYING, texts=replace(SONG, title="Other")))
    await room.rest()
    assert words(dac) == []
    room.driver.unregister(shown.id)
    await room.rest()
    assert words(dac) == ["title Other"]


async def test_the_position_is_that_of_the_moment_of_sending(room, dac, shown):
    room.clock.pass_time(2.5)
    room.driver.update_timeline(shown.id, replace(TIMELINE, position_ms=1000, rate=2.0))
    await room.rest()
    assert words(dac) == ["progress 6000"]
    assert dac.timeline == (241, 6000, 2500, 2.0)


# Open while there is something to show


async def test_a_display_is_cleared_at_once_and_goes_off_later(room, dac, shown):
    room.driver.release("me")
    await room.rest()
    assert words(dac) == DARK
    await room.later(LINGER_S - 0.1)
    assert room.opened() == 1
    await room.later(0.1)
    assert words(dac) == ["enable 0"]
    assert room.opened() == 0
    await room.later(1000)
    assert words(dac) == []
    player = room.driver.register("q", 1000, "me")
    room.driver.update_state(player.id, PLAYING)
    await room.rest()
    assert words(dac) == [*OPENED, *FULL]


async def test_the_next_player_does_not_make_it_go_off_and_on(room, dac, shown):
    for _ in range(3):
        room.driver.release("me")
        await room.later(LINGER_S - 0.1)
        assert words(dac) == DARK
        player = room.driver.register("q", 1000, "me")
        room.driver.update_state(player.id, PLAYING)
        await room.later(0.05)
        assert words(dac) == [step for step in FULL if step != "progress"]
    await room.later(10 * LINGER_S)
    assert words(dac) == []
    assert len(room.workers) == 2


async def test_a_player_that_does_not_wait_to_be_shown_costs_nothing(room, dac):
    room.driver.register("p", 1000, "me")
    room.driver.release("me")
    await room.rest()
    assert words(dac) == []
    assert len(room.workers) == 1


# What goes wrong


@pytest.mark.parametrize("kind", range(4))
async def test_fault_2_one_text_that_stalls_holds_up_no_other(room, dac, shown, kind):
    index = (kind + 1) << 8 | 1
    dac.faults = [Fault(How.STALL, request=TEXT, index=index)]
    texts = Texts("t", "a", "b", "g")
    room.driver.update_state(shown.id, PlayerState(Status.PAUSED, None, texts))
    await room.rest()
    found = words(dac)
    assert len(found) == 5
    assert [entry for entry in found if entry.endswith("!")] == [found[kind + 1]]
    for _ in range(20):
        await room.later(RETRY_MAX_S)
    assert set(words(dac)) == {found[kind + 1]}
    dac.faults = []
    await room.later(RETRY_MAX_S)
    assert words(dac) == [found[kind + 1].rstrip("!")]
    assert dac.texts == {1: "t", 2: "a", 3: "b", 4: "g"}


async def test_fault_13_a_device_that_says_not_yet_for_ever_delays_no_other():
    async with a_room(worker=Hasty) as room:
        deaf, good = room.dac("deaf"), room.dac("good")
        await room.plug(deaf, "1-1")
        await room.plug(good, "1-2")
        deaf.faults = [Fault(How.SILENCE, request_type=OUT)]
        player = room.driver.register("p", 1000, "me")
        room.driver.update_state(player.id, PLAYING)
        await room.rest()
        assert good.texts[1] == "Title"
        assert not deaf.texts
        assert "did not answer in time" in room.displays[0].error
        title(room, player, "New")
        await room.rest()
        assert good.texts[1] == "New"
        deaf.faults = []
        await room.later(RETRY_MAX_S)
        assert deaf.texts[1] == "New"
        assert room.displays[0].error == ""


async def test_fault_13_while_a_transfer_hangs_others_get_theirs(room):
    """Here time does pass: the other device is not made to wait for the first one's second."""
    deaf, good = await room.plug(room.dac("a"), "1-1"), await room.plug(room.dac("b"), "1-2")
    deaf.faults = [Fault(How.HANG, request=STATUS)]
    room.driver.update_state(room.driver.register("p", 1000, "me").id, PLAYING)
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    good.on_display = lambda lines: "Genre" in lines and loop.call_soon_threadsafe(done.set)
    await asyncio.wait_for(done.wait(), 30)
    assert good.texts[4] == "Genre"
    assert deaf.texts == {}
    room.backend.plug_at("1-1").release.set()
    await room.rest()
    assert deaf.texts[4] == "Genre"


async def test_fault_1_and_13_a_device_that_is_plugged_in_again_is_filled_again(room, dac, shown):
    room.clock.pass_time(100)
    await room.unplug()
    assert not room.displays
    assert room.tasks() == []
    title(room, shown, "Meanwhile")
    await room.plug(dac)
    expected = [entry.replace("Title", "Meanwhile") for entry in FULL]
    assert words(dac) == [*RECOGNISED, *OPENED, *expected]


async def test_fault_5_equal_serials_are_told_apart_by_their_ports(room):
    dacs = [await room.plug(room.dac(None), port) for port in ("1-1", "1-2", "2-3.1")]
    uuid = device_uuid(dacs[0].vendor, dacs[0].product, "")
    twins = [twin_uuid(uuid, port) for port in ("1-2", "2-3.1")]
    assert list(room.driver.displays) == [str(uuid), *map(str, twins)]
    player = room.driver.register("p", 1000, "me")
    room.driver.assign(player.id, str(twins[0]))
    await room.unplug("1-2")
    await room.plug(dacs[1], "1-2")
    assert room.driver.display(str(twins[0])).active is player
    # The first one's name is not taken over by those that are there, or come before it.
    await room.unplug("1-1")
    assert list(room.driver.displays) == [str(twins[1]), str(twins[0])]
    await room.unplug("1-2")
    await room.plug(dacs[1], "1-2")
    await room.plug(dacs[0], "1-1")
    ids = {display.device.port: display.device.id for display in room.displays}
    assert ids == {"1-1": str(uuid), "1-2": str(twins[0]), "2-3.1": str(twins[1])}


STEPS = 4 + 2 + 6 + 1


@pytest.mark.parametrize("step", range(STEPS))
async def test_a_device_may_vanish_at_any_step(room, caplog, step):
    dac = room.dac()
    dac.faults = [Fault(How.VANISH, after=step, times=1)]
    player = room.driver.register("p", 1000, "me")
    room.driver.update_state(player.id, PLAYING)
    await room.plug(dac)
    if step == STEPS - 1:
        room.driver.release("me")
        await room.later(LINGER_S)
    assert (room.displays, room.tasks(), room.backend.devices) == ([], [], [])
    assert len(dac.record) == step + 1
    assert "Traceback" not in caplog.text
    dac.faults = []
    if step == STEPS - 1:
        player = room.driver.register("p", 1000, "me")
        room.driver.update_state(player.id, PLAYING)
    dac.record.clear()
    await room.plug(dac)
    assert words(dac) == [*RECOGNISED, *OPENED, *FULL]


@pytest.mark.parametrize("step", range(STEPS - 1))
@pytest.mark.parametrize("how", [How.STALL, How.SILENCE], ids=["stalls", "is silent"])
async def test_a_device_that_fails_once_at_any_step_is_filled_all_the_same(step, how):
    async with a_room(worker=Hasty) as room:
        dac = room.dac()
        dac.faults = [Fault(how, after=step, times=1)]
        player = room.driver.register("p", 1000, "me")
        room.driver.update_state(player.id, replace(PLAYING, timeline=TIMELINE))
        await room.plug(dac)
        for _ in range(3):
            await room.later(RETRY_FIRST_S)
        assert dac.texts == {1: "Title", 2: "Artist", 3: "Album", 4: "Genre"}
        assert (dac.status, dac.is_enabled) == (1, True)
        assert dac.timeline is not None
        assert room.displays[0].error == ""


async def test_a_device_that_another_program_has_is_taken_when_it_is_free(room, dac, caplog):
    plug = room.backend.plug_at("1-1")
    plug.claims[1] = None
    player = room.driver.register("p", 1000, "me")
    room.driver.update_state(player.id, PLAYING)
    await room.rest()
    for _ in range(10):
        await room.later(RETRY_MAX_S)
    assert words(dac) == []
    assert "another program" in room.displays[0].error
    assert caplog.text.count("another program") == 1
    assert room.opened() == 0
    assert room.clock.slept[-10:] == [
        *(RETRY_FIRST_S * 2**n for n in range(1, 6)), *[RETRY_MAX_S] * 5
    ]  # fmt: skip
    del plug.claims[1]
    await room.later(RETRY_MAX_S)
    assert words(dac) == [*OPENED, *FULL]
    assert room.displays[0].error == ""


async def test_a_device_nobody_wants_is_not_tried_again(room, dac):
    room.backend.plug_at("1-1").claims[1] = None
    room.driver.register("p", 1000, "me")
    await room.rest()
    room.driver.release("me")
    tried = len(room.workers)
    for _ in range(5):
        await room.later(RETRY_MAX_S)
    assert len(room.workers) == tried
    room.backend.plug_at("1-1").claims.clear()


async def test_a_device_that_hangs_is_waited_for_with_one_thread(monkeypatch):
    monkeypatch.setattr(worker_module, "SLACK_SECONDS", 0.01)
    async with a_room(worker=Hasty) as room:
        dac = await room.plug(room.dac())
        dac.faults = [Fault(How.HANG, request=STATUS)]
        room.driver.update_state(room.driver.register("p", 1000, "me").id, PLAYING)
        for _ in range(9):
            await room.rest()
            room.clock.pass_time(RETRY_MAX_S)
        await room.rest()
        pauses = [RETRY_FIRST_S * 2**n for n in range(6)]
        assert room.clock.slept == [*pauses, *[RETRY_MAX_S] * 4]
        assert len(room.workers) == 2  # one to look, one that hangs
        assert room.opened() == 1
        assert "an earlier transfer has not ended" in room.displays[0].error
        dac.faults = []
        await end_hang(room, room.backend.plug_at("1-1"))
        await room.later(RETRY_MAX_S)
        assert dac.texts[1] == "Title"
        assert room.displays[0].error == ""


async def end_hang(room, plug):
    plug.release.set()
    left = [worker._ended for worker in room.workers if worker.is_left]
    await asyncio.wait_for(asyncio.gather(*left), 30)


@pytest.mark.parametrize("hanging", [STATUS, ENABLE, GET_DESCRIPTOR])
async def test_what_hangs_has_one_thread_though_it_is_plugged_in_again(monkeypatch, hanging):
    monkeypatch.setattr(worker_module, "SLACK_SECONDS", 0.01)
    monkeypatch.setattr(worker_module, "CLOSE_SECONDS", 0.01)
    async with a_room(worker=Hasty) as room:
        room.driver.update_state(room.driver.register("p", 1000, "me").id, PLAYING)
        dac = room.dac()
        dac.faults = [Fault(How.HANG, request=hanging)]
        await room.plug(dac)
        plug, made = room.backend.plug_at("1-1"), len(room.workers)
        for _ in range(5):
            await room.unplug()
            await room.plug(dac)
            room.sessions.sleep(True)
            room.sessions.sleep(False)
            await room.later(RETRY_MAX_S)
        assert len(room.workers) == made
        other = await room.plug(room.dac("other"), "1-2")
        assert other.texts[1] == "Title"
        dac.faults = []
        await end_hang(room, plug)
        await room.later(RETRY_MAX_S)
        assert dac.texts[1] == "Title"


async def test_errors_are_logged_when_they_change(room, dac, shown, caplog):
    dac.faults = [Fault(How.STALL, request=TEXT)]
    for number in range(20):
        title(room, shown, f"t{number}")
        await room.later(RETRY_FIRST_S)
    assert caplog.text.count("refused") == 1


async def test_a_defect_of_ours_is_logged_once_and_tried_again(room, dac, monkeypatch, caplog):
    other = await room.plug(room.dac("other"), "1-2")
    words(other)
    display = room.displays[0]
    with monkeypatch.context() as patch:
        patch.setattr(display, "next_step", mock.Mock(side_effect=RuntimeError("no such step")))
        room.driver.update_state(room.driver.register("p", 1000, "me").id, PLAYING)
        await room.rest()
        assert words(other) == [*OPENED, *FULL]
        for pause in (RETRY_FIRST_S, 2 * RETRY_FIRST_S, 4 * RETRY_FIRST_S):
            assert room.clock.slept[-1] == pause
            assert words(dac) == [*OPENED, "enable 0"]
            assert (room.opened(), display.error) == (0, DEFECT)
            await room.later(pause)
        assert caplog.text.count("RuntimeError: no such step") == 1
    words(dac)
    await room.later(RETRY_MAX_S)
    assert words(dac) == [*OPENED, *FULL]
    assert display.error == ""


async def test_so_is_one_in_recognising_a_device(room, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        failure = mock.Mock(side_effect=RuntimeError("no such set"))
        patch.setattr("buswork.fsct.native.sessions.parse_set", failure)
        await room.plug(room.dac())
        for _ in range(ARRIVAL_TRIES - 1):
            await room.later(ARRIVAL_PAUSE_S)
        await room.later(RETRY_FIRST_S)
        assert failure.call_count == ARRIVAL_TRIES + 1
        assert room.clock.slept[-2:] == [RETRY_FIRST_S, 2 * RETRY_FIRST_S]
        assert caplog.text.count("RuntimeError: no such set") == 1
        assert not room.displays
    await room.later(RETRY_MAX_S)
    assert len(room.displays) == 1


# Clocks


@pytest.mark.parametrize("hours", [-1000, -1, 1, 1000])
async def test_a_wall_clock_that_is_put_forward_or_back(room, dac, shown, hours):
    """Times on the device stay right; what is said from then on is right as well."""
    room.clock.wall_ms += hours * 3_600_000
    room.clock.pass_time(10)
    room.driver.update_timeline(
        shown.id, replace(TIMELINE, position_ms=5000, update_unix_ms=room.clock.unix_ms() - 250)
    )
    await room.rest()
    assert words(dac) == ["progress 5250"]
    assert dac.timeline[1:3] == (5250, 10_000)
    assert dac.position_ms == 5250


@pytest.mark.parametrize("hours", [-1000, -1, 1, 1000])
async def test_a_wall_clock_that_is_set_while_a_player_plays(room, dac, shown, hours):
    """What was said before is still true, also of a device that comes back."""
    room.driver.update_timeline(shown.id, TIMELINE)
    await room.rest()
    assert words(dac) == ["progress 0"]
    room.clock.wall_ms += hours * 3_600_000
    room.clock.pass_time(10)
    # To say it once more, or something else, makes nothing new of it.
    room.driver.update_timeline(shown.id, replace(TIMELINE))
    room.driver.update_status(shown.id, Status.PAUSED)
    await room.rest()
    assert words(dac) == ["status 2"]
    await room.unplug()
    room.clock.pass_time(5)
    await room.plug(dac)
    assert "progress 15000" in words(dac)
    # What is said from now on is said by the clock as it is now.
    room.driver.update_timeline(
        shown.id, replace(TIMELINE, position_ms=70, update_unix_ms=room.clock.unix_ms() - 30)
    )
    await room.rest()
    assert words(dac) == ["progress 100"]


async def test_fault_7_a_device_whose_clock_is_ahead_of_ours(room):
    dac = room.dac()
    far = 2**63
    dac.now_ms = lambda: far + round((room.clock.time - BORN) * 1000)
    await room.plug(dac)
    player = room.driver.register("p", 1000, "me")
    room.driver.update_timeline(player.id, replace(TIMELINE, position_ms=7))
    room.clock.pass_time(1)
    await room.rest()
    assert dac.timeline == (241, 1007, far + 1000, 1.0)


async def test_the_clocks_are_compared_again_from_time_to_time(room, dac, shown):
    born = dac._born
    for number in range(1, 5):
        await room.later(SYNC_S - 1)
        room.driver.update_timeline(shown.id, replace(TIMELINE, position_ms=number))
        await room.rest()
        assert [entry[:8] for entry in words(dac)] == ["progress"]
        dac._born = born + number  # it lost a second
        await room.later(1)
        room.driver.update_timeline(shown.id, replace(TIMELINE, position_ms=-number))
        await room.rest()
        assert [entry[:8] for entry in words(dac)] == ["time", "progress"]
        assert dac.timeline[2] == dac.now_ms()


async def test_a_clock_that_was_read_once_has_to_do_when_it_can_not_be_read(
    room, dac, shown, caplog
):
    dac.faults = [Fault(How.STALL, request=TIMESTAMP)]
    await room.later(SYNC_S)
    for number in range(3):
        room.driver.update_timeline(shown.id, replace(TIMELINE, position_ms=number))
        await room.rest()
    assert [entry[:8] for entry in words(dac)] == ["time!", *["progress"] * 3]
    assert dac.timeline[2] == dac.now_ms()
    assert caplog.text.count("what its clock said before") == 1


@pytest.mark.parametrize(
    "fault",
    [
        Fault(How.STALL, request=TIMESTAMP),
        Fault(How.DONE, request=TIMESTAMP, length=7),
        Fault(How.DONE, request=TIMESTAMP, reply=b""),
    ],
    ids=["stall", "short", "empty"],
)
async def test_a_clock_that_can_not_be_read_costs_the_progress_alone(room, dac, fault):
    dac.faults = [fault]
    player = room.driver.register("p", 1000, "me")
    room.driver.update_state(player.id, replace(PLAYING, timeline=TIMELINE))
    await room.rest()
    assert dac.texts[4] == "Genre"
    assert dac.timeline is None
    assert room.displays[0].error
    # That there is none can be said without a clock.
    room.driver.update_timeline(player.id, None)
    await room.later(RETRY_FIRST_S)
    assert words(dac)[-1] == "progress"
    room.driver.update_timeline(player.id, TIMELINE)
    await room.rest()
    dac.faults = []
    await room.later(RETRY_MAX_S)
    assert dac.timeline is not None
    assert room.displays[0].error == ""


async def test_a_display_without_progress_is_not_asked_for_the_time(room):
    dac = await room.plug(room.dac(functionality=5))
    player = room.driver.register("p", 1000, "me")
    room.driver.update_state(player.id, replace(PLAYING, timeline=TIMELINE))
    await room.rest()
    assert words(dac) == [*RECOGNISED, "enable 1", "status 1", *FULL[2:]]


# The end, and sleep


async def test_stopping_turns_all_displays_off(room, dac, shown):
    other = await room.plug(room.dac("other"), "1-2")
    unused = await room.plug(room.dac("third"), "1-3")
    assert other.is_enabled
    room.driver.prefer(None)
    await room.sessions.stop()
    for each in (dac, other, unused):
        assert words(each)[-1] == "enable 0"
        assert not each.is_enabled
    assert not room.displays


async def test_stopping_does_not_open_what_is_closed(room, dac):
    await room.sessions.stop()
    assert words(dac) == []


async def test_stopping_does_not_wait_for_a_device_that_hangs(monkeypatch):
    monkeypatch.setattr(worker_module, "SLACK_SECONDS", 0.01)
    async with a_room(worker=Hasty) as room:
        dac, other = await room.plug(room.dac()), await room.plug(room.dac("other"), "1-2")
        dac.faults = [Fault(How.HANG, request=STATUS)]
        room.driver.register("p", 1000, "me")
        await asyncio.to_thread(wait_for, lambda: [e for e in dac.record if is_status(e)])
        await asyncio.wait_for(room.sessions.stop(), 30)
        assert not other.is_enabled


def is_status(entry):
    return word(request(entry)).startswith("status")


def wait_for(condition):
    done = threading.Event()
    for _ in range(30_000):
        if condition():
            return
        done.wait(0.001)
    raise AssertionError("it does not happen")


async def test_after_the_end_nothing_is_heard(room, dac):
    await room.sessions.stop()
    await room.plug(room.dac("late"), "1-2")
    assert room.tasks() == []


async def test_sleep_is_an_unplug_and_waking_a_plug(room, dac, shown):
    room.sessions.sleep(True)
    assert not room.displays  # at once
    await room.rest()
    assert words(dac) == ["enable 0"]
    assert (room.displays, room.tasks(), room.opened()) == ([], [], 0)
    await room.later(3600)
    # What is plugged in meanwhile has to wait; what is taken out is gone.
    other = await room.plug(room.dac("other"), "1-2")
    await room.plug(room.dac("third"), "1-3")
    await room.unplug("1-3")
    room.sessions.sleep(True)  # once more changes nothing
    assert words(other) == []
    room.sessions.sleep(False)
    room.sessions.sleep(False)
    await room.rest()
    assert words(dac) == [*RECOGNISED, *OPENED, *FULL]
    assert words(other) == [*RECOGNISED, *OPENED, *FULL]
    assert len(room.displays) == 2


async def test_it_is_told_when_displays_are_there_and_when_all_are_dark(room):
    dacs, told = [room.dac("a"), room.dac("b")], []
    room.sessions.on_lit = lambda lit: told.append((lit, [dac.is_enabled for dac in dacs]))
    room.driver.register("p", 1000, "me")
    await room.plug(SimDevice([SimInterface(0, 0xFF)]), "1-3")  # no display
    assert told == []
    for at, dac in enumerate(dacs, 1):
        await room.plug(dac, f"1-{at}")
    assert told.pop() == (True, [False, False])
    assert all(dac.is_enabled for dac in dacs)
    room.sessions.sleep(True)
    assert told == []  # they are lit, though the driver has none any more
    await room.rest()
    assert told.pop() == (False, [False, False])
    room.sessions.sleep(False)
    await room.rest()
    assert told.pop() == (True, [False, False])
    await room.unplug("1-1")
    assert told == []
    await room.unplug("1-2")
    assert [lit for lit, _ in told] == [False]


async def test_all_are_dark_when_the_last_one_is(room, monkeypatch):
    quick, slow = await room.plug(room.dac("a")), await room.plug(room.dac("b"), "1-2")
    room.driver.register("p", 1000, "me")
    await room.rest()
    told, go_on, transfer = [], threading.Event(), slow.transfer
    room.sessions.on_lit = told.append
    monkeypatch.setattr(slow, "transfer", lambda *about: go_on.wait() and transfer(*about))
    room.sessions.sleep(True)
    await asyncio.wait(room.tasks(), return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(0)
    assert ([quick.is_enabled, slow.is_enabled], told) == ([False, True], [])
    go_on.set()
    await room.rest()
    assert ([quick.is_enabled, slow.is_enabled], told) == ([False, False], [False])


async def test_a_device_that_is_changed_at_its_port_is_begun_anew(room, dac, shown):
    """Discovery takes it away and brings it again; its old session still lets go."""
    room.backend.unplug("1-1")
    room.backend.plug(dac, properties={"ID_FSCT": "1"})
    await room.rest()
    assert words(dac) == [*RECOGNISED, *OPENED, *FULL]
    assert len(room.displays) == 1


async def test_nothing_is_left_of_devices_that_come_and_go(room, dac, shown):
    await room.unplug()
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        await room.plug(dac)
        title(room, shown, os.urandom(4).hex())
        await room.rest()
        await room.unplug()
    assert threading.active_count() <= threads
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert len(asyncio.all_tasks()) == 1
    assert (room.displays, room.clock.waiting) == ([], {})


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_goes_wrong_in_the_end_the_newest_is_shown(seed):
    choice = random.Random(seed)
    async with a_room(worker=Hasty) as room:
        dacs = {f"1-{at}": room.dac(f"d{at}") for at in (1, 2, 3)}
        for port, dac in dacs.items():
            await room.plug(dac, port)
        players = [room.driver.register(f"p{at}", 1000, at) for at in range(3)]
        for _ in range(60):
            player = choice.choice(players)
            port, dac = choice.choice(list(dacs.items()))
            match choice.randrange(8):
                case 0 | 1:
                    room.driver.update_text(
                        player.id,
                        choice.choice([TITLE, ARTIST, ALBUM, GENRE]),
                        choice.choice("abc"),
                    )
                case 2:
                    room.driver.update_status(player.id, Status(choice.randrange(6)))
                case 3:
                    room.driver.update_timeline(player.id, choice.choice([None, TIMELINE]))
                case 4:
                    how = choice.choice([How.STALL, How.SILENCE])
                    dac.faults = [Fault(how, times=choice.randrange(1, 4))]
                case 5 if port in [device.port for device in room.backend.devices]:
                    room.backend.unplug(port)
                case 6 if port not in [device.port for device in room.backend.devices]:
                    room.backend.plug(dac, port, {"ID_FSCT": "1"})
                case 7:
                    room.sessions.sleep(choice.random() < 0.3)
            if choice.random() < 0.5:
                await room.later(choice.choice([0, 0.3, 5]))
        room.sessions.sleep(False)
        for port, dac in dacs.items():
            dac.faults = []
            if port not in [device.port for device in room.backend.devices]:
                room.backend.plug(dac, port, {"ID_FSCT": "1"})
        for _ in range(3):
            await room.later(RETRY_MAX_S)
        assert len(room.displays) == 3
        for display in room.displays:
            dac = next(dac for dac in dacs.values() if dac.serial == display.device.serial)
            active = display.active
            texts = {at: active.texts.get(TextId(at)) for at in (1, 2, 3, 4)}
            assert dac.texts == {at: text for at, text in texts.items() if text}
            assert dac.status == active.status
            assert (dac.timeline is None) == (active.timeline is None)
            assert display.error == ""
            assert dac.complaints == []
