"""Flashing, against the boot ROM of a simulated 4S and by bytes alone."""

import binascii
import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buswork.flipper.wire import samba
from buswork.flipper.wire.samba import (
    FLASH_AT,
    FLASH_BYTES,
    PAGE_BYTES,
    RAM_AT,
    RAM_BYTES,
    Pause,
    Pins,
    Progress,
    SambaError,
    Speed,
    Talk,
    flashed,
    packets,
    pages,
    restarted,
)
from buswork.flipper.wire.terms import BadValue
from buswork.sim.s4 import S4

VECTORS = struct.pack("<II", RAM_AT + RAM_BYTES, FLASH_AT + 0x101)
IMAGE = VECTORS + bytes(range(256)) * 5
ERASE, RESET = 1 << 6, 1 << 4


class Board:
    """The U2's part is done here: speed, pins, and what waits to be pulled."""

    def __init__(self):
        self.said = bytearray()
        self.s4 = S4(self.said.__iadd__)
        self.steps = []
        self.speed = Speed(0, 1)
        self.before = lambda data: None

    def run(self, session):
        brought = None
        while True:
            try:
                step = session.send(brought)
            except StopIteration:
                return
            self.steps.append(step)
            brought = self._carry_out(step) or b""

    def _carry_out(self, step):
        match step:
            case Pins(high, low):
                if high & ERASE:
                    self.s4.erase()
                if (high | low) & RESET:
                    self.s4.hold(bool(low & RESET))
            case Speed():
                self.speed = step
            case Talk(data, wanted):
                self.before(data)
                if (self.s4.monitor is not None) == (self.speed.baud == 8):
                    self.s4.feed(data)
                if 0 < wanted <= len(self.said):
                    taken = bytes(self.said[:wanted])
                    del self.said[:wanted]
                    return taken
        return None

    def of(self, kind):
        return [step for step in self.steps if isinstance(step, kind)]


@pytest.fixture
def board():
    return Board()


def without_firmware(board):
    board.s4.erase()
    board.s4.reset()


@pytest.mark.parametrize("verify", [False, True])
def test_a_firmware_is_put_into_flash_and_started(board, verify):
    board.run(flashed(pages(IMAGE), verify=verify))
    assert board.s4.flash.image() == IMAGE.ljust(3 * PAGE_BYTES, b"\xff")
    assert board.of(Progress) == [Progress(done, 3) for done in range(4)]
    assert board.s4.monitor is not None
    board.run(restarted())
    assert board.s4.monitor is None
    assert board.s4.is_up
    assert board.speed == Speed(0, 1)


def test_the_erase_pin_is_high_for_its_time_and_then_the_4s_is_reset(board):
    board.run(flashed(pages(IMAGE)))
    waits = [step for step in board.steps if isinstance(step, Pins | Pause)]
    assert waits[:6] == [
        Pins(ERASE, 0), Pause(8.0), Pins(0, ERASE), Pins(0, RESET), Pause(0.01), Pins(RESET, 0),
    ]  # fmt: skip


def test_where_the_boot_rom_listens_already_it_erases(board):
    without_firmware(board)
    board.s4.flash.pages[9] = bytes(PAGE_BYTES)
    board.run(flashed(pages(IMAGE)))
    assert board.of(Pins) == []
    assert Talk(b"W400E0A04,5A000005#") in board.steps
    assert len(board.s4.flash.image()) == 3 * PAGE_BYTES


def test_a_packet_of_xmodem():
    first, second = packets(bytes(128) + b"123456789")
    assert first == b"\x01\x01\xfe" + bytes(130)
    assert second[:12] == b"\x01\x02\xfd123456789"
    assert second[12:131] == bytes(119)
    assert second[131:] == binascii.crc_hqx(second[3:131], 0).to_bytes(2, "big")
    assert [each[1] for each in packets(bytes(128 * 257))][-3:] == [255, 0, 1]


def test_what_was_damaged_or_lost_is_sent_again(board):
    without_firmware(board)
    board.s4.flash.trouble.damaged_packets = 4
    board.run(flashed(pages(IMAGE)))
    assert board.s4.flash.image()[: len(IMAGE)] == IMAGE


@pytest.mark.parametrize("number", range(1, 12))
def test_an_acknowledgement_that_is_lost_does_no_harm(board, number):
    without_firmware(board)
    talks = 0

    def lose(data):
        nonlocal talks
        if data[:1] in (b"\x01", b"\x04"):
            talks += 1
            board.s4.flash.trouble.lost_answers = int(talks == number)

    board.before = lose
    board.run(flashed(pages(IMAGE), verify=True))
    assert board.s4.flash.image()[: len(IMAGE)] == IMAGE
    assert talks > number


def test_a_page_that_is_not_what_was_written_is_found(board):
    board.s4.flash.trouble.bad_pages.add(1)
    with pytest.raises(SambaError, match="page 1"):
        board.run(flashed(pages(IMAGE), verify=True))
    board.run(flashed(pages(IMAGE), verify=False))


@pytest.mark.parametrize("at", range(PAGE_BYTES // 4))
def test_each_word_is_compared(board, at):
    without_firmware(board)
    page = bytearray(IMAGE[:PAGE_BYTES])
    page[4 * at] ^= 1
    read = board.s4.flash.read

    def other(offset, length):
        return (
            bytes(page[offset : offset + length]) if offset < PAGE_BYTES else read(offset, length)
        )

    board.s4.flash.read = other
    with pytest.raises(SambaError, match="page 0"):
        board.run(flashed(pages(IMAGE), verify=True))
    left = samba._COMPARER.words_at - RAM_AT
    assert board.s4.memory[left] == PAGE_BYTES // 4 - at


# -- by bytes ------------------------------------------------------------------------------------


class Rom:
    """Answers in order; what is left out is silence."""

    def __init__(self, answers):
        self.answers = answers

    def run(self, session):
        brought = None
        while True:
            step = session.send(brought)
            brought = b""
            if isinstance(step, Talk) and step.wanted:
                for prefix, said in self.answers.items():
                    if step.data.startswith(prefix) and step.data:
                        brought = said[: step.wanted]


GOOD = {
    b"#": b"\n\r>", b"N#": b"\n\r", b"S": b"C", b"\x01": b"\x06", b"\x04": b"\x06",
    b"o400E0A08": b"\x01", b"o400E0A0C": b"\x02", b"o200008": b"\0",
}  # fmt: skip


def test_a_rom_that_says_what_it_has_to_is_satisfying():
    with pytest.raises(StopIteration):
        Rom(GOOD).run(flashed(pages(IMAGE), verify=True))


@pytest.mark.parametrize(
    ("key", "said", "complaint"),
    [
        (b"#", b"", "does not answer"),
        (b"N#", b"", "terminal mode"),
        (b"S", b"", "takes no data"),
        (b"S", b">", "takes no data"),
        (b"\x01", b"", "acknowledge"),
        (b"\x01", b"\x15", "acknowledge"),
        (b"\x01", b"\x18", "acknowledge"),
        (b"\x04", b"\x15", "acknowledge"),
        (b"o400E0A08", b"", "does not say"),
        (b"o400E0A08", b"\x03", "could not erase the flash"),
        (b"o400E0A08", b"\x00", "in time"),
        (b"o400E0A0C", b"\x00", "start from flash"),
        (b"o200008", b"\x01", "page 0"),
    ],
)
def test_a_rom_that_does_not_is_complained_of(key, said, complaint):
    with pytest.raises(SambaError, match=complaint):
        Rom(GOOD | {key: said}).run(flashed(pages(IMAGE), verify=True))


def test_it_is_ready_again_and_again():
    session = samba._acknowledged(b"x")
    assert session.send(None) == Talk(b"x", 1)
    assert session.send(b"C") == Talk(b"", 1)
    assert session.send(b"C") == Talk(b"", 1)
    with pytest.raises(StopIteration):
        session.send(b"\x06")


@given(st.randoms(use_true_random=False), st.sampled_from([0.0, 0.01, 0.3, 1.0]))
@settings(max_examples=200)
def test_whatever_a_rom_says_it_comes_to_an_end(random, madness):
    session = flashed(pages(IMAGE), verify=True)
    step = next(session)
    try:
        for _ in range(20_000):
            brought = b""
            if isinstance(step, Talk) and step.wanted:
                said = next((said for key, said in GOOD.items() if step.data.startswith(key)), b"")
                is_mad = random.random() < madness
                brought = random.choice([b"", b"C", b"\x06", b"\x15", b"\0"]) if is_mad else said
            step = session.send(brought[: step.wanted] if brought else b"")
    except (StopIteration, SambaError):
        return
    raise AssertionError("it goes on for ever")


@pytest.mark.parametrize("said", [b"C", b"\x06", b"\x15", b"\0", b"\x01"])
def test_a_rom_that_always_says_the_same_comes_to_an_end(said):
    session = flashed(pages(IMAGE), verify=True)
    with pytest.raises(SambaError):
        Rom(GOOD | dict.fromkeys((b"S", b"\x01", b"\x04"), said)).run(session)


def test_a_rom_that_gives_up_is_not_asked_again():
    session = samba._acknowledged(b"x")
    assert session.send(None) == Talk(b"x", 1)
    with pytest.raises(SambaError):
        session.send(b"\x18")


def test_a_rom_takes_its_time_to_start_and_is_not_taken_at_a_late_word():
    # An acknowledgement from before, then silence; after the reset as well; then two prompts
    # at once; and it obeys.
    answers = iter([b"\x06", b"", b"", b"", b"", b"", b"\n\r>", b"\n", b"\r", b">", b"", b"\n\r"])
    session = samba._entered()
    step, asked = next(session), []
    with contextlib.suppress(StopIteration):
        while True:
            is_talk = isinstance(step, Talk)
            asked += [step.data] if is_talk else []
            step = session.send(next(answers) if is_talk else b"")
    assert asked == [b"", b"", b"#", b"", b"#", b"", b"#", b"", b"", b"", b"", b"N#"]


def test_what_an_interrupted_session_left_is_no_answer(board):
    without_firmware(board)
    board.s4.feed(b"#")
    board.said[:] = b"\x06" + board.said
    board.run(flashed(pages(IMAGE)))
    assert board.of(Pins) == []


def test_a_flash_that_is_not_ready_is_asked_again_after_a_while():
    session = samba._commanded(0x05, 0, "erase")
    assert session.send(None) == Talk(b"W400E0A04,5A000005#")
    assert session.send(b"") == Talk(b"o400E0A08,#", 1)
    assert session.send(b"\0") == Pause(0.01)
    assert session.send(b"") == Talk(b"o400E0A08,#", 1)
    with pytest.raises(StopIteration):
        session.send(b"\1")


def test_it_may_not_be_ready_for_ever():
    session = samba._acknowledged(b"x")
    asked = [session.send(None)]

    def go_on():
        asked.extend(session.send(b"C") for _ in range(10_000))

    with pytest.raises(SambaError):
        go_on()
    assert asked.count(Talk(b"x", 1)) == 5


def test_an_answer_that_is_late_is_drained():
    session = samba._drained()
    assert session.send(None) == Talk(b"", 1)
    assert session.send(b">") == Talk(b"", 1)
    with pytest.raises(StopIteration):
        session.send(b"")


@pytest.mark.parametrize(
    "image",
    [
        b"",
        VECTORS[:7],
        VECTORS.ljust(FLASH_BYTES + 1),
        b"\x7fELF" + bytes(100),
        struct.pack("<II", RAM_AT, FLASH_AT + 1),
        struct.pack("<II", RAM_AT + 4, FLASH_AT + 2),
        struct.pack("<II", RAM_AT + 4, FLASH_AT + FLASH_BYTES + 1),
    ],
)
def test_what_is_no_firmware_is_refused(image):
    with pytest.raises(BadValue) as refused:
        pages(image)
    assert refused.value.field == "image"


@pytest.mark.parametrize("entry", [0x101, FLASH_AT + 0x101])
def test_a_firmware_is_linked_where_flash_is_or_where_it_is_mirrored(entry):
    (page,) = pages(struct.pack("<II", RAM_AT + 0x1000, entry))
    assert len(page) == PAGE_BYTES
    assert page[8:] == b"\xff" * 504
