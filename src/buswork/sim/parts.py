"""What a Flipper board is made of, beside its processors: light, button, pins, serial ports.

A part is the module that programs call, and what somebody in front of the board sees and does.
"""

from buswork.sim.fmr import (
    E_INVALID_TASK,
    E_NO_PID,
    E_NULL,
    E_UART0_PULL_TIMEOUT,
    INT,
    U8,
    U32,
    Data,
    Failed,
    Function,
    Part,
    transfer,
)

CONFIGURE = Function("configure", lambda *_: 0, (), INT)
# What one end keeps while nobody takes it; more is lost, as on a real line.
MAX_KEPT_BYTES = 64 * 1024
# Measured: 7 is a number that a task may have, and 99 is not.
MAX_TASKS = 64


def plain(name: str) -> Part:
    """A module that can be configured, and nothing else."""
    return Part(name, (CONFIGURE,))


class Led:
    def __init__(self) -> None:
        self.colour = 0, 0, 0

    def part(self) -> Part:
        return Part("led", (CONFIGURE, Function("rgb", self._rgb, (U8, U8, U8))))

    def _rgb(self, red: int, green: int, blue: int) -> None:
        self.colour = red, green, blue


class Button:
    """It stays pressed whatever happens to the board."""

    def __init__(self) -> None:
        self.pressed = False

    def part(self) -> Part:
        return Part("button", (CONFIGURE, Function("read", lambda: int(self.pressed), (), U8)))


class Gpio:
    """A pin is high if the board or somebody outside holds it so."""

    def __init__(self, outputs: int = 0, *, has_mask: bool = True) -> None:
        """has_mask: whether a read looks at its mask; the U2's does not."""
        self.inputs = 0
        self.outputs = outputs
        self.enabled = 0
        self._has_mask = has_mask

    @property
    def levels(self) -> int:
        return self.inputs | self.outputs

    def part(self) -> Part:
        functions = (
            CONFIGURE,
            Function("enable", self._enable, (U32, U32)),
            Function("write", self._write, (U32, U32)),
            Function("read", self._read, (U32,), U32),
        )
        return Part("gpio", functions)

    def _enable(self, enable: int, disable: int) -> None:
        self.enabled = (self.enabled | enable) & ~disable

    def _write(self, high: int, low: int) -> None:
        self.outputs = (self.outputs | high) & ~low

    def _read(self, mask: int) -> int:
        return self.levels & mask if self._has_mask else self.levels


class Line:
    """A serial port: what it sent, and what it received and nobody pulled yet."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.received = bytearray()

    def receive(self, data: bytes) -> None:
        """From whoever is at the other end."""
        self.received += data
        del self.received[MAX_KEPT_BYTES:]

    def push(self, buffer: bytearray) -> int:
        self.sent += buffer
        del self.sent[:-MAX_KEPT_BYTES]
        return 0

    def pull(self, buffer: bytearray) -> int:
        taken = self.received[: len(buffer)]
        del self.received[: len(taken)]
        buffer[: len(taken)] = taken
        if len(taken) < len(buffer):
            raise Failed(E_UART0_PULL_TIMEOUT)
        return 0

    def ready(self) -> int:
        return int(bool(self.received))

    def part(self, name: str) -> Part:
        # It has more parameters on some boards, which they take without a look.
        functions = (
            CONFIGURE,
            Function("ready", self.ready, (), INT),
            transfer("push", self.push, Data.TAKES),
            transfer("pull", self.pull, Data.FILLS),
        )
        return Part(name, functions)


class Spi:
    """A bus with nothing on it but a wire from its output to its input."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.is_enabled = False

    def part(self) -> Part:
        functions = (
            CONFIGURE,
            Function("enable", lambda: self._enable(True)),
            Function("disable", lambda: self._enable(False)),
            Function("ready", lambda: int(self.is_enabled), (), U8),
            Function("put", lambda byte: self._push(bytearray((byte,))), (U8,)),
            Function("get", self._last, (), U8),
            transfer("push", self._push, Data.TAKES),
            transfer("pull", self._pull, Data.FILLS),
        )
        return Part("spi", functions)

    def _enable(self, is_enabled: bool) -> None:
        self.is_enabled = is_enabled

    def _last(self) -> int:
        return self.sent[-1] if self.sent else 0

    def _push(self, buffer: bytearray) -> int:
        self.sent += buffer
        del self.sent[:-MAX_KEPT_BYTES]
        return 0

    def _pull(self, buffer: bytearray) -> int:
        buffer[:] = bytes((self._last(),)) * len(buffer)
        return 0


class Tasks:
    """Of the 4S; 0 is the kernel, the others are applications that were loaded."""

    def __init__(self) -> None:
        self.states: dict[int, str] = {}

    def start(self) -> int:
        """Its number, or 0 where there is no room."""
        pid = next((pid for pid in range(1, MAX_TASKS) if pid not in self.states), 0)
        if pid:
            self.states[pid] = "running"
        return pid

    def part(self) -> Part:
        functions = (
            Function("pause", lambda pid: self._become(pid, "paused"), (U32,), INT),
            Function("resume", lambda pid: self._become(pid, "running"), (U32,), INT),
            Function("stop", lambda pid: self._become(pid, "stopped"), (U32,), INT),
        )
        return Part("task", functions)

    def _become(self, pid: int, state: str) -> int:
        if pid == 0:
            raise Failed(E_INVALID_TASK)
        if pid >= MAX_TASKS:
            raise Failed(E_NO_PID)
        if pid not in self.states:
            raise Failed(E_NULL)
        if state == "stopped":
            del self.states[pid]
        else:
            self.states[pid] = state
        return 0
