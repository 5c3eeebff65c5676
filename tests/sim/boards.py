"""Hosts of simulated boards, as small as can be, and packets for them."""

import struct
from binascii import crc_hqx

import usb.core

from buswork.sim.device import How
from buswork.sim.usb import SimBackend

POLL_SECONDS = 0.002
PACKET_BYTES = 64


class Clock:
    """It goes on by itself only as often as somebody looks at it."""

    def __init__(self, step=0.0):
        self.now = 0.0
        self.step = step

    def __call__(self):
        self.now += self.step
        return self.now


class Bare:
    """The board without any USB around it; time passes when the host waits."""

    def __init__(self, board):
        self.board = board
        self.clock = board.clock = Clock()
        board.power_on()

    def write(self, data, timeout=2.0):
        """How it ended; PARTLY when the time was over."""
        until = self.clock.now + timeout
        while (outcome := self.board.write(0x02, data)).how is How.PARTLY:
            if self.clock.now >= until:
                break
            self.clock.now += POLL_SECONDS
            data = outcome.data
        return outcome.how

    def read(self, length=PACKET_BYTES, timeout=2.0, endpoint=0x81):
        """None: nothing in time, or it is gone."""
        until = self.clock.now + timeout
        while (outcome := self.board.read(endpoint, length)).how is How.SILENCE:
            if self.clock.now >= until:
                return None
            self.clock.now += POLL_SECONDS
        return outcome.data if outcome.how is How.DONE else None

    def call(self, data, timeout=2.0):
        assert self.write(data) is How.DONE
        return self.read(timeout=timeout)


class Pyusb:
    """The same through pyusb."""

    def __init__(self, board):
        self.board = board
        board.clock = Clock(step=0.002)
        self.backend = SimBackend()
        self.backend.plug(board)
        self.device = usb.core.find(backend=self.backend)

    def write(self, data, timeout=2.0):
        try:
            done = self.device.write(0x02, data, max(1, int(timeout * 1000)))
        except usb.core.USBError:
            return How.VANISH
        return How.DONE if done == len(data) else How.PARTLY

    def read(self, length=PACKET_BYTES, timeout=2.0, endpoint=0x81):
        try:
            return self.device.read(endpoint, length, max(1, int(timeout * 1000))).tobytes()
        except usb.core.USBError:
            return None


def packet(request_class, body=b"", length=None):
    """With a right checksum."""
    length = 6 + len(body) if length is None else length
    head = struct.pack("<BHHB", 0xFE, 0, length, request_class)
    whole = (head + body).ljust(PACKET_BYTES, b"\0")
    return whole[:1] + struct.pack("<H", crc_hqx(whole[:length], 0)) + whole[3:]


def call(module, function, *values, returns=4, types=0x3333, width=4, request_class=0):
    """Its values are uint32 unless types and width say otherwise."""
    types &= (1 << 4 * len(values)) - 1
    body = struct.pack("<BBBIB", module, function, returns, types, len(values))
    return packet(request_class, body + b"".join(v.to_bytes(width, "little") for v in values))


def transfer(request_class, module, function, length):
    """A push (2) or a pull (3)."""
    return packet(
        request_class,
        struct.pack("<IBBBIBQI", length, module, function, 4, 0x36, 2, 0, length),
    )


def result(value=0, error=0):
    return struct.pack("<IB", value, error)


def padded(data):
    return data.ljust(-(-len(data) // PACKET_BYTES) * PACKET_BYTES, b"\0")
