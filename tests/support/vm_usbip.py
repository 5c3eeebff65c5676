"""Simulated devices in this very kernel: its virtual host controller (vhci_hcd), which is made for
USB over a network, gets one end of a pair of sockets, and a thread with the other end is the wire.

For the kernel, and for all that runs on it, such a device is like any other. It needs root and the
module; all that is sent is said in the kernel's Documentation/usb/usbip_protocol.rst.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from buswork.sim.device import IN, How, Outcome, Setup, SimDevice

CONTROLLER = Path("/sys/devices/platform/vhci_hcd.0")
SECONDS = 120.0

SUBMIT, UNLINK, SUBMITTED, UNLINKED = 1, 2, 3, 4
TO_HOST = 1
FULL_SPEED, HIGH_SPEED = 2, 3
BULK, HIGH_SPEED_PACKET = 2, 512
FREE = "004"  # the state of a port in the controller's own table

# Command, number, device, direction, endpoint; of a request then flags, length, three fields for
# isochronous and interrupt transfers, and the setup of control transfers.
_HEAD = struct.Struct(">5I")
_REQUEST = struct.Struct(">Ii12x8s")
_TAKEN_BACK = struct.Struct(">I24x")
_ANSWER = struct.Struct(">5I5i8x")
_UNLINK_ANSWER = struct.Struct(">5Ii24x")
_SETUP = struct.Struct("<BBHHH")

# How often a transfer that waits for its device is looked at: at first, and when it lasts.
POLL_SECONDS, MAX_POLL_SECONDS = 0.005, 0.1


@dataclass(eq=False)
class _Transfer:
    """One that the kernel has asked for."""

    number: int
    endpoint: int
    length: int
    left: bytes  # to be sent to the device
    got: bytes = b""
    is_settled: bool = False  # the device has had its say
    hangs: bool = False

    @property
    def is_in(self) -> bool:
        return bool(self.endpoint & IN)


class Plugged:
    """A device that is plugged in."""

    def __init__(self, device: SimDevice) -> None:
        self.device = device
        self._ours, theirs = socket.socketpair()
        self._pending: dict[int, _Transfer] = {}  # by number, in their order
        self._poll: threading.Timer | None = None
        self._poll_seconds = POLL_SECONDS
        self._lock = threading.RLock()
        self._is_in = True
        device.power_on()
        with theirs:
            self._port = _free_port()
            threading.Thread(target=self._serve, daemon=True).start()
            word = f"{self._port} {theirs.fileno()} {0x10000 | self._port + 1} {_speed(device)}"
            (CONTROLLER / "attach").write_text(word)
        self.syspath = self._find()

    def unplug(self) -> None:
        with self._lock:
            if not self._is_in:
                return
            self._is_in = False
        (CONTROLLER / "detach").write_text(str(self._port))
        self._ours.close()

    def _find(self) -> str:
        """Where the kernel has it; it comes when the kernel has asked what it is."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            for found in CONTROLLER.glob(f"usb*/*-{self._port + 1}/bConfigurationValue"):
                with contextlib.suppress(OSError):
                    if found.read_text().strip():  # else it has no name yet, or only half of it
                        return str(found.parent)
            time.sleep(0.02)
        raise TimeoutError(f"the kernel does not take the device at port {self._port}")

    # The wire

    def _serve(self) -> None:
        try:
            while True:
                command, number, _, direction, endpoint = _HEAD.unpack(self._take(_HEAD.size))
                rest = self._take(48 - _HEAD.size)
                if command == UNLINK:
                    self._take_back(number, *_TAKEN_BACK.unpack(rest))
                elif command == SUBMIT:
                    _, length, setup = _REQUEST.unpack(rest)
                    data = b"" if direction == TO_HOST else self._take(length)
                    self._submit(number, endpoint, direction, length, setup, data)
        except (EOFError, OSError):  # unplugged
            pass

    def _take(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._ours.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def _submit(
        self, number: int, endpoint: int, direction: int, length: int, setup: bytes, data: bytes
    ) -> None:
        address = endpoint | IN if direction == TO_HOST else endpoint
        transfer = _Transfer(number, address, length, data)
        with self._lock:
            self._pending[number] = transfer
            if endpoint == 0:
                self._settle(transfer, self.device.transfer(Setup(*_SETUP.unpack(setup)), data))
            self._poll_seconds = POLL_SECONDS
            self._go_on()

    def _go_on(self) -> None:
        """All endpoints as far as the device lets them; what still waits is looked at later."""
        with self._lock:
            if self._poll is not None:
                self._poll.cancel()
            while waiting := self._waiting():
                moved = [self._move(transfer) for transfer in waiting]
                if not any(moved):
                    break
            if waiting and self._is_in:
                self._poll = threading.Timer(self._poll_seconds, self._go_on)
                self._poll.daemon = True
                self._poll.start()
                self._poll_seconds = min(2 * self._poll_seconds, MAX_POLL_SECONDS)

    def _waiting(self) -> list[_Transfer]:
        """The first of each bulk or interrupt endpoint."""
        first: dict[int, _Transfer] = {}
        for transfer in self._pending.values():
            if transfer.endpoint & ~IN:
                first.setdefault(transfer.endpoint, transfer)
        return [each for each in first.values() if not each.is_settled]

    def _move(self, transfer: _Transfer) -> bool:
        """Whether it is no longer in the way of the next one."""
        if transfer.is_in:
            wanted = transfer.length - len(transfer.got)
            outcome = self.device.read(transfer.endpoint, wanted)
            if outcome.how is How.DONE:
                transfer.got += outcome.data
                if self._is_more_to_come(transfer, len(outcome.data)):
                    return False
                outcome = outcome._replace(data=transfer.got)
        else:
            outcome = self.device.write(transfer.endpoint, transfer.left)
            if outcome.how is How.PARTLY:
                transfer.left = outcome.data
        if outcome.how in (How.PARTLY, How.SILENCE):
            return False
        self._settle(transfer, outcome)
        return True

    def _is_more_to_come(self, transfer: _Transfer, came: int) -> bool:
        """A short packet ends a transfer."""
        ends = (end for each in self.device.interfaces for end in each.endpoints)
        (size,) = (end.max_packet for end in ends if end.address == transfer.endpoint)
        return 0 < came == came // size * size and len(transfer.got) < transfer.length

    def _settle(self, transfer: _Transfer, outcome: Outcome) -> None:
        transfer.is_settled = True
        if outcome.delay:
            threading.Timer(outcome.delay, self._finish, (transfer, outcome)).start()
        else:
            self._finish(transfer, outcome)

    def _finish(self, transfer: _Transfer, outcome: Outcome) -> None:
        with self._lock:
            if transfer.number not in self._pending:
                return
            if outcome.how is How.HANG:
                transfer.hangs = True
            elif outcome.how is How.STALL:
                self._end(transfer, -errno.EPIPE)
            elif outcome.how is How.DONE:
                self._end(transfer, 0, outcome.data)
        if outcome.how is How.VANISH:
            self.unplug()

    def _end(self, transfer: _Transfer, status: int, data: bytes = b"") -> None:
        del self._pending[transfer.number]
        done = len(data) if transfer.is_in else (transfer.length if status == 0 else 0)
        head = _ANSWER.pack(SUBMITTED, transfer.number, 0, 0, 0, status, done, 0, 0, 0)
        self._send(head + (data if transfer.is_in else b""))

    def _take_back(self, answer_to: int, number: int) -> None:
        with self._lock:
            transfer = self._pending.get(number)
            if transfer is not None and transfer.hangs:
                return
            self._pending.pop(number, None)
            status = -errno.ECONNRESET if transfer is not None else 0
            self._send(_UNLINK_ANSWER.pack(UNLINKED, answer_to, 0, 0, 0, status))

    def _send(self, data: bytes) -> None:
        try:
            self._ours.sendall(data)
        except OSError:  # unplugged
            pass


def _speed(device: SimDevice) -> int:
    """Bulk endpoints of the faster devices have packets of one size."""
    ends = (end for each in device.interfaces for end in each.endpoints)
    slow = any(end.attributes == BULK and end.max_packet < HIGH_SPEED_PACKET for end in ends)
    return FULL_SPEED if slow else HIGH_SPEED


def _free_port() -> int:
    for line in (CONTROLLER / "status").read_text().splitlines()[1:]:
        hub, port, state, *_ = line.split()
        if hub == "hs" and state == FREE:
            return int(port)
    raise RuntimeError("all ports of the virtual controller are taken")
