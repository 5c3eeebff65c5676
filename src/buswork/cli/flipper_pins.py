"""Pins as people name them: IO1, rx, or a mask."""

from collections.abc import Sequence
from typing import NamedTuple

from buswork.cli.output import InputError
from buswork.flipper.wire.modules import PINS

ALL = 2**32 - 1
LEVELS = {"high": True, "1": True, "low": False, "0": False}


class Pins(NamedTuple):
    """One pin, or those of a mask."""

    name: str
    mask: int
    is_named: bool

    def level(self, levels: int) -> str:
        """What is read of them."""
        if self.is_named:
            return "high" if levels & self.mask else "low"
        return f"{levels & self.mask:#x}"


def reachable() -> list[Pins]:
    """Those that have a name; gpio has nothing to do with port B."""
    return [Pins(name, pin.mask, True) for name, pin in PINS.items() if pin.mask is not None]


def parse(word: str) -> Pins:
    name = word.upper()
    if name in PINS:
        mask = PINS[name].mask
        if mask is None:
            raise InputError(f"{name} is a pin of port B, which gpio does not reach")
        return Pins(name, mask, True)
    try:
        mask = int(word, 16 if word[:2].lower() == "0x" else 10)
    except ValueError:
        raise InputError(f"there is no pin {word}; there are {', '.join(PINS)}") from None
    if not 0 < mask <= ALL:
        raise InputError(f"{word} is no mask of 32 bits")
    return Pins(word, mask, False)


def mask_of(words: Sequence[str]) -> int:
    mask = 0
    for word in words:
        mask |= parse(word).mask
    return mask


def settings(words: Sequence[str]) -> tuple[int, int]:
    """IO1=high IO2=low: what is to be high, and what low."""
    high = low = 0
    for word in words:
        pin, _, level = word.partition("=")
        if level not in LEVELS:
            raise InputError(f"{word}: to write, a pin is followed by =high or =low")
        mask = parse(pin).mask
        if LEVELS[level]:
            high |= mask
        else:
            low |= mask
    if high & low:
        raise InputError("a pin can't be high and low")
    return high, low


def source(word: str) -> str:
    """Of a subscription; gpio:IO1,IO2 is what the board knows as a mask."""
    kind, colon, pins = word.partition(":")
    return f"{kind}:{mask_of(pins.split(',')):#x}" if colon and kind == "gpio" else word
