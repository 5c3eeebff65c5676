"""The vocabulary of FMR as data: what tables, checks and codecs have in common."""

import enum
from collections.abc import Mapping
from typing import Final, NamedTuple

from buswork.flipper.wire.errors import Error

PACKET_BYTES = 64
# Further ones don't arrive: boards cut the types to 16 bits, hang or refuse (section 4).
MAX_ARGUMENTS = 4
UDP_PORT = 3258

# The most in one transfer of the U2, and in each step of its bridge: its memory fails between 257
# and 288 bytes, and the data are then taken for packets (section 7). The original's bridge has 128.
BLOCK_BYTES = 128
# The 4S refuses nothing: what is too long for its memory corrupts it. It has 128 KiB in all, and
# nobody has measured how much of it is free; the original was recorded with 200 bytes.
S4_TRANSFER_BYTES = 4096
# What fits into a datagram over IPv4.
UDP_TRANSFER_BYTES = 65507
# An image lives in the memory of the 4S as long as the board has power.
MAX_IMAGE_BYTES = 32768


# What an error repeats of a caller's own words.
MAX_SHOWN_CHARACTERS = 64


def shown(text: str) -> str:
    """A caller's own words as an error repeats them."""
    return text[:MAX_SHOWN_CHARACTERS].encode(errors="replace").decode()


class BadValue(ValueError):
    """A caller's value is not what its field takes; the text names the field and says why."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field


class BadPacket(ValueError):
    """A client sent what is no request; `error` is what a board would call it."""

    def __init__(self, error: Error, text: str) -> None:
        super().__init__(text)
        self.error = error


class BadAnswer(ValueError):
    """A board answered what is no answer; what it says from here on may belong to anything."""


class Generation(enum.IntEnum):
    """Of the protocol: no handshake tells them apart, only the length of results does."""

    G1 = 1
    G2 = 2


class Processor(enum.StrEnum):
    """Who runs a call: one of a board's two, or the virtual machine, which has the 4S's tables."""

    U2 = "u2"
    S4 = "4s"
    FVM = "fvm"


class Framing(enum.Enum):
    """How packets and data travel: in packets of 64 bytes, a datagram each, or just bytes."""

    USB = "usb"
    UDP = "udp"
    UART = "uart"


class Type(enum.IntEnum):
    """Of arguments and returned values; 5, 10 and 12 to 14 are not defined (section 4)."""

    UINT8 = 0
    UINT16 = 1
    VOID = 2
    UINT32 = 3
    INT = 4
    PTR = 6
    UINT64 = 7
    INT8 = 8
    INT16 = 9
    INT32 = 11
    INT64 = 15

    @property
    def width(self) -> int:
        """Bytes on the wire, as an argument."""
        return WIDTHS[self]

    @property
    def signed(self) -> bool:
        return self in SIGNED

    @property
    def lowest(self) -> int:
        return -(1 << 8 * self.width - 1) if self.signed else 0

    @property
    def highest(self) -> int:
        return (1 << 8 * self.width - self.signed) - 1


WIDTHS: Final = {
    Type.UINT8: 1, Type.INT8: 1,
    Type.UINT16: 2, Type.INT16: 2,
    Type.UINT32: 4, Type.INT32: 4,
    Type.INT: 8, Type.PTR: 8, Type.VOID: 8,
    Type.UINT64: 8, Type.INT64: 8,
}  # fmt: skip

SIGNED: Final = frozenset((Type.INT8, Type.INT16, Type.INT32, Type.INT64, Type.INT))


class Limits(NamedTuple):
    """What a processor takes without harm (section 4)."""

    arguments: frozenset[Type]
    returns: frozenset[Type]
    transfer_bytes: int
    int_bits: int  # of a C int that it returns
    memory_classes: bool  # send, receive and RAM load
    user_modules: int  # how many there may be
    user_values: bool  # whether calls of user modules return what the function did


_UNSIGNED: Final = frozenset((Type.UINT8, Type.UINT16, Type.UINT32, Type.INT, Type.PTR))
_SIGNED: Final = frozenset((Type.INT8, Type.INT16, Type.INT32))
_LONG: Final = frozenset((Type.UINT64, Type.INT64))
_VOID: Final = frozenset((Type.VOID,))

LIMITS: Final[Mapping[Processor, Limits]] = {
    Processor.U2: Limits(
        arguments=_UNSIGNED | _SIGNED,
        returns=_UNSIGNED | _SIGNED | _VOID,
        transfer_bytes=BLOCK_BYTES,
        int_bits=16,
        memory_classes=False,
        user_modules=0,
        user_values=False,
    ),
    Processor.S4: Limits(
        arguments=_UNSIGNED,
        returns=_UNSIGNED | _VOID | {Type.UINT64},
        transfer_bytes=S4_TRANSFER_BYTES,
        int_bits=32,
        memory_classes=True,
        user_modules=4,  # and only the first is safe (section 10)
        user_values=False,
    ),
    Processor.FVM: Limits(
        arguments=_UNSIGNED | _SIGNED | _LONG,
        returns=_UNSIGNED | _SIGNED | _LONG | _VOID,
        transfer_bytes=UDP_TRANSFER_BYTES,
        int_bits=32,
        # To it, they are pushes to the module 0.
        memory_classes=False,
        user_modules=256,
        user_values=True,
    ),
}
