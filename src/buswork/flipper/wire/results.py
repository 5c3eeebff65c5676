"""What boards answer to every packet: a value and an error, which are independent (section 5)."""

import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

from buswork.flipper.wire.errors import BoardError, Error, number_of
from buswork.flipper.wire.terms import (
    LIMITS,
    PACKET_BYTES,
    SIGNED,
    WIDTHS,
    BadAnswer,
    Generation,
    Processor,
    Type,
)

_STRUCTURES: Final = {Generation.G1: struct.Struct("<IB"), Generation.G2: struct.Struct("<QB")}
RESULT_BYTES: Final[Mapping[Generation, int]] = {
    generation: structure.size for generation, structure in _STRUCTURES.items()
}


class Result(NamedTuple):
    """`value` as the board has it, without a sign; it may be garbage where nothing returns one."""

    value: int
    error: int = 0


def failed(generation: Generation = Generation.G1) -> Result:
    """-1 without an error: what boards say to calls that they don't make."""
    return Result((1 << 8 * (RESULT_BYTES[generation] - 1)) - 1)


def refused(error: Error, generation: Generation = Generation.G1) -> Result:
    """-1 and an error."""
    return Result(failed(generation).value, number_of(error, generation))


def encode_result(result: Result, generation: Generation = Generation.G1) -> bytes:
    """A value of any sign, cut to the width of a result; not padded, as USB wants it."""
    structure = _STRUCTURES[generation]
    return structure.pack(result.value & (1 << 8 * (structure.size - 1)) - 1, result.error)


def parse_result(data: bytes, generation: Generation = Generation.G1) -> Result:
    """From a result alone or one that was padded to a packet, whatever that has at its end."""
    structure = _STRUCTURES[generation]
    if len(data) not in (structure.size, PACKET_BYTES):
        raise BadAnswer(f"a result has {structure.size} bytes, not {len(data)}")
    return Result(*structure.unpack_from(data))


def raise_for(result: Result, generation: Generation = Generation.G1) -> None:
    """BoardError, unless all went well."""
    if result.error:
        raise BoardError(result.error, generation, result.value)


def interpret(result: Result, returns: Type, processor: Processor) -> int | None:
    """The number that the function returned, with its sign; None where it returns nothing.

    Boards fill a result with zeros or with garbage beyond the width that was asked for; a
    C int of the U2 has 16 bits, and no sign in the others (section 4).
    """
    if returns is Type.VOID:
        return None
    bits = _bits(returns, processor)
    value = result.value & (1 << bits) - 1
    return value - (1 << bits) if returns in SIGNED and value >> bits - 1 else value


def encode_value(number: int, returns: Type, processor: Processor) -> int:
    """For boards that are simulated: how a result of the processor has this number."""
    return 0 if returns is Type.VOID else number & (1 << _bits(returns, processor)) - 1


def _bits(returns: Type, processor: Processor) -> int:
    return LIMITS[processor].int_bits if returns is Type.INT else 8 * WIDTHS[returns]
