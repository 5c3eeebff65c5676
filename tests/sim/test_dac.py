import json
import struct
from pathlib import Path
from uuid import UUID

import pytest

from buswork.sim.dac import OFF, PROGRESS, STATUS, TITLE, UCS2, UTF8, UTF16, UTF32, SimDac, fsct_bos
from buswork.sim.device import Fault, How, Outcome, Setup

VECTORS = Path(__file__).parents[1] / "vectors" / "fsct"
OUT, IN = 0x41, 0xC1
TITLE_INDEX = TITLE << 8 | 1


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def dac():
    dac = SimDac()
    dac.clock = Clock()
    dac.power_on()
    return dac


def ask(dac, request_type, request, value=0, index=1, data=b"", length=None):
    setup = Setup(request_type, request, value, index, len(data) if length is None else length)
    return dac.transfer(setup, data)


def said(dac, *request, **options):
    outcome = ask(dac, *request, **options)
    assert outcome.how is How.DONE
    return outcome.data


def timeline(duration, position, at, rate):
    return struct.pack("<IiQf", duration, position, at, rate)


def captured():
    """Every transfer that a real host made to an emulated device in the shared captures."""
    scenarios = json.loads((VECTORS / "usb_transfers.json").read_text())["scenarios"]
    for name, scenario in scenarios.items():
        yield name, [entry for entry in scenario["transfers"] if "mark" not in entry]


def set_in(transfers):
    """The set of descriptors in a capture."""
    return max(
        (bytes.fromhex(entry["data_in"]) for entry in transfers if entry["wValue"] == "0x3100"),
        key=len,
    )


@pytest.mark.parametrize(("name", "transfers"), list(captured()))
def test_a_real_hosts_transfers_are_answered_and_recorded_as_they_were_captured(name, transfers):
    interface = int(transfers[1]["wIndex"], 16)
    coding, functionality, texts = UTF8, 0, {}
    descriptors = set_in(transfers)
    functionality = descriptors[4]
    if len(descriptors) > 5:
        functionality, coding, texts = parsed(descriptors)
    dac = SimDac(
        interface=interface,
        functionality=functionality,
        coding=coding,
        texts=texts,
        descriptors=descriptors,
    )
    for entry in transfers:
        fields = (int(entry[k], 16) for k in ("bmRequestType", "bRequest", "wValue", "wIndex"))
        setup = Setup(*fields, entry["wLength"])
        outcome = dac.transfer(setup, bytes.fromhex(entry.get("data_out", "")))
        assert outcome.how is How.DONE, (entry, dac.complaints)
        ours = dac.record[-1]
        for side in (ours, entry):
            side.pop("t_ms", None)
            if entry.get("bRequest") == "0x02":
                side.pop("data_in", None)  # the device's clock
        if "decoded" in entry:
            rate = entry["decoded"].pop("rate")
            rate = float(rate["$float"]) if isinstance(rate, dict) else rate
            assert ours["decoded"].pop("rate") == pytest.approx(rate, nan_ok=True)
        assert ours == entry
    assert dac.complaints == []


def parsed(descriptors):
    """Functionality, coding and longest texts; as the set's own rules have it: the last coding and
    functionality count, the first length of a text."""
    functionality, coding, texts = 0, UTF8, {}
    at = 0
    while at < len(descriptors):
        length, kind = descriptors[at : at + 2]
        content = descriptors[at + 2 : at + length]
        if kind == 0x31:
            functionality = content[2]
        elif kind == 0x32:
            coding = content[0]
            for text, longest in struct.iter_unpack("<BH", content[1:]):
                texts.setdefault(text, longest)
        at += length
    return functionality, coding, texts


def test_its_descriptors_are_those_of_the_captures():
    blobs = {
        entry["name"]: entry["bos_hex"]
        for entry in json.loads((VECTORS / "bos_descriptors.json").read_text())["vectors"]
    }
    assert fsct_bos().hex() == blobs["valid_with_usb2_ext"]
    sets = {
        entry["name"]: entry["set_hex"]
        for entry in json.loads((VECTORS / "fsct_descriptor_sets.json").read_text())["vectors"]
    }
    assert SimDac().descriptors.hex() == sets["default"]
    texts = {1: 64, 2: 64, 3: 33, 4: 18}
    for name, coding in {"utf16": UTF16, "ucs2": UCS2, "utf32": UTF32}.items():
        assert SimDac(coding=coding, texts=texts).descriptors.hex() == sets[name]


def test_a_host_finds_it_reads_it_and_turns_it_on(dac):
    assert said(dac, 0x80, 6, 0x0F00, 0, length=4096) == fsct_bos()
    assert said(dac, 0x80, 6, 0x0100, 0, length=18)[2:4] == b"\x01\x02"
    configuration = said(dac, 0x80, 6, 0x0200, 0, length=255)
    assert len(configuration) == int.from_bytes(configuration[2:4], "little")
    assert said(dac, 0x80, 6, 0x0303, 0x0409, length=255)[2:].decode("utf-16-le") == "SIM-1"
    assert said(dac, 0x81, 6, 0x3100, length=5) == dac.descriptors[:5]
    assert said(dac, 0x81, 6, 0x3100, length=20) == dac.descriptors
    assert said(dac, IN, 1, length=1) == b"\0"
    assert dac.lines() == OFF
    said(dac, OUT, 1, 1)
    assert said(dac, IN, 1, length=1) == b"\1"
    assert dac.lines() == ["· Unknown", "", "", "", "", ""]


def test_it_draws_what_is_played_and_moves_on_by_its_own_clock(dac):
    drawn = []
    dac.on_display = drawn.append
    said(dac, OUT, 1, 1)
    dac.clock.now += 7
    assert said(dac, IN, 2, length=8) == (7000).to_bytes(8, "little")
    said(dac, OUT, 4, 1)
    said(dac, OUT, 3, data=timeline(241, 12_362, 7000, 1.0))
    said(dac, OUT, 0x10, index=TITLE_INDEX, data="Title żółw".encode())
    said(dac, OUT, 0x10, index=0x0201, data=b"Artist")
    assert dac.lines(30)[:3] == ["▶ Playing", "Title żółw", "Artist"]
    assert dac.lines(30)[5] == "─" * 18 + " 0:12 / 4:01"
    assert dac.seconds_to_change() == pytest.approx(0.638)
    dac.clock.now += 0.638
    assert dac.lines(30)[5].endswith(" 0:13 / 4:01")
    dac.clock.now += 120
    assert dac.lines(30)[5] == "━" * 9 + "─" * 9 + " 2:13 / 4:01"
    dac.clock.now += 1000
    assert dac.lines(30)[5] == "━" * 18 + " 4:01 / 4:01"
    assert drawn[-1] == SIX_LINES
    said(dac, OUT, 0x10, index=TITLE_INDEX)
    assert drawn[-1][1] == ""


SIX_LINES = [
    "▶ Playing",
    "Title żółw",
    "Artist",
    "",
    "",
    "━" + "─" * 35 + " 0:12 / 4:01",
]


@pytest.mark.parametrize(
    ("facts", "bar"),
    [
        ((0, 5000, 0, 0.0), "─" * 15 + " 0:05"),
        ((10, -3000, 0, 0.0), "─" * 8 + " 0:00 / 0:10"),
        ((7200, 3_723_000, 0, 1.5), " 1:02:03 / 2:00:00 x1.5"),
        ((10, 5000, 0, float("nan")), "─" * 3 + " 0:05 / 0:10 xnan"),
        ((10, 5000, 0, float("inf")), "─" * 3 + " 0:05 / 0:10 xinf"),
    ],
)
def test_odd_timelines_are_drawn_all_the_same(dac, facts, bar):
    said(dac, OUT, 1, 1)
    said(dac, OUT, 3, data=timeline(*facts))
    assert dac.lines(20)[5].replace("━", "─") == bar


@pytest.mark.parametrize(
    ("coding", "data", "shown"),
    [
        (UTF8, "żółw".encode(), "żółw"),
        (UTF16, "a😀".encode("utf-16-le"), "a😀"),
        (UCS2, b"a\0\xfd\xff\x3d\xd8", "a\ufffd\ufffd"),
        (UTF32, "a😀".encode("utf-32-le"), "a😀"),
        (UTF8, b"a\x1b[31m\n", "a\ufffd[31m\ufffd"),
        (UTF8, b"x" * 60, "x" * 47 + "…"),
    ],
)
def test_it_reads_texts_in_its_own_coding(coding, data, shown):
    dac = SimDac(coding=coding)
    said(dac, OUT, 1, 1)
    said(dac, OUT, 0x10, index=TITLE_INDEX, data=data)
    assert dac.lines()[1] == shown


@pytest.mark.parametrize(
    ("coding", "data"),
    [
        (UTF8, "ż".encode()[:1]),
        (UTF16, "😀".encode("utf-16-le")[:2]),
        (UCS2, b"a\0b"),
        (UTF32, b"a\0\0"),
        (UTF8, b"x" * 65),
    ],
)
def test_it_refuses_texts_that_are_cut_in_a_character_or_too_long(coding, data):
    dac = SimDac(coding=coding)
    assert ask(dac, OUT, 0x10, index=TITLE_INDEX, data=data) == Outcome(How.STALL)
    assert dac.record[-1]["stalled"]
    assert len(dac.complaints) == 1


@pytest.mark.parametrize(
    "request_",
    [
        (OUT, 3, 0, 1, b"x" * 19),
        (OUT, 4, 6),
        (OUT, 0x11, 0, 1, b"image"),
        (OUT, 0x10, 0, 0x3101, b"queue"),
        (OUT, 1, 1, 0),  # another interface
        (0x40, 1, 1),  # to the device
        (IN, 3),
        (0x80, 6, 0x0F01, 0),
        (0x80, 6, 0x0309, 0),
        (0x80, 6, 0x7700, 0),
        (0x81, 6, 0x3200),
        (0x80, 0x33, 0, 0),
        (0x00, 0x33, 0, 0),
    ],
)
def test_it_refuses_what_it_does_not_know(dac, request_):
    kind, request, value, index, data = (*request_, *(0, 1, b"")[len(request_) - 2 :])
    assert ask(dac, kind, request, value, index, data, length=len(data) or 64).how is How.STALL


def test_without_progress_it_has_no_use_for_a_timeline():
    dac = SimDac(functionality=STATUS)
    assert ask(dac, OUT, 3, data=timeline(1, 0, 0, 0)).how is How.STALL
    dac = SimDac(functionality=PROGRESS)
    said(dac, OUT, 1, 1)
    said(dac, OUT, 4, 1)
    assert dac.lines()[0] == ""


def test_it_forgets_all_when_unplugged_and_nothing_else_makes_it_forget(dac):
    said(dac, OUT, 1, 1)
    said(dac, OUT, 4, 2)
    said(dac, OUT, 0x10, index=TITLE_INDEX, data=b"t")
    said(dac, OUT, 1, 0)
    assert dac.lines() == OFF
    said(dac, OUT, 1, 1)
    assert dac.lines()[:2] == ["⏸ Paused", "t"]
    dac.clock.now += 5
    dac.power_on()
    assert (dac.lines(), dac.now_ms()) == (OFF, 0)
    said(dac, OUT, 1, 1)
    assert dac.lines()[:2] == ["· Unknown", ""]


def test_a_watchdog_turns_the_display_off_until_its_host_is_heard_again():
    dac = SimDac(watchdog=10.0)
    dac.clock = Clock()
    dac.power_on()
    said(dac, OUT, 1, 1)
    assert dac.seconds_to_change() == 10.0
    dac.clock.now += 10.5
    assert dac.lines() == OFF
    said(dac, OUT, 5)
    assert dac.lines() != OFF


@pytest.mark.parametrize(
    ("duration", "rate", "expected"),
    [(9, 1.0, 0.4), (9, 2.0, 0.2), (9, -1.0, 0.601), (9, 0.0, None), (9, float("nan"), None)],
)
def test_it_says_when_its_lines_change_by_themselves(dac, duration, rate, expected):
    assert dac.seconds_to_change() is None
    said(dac, OUT, 1, 1)
    said(dac, OUT, 3, data=timeline(duration, 3600, 0, rate))
    wait = dac.seconds_to_change()
    assert wait == (None if expected is None else pytest.approx(expected, abs=0.002))


def test_faults_come_when_and_as_often_as_told(dac):
    dac.faults = [Fault(How.STALL, request=1, request_type=OUT, after=1, times=2)]
    hows = [ask(dac, OUT, 1, 1).how for _ in range(5)]
    assert hows == [How.DONE, How.STALL, How.STALL, How.DONE, How.DONE]
    assert [entry.get("stalled") for entry in dac.record] == [None, True, True, None, None]
    dac.faults = [Fault(How.DONE, request=2, length=3), Fault(How.DONE, request=6, reply=b"x")]
    assert len(said(dac, IN, 2, length=8)) == 3
    assert said(dac, 0x80, 6, 0x0100, 0, length=18) == b"x"
    dac.faults = [Fault(How.DONE, index=TITLE_INDEX, delay=0.5)]
    assert ask(dac, OUT, 0x10, index=TITLE_INDEX, data=b"t") == Outcome(How.DONE, delay=0.5)
    assert dac.texts == {TITLE: "t"}


def test_the_uuid_is_on_the_wire_as_captured():
    wire = "ebbe33c4008d20449515bcb7faf38a41"
    assert UUID("c433beeb-8d00-4420-9515-bcb7faf38a41").bytes_le.hex() == wire
    assert wire in fsct_bos().hex()
