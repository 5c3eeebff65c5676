"""The 4S at its UART, against what was recorded of the real firmware."""

import struct

import pytest
from flipper.wire.vectors import vectors
from sim.boards import call, packet, result, transfer

from buswork.sim.fmr import MAX_CALLS
from buswork.sim.s4 import MAX_MODULES, S4, SRAM_AT, SRAM_BYTES

ADC, BUTTON, DAC, FLD, GPIO = range(5)
TASK, UART0, USART, WDT = 11, 14, 15, 17
PINS = call(GPIO, 3, 0xFFFFFFFF, returns=3)
RECORDED = vectors("gen1_4s_uart")


class Line:
    def __init__(self):
        self.said = bytearray()
        self.s4 = S4(self.said.__iadd__)

    def ask(self, *data):
        self.said.clear()
        for each in data:
            self.s4.feed(each)
        return bytes(self.said)


@pytest.fixture
def line():
    return Line()


def send(length):
    return packet(4, struct.pack("<I8x", length))


def receive(address, length):
    return packet(5, struct.pack("<I8xQ", length, address))


def load(image):
    return packet(6, struct.pack("<I", len(image)))


def image(name, functions=1, entry=0):
    header = struct.pack("<11I", len(name) + 1, 44, entry, 4 * functions, 0, *[0] * 6)
    return header + name + b"\0"


# What was in the chip when it was recorded, and no packet of the recording put there.
def prepare(s4, name):
    if name == "4s.usart.pull.10":
        s4.usart.received += bytes(range(10))
    if name == "4s.receive.8":
        s4.put(0x20000E90, b"ABCDEFGH")


def test_a_recorded_course_is_answered_byte_for_byte(line):
    for found in RECORDED:
        prepare(line.s4, found.content["id"])
        sent, received = zip(*found.turns, strict=True)
        said = line.ask(*[each for packets in sent for each in packets])
        assert said == b"".join(each for chunks in received for each in chunks), found.name
        if "fault" in found.content["peer_after"]:
            assert line.s4.has_crashed
            line.s4.reset()
        assert line.s4.is_up
    assert len(RECORDED) == 33


def test_on_the_line_64_bytes_are_a_packet_whatever_they_are(line):
    for at in range(0, 64, 7):
        assert line.ask(PINS[at : at + 7]) == (result(1) if at == 63 else b"")
    assert line.ask(b"x") == b""
    assert line.ask(PINS) == result(0, 18)
    line.s4.reset()
    assert line.ask(PINS) == result(1)


def test_a_crash_lasts_until_a_reset(line):
    line.ask(load(image(b"one")), image(b"one"))
    assert line.ask(call(18, 0)) == b""
    assert not line.s4.is_up
    assert line.ask(PINS) == b""
    line.s4.reset()
    assert line.ask(PINS) == result(1)
    assert line.s4.modules == []
    line.s4.crash()
    assert line.ask(PINS) == b""


def test_it_hears_nothing_while_it_is_held(line):
    line.s4.tasks.start()
    line.s4.hold(True)
    assert line.ask(PINS) == b""
    assert line.s4.tasks.states
    line.s4.hold(False)
    assert not line.s4.tasks.states
    assert line.ask(PINS) == result(1)
    line.s4.tasks.start()
    line.s4.hold(False)
    assert line.s4.tasks.states


def test_what_somebody_holds_from_outside_stays_over_a_reset(line):
    line.s4.gpio.inputs = 1 << 22
    line.ask(call(GPIO, 2, 1 << 5, 0, returns=2))
    assert line.ask(PINS) == result(1 << 22 | 1 << 5 | 1)
    assert line.s4.gpio.levels == 1 << 22 | 1 << 5
    line.s4.reset()
    assert line.ask(PINS) == result(1 << 22 | 1)


def test_memory_is_given_out_and_read_back(line):
    address = struct.unpack("<IB", line.ask(send(5), b"hello"))[0]
    assert line.ask(receive(address, 5)) == b"hello" + result()
    other = struct.unpack("<IB", line.ask(send(3), b"you"))[0]
    assert other == address + 8
    assert line.ask(receive(address, 11)) == b"hello\0\0\0you" + result()


@pytest.mark.parametrize(
    "code",
    [
        send(SRAM_BYTES),
        receive(SRAM_AT - 1, 1),
        receive(SRAM_AT + SRAM_BYTES, 1),
        transfer(2, USART, 2, 0xFFFFFFFF),
        transfer(3, USART, 3, SRAM_BYTES),
        packet(6, struct.pack("<I", 4)) + b"none",
    ],
    ids=["send", "below", "above", "push", "pull", "image"],
)
def test_what_it_has_no_memory_for_is_its_end(line, code):
    assert line.ask(code) == b""
    assert line.s4.has_crashed


def test_an_image_is_found_by_its_names_checksum_and_its_calls_return_nothing(line):
    for name in (b"one", b"two"):
        assert line.ask(load(image(name)), image(name)) == result()
    identifier = line.s4.modules[1].identifier
    assert line.ask(call(FLD, 1, identifier, types=1, width=2)) == result(1)
    assert line.ask(call(FLD, 1, identifier ^ 1, types=1, width=2)) == result(0xFFFFFFFF)
    assert line.ask(call(1, 0, 40, 2, request_class=1)) == result()
    assert list(line.s4.modules[1].calls) == [(0, 40, 2)]
    assert line.s4.modules[1].calls.maxlen == MAX_CALLS
    assert line.ask(call(1, 1, request_class=1)) == result(0xFFFFFFFF)
    assert line.ask(call(2, 0, request_class=1)) == result(0xFFFFFFFF)
    for _ in range(MAX_MODULES):
        line.ask(load(image(b"more")), image(b"more"))
    assert len(line.s4.modules) == MAX_MODULES


def test_people_see_names_that_do_nothing_to_a_terminal(line):
    rude = b"\x1b[2J\xff" + b"x" * 99
    line.ask(load(image(rude)), image(rude))
    assert line.s4.modules[0].shown == "\ufffd[2J\ufffd" + "x" * 27


def test_other_classes_do_nothing(line):
    line.ask(PINS)
    assert line.ask(packet(7)) == result(1)


def test_an_application_becomes_a_task(line):
    assert line.ask(load(image(b"app", entry=1)), image(b"app", entry=1)) == result()
    assert line.s4.modules == []
    assert line.ask(call(TASK, 0, 1)) == result()
    assert line.s4.tasks.states == {1: "paused"}


def test_its_own_end_of_the_line_is_used_at_ones_own_risk(line):
    assert line.ask(transfer(2, UART0, 2, 3), b"raw") == b"raw" + result()
    # It waits for what comes next.
    assert line.ask(transfer(3, UART0, 3, 64), PINS) == PINS + result()
    assert line.ask(call(UART0, 1)) == result()


def test_its_watchdog_resets_it_without_an_answer(line):
    line.s4.tasks.start()
    assert line.ask(call(WDT, 1)) == b""
    assert not line.s4.tasks.states
    assert line.ask(PINS) == result(1)


def test_what_it_was_asked_is_told(line):
    told = []
    line.s4.called = lambda *what: told.append(what)
    line.ask(PINS)
    line.s4.reset()
    line.ask(PINS)
    assert told == [("gpio", "read", (0xFFFFFFFF,))] * 2


# -- without firmware ----------------------------------------------------------------------------


def test_erased_it_is_down_until_it_is_reset_and_then_its_boot_rom_listens(line):
    line.s4.erase()
    assert line.s4.state == "down"
    assert line.ask(PINS) == b""
    line.s4.reset()
    assert line.s4.state == "without firmware"
    assert line.ask(b"#") == b"\n\r>"
    assert line.ask(b"N#w0,#", b"#") == b"\n\r"
    assert line.s4.state == "down"  # there is no memory at 0


def test_what_the_boot_rom_put_into_flash_is_started(line):
    line.s4.erase()
    line.s4.reset()
    assert line.s4.flash.image() == b""
    line.ask(b"N#", b"W400000,20020000#", b"W400E0A04,5A000001#", b"W400E0A04,5A00010B#")
    assert line.ask(PINS) == b""
    line.s4.reset()
    assert line.s4.state == "up"
    assert line.ask(PINS) == result(1)


def test_to_start_from_an_empty_flash_gets_nowhere(line):
    line.s4.erase()
    line.s4.reset()
    line.ask(b"W400E0A04,5A00010B#")
    line.s4.reset()
    assert line.s4.state == "down"
