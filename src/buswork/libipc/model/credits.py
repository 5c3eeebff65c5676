"""Credits: how much may be told to somebody who takes it when he likes.

Each message costs one, and one more for each 64 KiB of it, so that they bound memory too. The
last one may be overdrawn, or else a long message would never come. Nothing is read at 0.
"""

from typing import Final

from buswork.errors import InvalidArgs

START_CREDITS: Final = 32
MAX_CREDITS: Final = 1024
BYTES_FOR_ONE: Final = 65_536


def cost(length: int) -> int:
    """Of a message whose payload is so long."""
    return 1 + length // BYTES_FOR_ONE


class Credits:
    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = START_CREDITS

    def take(self, length: int) -> None:
        self.left -= cost(length)

    @property
    def are_used_up(self) -> bool:
        return self.left <= 0

    def grant(self, number: int) -> None:
        if self.left + number > MAX_CREDITS:
            raise InvalidArgs(
                f"there may be {MAX_CREDITS} credits at once, and {self.left} are left"
            )
        self.left += number
