"""The boot ROM of a simulated 4S, as a host meets it."""

import binascii
import struct

import pytest

from buswork.sim.fmr import Crash
from buswork.sim.samba import (
    FIRMWARE,
    FLASH_AT,
    PAGE_BYTES,
    SRAM_AT,
    SRAM_BYTES,
    Flash,
    Memory,
    Monitor,
)

COMMAND, STATUS, RESULT = 0x400E0A04, 0x400E0A08, 0x400E0A0C
ACK, NAK = b"\x06", b"\x15"
DATA = bytes(range(128))


class Host:
    def __init__(self):
        self.said = bytearray()
        self.flash = Flash()
        self.ram = bytearray(SRAM_BYTES)
        self.memory = Memory(self.ram, self.flash)
        self.monitor = Monitor(self.memory, self.flash.trouble, self.said.__iadd__)

    def ask(self, data):
        self.said.clear()
        self.monitor.feed(data)
        return bytes(self.said)

    def command(self, word):
        assert self.ask(b"W%X,%08X#" % (COMMAND, word)) == b""
        return self.ask(b"o%X,#" % STATUS)[0]


@pytest.fixture
def host():
    host = Host()
    assert host.ask(b"N#") == b"\n\r"
    return host


def packet(number, data=DATA):
    crc = binascii.crc_hqx(data, 0).to_bytes(2, "big")
    return b"\x01" + bytes((number, 255 - number)) + data + crc


def test_it_begins_with_a_prompt_and_numbers_for_people():
    host = Host()
    assert host.ask(b"#") == b"\n\r>"
    assert host.ask(b"nonsense#") == b"\n\r>"
    assert host.ask(b"w20000000,4#") == b"0x00000000\n\r>"
    assert host.ask(b"N#") == b"\n\r"
    assert host.ask(b"#") == b""
    assert host.ask(b"T#") == b"\n\r>"


def test_memory_is_read_and_written(host):
    assert host.ask(b"W20000010,12345678#") == b""
    assert host.ask(b"w20000010,#") == b"\x78\x56\x34\x12"
    assert host.ask(b"O20000010,FF#") == b""
    assert host.ask(b"o20000010,#o20000011,#") == b"\xff\x56"
    assert host.ask(f"w{FLASH_AT:X},#".encode()) == FIRMWARE[:4]


@pytest.mark.parametrize("order", [b"w0,#", b"W10000000,0#", b"O400000,0#", b"W400002,0#"])
def test_what_is_no_memory_crashes(host, order):
    with pytest.raises(Crash):
        host.ask(order)


def test_data_come_in_packets(host):
    assert host.ask(b"S%X,100#" % SRAM_AT) == b"C"
    assert host.ask(packet(1)[:50]) == b""
    assert host.ask(packet(1)[50:]) == ACK
    assert host.ask(packet(1, bytes(128))) == ACK  # its answer was lost, the host thinks
    assert host.ask(packet(2)) == ACK
    assert host.ask(packet(4)) == NAK
    assert host.ask(packet(3)[:-1] + b"?") == NAK
    assert host.ask(b"\x04") == ACK
    assert host.ram[:400] == DATA * 2 + bytes(144)
    assert host.ask(b"o20000001,#") == b"\x01"


def test_numbers_of_packets_begin_anew_after_255(host):
    host.ask(b"S%X,%X#" % (SRAM_AT, 128 * 257))
    assert all(host.ask(packet(number & 255)) == ACK for number in range(1, 258))
    assert host.ram[128 * 256 :][:129] == DATA + b"\0"


def test_a_page_is_written_from_words_that_were_put_anywhere_in_flash(host):
    host.flash.erase()
    host.ask(b"W%X,11223344#" % (FLASH_AT + 4))
    assert host.command(0x5A000301) == 1
    assert host.flash.page(3) == b"\xff" * 4 + b"\x44\x33\x22\x11" + b"\xff" * (PAGE_BYTES - 8)
    host.ask(b"W%X,0#" % FLASH_AT)
    assert host.command(0x5A000301) == 1
    assert host.flash.page(3)[:8] == b"\0\0\0\0\x44\x33\x22\x11"
    assert len(host.flash.image()) == 4 * PAGE_BYTES
    assert host.ask(b"w%X,#" % (FLASH_AT + 3 * PAGE_BYTES + 4)) == b"\x44\x33\x22\x11"


def test_bits_say_what_is_started(host):
    assert host.flash.is_started_from
    assert host.command(0x5A00010C) == 1
    assert not host.flash.is_started_from
    assert host.command(0x5A00010B) == 1
    assert host.command(0x5A00000D) == 1
    assert host.ask(b"o%X,#" % RESULT) == b"\x02"


@pytest.mark.parametrize("word", [0x00000005, 0x5A0000FF, 0x5A080001])
def test_a_wrong_command_is_said_to_be_one_once(host, word):
    assert host.command(word) == 3
    assert host.ask(b"o%X,#" % STATUS) == b"\x01"
    assert host.flash.image() == FIRMWARE


def test_all_is_erased(host):
    assert host.command(0x5A000005) == 1
    assert host.flash.image() == b""
    assert host.flash.is_started_from  # only the pin takes this as well


def test_programs_run(host):
    program = struct.pack("<IIHHHH2I", 0, SRAM_AT + 9, 0x4801, 0x6000, 0x4770, 0, SRAM_AT + 64, 0)
    host.ram[: len(program)] = program
    assert host.ask(b"G%X#" % SRAM_AT) == b""
    assert host.ram[64:68] == (SRAM_AT + 64).to_bytes(4, "little")


def test_its_troubles(host):
    trouble = host.flash.trouble
    trouble.damaged_packets = trouble.lost_answers = 1
    trouble.bad_pages.add(0)
    assert host.ask(b"o20000000,#") == b""
    host.ask(b"S%X,80#" % SRAM_AT)
    assert host.ask(packet(1)) == NAK
    assert host.ask(packet(1)) == ACK
    host.ask(b"\x04")
    host.ask(b"W%X,0#" % FLASH_AT)
    assert host.command(0x5A000001) == 1
    assert host.flash.page(0) == FIRMWARE
