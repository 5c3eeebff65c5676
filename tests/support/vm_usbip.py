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
from pathlib import Path

from buswork.sim.device import IN, How, Outcome, Setup, SimDevice

CONTROLLER = Path("/sys/devices/platform/vhci_hcd.0")
SECONDS = 20.0

SUBMIT, UNLINK, SUBMITTED, UNLINKED = 1, 2, 3, 4
TO_HOST = 1
HIGH_SPEED = 3
FREE = "004"  # the state of a port in the controller's own table

# Command, number, device, direction, endpoint; of a request then flags, length, three fields for
# isochronous and interrupt transfers, and the setup of control transfers.
_HEAD = struct.Struct(">5I")
_REQUEST = struct.Struct(">Ii12x8s")
_TAKEN_BACK = struct.Struct(">I24x")
_ANSWER = struct.Struct(">5I5i8x")
_UNLINK_ANSWER = struct.Struct(">5Ii24x")
_SETUP = struct.Struct("<BBHHH")


class Plugged:
    """A device that is plugged in."""

    def __init__(self, device: SimDevice) -> None:
        self.device = device
        self._ours, theirs = socket.socketpair()
        # Bytes wanted by reads of bulk and interrupt endpoints, and by those that never end.
        self._pending: dict[int, tuple[int, int]] = {}
        self._hanging: set[int] = set()
        self._lock = threading.RLock()
        self._is_in = True
        device.power_on()
        with theirs:
            self._port = _free_port()
            threading.Thread(target=self._serve, daemon=True).start()
            word = f"{self._port} {theirs.fileno()} {0x10000 | self._port + 1} {HIGH_SPEED}"
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
        if endpoint == 0:
            outcome = self.device.transfer(Setup(*_SETUP.unpack(setup)), data)
        elif direction == TO_HOST:
            outcome = self.device.read(endpoint | IN, length)
        else:
            outcome = self.device.write(endpoint, data)
        with self._lock:
            self._pending[number] = (endpoint | IN if direction == TO_HOST else endpoint, length)
        if outcome.delay:
            threading.Timer(outcome.delay, self._finish, (number, outcome)).start()
        else:
            self._finish(number, outcome)
        if endpoint != 0 and direction != TO_HOST:
            self._read_again()

    def _read_again(self) -> None:
        """For reads that had nothing to read."""
        with self._lock:
            waiting = [(n, *want) for n, want in self._pending.items() if want[0] & ~IN]
        for number, endpoint, length in waiting:
            if endpoint & IN:
                self._finish(number, self.device.read(endpoint, length))

    def _finish(self, number: int, outcome: Outcome) -> None:
        with self._lock:
            if number not in self._pending or number in self._hanging:
                return
            if outcome.how is How.HANG:
                self._hanging.add(number)
            elif outcome.how is How.STALL:
                self._end(number, -errno.EPIPE)
            elif outcome.how is How.DONE:
                self._end(number, 0, outcome.data)
        if outcome.how is How.VANISH:
            self.unplug()

    def _end(self, number: int, status: int, data: bytes = b"") -> None:
        endpoint, length = self._pending.pop(number)
        is_in = bool(endpoint & IN)
        done = len(data) if is_in else (length if status == 0 else 0)
        head = _ANSWER.pack(SUBMITTED, number, 0, 0, 0, status, done, 0, 0, 0)
        self._send(head + (data if is_in else b""))

    def _take_back(self, answer_to: int, number: int) -> None:
        with self._lock:
            if number in self._hanging:
                return
            was_pending = self._pending.pop(number, None) is not None
            status = -errno.ECONNRESET if was_pending else 0
            self._send(_UNLINK_ANSWER.pack(UNLINKED, answer_to, 0, 0, 0, status))

    def _send(self, data: bytes) -> None:
        try:
            self._ours.sendall(data)
        except OSError:  # unplugged
            pass


def _free_port() -> int:
    for line in (CONTROLLER / "status").read_text().splitlines()[1:]:
        hub, port, state, *_ = line.split()
        if hub == "hs" and state == FREE:
            return int(port)
    raise RuntimeError("all ports of the virtual controller are taken")
