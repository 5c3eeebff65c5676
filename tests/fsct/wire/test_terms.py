import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from buswork.fsct.wire import jsonrpc, methods
from buswork.fsct.wire.methods import METHODS
from buswork.fsct.wire.requests import Progress, progress_payload
from buswork.fsct.wire.terms import (
    FIELDS,
    JSON_FIELDS,
    MAX_RATE,
    PROGRESS_FIELDS,
    BadValue,
    Field,
    Status,
    Timeline,
)

ROOT = Path(__file__).parents[3]
DOC = "org.gtk.GDBus.DocString"
# What D-Bus has for the numbers of the fields, and for the lengths of texts.
D_BUS = {"u": (0, 2**32 - 1), "x": (-(2**63), 2**63 - 1), "t": (0, 2**64 - 1), "s": (0, 65535)}
TIMELINE = {"position_ms": "x", "duration_ms": "t", "rate": "d", "update_unix_ms": "x"}
CLOCKS = {"wall_ns": 1, "mono_ns": 2}
DEVICE = {"id": "4cfd0000-0000-0000-0000-000000000000", "vendor_id": 1, "product_id": 2}


def members():
    """Every member of the wing's interfaces: where it is, its element, what is said of it."""
    for path in sorted(ROOT.glob("dbus/org.fsct.*.xml")):
        for tag in ("method", "property"):
            for element in ET.parse(path).iter(tag):
                said = element.find(f"annotation[@name='{DOC}']").get("value")
                yield f"{path.stem}.{element.get('name')}", element, said


def test_what_a_field_takes():
    field = Field("n", "", -1, 2, "a number")
    assert [n for n in (-2, -1, 0, 2, 2.5, 3, math.nan, math.inf) if field.takes(n)] == [-1, 0, 2]


def test_codes_have_the_words_of_their_terms():
    status = FIELDS["status"]
    assert list(status.codes) == [int(each) for each in Status]
    assert (status.lowest, status.highest) == (0, 15)
    assert status.codes[Status.UNKNOWN] == "not known"
    assert FIELDS["metadata_id"].codes == {1: "title", 2: "artist", 3: "album", 4: "genre"}


def test_every_parameter_of_every_method_is_a_field_or_made_of_some():
    made_of = {"state": ("status", "timeline", "text"), "timeline": tuple(TIMELINE)}
    made_of["preferred_player_id"] = ("player_id",)
    names = {name for method in METHODS.values() for name in method.params}
    while composed := names & made_of.keys():
        names = (names - composed).union(*(made_of[name] for name in composed))
    assert names | {"major", "minor"} == FIELDS.keys()


# -- JSON-RPC and the version ----------------------------------------------------------------------


def read_mono_ns(number):
    timeline = {"position_ms": 0, "update_mono_ns": number, "duration_ms": 0, "rate": 0}
    jsonrpc.parse_params("update_player_timeline", {"player_id": 1, "timeline": timeline}, 0)


READERS = {
    "update_mono_ns": read_mono_ns,
    "wall_ns": lambda n: jsonrpc.parse_result("get_timesync", {**CLOCKS, "wall_ns": n}),
    "mono_ns": lambda n: jsonrpc.parse_result("get_timesync", {**CLOCKS, "mono_ns": n}),
    "vendor_id": lambda n: jsonrpc.parse_result("get_device_info", {**DEVICE, "vendor_id": n}),
    "product_id": lambda n: jsonrpc.parse_result("get_device_info", {**DEVICE, "product_id": n}),
    "major": lambda n: methods.parse_result("get_protocol_version", {"major": n, "minor": 0}),
    "minor": lambda n: methods.parse_result("get_protocol_version", {"major": 1, "minor": n}),
}


@pytest.mark.parametrize("name", READERS)
def test_the_range_of_what_is_read_elsewhere_than_in_the_checks(name):
    field, read = (FIELDS | JSON_FIELDS)[name], READERS[name]
    for number in (field.lowest, field.highest):
        read(number)
    for number in (field.lowest - 1, field.highest + 1):
        with pytest.raises(BadValue):
            read(number)


def test_what_json_has_more_is_all_tried():
    assert JSON_FIELDS.keys() <= READERS.keys()


# -- what a device gets ----------------------------------------------------------------------------


def test_a_progress_has_the_fields_in_their_order_and_ranges():
    assert Progress._fields == tuple(PROGRESS_FIELDS)
    for at in ("lowest", "highest"):
        numbers = {name: getattr(field, at) for name, field in PROGRESS_FIELDS.items()}
        assert Progress.decode(Progress(**numbers).encode()) == Progress(**numbers)


def test_what_is_beyond_the_range_of_a_device_is_cut():
    # Their times are cut as well: before it was switched on, and beyond all its days.
    least = Timeline(0, 0, 0, -MAX_RATE)
    most = Timeline(2**63 - 1, 0, 2**64 - 1, MAX_RATE)
    for timeline, difference, at in ((least, 10, "lowest"), (most, -(2**65), "highest")):
        sent = Progress.decode(progress_payload(timeline, 5, difference))
        assert sent == tuple(getattr(field, at) for field in PROGRESS_FIELDS.values())


# -- what D-Bus says of the same -------------------------------------------------------------------


def test_arguments_of_d_bus_hold_what_the_fields_take():
    looked_at = set()
    for where, element, _ in members():
        for arg in element.findall("arg"):
            field = FIELDS.get(arg.get("name"))
            if field is not None and field.name != "device_id":  # a text there
                lowest, highest = D_BUS[arg.get("type")]
                assert lowest <= field.lowest <= field.highest <= highest, where
                looked_at.add(field.name)
    assert looked_at == FIELDS.keys() - TIMELINE.keys() - {"device_id"}
    for name in ("position_ms", "duration_ms", "update_unix_ms"):
        lowest, highest = D_BUS[TIMELINE[name]]
        assert lowest <= FIELDS[name].lowest < FIELDS[name].highest == highest


def test_what_d_bus_says_of_numbers_is_what_the_fields_say():
    """Wherever a list of codes, a type or a length begins, it goes on as it must."""
    phrases = {
        name: ", ".join(f"{code} {word}" for code, word in FIELDS[name].codes.items())
        for name in ("status", "metadata_id")
    }
    found = set()
    for where, _, said in members():
        for name, phrase in phrases.items():
            first = phrase.partition(",")[0]
            assert said.count(first) == said.count(phrase), where
            found |= {(name, where)} if phrase in said else set()
        for name, kind in re.findall(r"\b(\w+_ms|rate) \((\w)\)", said):
            assert TIMELINE[name] == kind, where
            found.add((name, where))
        for number in re.findall(r"(\d+) bytes of UTF-8", said):
            assert int(number) == FIELDS["self_id"].highest, where
            found.add(("self_id", where))
    driver, player = "org.fsct.Driver", "org.fsct.Player"
    assert found == {
        ("self_id", f"{driver}.RegisterPlayer"),
        ("status", f"{driver}.UpdatePlayerState"),
        ("status", f"{driver}.UpdatePlayerStatus"),
        ("status", f"{player}.Status"),
        ("metadata_id", f"{driver}.UpdatePlayerMetadata"),
        ("metadata_id", "org.fsct.Device.Texts"),
        *((name, f"{driver}.UpdatePlayerTimeline") for name in TIMELINE),
        *((name, f"{player}.Timeline") for name in TIMELINE),
    }
