"""A simulated DAC with Ferrum Streaming Control Technology(TM), FSCT: what a host sees of a real
one on the wire, and a picture of its display.

It is written from the protocol's facts, not on top of the driver's code, so that a mistake there
is not made here as well. What a real device would show wrongly, this one refuses and complains of.
"""

import enum
import math
import struct
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from buswork.sim.device import IN, VENDOR, Setup, SimDevice, SimInterface

CAPABILITY = UUID("c433beeb-8d00-4420-9515-bcb7faf38a41")

METADATA, PROGRESS, STATUS, QUEUE = 0x01, 0x02, 0x04, 0x08
UTF8, UTF16, UCS2, UTF32 = range(4)
TITLE, AUTHOR, ALBUM, GENRE = 1, 2, 3, 4

SIGNS = {
    0: "■ Stopped",
    1: "▶ Playing",
    2: "⏸ Paused",
    3: "» Seeking",
    4: "… Buffering",
    5: "! Error",
    15: "· Unknown",
}
WIDTH = 48
OFF = ["(off)"]

_TO_INTERFACE = VENDOR | 0x01
_GET_SET = (IN | 0x01, 0x06, 0x3100)
_UNKNOWN = 15
_TIMELINE = struct.Struct("<IiQf")
_CODECS = {UTF8: "utf-8", UTF16: "utf-16-le", UTF32: "utf-32-le"}


class _Request(enum.IntEnum):
    ENABLE = 0x01
    TIMESTAMP = 0x02
    PROGRESS = 0x03
    STATUS = 0x04
    POLL = 0x05
    TEXT = 0x10


class SimDac(SimDevice):
    """on_display is called with the lines whenever a request has changed them, in the thread that
    made the request; seconds_to_change() says when they change by themselves."""

    product_name = "Simulated DAC"
    version = 0x0201

    def __init__(
        self,
        serial: str | None = "SIM-1",
        *,
        functionality: int = METADATA | PROGRESS | STATUS,
        coding: int = UTF8,
        texts: Mapping[int, int] | None = None,
        interface: int = 1,
        subclass: int = 0x42,
        protocol: int = 1,
        watchdog: float | None = None,
        descriptors: bytes | None = None,
        bos: bytes | None = None,
    ) -> None:
        """texts: the longest of each kind, in bytes; watchdog: seconds without a request after
        which it believes that its host is gone; descriptors, bos: sent as they are."""
        self.serial = serial
        self.functionality = functionality
        self.coding = coding
        self.max_bytes = dict(texts or {TITLE: 64, AUTHOR: 64, ALBUM: 32, GENRE: 16})
        self.interface = interface
        self.watchdog = watchdog
        self.descriptors = self._descriptors() if descriptors is None else descriptors
        self.bos = fsct_bos(subclass) if bos is None else bos
        self.on_display: Callable[[list[str]], None] = lambda lines: None
        self.complaints: list[str] = []
        self._drawn: list[str] = []
        others = (SimInterface(number, 0xFF, 0x01) for number in range(interface))
        super().__init__((*others, SimInterface(interface, 0xFF, subclass, protocol)))

    def power_on(self) -> None:
        super().power_on()
        self.is_enabled = False
        self.status = _UNKNOWN
        self.texts: dict[int, str] = {}
        # duration in s, position in ms, at this device time in ms, rate
        self.timeline: tuple[int, int, int, float] | None = None
        self._heard_at = self.clock()

    # The display

    def lines(self, width: int = WIDTH) -> list[str]:
        """Status, title, author, album, genre and progress, a line each; or that it is off."""
        with self.lock:
            if not self.is_on:
                return list(OFF)
            texts = (_shown(self.texts.get(text, ""), width) for text in (1, 2, 3, 4))
            sign = SIGNS[self.status] if self.functionality & STATUS else ""
            return [sign, *texts, self._bar(width)]

    @property
    def is_on(self) -> bool:
        bites = self.watchdog is not None and self.clock() - self._heard_at > self.watchdog
        return self.is_enabled and not bites

    @property
    def position_ms(self) -> float | None:
        """Where the music is, by the device's own clock."""
        if self.timeline is None:
            return None
        _, position, at, rate = self.timeline
        moved = (self.now_ms() - at) * rate
        return position + moved if math.isfinite(moved) else float(position)

    def seconds_to_change(self) -> float | None:
        """How long the lines stay as they are if no request comes; None: for ever."""
        with self.lock:
            waits = []
            if self.watchdog is not None and self.is_on:
                waits.append(self._heard_at + self.watchdog - self.clock())
            position, timeline = self.position_ms, self.timeline
            if self.is_on and timeline is not None and position is not None:
                rate = timeline[3]
                if math.isfinite(rate) and rate != 0:
                    into = position % 1000
                    waits.append((1000 - into if rate > 0 else into + 1) / abs(rate) / 1000)
            return max(0.001, min(waits)) if waits else None

    def _bar(self, width: int) -> str:
        if self.timeline is None or self.position_ms is None:
            return ""
        duration, _, _, rate = self.timeline
        position = max(0.0, self.position_ms / 1000)
        if duration:
            position = min(position, float(duration))
        words = f"{_clock(position)} / {_clock(duration)}" if duration else _clock(position)
        if rate not in (0.0, 1.0):
            words += f" x{rate:g}"
        room = max(0, width - len(words) - 1)
        full = int(room * position / duration) if duration else 0
        return f"{'━' * full}{'─' * (room - full)} {words}"

    def after_transfer(self) -> None:
        lines = self.lines()
        if lines != self._drawn:
            self._drawn = lines
            self.on_display(lines)

    # Requests

    def vendor_request(self, setup: Setup, data: bytes) -> bytes | None:
        if setup.index & 0xFF != self.interface:
            return None
        if (setup.request_type, setup.request, setup.value) == _GET_SET:
            return self.descriptors or None
        if setup.request_type & ~IN != _TO_INTERFACE:
            return None
        self._heard_at = self.clock()
        if setup.request_type & IN:
            return self._told(setup)
        return b"" if self._obeyed(setup, data) else None

    def _told(self, setup: Setup) -> bytes | None:
        if setup.request == _Request.ENABLE:
            return bytes((self.is_enabled,))
        return struct.pack("<Q", self.now_ms()) if setup.request == _Request.TIMESTAMP else None

    def _obeyed(self, setup: Setup, data: bytes) -> bool:
        match setup.request:
            case _Request.ENABLE:
                self.is_enabled = setup.value != 0
                return not data or self._complain("Enable has no data")
            case _Request.PROGRESS:
                return self._set_timeline(data)
            case _Request.STATUS:
                if setup.value not in SIGNS:
                    return self._complain(f"there is no status {setup.value}")
                self.status = setup.value
                return True
            case _Request.POLL:
                return True
            case _Request.TEXT:
                return self._set_text(setup.index >> 8, data)
        return self._complain(f"there is no request {setup.request:#04x}")

    def _set_timeline(self, data: bytes) -> bool:
        if not self.functionality & PROGRESS:
            return self._complain("there is no progress on this display")
        if len(data) not in (0, _TIMELINE.size):
            return self._complain(f"progress has {len(data)} bytes")
        self.timeline = _TIMELINE.unpack(data) if data else None
        return True

    def _set_text(self, text: int, data: bytes) -> bool:
        if text not in self.max_bytes:
            return self._complain(f"there is no text {text} on this display")
        if len(data) > self.max_bytes[text]:
            return self._complain(f"text {text} has {len(data)} of {self.max_bytes[text]} bytes")
        try:
            value = _decoded(data, self.coding)
        except UnicodeDecodeError as error:
            return self._complain(f"text {text} is cut in a character: {error}")
        if value:
            self.texts[text] = value
        else:
            self.texts.pop(text, None)
        return True

    def _complain(self, text: str) -> bool:
        self.complaints.append(text)
        del self.complaints[:-100]
        return False

    def decoded(self, setup: Setup, data: bytes) -> dict[str, Any] | None:
        about = setup.request_type, setup.request
        if about != (_TO_INTERFACE, _Request.PROGRESS) or len(data) != _TIMELINE.size:
            return None
        names = ("duration_s", "position_ms", "device_timestamp_ms", "rate")
        return dict(zip(names, _TIMELINE.unpack(data), strict=True))

    def _descriptors(self) -> bytes:
        fields = b"".join(struct.pack("<BH", *field) for field in self.max_bytes.items())
        texts = struct.pack("<BBB", 3 + len(fields), 0x32, self.coding) + fields
        return struct.pack("<BBHB", 5, 0x31, 5 + len(texts), self.functionality) + texts


def fsct_bos(subclass: int = 0x42) -> bytes:
    """A BOS as a USB 2.01 device has it: the USB 2.0 extension, and FSCT."""
    extension = bytes((7, 0x10, 0x02, 0, 0, 0, 0))
    platform = (
        bytes((23, 0x10, 0x05, 0)) + CAPABILITY.bytes_le + struct.pack("<HB", 0x100, subclass)
    )
    body = extension + platform
    return struct.pack("<BBHB", 5, 0x0F, 5 + len(body), 2) + body


def _decoded(data: bytes, coding: int) -> str:
    if coding in _CODECS:
        return data.decode(_CODECS[coding])
    if len(data) % 2:
        raise UnicodeDecodeError("ucs-2", data, len(data) - 1, len(data), "half a unit")
    # Every unit is a character of its own here, and a surrogate is none.
    units = (int.from_bytes(data[at : at + 2], "little") for at in range(0, len(data), 2))
    return "".join("\ufffd" if 0xD800 <= unit < 0xE000 else chr(unit) for unit in units)


def _shown(text: str, width: int) -> str:
    """text as a display without a terminal's tricks shows it."""
    text = "".join(char if char.isprintable() else "\ufffd" for char in text)
    return text if len(text) <= width else text[: width - 1] + "…"


def _clock(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
