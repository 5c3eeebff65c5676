"""What boards call their failures: the names and numbers of both generations (section 6).

The second generation put one name in the middle, so that the same number has two meanings.
"""

import enum
from collections.abc import Mapping
from typing import Final


@enum.unique
class Error(enum.Enum):
    """Each with what it means; the names are the board's, but for one that was misspelt."""

    E_OK = "all went well"
    E_MALLOC = "the board has not got that much memory"
    E_NULL = "there is nothing at this place"
    E_OVERFLOW = "something is too long for its place"
    E_UNDERFLOW = "something is too short"
    E_NO_DEVICE = "there is no such device"
    E_NOT_ATTACHED = "the device is not attached"
    E_ALREADY_ATTACHED = "the device is attached already"
    E_FS_EXISTS = "the file exists already"
    E_FS_NO_FILE = "there is no such file"
    E_FMR_OVERFLOW = "the packet is too small for what it should hold"
    E_FMR = "the board can't do what the packet asks for"
    E_ENDPOINT = "the endpoint failed"
    E_LIBUSB = "USB failed"
    E_COMMUNICATION = "the connection failed"
    E_SOCKET = "the socket failed"
    E_MODULE = "there is no such module"
    E_RESOLUTION = "the name could not be resolved"
    E_STRING = "the text is not valid"
    E_CHECKSUM = "the packet was damaged: its magic number or its checksum is wrong"
    E_NAME = "the name is not valid"
    E_CONFIGURATION = "the configuration is not valid"
    E_ACK = "the other end did not acknowledge"
    E_TYPE = "the type is not valid"
    E_BOUNDARY = "this is outside of what there is"
    E_TIMER = "the timer failed"
    E_TIMEOUT = "it took too long"
    E_NO_PID = "no task has this pid"
    E_INVALID_TASK = "this can't be done with this task"
    E_SUBCLASS = "the class of the packet is not known"
    E_UNIMPLEMENTED = "the board can't do this yet"
    E_UART0_PUSH_TIMEOUT = "the board's UART did not take the data in time"
    E_UART0_PULL_TIMEOUT = "the board's UART did not bring the data in time"
    E_TEST = "a test failed"
    E_USB = "the board's USB failed"
    E_UART0_WRITE_TIMEOUT = "the board's UART did not take data in time"
    E_UART0_READ_TIMEOUT = "the board's UART did not bring data in time"

    @property
    def meaning(self) -> str:
        return self.value

    @property
    def camel(self) -> str:
        """As the last part of a D-Bus error name: NoPid, Uart0PullTimeout."""
        return "".join(word.capitalize() for word in self.name.split("_")[1:])


_ALL: Final = tuple(Error)
_ONLY_G1: Final = (Error.E_UART0_PUSH_TIMEOUT, Error.E_UART0_PULL_TIMEOUT)
_ONLY_G2: Final = (
    Error.E_UNDERFLOW,
    Error.E_TEST,
    Error.E_USB,
    Error.E_UART0_WRITE_TIMEOUT,
    Error.E_UART0_READ_TIMEOUT,
)

# By generation, in the order of their numbers.
ERRORS: Final[Mapping[int, tuple[Error, ...]]] = {
    1: tuple(error for error in _ALL if error not in _ONLY_G2),
    2: tuple(error for error in _ALL if error not in _ONLY_G1),
}
_NUMBERS: Final = {
    generation: {error: number for number, error in enumerate(errors)}
    for generation, errors in ERRORS.items()
}


def number_of(error: Error, generation: int) -> int:
    """The number of an error; the plain E_FMR for one that the generation has not got."""
    numbers = _NUMBERS[generation]
    return numbers.get(error, numbers[Error.E_FMR])


def error_of(number: int, generation: int) -> Error | None:
    """None: a number that the generation does not know, which a board may send all the same."""
    errors = ERRORS[generation]
    return errors[number] if 0 <= number < len(errors) else None


class BoardError(Exception):
    """A board says that what it was asked for failed: its number, and its name for that."""

    def __init__(self, number: int, generation: int, value: int = 0) -> None:
        self.number = number
        self.value = value  # often -1; it says nothing
        self.error = error_of(number, generation)
        self.name = self.error.name if self.error else f"E_{number}"
        self.camel = self.error.camel if self.error else "Unknown"
        meaning = self.error.meaning if self.error else "an error that nobody knows"
        super().__init__(f"the board says {self.name} (error {number}): {meaning}")
