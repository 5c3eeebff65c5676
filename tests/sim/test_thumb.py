"""Small programs in the RAM of a 4S."""

import struct

import pytest

from buswork.sim.fmr import Crash
from buswork.sim.thumb import start

RETURN = 0x4770


class Ram:
    def __init__(self, *code, entry=9):
        self.content = bytearray(struct.pack(f"<II{len(code)}H", 0, entry, *code).ljust(256, b"\0"))

    def read(self, address, length):
        if address + length > len(self.content):
            raise Crash("nothing there")
        return bytes(self.content[address : address + length])

    def write(self, address, data):
        self.content[address : address + len(data)] = data


def word(ram, at):
    return int.from_bytes(ram.read(at, 4), "little")


def test_words_are_loaded_and_stored():
    ram = Ram(0x4801, 0x4902, 0x6041, RETURN)  # r0 and r1 from 16 and 20; to r0 + 4
    ram.write(16, struct.pack("<II", 100, 7))
    start(ram, 0)
    assert word(ram, 104) == 7


def test_words_are_copied_in_a_loop():
    ram = Ram(0x4803, 0x4904, 0x4A04, 0xC908, 0xC008, 0x3A01, 0xD1FB, RETURN)
    ram.write(24, struct.pack("<III", 200, 100, 3))
    ram.write(100, bytes(range(16)))
    start(ram, 0)
    assert ram.read(200, 16) == bytes(range(12)) + bytes(4)


@pytest.mark.parametrize(("second", "left"), [(5, 5), (6, 4)])
def test_what_is_equal_is_not_branched_away_from(second, left):
    # r0 and r1 from 32 and 36; r12 = r0; r1 - 1 unless they differ; r1 to 32
    ram = Ram(0x4805, 0x4906, 0x4684, 0x458C, 0xD100, 0xBF00, 0x4A04, 0x6011, RETURN)
    ram.write(32, struct.pack("<III", 5, second, 32))
    if second != 5:
        ram.write(8 + 2 * 4, struct.pack("<H", 0x3902))
    start(ram, 0)
    assert word(ram, 32) == left


@pytest.mark.parametrize("code", [(0xDE00,), (0xC918,), (0xBF00,) * 124, (0xD1FE,)])
def test_what_is_no_program_crashes(code):
    with pytest.raises(Crash):
        start(Ram(*code), 0)


def test_an_entry_is_of_thumb_code():
    with pytest.raises(Crash, match="Thumb"):
        start(Ram(RETURN, entry=8), 0)
