"""What a simulated 4S does when it has no firmware: SAM-BA, the monitor of its boot ROM, and the
flash that hosts fill through it (section 16).

It is written from the protocol and what Atmel says of the chip, not on top of the wing's code.
"""

import re
import struct
from binascii import crc_hqx
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from buswork.sim.fmr import Crash
from buswork.sim.thumb import start

SRAM_AT: Final = 0x20000000
SRAM_BYTES: Final = 128 * 1024
FLASH_AT: Final = 0x00400000
FLASH_BYTES: Final = 1024 * 1024
PAGE_BYTES: Final = 512
_PAGES: Final = FLASH_BYTES // PAGE_BYTES
_CONTROLLER_AT: Final = 0x400E0A00
_ERASED: Final = b"\xff" * PAGE_BYTES
# A stack, and an entry behind the vectors: what was there when the board was sold.
FIRMWARE: Final = struct.pack("<II", SRAM_AT + SRAM_BYTES, FLASH_AT + 0x101).ljust(PAGE_BYTES)

# Of the controller: registers, commands, and what its status says.
_MODE, _COMMAND, _STATUS, _RESULT = 0x0, 0x4, 0x8, 0xC
_WRITE, _ERASE_ALL, _SET_BIT, _CLEAR_BIT, _GET_BITS = 0x01, 0x05, 0x0B, 0x0C, 0x0D
_READY, _BAD_COMMAND = 1, 2
_KEY: Final = 0x5A
_BOOT_BIT: Final = 1 << 1

_SOH, _EOT, _ACK, _NAK, _CAN, _C = 0x01, 0x04, b"\x06", b"\x15", 0x18, b"C"
_PACKET_BYTES: Final = 133
_PROMPT: Final = b"\n\r>"
_ORDER: Final = re.compile(rb"([A-Za-z])([0-9A-Fa-f]*)(?:,([0-9A-Fa-f]*))?\Z")


@dataclass
class Trouble:
    """What a healthy one does not do; numbers of times count down."""

    damaged_packets: int = 0
    lost_answers: int = 0
    bad_pages: set[int] = field(default_factory=set)  # they stay as they are


class Flash:
    """It keeps what it has without power; a page is written from what was put there in words."""

    def __init__(self) -> None:
        self.pages: dict[int, bytes] = {0: FIRMWARE}
        self.trouble = Trouble()
        self._bits = _BOOT_BIT
        self._latch = bytearray(_ERASED)
        self._status = _READY
        self._result = 0

    @property
    def is_started_from(self) -> bool:
        return bool(self._bits & _BOOT_BIT)

    def erase(self) -> None:
        """By its pin; its bits go as well."""
        self.pages.clear()
        self._bits = 0

    def image(self) -> bytes:
        """What is there, without what is empty behind it."""
        return b"".join(self.page(number) for number in range(max(self.pages, default=-1) + 1))

    def page(self, number: int) -> bytes:
        return self.pages.get(number, _ERASED)

    def read(self, offset: int, length: int) -> bytes:
        number, at = divmod(offset, PAGE_BYTES)
        return (self.page(number) + self.page(number + 1))[at : at + length]

    def latch(self, offset: int, word: bytes) -> None:
        at = offset % PAGE_BYTES
        self._latch[at : at + 4] = word

    def register(self, offset: int) -> int:
        if offset == _STATUS:
            status, self._status = self._status, _READY
            return status
        return self._result if offset == _RESULT else 0

    def command(self, word: int) -> None:
        key, argument, command = word >> 24, word >> 8 & 0xFFFF, word & 0xFF
        self._status = _READY
        if key != _KEY or (command == _WRITE and argument >= _PAGES):
            self._status |= _BAD_COMMAND
        elif command == _WRITE:
            self._write(argument)
        elif command == _ERASE_ALL:
            self.pages.clear()
        elif command == _SET_BIT:
            self._bits |= 1 << argument
        elif command == _CLEAR_BIT:
            self._bits &= ~(1 << argument)
        elif command == _GET_BITS:
            self._result = self._bits
        else:
            self._status |= _BAD_COMMAND

    def _write(self, number: int) -> None:
        """Bits become 0, and 1 only by erasing."""
        if number not in self.trouble.bad_pages:
            there = int.from_bytes(self.page(number), "big")
            new = there & int.from_bytes(self._latch, "big")
            self.pages[number] = new.to_bytes(PAGE_BYTES, "big")
        self._latch[:] = _ERASED


class Memory:
    """What the 4S finds at its addresses."""

    def __init__(self, ram: bytearray, flash: Flash) -> None:
        self._ram = ram
        self._flash = flash

    def read(self, address: int, length: int) -> bytes:
        if 0 <= (at := address - SRAM_AT) <= SRAM_BYTES - length:
            return bytes(self._ram[at : at + length])
        if 0 <= (at := address - FLASH_AT) <= FLASH_BYTES - length:
            return self._flash.read(at, length)
        if 0 <= (at := address - _CONTROLLER_AT) < 0x10:
            word = self._flash.register(at & ~3).to_bytes(4, "little")
            return word[at % 4 : at % 4 + length]
        raise Crash(f"there is no memory at {address:#x}")

    def write(self, address: int, data: bytes) -> None:
        if 0 <= (at := address - SRAM_AT) <= SRAM_BYTES - len(data):
            self._ram[at : at + len(data)] = data
        elif 0 <= (at := address - FLASH_AT) < FLASH_BYTES and len(data) == 4 and not at % 4:
            self._flash.latch(at, data)
        elif address == _CONTROLLER_AT + _COMMAND:
            self._flash.command(int.from_bytes(data, "little"))
        elif address != _CONTROLLER_AT + _MODE:
            raise Crash(f"nothing can be written to {address:#x}")


class Monitor:
    """It hears orders that end with #; data come by XMODEM, with a CRC."""

    def __init__(self, memory: Memory, trouble: Trouble, say: Callable[[bytes], None]) -> None:
        self._memory = memory
        self._trouble = trouble
        self._say_now = say
        self._heard = bytearray()
        self._has_prompt = True
        self._data_at: int | None = None  # where they go, while data come
        self._expected = 1

    def feed(self, data: bytes) -> None:
        for byte in data:
            self._heard.append(byte)
            if self._data_at is not None:
                self._receive(self._data_at)
            elif byte == ord("#"):
                order, self._heard = bytes(self._heard[:-1]), bytearray()
                self._obey(order)

    # Orders

    def _obey(self, order: bytes) -> None:
        found = _ORDER.match(order)
        if found is not None:
            first, second = (int(word or b"0", 16) for word in (found[2], found[3]))
            self._do(found[1].decode(), first, second)
        if self._has_prompt:
            self._say(_PROMPT)

    def _do(self, order: str, address: int, value: int) -> None:
        widths = {"o": 1, "h": 2, "w": 4}
        if order == "N":
            self._has_prompt = False
            self._say(b"\n\r")
        elif order == "T":
            self._has_prompt = True
        elif order == "G":
            start(self._memory, address)
        elif order == "S":
            self._data_at, self._expected = address, 1
            self._say(_C)
        elif order in widths:
            self._tell(self._memory.read(address, widths[order]))
        elif order.lower() in widths:
            width = widths[order.lower()]
            value &= (1 << 8 * width) - 1
            self._memory.write(address, value.to_bytes(width, "little"))

    def _tell(self, data: bytes) -> None:
        if self._has_prompt:
            self._say(b"0x%0*X" % (2 * len(data), int.from_bytes(data, "little")))
        else:
            self._say(data)

    def _say(self, data: bytes) -> None:
        if self._trouble.lost_answers:
            self._trouble.lost_answers -= 1
        else:
            self._say_now(data)

    # XMODEM

    def _receive(self, address: int) -> None:
        first = self._heard[0]
        if first == _SOH:
            if len(self._heard) == _PACKET_BYTES:
                packet, self._heard = bytes(self._heard), bytearray()
                self._packet(packet, address)
            return
        self._heard.clear()
        if first in (_EOT, _CAN):
            self._data_at = None
            self._say(_ACK)

    def _packet(self, packet: bytes, address: int) -> None:
        number, complement, data = packet[1], packet[2], packet[3:131]
        is_whole = number ^ complement == 0xFF and crc_hqx(data, 0) == int.from_bytes(packet[131:])
        if self._trouble.damaged_packets:
            self._trouble.damaged_packets -= 1
            is_whole = False
        if is_whole and number == self._expected & 0xFF:
            self._memory.write(address, data)
            self._data_at = address + len(data)
            self._expected += 1
        elif is_whole and number != self._expected - 1 & 0xFF:
            is_whole = False
        self._say(_ACK if is_whole else _NAK)
