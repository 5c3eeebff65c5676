"""What boards can do, as one table: each function with its numbers, its types and what it means.

Checks, documentation and completion all read it. The numbers and the C prototypes are those of
section 8; boards check neither (section 15, pitfall 5). Of a prototype, the unsigned types are
asked for, since the 4S runs a call of a signed type and then says -1; what the original's
library asks for instead is told as well.
"""

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, NamedTuple

from buswork.flipper.wire.terms import BadValue, Generation, Processor, Type, shown


class Kind(enum.Enum):
    CALL = "call"
    PUSH = "push"  # takes data
    PULL = "pull"  # brings data


class Parameter(NamedTuple):
    name: str
    type: Type
    meaning: str
    highest: int
    lowest: int = 0

    @property
    def range(self) -> str:
        return f"{self.lowest}..{self.highest}"


@dataclass(frozen=True, slots=True)
class Function:
    name: str
    meaning: str
    parameters: tuple[Parameter, ...] = ()
    returns: Type = Type.VOID
    result: str = ""  # what the returned number means
    original: Type | None = None  # what the original's library asks for, where it differs
    kind: Kind = Kind.CALL
    caution: str = ""
    number: int = -1  # its place in the module

    @property
    def usage(self) -> str:
        """As in "rgb(red, green, blue)"."""
        names = {Kind.PUSH: ["data"], Kind.PULL: ["length"]}.get(
            self.kind, [parameter.name for parameter in self.parameters]
        )
        return f"{self.name}({', '.join(names)})"


@dataclass(frozen=True, slots=True)
class Module:
    name: str
    meaning: str
    functions: Mapping[str, Function]
    index: int = -1

    def at(self, number: int) -> Function | None:
        return next((found for found in self.functions.values() if found.number == number), None)


@dataclass(frozen=True, slots=True)
class Table:
    """The modules of one processor, in the order of their indices."""

    generation: Generation
    processor: Processor
    modules: Mapping[str, Module]

    def find(self, module: str, function: str) -> tuple[Module, Function]:
        """By name, or BadValue, which says what there is."""
        found = self.modules.get(module)
        if found is None:
            have = ", ".join(self.modules)
            raise BadValue("module", f"there is no module {shown(module)!r}; there are {have}")
        its = found.functions.get(function)
        if its is None:
            have = ", ".join(each.usage for each in found.functions.values())
            text = f"the module {module} has no function {shown(function)!r}; it has {have}"
            raise BadValue("function", text)
        return found, its

    def at(self, index: int, number: int) -> tuple[Module, Function]:
        """By number, as packets name them; BadValue if there is nothing."""
        module = next((found for found in self.modules.values() if found.index == index), None)
        if module is None:
            raise BadValue("module", f"there is no module {index}")
        function = module.at(number)
        if function is None:
            raise BadValue("function", f"the module {module.name} has no function {number}")
        return module, function

    def renumbered(self, indices: Mapping[str, int]) -> "Table":
        """Only these modules, where a board of the second generation says that it has them."""
        modules = {
            name: replace(self.modules[name], index=index)
            for name, index in indices.items()
            if name in self.modules
        }
        return replace(self, modules=MappingProxyType(modules))

    def __iter__(self) -> Iterator[tuple[Module, Function]]:
        for module in self.modules.values():
            for function in module.functions.values():
                yield module, function


# -- what functions take ---------------------------------------------------------------------------


def _u8(name: str, meaning: str, highest: int = 0xFF) -> Parameter:
    return Parameter(name, Type.UINT8, meaning, highest)


def _u16(name: str, meaning: str) -> Parameter:
    return Parameter(name, Type.UINT16, meaning, 0xFFFF)


def _u32(name: str, meaning: str, highest: int = 0xFFFFFFFF) -> Parameter:
    return Parameter(name, Type.UINT32, meaning, highest)


_RESETS = "the processor that runs it starts anew: a board on USB goes away and comes back"
_CARRIES_FMR = "the line to the 4S: what goes over it beside FMR breaks the calls of everybody"
_G1_RESULT = "0, or -1 if it failed"
_G2_RESULT = "1, or 0 if it failed"

# -- the first generation --------------------------------------------------------------------------

_CONFIGURE = Function("configure", "makes it ready for use", returns=Type.INT, result=_G1_RESULT)
_PUSH = Function("push", "sends data", returns=Type.INT, result=_G1_RESULT, kind=Kind.PUSH)
_PULL = Function("pull", "receives data", returns=Type.INT, result=_G1_RESULT, kind=Kind.PULL)
_READ_BUTTON = Function(
    "read", "whether it is pressed", (), Type.UINT8, "1 pressed, 0 released", Type.INT8
)
_RGB = Function(
    "rgb",
    "sets its colour; 0, 0, 0 is off",
    (_u8("red", "how red"), _u8("green", "how green"), _u8("blue", "how blue")),
)
_FIRE = Function("fire", "lets the watchdog bite", original=Type.INT, caution=_RESETS)


def _gpio(highest: int, pins: str, caution: str = "") -> tuple[Function, ...]:
    def mask(name: str, meaning: str) -> Parameter:
        return _u32(name, meaning, highest)

    return (
        _CONFIGURE,
        Function(
            "enable", f"enables and disables {pins}",
            (mask("enable", "a bit for each to enable"),
             mask("disable", "a bit for each to disable")),
            caution=caution,
        ),
        Function(
            "write", f"sets and clears {pins}",
            (mask("set", "a bit for each to set"), mask("clear", "a bit for each to clear")),
            caution=caution,
        ),
        Function(
            "read", f"the state of {pins}",
            (mask("mask", "a bit for each to read"),),
            Type.UINT32, "a bit for each that is set", Type.INT32,
        ),
    )  # fmt: skip


def _task(name: str, meaning: str) -> Function:
    pid = _u32("pid", "which task; 0 is the kernel, which refuses")
    return Function(name, meaning, (pid,), Type.INT, _G1_RESULT)


def _uart0(caution: str = "") -> tuple[Function, ...]:
    functions = (
        replace(
            _CONFIGURE,
            parameters=(
                _u8("baud", "0 for FMR, 1 Mbaud; 8 for the 4S's boot ROM, nominally 111111 baud"),
                _u8("interrupts", "1 for FMR, 0 for the boot ROM", 1),
            ),
        ),
        Function(
            "ready", "whether something was received", (), Type.INT,
            "1 it was, 0 it was not; always 0 with interrupts",
        ),
        _PUSH,
        _PULL,
    )  # fmt: skip
    return tuple(replace(function, caution=caution) for function in functions)


_ONE = (_CONFIGURE,)
_G1_MODULES: Final = {
    "adc": ("analogue inputs", _ONE),
    "button": ("the button", (_CONFIGURE, _READ_BUTTON)),
    "dac": ("analogue outputs", _ONE),
    "fld": (
        "user modules",
        (
            _CONFIGURE,
            Function(
                "index", "where a user module is", (_u16("identifier", "its name's checksum"),),
                Type.INT, "its index, or -1 if it is not loaded",
            ),
        ),
    ),
    "gpio": ("the pins", _gpio(0xFFFFFFFF, "pins of port A")),
    "i2c": ("the I2C bus", _ONE),
    "led": ("the coloured light", (_CONFIGURE, _RGB)),
    "pwm": ("pulse widths", _ONE),
    "rtc": ("the clock", _ONE),
    "spi": (
        "the SPI bus",
        (
            _CONFIGURE,
            Function("enable", "switches it on", original=Type.INT),
            Function("disable", "switches it off", original=Type.INT),
            Function(
                "ready", "whether it can take a byte", (), Type.UINT8, "1 it can, 0 it can't",
                Type.INT,
            ),
            Function("put", "sends a byte", (_u8("byte", "what to send"),), original=Type.INT),
            Function("get", "receives a byte", (), Type.UINT8, "the byte", Type.INT),
            _PUSH,
            _PULL,
        ),
    ),
    "swd": ("the debug port", _ONE),
    "task": (
        "what runs on the 4S",
        (
            _task("pause", "makes a task wait"),
            _task("resume", "lets a task go on"),
            _task("stop", "ends a task"),
        ),
    ),
    "temp": ("the thermometer", _ONE),
    "timer": ("timers", _ONE),
    "uart0": ("a UART", _uart0()),
    "usart": (
        "the serial port",
        (
            _CONFIGURE,
            Function(
                "ready", "whether something was received", (), Type.INT, "1 it was, 0 it was not"
            ),
            _PUSH,
            _PULL,
        ),
    ),
    "usb": ("the 4S's own USB", _ONE),
    "wdt": ("the watchdog", (_CONFIGURE, _FIRE)),
}  # fmt: skip

# -- the second generation -------------------------------------------------------------------------


def _g2(name: str, meaning: str, *parameters: Parameter, returns: Type = Type.VOID) -> Function:
    return Function(name, meaning, parameters, returns, "the byte" if returns is Type.UINT8 else "")


_G2_CONFIGURE = replace(_CONFIGURE, result=_G2_RESULT)
_G2_READ = replace(_PULL, name="read", result=_G2_RESULT)
_G2_WRITE = replace(_PUSH, name="write", result=_G2_RESULT)
_ENABLE = _g2("enable", "switches it on")
_DISABLE = _g2("disable", "switches it off")
_GET = replace(_g2("get", "receives a byte", returns=Type.UINT8), original=Type.INT8)
_PUT = _g2("put", "sends a byte", _u8("byte", "what to send"))
_READY = Function(
    "ready", "whether it is ready for a byte", (), Type.UINT8, "1 it is, 0 it is not", Type.INT8
)


def _g2_gpio(highest: int, pins: str, caution: str = "") -> tuple[Function, ...]:
    _, enable, write, read = _gpio(highest, pins, caution)
    return _G2_CONFIGURE, enable, read, write


_G2_ONE = (_G2_CONFIGURE,)
# In alphabetical order, which numbers them.
_G2_MODULES: Final = {
    "adc": (_G1_MODULES["adc"][0], _G2_ONE),
    "button": (_G1_MODULES["button"][0], (_G2_CONFIGURE, _READ_BUTTON)),
    "dac": (_G1_MODULES["dac"][0], _G2_ONE),
    "gpio": (_G1_MODULES["gpio"][0], _g2_gpio(0xFFFFFFFF, "pins of port A")),
    "i2c": (
        _G1_MODULES["i2c"][0],
        (
            _G2_CONFIGURE,
            _g2("read", "receives a byte", returns=Type.UINT8),
            _g2(
                "start_read", "begins to receive",
                _u8("address", "of the other end"), _u8("length", "how much"),
            ),
            _g2(
                "start_write", "begins to send",
                _u8("address", "of the other end"), _u8("length", "how much"),
            ),
            _g2("stop", "ends what was begun"),
            _g2("write", "sends a byte", _u8("byte", "what to send")),
        ),
    ),
    "led": (_G1_MODULES["led"][0], (_G2_CONFIGURE, _RGB)),
    "pwm": (_G1_MODULES["pwm"][0], _G2_ONE),
    "rtc": (_G1_MODULES["rtc"][0], _G2_ONE),
    "spi": (
        _G1_MODULES["spi"][0],
        (_G2_CONFIGURE, _DISABLE, _ENABLE, _g2("end", "ends it"), _GET, _PUT, _READY),
    ),
    "swd": (_G1_MODULES["swd"][0], _G2_ONE),
    "temp": (_G1_MODULES["temp"][0], _G2_ONE),
    "timer": (
        _G1_MODULES["timer"][0],
        (
            _G2_CONFIGURE,
            replace(
                _g2(
                    "register", "calls a function of the board again and again",
                    _u32("ticks", "how often"),
                    Parameter("callback", Type.PTR, "the function's address", 0xFFFFFFFF),
                ),
                caution="the board runs whatever is at that address",
            ),
        ),
    ),
    "uart0": (
        _G1_MODULES["uart0"][0],
        (
            _G2_CONFIGURE, _DISABLE, _ENABLE, _GET, _PUT, _G2_READ, _READY,
            _g2("reset", "empties it"),
            _g2("setbaud", "sets its speed", _u32("baud", "bits a second")),
            _G2_WRITE,
        ),
    ),
    "usart": (
        _G1_MODULES["usart"][0],
        (_G2_CONFIGURE, _DISABLE, _ENABLE, _GET, _PUT, _READY),
    ),
    "usb": (_G1_MODULES["usb"][0], _G2_ONE),
    "wdt": (_G1_MODULES["wdt"][0], (_G2_CONFIGURE, replace(_FIRE, original=None))),
}  # fmt: skip

# -- what differs by processor ---------------------------------------------------------------------

_PORT_D: Final = ("the U2's pins, which hold power and reset of the 4S", 0xFF, "pins of port D")
_HOLDS_4S: Final = "bit 1 is the power of the 4S, bit 4 its reset, bit 5 test, bit 6 erase"

_Contents = tuple[str, tuple[Function, ...]]
_DIFFERENT: Final[dict[tuple[Generation, Processor], dict[str, _Contents]]] = {
    (Generation.G1, Processor.U2): {
        "gpio": (_PORT_D[0], _gpio(*_PORT_D[1:], _HOLDS_4S)),
        "uart0": ("the UART to the 4S", _uart0(_CARRIES_FMR)),
    },
    (Generation.G1, Processor.S4): {
        "uart0": ("the UART to the U2", _uart0(_CARRIES_FMR)),
    },
    (Generation.G2, Processor.U2): {
        "gpio": (_PORT_D[0], _g2_gpio(*_PORT_D[1:], _HOLDS_4S)),
        "spi": (
            _G1_MODULES["spi"][0],
            (_G2_CONFIGURE, _DISABLE, _ENABLE, _GET, _PUT, _G2_READ, _READY, _G2_WRITE),
        ),
    },
}

# Which has which, in the order of their indices.
_INDICES: Final[dict[tuple[Generation, bool], str]] = {
    (Generation.G1, True): "button gpio led uart0 wdt",
    (Generation.G1, False): (
        "adc button dac fld gpio i2c led pwm rtc spi swd task temp timer uart0 usart usb wdt"
    ),
    (Generation.G2, True): "button gpio led spi uart0 wdt",
    (Generation.G2, False): (
        "adc button dac gpio i2c led pwm rtc spi swd temp timer uart0 usart usb wdt"
    ),
}


def _table(generation: Generation, processor: Processor) -> Table:
    contents = _G1_MODULES if generation is Generation.G1 else _G2_MODULES
    contents = contents | _DIFFERENT.get((generation, processor), {})
    modules = {}
    names = _INDICES[generation, processor is Processor.U2].split()
    for index, name in enumerate(names):
        meaning, functions = contents[name]
        numbered = {
            function.name: replace(function, number=number)
            for number, function in enumerate(functions)
        }
        modules[name] = Module(name, meaning, MappingProxyType(numbered), index)
    return Table(generation, processor, MappingProxyType(modules))


TABLES: Final[Mapping[tuple[Generation, Processor], Table]] = {
    (generation, processor): _table(generation, processor)
    for generation in Generation
    for processor in Processor
}

# What the original sends to the U2 of a board on USB; all else goes to the 4S (section 8).
ON_U2: Final = frozenset(("led", "button", "uart0", "wdt"))


def processor_of(module: str) -> Processor:
    """Who runs a module of a board on USB."""
    return Processor.U2 if module in ON_U2 else Processor.S4


# -- pins ------------------------------------------------------------------------------------------


class Pin(NamedTuple):
    """Of the 4S; its gpio module drives port A alone (section 8)."""

    name: str
    port: str
    bit: int

    @property
    def mask(self) -> int | None:
        """For gpio; None: it can't be reached."""
        return 1 << self.bit if self.port == "A" else None


# IO13 does not exist. FMR itself drives PA0, which is none of these.
_PINS: Final = (
    "IO1 A22, IO2 A23, IO3 A2, IO4 A30, IO5 A29, IO6 A28, IO7 A27, IO8 A7, IO9 A8, IO10 A26, "
    "IO11 A25, IO12 A24, IO14 A16, IO15 B7, IO16 B6, RX A5, TX A6, MOSI A13, MISO A12, SCK A14, "
    "SS A31, SCL A4, SDA A3, A1 A20, A2 A19, A3 A18, A4 A17, A5 B3, A6 B2, A7 B1, A8 B0, "
    "D+ B11, D- B10"
)
PINS: Final[Mapping[str, Pin]] = {
    name: Pin(name, place[0], int(place[1:]))
    for name, place in (pin.split() for pin in _PINS.split(", "))
}

# The bits of the U2's gpio that hold the 4S.
S4_POWER, S4_RESET, S4_TEST, S4_ERASE = 1, 4, 5, 6
