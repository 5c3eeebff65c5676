"""SAM-BA, the monitor in the boot ROM of the 4S, which puts a firmware into it (section 16).

The U2 carries it over the UART that is FMR's otherwise. No I/O: a session is a generator that
yields steps, and is sent what a Talk brought:

    step = next(session)
    while True: step = session.send(carry_out(step))         # until StopIteration

Flash takes whole words only, and the monitor writes bytes. So a page goes into RAM, by XMODEM,
and a small program that went there before copies it from there. What is awaited at once is short:
the U2 keeps three bytes here, without interrupts.
"""

import struct
from collections.abc import Generator, Iterator
from typing import Final, NamedTuple, TypeVar

from buswork.flipper.wire.crc import crc16
from buswork.flipper.wire.modules import S4_ERASE, S4_RESET
from buswork.flipper.wire.plans import RESET_MS, UART_BUFFER_BYTES
from buswork.flipper.wire.terms import BadValue

T = TypeVar("T")

FLASH_AT: Final = 0x00400000
FLASH_BYTES: Final = 1024 * 1024
PAGE_BYTES: Final = 512
RAM_AT: Final = 0x20000000
RAM_BYTES: Final = 128 * 1024

# How uart0 is configured for the boot ROM and for FMR (section 8).
_MONITOR_SPEED, _FMR_SPEED = 8, 0
# How long the erase pin is high.
ERASE_SECONDS = 8.0
# After its reset, the monitor takes a moment; each attempt takes the U2's 100 ms.
_ATTEMPTS = 10
# A packet that arrived damaged, or whose answer did not arrive, is sent again.
_RETRIES = 4
# A page takes some milliseconds, all of the flash some seconds.
_POLL_SECONDS = 0.01
_POLLS = 2000

_PACKET_DATA: Final = 128
_SOH, _EOT, _ACK, _CAN = b"\x01", b"\x04", b"\x06", b"\x18"
_READY = b"C"  # for packets with a CRC; it is said again and again

# The flash's controller.
_COMMAND: Final = 0x400E0A04
_STATUS: Final = 0x400E0A08
_RESULT: Final = 0x400E0A0C
_KEY: Final = 0x5A << 24
_WRITE_PAGE, _ERASE_ALL, _SET_BIT, _GET_BITS = 0x01, 0x05, 0x0B, 0x0D
_IS_READY, _FAILED = 0x01, 0x0E
# It starts what is in flash, and not the monitor.
_BOOT_BIT: Final = 1


class SambaError(Exception):
    """The boot ROM does not do what it has to."""


# -- steps -----------------------------------------------------------------------------------------


class Talk(NamedTuple):
    """Send this; it brings as many bytes as are wanted, or b"" when they don't come in time."""

    data: bytes
    wanted: int = 0


class Pins(NamedTuple):
    """Of the U2, by its gpio.write."""

    high: int
    low: int


class Speed(NamedTuple):
    """Of the UART, by uart0.configure."""

    baud: int
    interrupts: int


class Pause(NamedTuple):
    seconds: float


class Progress(NamedTuple):
    """So many pages are written; nothing is to be done."""

    done: int
    total: int


Step = Talk | Pins | Speed | Pause | Progress
Session = Generator[Step, bytes, T]


# -- a firmware ------------------------------------------------------------------------------------


def pages(image: bytes) -> list[bytes]:
    """An image as it lies in flash; BadValue if the 4S could not start it."""
    if len(image) < 8 or len(image) > FLASH_BYTES:
        raise BadValue("image", f"a firmware has 8 to {FLASH_BYTES} bytes, not {len(image)}")
    stack, entry = struct.unpack_from("<II", image)
    in_flash = any(base < entry < base + FLASH_BYTES for base in (0, FLASH_AT))
    if not (RAM_AT < stack <= RAM_AT + RAM_BYTES and entry & 1 and in_flash):
        text = "this is no firmware of the 4S: it has to begin with a stack in RAM and an entry"
        raise BadValue("image", text)
    return [
        image[at : at + PAGE_BYTES].ljust(PAGE_BYTES, b"\xff")
        for at in range(0, len(image), PAGE_BYTES)
    ]


def flashed(contents: list[bytes], *, verify: bool = False) -> Session[None]:
    """Takes what the flash has, and puts these pages there; restarted() is to follow.

    verify: each page is compared when it has been written.
    """
    yield from _entered()
    yield from _sent(_COPIER.at, _COPIER.code)
    if verify:
        yield from _sent(_COMPARER.at, _COMPARER.code)
    for number, page in enumerate(contents):
        yield Progress(number, len(contents))
        yield from _written(number, page)
        if verify:
            yield from _compared(number)
    yield Progress(len(contents), len(contents))
    yield from _booting_from_flash()


def restarted() -> Session[None]:
    """The 4S starts what it has, and speaks FMR again."""
    yield from _reset()
    yield Speed(_FMR_SPEED, 1)


# -- the monitor -----------------------------------------------------------------------------------


def _entered() -> Session[None]:
    """The monitor listens, and the flash is empty."""
    yield Speed(_MONITOR_SPEED, 0)
    was_there = yield from _is_there(1)
    if not was_there:
        yield Pins(1 << S4_ERASE, 0)
        yield Pause(ERASE_SECONDS)
        yield Pins(0, 1 << S4_ERASE)
        yield from _reset()
        if not (yield from _is_there(_ATTEMPTS)):
            raise SambaError("the boot ROM does not answer")
    yield from _drained()
    if (yield Talk(b"N#", 2)) != b"\n\r":
        raise SambaError("the boot ROM does not leave its terminal mode")
    if was_there:
        yield from _commanded(_ERASE_ALL, 0, "erase the flash")


def _is_there(attempts: int) -> Session[bool]:
    for _ in range(attempts):
        yield from _drained()
        if (yield Talk(b"#", 3)) == b"\n\r>":
            return True
    return False


def _drained() -> Session[None]:
    """What came late, or what nobody waited for, answers nothing else."""
    for _ in range(UART_BUFFER_BYTES):
        if not (yield Talk(b"", 1)):
            return


def _reset() -> Session[None]:
    yield Pins(0, 1 << S4_RESET)
    yield Pause(RESET_MS / 1000)
    yield Pins(1 << S4_RESET, 0)


def _byte(address: int) -> Session[int]:
    data = yield Talk(b"o%08X,#" % address, 1)
    if not data:
        raise SambaError(f"the boot ROM does not say what is at {address:#x}")
    return data[0]


def _set_word(address: int, value: int) -> Session[None]:
    yield Talk(b"W%08X,%08X#" % (address, value))


def _sent(address: int, data: bytes) -> Session[None]:
    """Into RAM, by XMODEM."""
    if (yield Talk(b"S%08X,%08X#" % (address, len(data)), 1)) != _READY:
        raise SambaError("the boot ROM takes no data")
    for packet in packets(data):
        yield from _acknowledged(packet)
    yield from _acknowledged(_EOT, b"")


def _acknowledged(data: bytes, *others: bytes) -> Session[None]:
    """With ACK. When that of an EOT is lost, nobody is there to repeat it: silence is fine, too."""
    for _ in range(_RETRIES + 1):
        answer = yield from _answered(data)
        if answer in (_ACK, *others):
            return
        if answer == _CAN:
            break
    raise SambaError("the boot ROM does not acknowledge the data")


def _answered(data: bytes) -> Session[bytes]:
    """Not with what was said before, while it waited for this."""
    answer = yield Talk(data, 1)
    for _ in range(UART_BUFFER_BYTES):
        if answer != _READY:
            break
        answer = yield Talk(b"", 1)
    return answer


def packets(data: bytes) -> Iterator[bytes]:
    """XMODEM with a CRC; packets are counted from 1, and the last one is filled up."""
    for count, at in enumerate(range(0, len(data), _PACKET_DATA), 1):
        number = count & 0xFF
        block = data[at : at + _PACKET_DATA].ljust(_PACKET_DATA, b"\0")
        yield _SOH + bytes((number, 0xFF - number)) + block + crc16(block).to_bytes(2, "big")


# -- the flash -------------------------------------------------------------------------------------


def _written(number: int, page: bytes) -> Session[None]:
    yield from _sent(_PAGE_AT, page)
    yield from _run(_COPIER, number)
    yield from _commanded(_WRITE_PAGE, number, f"write page {number}")


def _compared(number: int) -> Session[None]:
    """With what is in RAM still."""
    yield from _run(_COMPARER, number)
    if (yield from _byte(_COMPARER.words_at)):
        raise SambaError(f"page {number} of the flash has not what was written there")


def _booting_from_flash() -> Session[None]:
    yield from _commanded(_SET_BIT, _BOOT_BIT, "start from flash")
    yield from _commanded(_GET_BITS, 0, "say what it starts from")
    if not (yield from _byte(_RESULT)) & 1 << _BOOT_BIT:
        raise SambaError("the 4S does not want to start from flash")


def _commanded(command: int, argument: int, doing: str) -> Session[None]:
    yield from _set_word(_COMMAND, _KEY | argument << 8 | command)
    for _ in range(_POLLS):
        status = yield from _byte(_STATUS)
        if status & _FAILED:
            raise SambaError(f"the 4S could not {doing} (status {status:#04x})")
        if status & _IS_READY:
            return
        yield Pause(_POLL_SECONDS)
    raise SambaError(f"the 4S did not {doing} in time")


# -- programs for the 4S ---------------------------------------------------------------------------

# Where the monitor itself does not live (as the original has it).
_PAGE_AT: Final = RAM_AT + 0x1000
_STACK: Final = RAM_AT + RAM_BYTES
_PAGE_WORDS: Final = PAGE_BYTES // 4
_VECTORS_BYTES: Final = 8  # stack and entry
_THUMB: Final = 1


class Program(NamedTuple):
    """Behind its code are its values: where to, where from, how many words, where the last is."""

    at: int
    code: bytes
    values_at: int

    @property
    def words_at(self) -> int:
        return self.values_at + 8


def _program(at: int, *code: int) -> Program:
    values_at = at + _VECTORS_BYTES + 2 * len(code)
    words = struct.pack("<II", _STACK, at + _VECTORS_BYTES | _THUMB)
    values = struct.pack("<IIII", FLASH_AT, _PAGE_AT, _PAGE_WORDS, values_at + 8)
    return Program(at, words + struct.pack(f"<{len(code)}H", *code) + values, values_at)


_COPIER: Final = _program(
    RAM_AT + 0x800,
    0x4803,  # ldr   r0, destination
    0x4904,  # ldr   r1, source
    0x4A04,  # ldr   r2, words
    0xC908,  # ldmia r1!, {r3}
    0xC008,  # stmia r0!, {r3}
    0x3A01,  # subs  r2, #1
    0xD1FB,  # bne   to ldmia
    0x4770,  # bx    lr
)
# How many words were left when two differed, it says in their place.
_COMPARER: Final = _program(
    RAM_AT + 0x880,
    0x4806,  # ldr   r0, destination
    0x4907,  # ldr   r1, source
    0x4A07,  # ldr   r2, words
    0xC808,  # ldmia r0!, {r3}
    0x469C,  # mov   r12, r3
    0xC908,  # ldmia r1!, {r3}
    0x459C,  # cmp   r12, r3
    0xD101,  # bne   to the last ldr
    0x3A01,  # subs  r2, #1
    0xD1F8,  # bne   to the first ldmia
    0x4804,  # ldr   r0, where words is
    0x6002,  # str   r2, [r0]
    0x4770,  # bx    lr
    0xBF00,  # nop
)


def _run(program: Program, page: int) -> Session[None]:
    """For a page; the monitor goes on when the program returns."""
    yield from _set_word(program.values_at, FLASH_AT + page * PAGE_BYTES)
    yield from _set_word(program.words_at, _PAGE_WORDS)
    yield Talk(b"G%08X#" % program.at)
