"""A USB device made of Python, without anything that carries it to a host.

It answers what a host may ask of any device, keeps a record of what it was asked, and misbehaves
as its faults say. The standard library is all that it needs, so that it also serves in other
processes than ours: behind a simulated kernel, or in a virtual machine.
"""

import enum
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

# Transfers that are remembered; some minutes of a busy device.
MAX_RECORDED = 10_000

IN = 0x80
STANDARD, VENDOR = 0x00, 0x40
_TYPE = 0x60
_GET_DESCRIPTOR, _GET_CONFIGURATION, _SET_CONFIGURATION, _SET_INTERFACE = 6, 8, 9, 11
_GET_STATUS, _CLEAR_FEATURE, _SET_FEATURE = 0, 1, 3
_DEVICE, _CONFIGURATION, _STRING, _BOS = 0x01, 0x02, 0x03, 0x0F
_ENGLISH = 0x0409


@dataclass(frozen=True, slots=True)
class Setup:
    """The eight bytes that begin a control transfer."""

    request_type: int
    request: int
    value: int
    index: int
    length: int


class How(enum.Enum):
    """How a transfer ends."""

    DONE = "done"
    STALL = "stall"  # the device refuses it
    SILENCE = "silence"  # the device says "not yet" until the host gives up
    HANG = "hang"  # not even the host's kernel gives up
    VANISH = "vanish"  # the device is unplugged
    PARTLY = "partly"  # not yet: the device has no room for what is left of the data


class Outcome(NamedTuple):
    how: How
    data: bytes = b""
    delay: float = 0.0  # seconds until the host learns it


@dataclass
class Fault:
    """What a device does wrong: how, to which transfers, from when on and how often.

    STALL, SILENCE, HANG and VANISH leave the device as it was. DONE with a delay, or with bytes to
    be left out or sent instead of the true ones, does what was asked.
    """

    how: How
    request: int | None = None  # of control transfers; None: any
    request_type: int | None = None
    index: int | None = None
    endpoint: int | None = None  # of bulk and interrupt transfers
    after: int = 0  # so many such transfers go well first
    times: int | None = None  # None: from then on all of them
    delay: float = 0.0
    length: int | None = None  # the answer is cut here
    reply: bytes | None = None  # the answer

    def takes(self, endpoint: int | None, setup: Setup | None) -> bool:
        """Whether it is this fault's turn; counts."""
        if endpoint != self.endpoint or (setup is not None and not self._is_about(setup)):
            return False
        if self.after > 0:
            self.after -= 1
            return False
        if self.times is not None:
            self.times -= 1
            return self.times >= 0
        return True

    def _is_about(self, setup: Setup) -> bool:
        wanted = (self.request_type, self.request, self.index)
        found = (setup.request_type, setup.request, setup.index)
        return all(a is None or a == b for a, b in zip(wanted, found, strict=True))

    def spoil(self, answer: bytes) -> bytes:
        return (answer if self.reply is None else self.reply)[: self.length]


class SimEndpoint(NamedTuple):
    address: int
    attributes: int = 2  # bulk; 3: interrupt
    max_packet: int = 64
    interval: int = 0


@dataclass(frozen=True)
class SimInterface:
    number: int
    interface_class: int
    subclass: int = 0
    protocol: int = 0
    endpoints: Sequence[SimEndpoint] = ()

    def descriptors(self) -> bytes:
        head = (9, 4, self.number, 0, len(self.endpoints))
        kind = (self.interface_class, self.subclass, self.protocol, 0)
        ends = (struct.pack("<BBBBHB", 7, 5, *endpoint) for endpoint in self.endpoints)
        return struct.pack("<9B", *head, *kind) + b"".join(ends)


class SimDevice:
    """Base of simulated devices: knows the standard requests, and leaves the others to them."""

    vendor, product, release = 0x1209, 0x0001, 0x0100
    manufacturer: str | None = "buswork"
    product_name: str | None = "Simulated device"
    serial: str | None = None
    version = 0x0200
    bos = b""

    def __init__(self, interfaces: Sequence[SimInterface] = ()) -> None:
        self.interfaces = tuple(interfaces)
        self.faults: list[Fault] = []
        # In the form of captured transfers: a dictionary each, and {"mark": ...} between them.
        self.record: deque[dict[str, Any]] = deque(maxlen=MAX_RECORDED)
        # Transfers come in threads of their workers, and tests look from theirs.
        self.lock = threading.RLock()
        self.clock: Callable[[], float] = time.monotonic
        self.power_on()

    # What a host does to it

    def power_on(self) -> None:
        """It was plugged in: nothing is left of what it was told before."""
        self._configured = 1
        self._born = self.clock()

    def transfer(self, setup: Setup, data: bytes = b"") -> Outcome:
        """A control transfer; data: what the host sent along."""
        with self.lock:
            fault = self._fault(None, setup)
            if fault is not None and fault.how is not How.DONE:
                self._note(setup, data, None)
                return Outcome(fault.how, delay=fault.delay)
            answer = self._answer(setup, data)
            if answer is not None and setup.request_type & IN:
                answer = answer[: setup.length]
                if fault is not None:
                    answer = fault.spoil(answer)
            self._note(setup, data, answer)
        self.after_transfer()
        delay = fault.delay if fault is not None else 0.0
        return Outcome(How.STALL if answer is None else How.DONE, answer or b"", delay)

    def write(self, endpoint: int, data: bytes) -> Outcome:
        with self.lock:
            fault = self._fault(endpoint, None)
            if fault is not None and fault.how is not How.DONE:
                return Outcome(fault.how, delay=fault.delay)
            taken = self.take(endpoint, data)
            delay = fault.delay if fault is not None else 0.0
            if taken is None:
                return Outcome(How.STALL, delay=delay)
            if taken < len(data):
                return Outcome(How.PARTLY, data[taken:])
            return Outcome(How.DONE, delay=delay)

    def read(self, endpoint: int, length: int) -> Outcome:
        """SILENCE: there is nothing to read yet."""
        with self.lock:
            fault = self._fault(endpoint, None)
            if fault is not None and fault.how is not How.DONE:
                return Outcome(fault.how, delay=fault.delay)
            data = self.send(endpoint, length)
            if data is None:
                return Outcome(How.SILENCE)
            data = data if fault is None else fault.spoil(data)
            return Outcome(How.DONE, data, fault.delay if fault is not None else 0.0)

    # What a device of some kind does

    def vendor_request(self, setup: Setup, data: bytes) -> bytes | None:
        """The answer to what is not a standard request of the device; None: a stall."""
        return None

    def bus_reset(self) -> None:
        """The host resets the port."""
        self.power_on()

    def take(self, endpoint: int, data: bytes) -> int | None:
        """How much it has room for of what the host writes; None: a stall."""
        return len(data) if self.receive(endpoint, data) else None

    def receive(self, endpoint: int, data: bytes) -> bool:
        """Takes what the host wrote; False: a stall."""
        return False

    def send(self, endpoint: int, length: int) -> bytes | None:
        """What the host reads, if there is anything."""
        return None

    def after_transfer(self) -> None:
        """Called after a control transfer, without the lock."""

    def decoded(self, setup: Setup, data: bytes) -> dict[str, Any] | None:
        """What the record says of a request beyond its bytes."""
        return None

    # What it says of itself

    @property
    def strings(self) -> tuple[str | None, str | None, str | None]:
        return self.manufacturer, self.product_name, self.serial

    def device_descriptor(self) -> bytes:
        strings = (at if text is not None else 0 for at, text in enumerate(self.strings, 1))
        kind = (18, _DEVICE, self.version, 0, 0, 0, 64)
        identity = (self.vendor, self.product, self.release)
        return struct.pack("<BBHBBBBHHHBBBB", *kind, *identity, *strings, 1)

    def configuration(self) -> bytes:
        body = b"".join(interface.descriptors() for interface in self.interfaces)
        head = (9, _CONFIGURATION, 9 + len(body), len(self.interfaces), 1, 0, 0x80, 50)
        return struct.pack("<BBHBBBBB", *head) + body

    def string(self, index: int) -> bytes | None:
        if index == 0:
            text = struct.pack("<H", _ENGLISH)
        elif index <= len(self.strings) and (found := self.strings[index - 1]) is not None:
            text = found.encode("utf-16-le", errors="replace")[:252]
        else:
            return None
        return bytes((2 + len(text), _STRING)) + text

    def now_ms(self) -> int:
        """Milliseconds since power on."""
        return int((self.clock() - self._born) * 1000)

    def mark(self, text: str) -> None:
        self.record.append({"mark": text})

    # Inside

    def _fault(self, endpoint: int | None, setup: Setup | None) -> Fault | None:
        return next((fault for fault in self.faults if fault.takes(endpoint, setup)), None)

    def _answer(self, setup: Setup, data: bytes) -> bytes | None:
        if setup.request_type & _TYPE != STANDARD or setup.request_type & 0x1F != 0:
            answer = self.vendor_request(setup, data)
            if answer is not None or setup.request_type & _TYPE != STANDARD:
                return answer
        if setup.request_type & IN:
            return self._standard_in(setup)
        return self._standard_out(setup)

    def _standard_in(self, setup: Setup) -> bytes | None:
        if setup.request == _GET_DESCRIPTOR and setup.request_type == IN:
            return self._descriptor(setup.value >> 8, setup.value & 0xFF)
        if setup.request == _GET_CONFIGURATION:
            return bytes((self._configured,))
        return b"\0\0" if setup.request == _GET_STATUS else None

    def _standard_out(self, setup: Setup) -> bytes | None:
        if setup.request == _SET_CONFIGURATION:
            self._configured = setup.value & 0xFF
        known = (_SET_CONFIGURATION, _SET_INTERFACE, _CLEAR_FEATURE, _SET_FEATURE)
        return b"" if setup.request in known else None

    def _descriptor(self, kind: int, index: int) -> bytes | None:
        if kind == _STRING:
            return self.string(index)
        if index != 0:
            return None
        if kind == _BOS:
            return self.bos or None
        return {_DEVICE: self.device_descriptor, _CONFIGURATION: self.configuration}.get(
            kind, lambda: None
        )()

    def _note(self, setup: Setup, data: bytes, answer: bytes | None) -> None:
        entry: dict[str, Any] = {
            "t_ms": self.now_ms(),
            "bmRequestType": f"0x{setup.request_type:02x}",
            "bRequest": f"0x{setup.request:02x}",
            "wValue": f"0x{setup.value:04x}",
            "wIndex": f"0x{setup.index:04x}",
            "wLength": setup.length,
        }
        if data:
            entry["data_out"] = data.hex()
        if answer is None:
            entry["stalled"] = True
        elif setup.request_type & IN:
            entry["data_in"] = answer.hex()
        if data and (decoded := self.decoded(setup, data)) is not None:
            entry["decoded"] = decoded
        self.record.append(entry)
