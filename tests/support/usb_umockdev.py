"""A program for the system's own Python: simulated devices behind an emulated kernel.

    umockdev-wrapper /usr/bin/python3 usb_umockdev.py FD

FD is a socket on which it takes commands, a line of JSON each, and answers in the same way;
tests.support.usb_kernel is the other end. Programs that run with its UMOCKDEV_DIR see the devices
in sysfs and /dev, get their events from udev, and reach them through libusb: usbfs is answered
here, by the very devices that serve as pyusb backend elsewhere.

What was learned: the handler is attached before the device is added; hexadecimal digits are in
upper case; at an unplug, pending transfers end first; and a program whose umockdev is gone aborts.
"""

import errno
import fcntl
import json
import os
import socket
import struct
import sys
import threading
from collections import deque
from pathlib import Path

import gi

gi.require_version("UMockdev", "1.0")
from gi.repository import GLib, UMockdev  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
from buswork.sim.carbon import SimCarbon  # noqa: E402
from buswork.sim.dac import SimDac  # noqa: E402
from buswork.sim.device import (  # noqa: E402
    IN,
    Fault,
    How,
    Setup,
    SimDevice,
    SimEndpoint,
    SimInterface,
)

# The ioctls of usbfs, of 64 bit machines.
CONTROL = 0xC0185500
GET_CAPABILITIES = 0x8004551A
SUBMITURB = 0x8038550A
REAPURB = 0x4008550C
REAPURBNDELAY = 0x4008550D
DISCARDURB = 0x550B
CLAIM = 0x8004550F
RELEASE = 0x80045510
SETINTERFACE = 0x80085504
SETCONFIG = 0x80045505
GETDRIVER = 0x41045508
RESET = 0x5514
CLEAR_HALT = 0x80045515
GET_SPEED = 0x551F
OBEYED = (SETINTERFACE, CLEAR_HALT)

URB_BYTES = 56
CONTROL_URB = 2
STATUS_AT, BUFFER_AT, LENGTH_AT, ACTUAL_AT = 4, 16, 24, 28
ZERO_PACKET, NO_PACKET_SIZE_LIMIT = 1, 4
HIGH_SPEED = 3
ROOT = "/devices/pci0000:00/0000:00:14.0"


class Board(SimDevice):
    """Sends back what it was sent, turned round."""

    product_name = "Simulated board"

    def __init__(self):
        ends = (SimEndpoint(0x81, 2, 512), SimEndpoint(0x02, 2, 512), SimEndpoint(0x83, 3, 32, 1))
        super().__init__([SimInterface(0, 0xFF, 1, 1, ends)])
        self.held = bytearray()

    def receive(self, endpoint, data):
        self.held += data[::-1]
        return True

    def send(self, endpoint, length):
        data = bytes(self.held[:length])
        del self.held[:length]
        return data or None


KINDS = {"dac": SimDac, "board": Board, "carbon": SimCarbon}
# How often a transfer that waits for its device is looked at: at first, and when it lasts.
POLL_MS = 2
MAX_POLL_MS = 16
PAGE_BYTES = 4096


class Urb:
    """A transfer that is on its way."""

    def __init__(self, client, data):
        self.client = client
        self.data = data
        fields = bytes(data.retrieve())
        self.kind, self.endpoint = fields[:2]
        (self.length,) = struct.unpack_from("<i", fields, LENGTH_AT)
        self.buffer = data.resolve(BUFFER_AT, self.length) if self.length else None
        self.hangs = False
        self.is_settled = False  # the device has had its say
        self.got = b""
        self.left = self.sent() if self.kind != CONTROL_URB and not self.endpoint & IN else b""

    def sent(self):
        return bytes(self.buffer.retrieve()) if self.buffer is not None else b""

    def complete(self, status, received=None):
        """received: None where the host was the one who sent."""
        skipped = 8 if self.kind == CONTROL_URB else 0
        if received is None:
            actual = self.length - skipped - len(self.left)
        else:
            if len(received) > self.length - skipped:
                status, received = -errno.EOVERFLOW, b""
            actual = len(received)
            if received:
                self.buffer.update(skipped, list(received))
        self.data.update(STATUS_AT, list(struct.pack("<i", status)))
        self.data.update(ACTUAL_AT, list(struct.pack("<i", actual)))


class Readiness:
    """Tells programs that poll a device node whether a transfer of theirs has ended.

    umockdev's nodes are files, which are always ready; so it is a pipe that is full until then.
    """

    def __init__(self, path):
        os.mkfifo(path, 0o666)
        self.pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        fcntl.fcntl(self.pipe, fcntl.F_SETPIPE_SZ, PAGE_BYTES)
        self.is_ready = True
        self.tell(False)

    def tell(self, is_ready):
        if is_ready and not self.is_ready:
            os.read(self.pipe, PAGE_BYTES)
        elif self.is_ready and not is_ready:
            os.write(self.pipe, bytes(PAGE_BYTES))
        self.is_ready = is_ready


class Usbfs(UMockdev.IoctlBase):
    """The device node of one device."""

    def __init__(self, device, unplug):
        super().__init__()
        self.device = device
        self.unplug = unplug
        self.is_gone = False
        self.claims = {}  # by interface; "driver" is a kernel driver's
        self.pending = []
        self.done = {}  # by client
        self.reapers = {}
        self.is_polling = False
        self.poll_ms = POLL_MS
        self.readiness = None
        self.telling = threading.Lock()
        self.leaving = threading.Lock()

    def do_handle_ioctl(self, client):
        try:
            result = self.handle(client, client.get_request() & 0xFFFFFFFF)
        except Exception:
            sys.excepthook(*sys.exc_info())
            result = -errno.EIO
        if result is not None:
            client.complete(-1 if result < 0 else result, -result if result < 0 else 0)
        return True

    def do_client_vanished(self, client):
        self.forget(client)

    def forget(self, client):
        self.claims = {k: v for k, v in self.claims.items() if v is not client}
        self.pending = [urb for urb in self.pending if urb.client is not client]
        self.done.pop(client, None)
        self.tell()

    def tell(self):
        """To those who poll; ioctls and timers come in threads of their own."""
        with self.telling:
            self.readiness.tell(self.is_gone or any(self.done.values()))

    def handle(self, client, request):
        """The ioctl's result; None: it comes later."""
        argument = client.get_arg()
        if request in (REAPURB, REAPURBNDELAY):
            return self.reap(client, request == REAPURB)
        if self.is_gone:
            return -errno.ENODEV
        if request == GET_CAPABILITIES:
            flags = ZERO_PACKET | NO_PACKET_SIZE_LIMIT
            argument.resolve(0, 4).update(0, list(struct.pack("<I", flags)))
        elif request == CLAIM:
            return self.claim(client, number(argument))
        elif request == RELEASE:
            if self.claims.get(number(argument)) is client:
                del self.claims[number(argument)]
        elif request == SUBMITURB:
            urb = Urb(client, argument.resolve(0, URB_BYTES))
            client.complete(0, 0)
            self.submit(urb)
            return None
        elif request == CONTROL:
            return self.control(argument)
        elif request == DISCARDURB:
            return self.discard(struct.unpack("<Q", bytes(argument.retrieve()))[0])
        elif request == GETDRIVER:
            return -errno.ENODATA
        elif request == GET_SPEED:
            return HIGH_SPEED
        elif request == SETCONFIG:
            return self.configure(number(argument))
        elif request == RESET:
            self.device.bus_reset()
        elif request not in OBEYED:
            return -errno.ENOTTY
        return 0

    def claim(self, client, interface):
        if interface not in (each.number for each in self.device.interfaces):
            return -errno.ENOENT
        holder = self.claims.get(interface)
        if holder not in (None, "driver") and not holder.get_connected():
            self.forget(holder)  # it was killed, of which umockdev does not tell
        if self.claims.setdefault(interface, client) is not client:
            return -errno.EBUSY
        return 0

    def configure(self, value):
        if self.claims:
            return -errno.EBUSY
        self.device.transfer(Setup(0, 9, value, 0, 0))
        return 0

    # Transfers

    def submit(self, urb):
        with self.leaving:
            self.pending.append(urb)
            is_gone = self.is_gone
        if is_gone:  # only just, and nobody else ends it
            self.end(urb, -errno.ESHUTDOWN, b"")
            return
        if urb.kind == CONTROL_URB:
            setup = Setup(*struct.unpack("<BBHHH", urb.sent()[:8]))
            outcome = self.device.transfer(
                setup, b"" if setup.request_type & 0x80 else urb.sent()[8:]
            )
            self.settle(urb, outcome)
        self.poll_ms = POLL_MS
        if self.go_on() and not self.is_polling:
            self.poll_later()

    def poll_later(self):
        self.is_polling = True
        GLib.timeout_add(self.poll_ms, self.poll)
        self.poll_ms = min(2 * self.poll_ms, MAX_POLL_MS)

    def poll(self):
        self.is_polling = False
        if self.go_on():
            self.poll_later()
        return GLib.SOURCE_REMOVE

    def go_on(self):
        """All endpoints as far as the device lets them; what still waits for it."""
        while waiting := self.waiting():
            moved = [self.move(urb) for urb in waiting]
            if not any(moved):
                break
        return waiting

    def waiting(self):
        """The first transfer of each endpoint."""
        ends = {}
        for urb in self.pending:
            if urb.kind != CONTROL_URB:
                ends.setdefault(urb.endpoint, urb)
        return [urb for urb in ends.values() if not urb.is_settled]

    def move(self, urb):
        """Whether it is no longer in the way of the next one."""
        if urb.endpoint & IN:
            outcome = self.device.read(urb.endpoint, urb.length - len(urb.got))
            if outcome.how is How.SILENCE:
                return False
            if outcome.how is How.DONE:
                urb.got += outcome.data
                if self.is_more_to_come(urb, len(outcome.data)):
                    return False
                outcome = outcome._replace(data=urb.got)
        else:
            outcome = self.device.write(urb.endpoint, urb.left)
            if outcome.how is How.PARTLY:
                urb.left = outcome.data
            if outcome.how in (How.PARTLY, How.SILENCE):
                return False
            if outcome.how is How.DONE:
                urb.left = b""
        self.settle(urb, outcome)
        return True

    def is_more_to_come(self, urb, came):
        """A short packet ends a transfer."""
        ends = [end for each in self.device.interfaces for end in each.endpoints]
        (size,) = (end.max_packet for end in ends if end.address == urb.endpoint)
        return 0 < came == came // size * size and len(urb.got) < urb.length

    def settle(self, urb, outcome):
        urb.is_settled = True
        if outcome.delay:
            GLib.timeout_add(outcome.delay * 1000, self.finish, urb, outcome)
        else:
            self.finish(urb, outcome)

    def finish(self, urb, outcome):
        if urb not in self.pending:  # discarded meanwhile
            return
        if outcome.how is How.VANISH:
            self.unplug()
        elif outcome.how is How.HANG:
            urb.hangs = True
        elif outcome.how is How.STALL:
            self.end(urb, -errno.EPIPE, b"")
        elif outcome.how is How.DONE:
            is_in = urb.endpoint & IN or (urb.kind == CONTROL_URB and urb.sent()[0] & IN)
            self.end(urb, 0, outcome.data if is_in else None)

    def end(self, urb, status, received):
        self.pending.remove(urb)
        urb.complete(status, received)
        self.done.setdefault(urb.client, deque()).append(urb)
        if reapers := self.reapers.get(urb.client):
            self.reap(reapers.pop(), True)
        self.tell()

    def control(self, argument):
        """A control transfer in one call, which is not libusb's way."""
        transfer = argument.resolve(0, 24)
        setup = Setup(*struct.unpack_from("<BBHHH", bytes(transfer.retrieve())))
        outcome = self.device.transfer(setup)
        if outcome.how is not How.DONE:
            return -errno.EPIPE if outcome.how is How.STALL else -errno.ETIMEDOUT
        if outcome.data:
            transfer.resolve(16, setup.length).update(0, list(outcome.data))
        return len(outcome.data)

    def discard(self, address):
        for urb in self.pending:
            if urb.data.client_addr == address:
                if not urb.hangs:
                    # What was transferred before counts.
                    sends = urb.kind != CONTROL_URB and not urb.endpoint & IN
                    self.end(urb, -errno.ENOENT, None if sends else urb.got)
                return 0
        return -errno.EINVAL

    def reap(self, client, waits):
        if done := self.done.get(client):
            urb = done.popleft()
            self.tell()
            client.get_arg().resolve(0, 8).set_ptr(0, urb.data)
            client.complete(0, 0)
            return None
        if self.is_gone:
            return -errno.ENODEV
        if not waits:
            return -errno.EAGAIN
        self.reapers.setdefault(client, []).append(client)
        return None

    def leave(self):
        with self.leaving:
            self.is_gone = True
            left = tuple(self.pending)
        for urb in left:
            self.end(urb, -errno.ESHUTDOWN, b"")
        for client in [each for waiting in self.reapers.values() for each in waiting]:
            client.complete(-1, errno.ENODEV)
        self.reapers.clear()
        self.tell()


def number(argument):
    return struct.unpack("<I", bytes(argument.resolve(0, 4).retrieve()))[0]


class Kernel:
    """All of it; the commands are its public methods."""

    def __init__(self, sock):
        self.loop = GLib.MainLoop()
        self.testbed = UMockdev.Testbed.new()
        self.sock = sock
        self.rest = b""
        self.next = 2
        self.plugged = {}  # by port: path, node, usbfs
        self.usbfs = []  # of devices that have left too: their programs may not have noticed
        self.add_root()
        GLib.io_add_watch(sock.fileno(), GLib.PRIORITY_DEFAULT, GLib.IO_IN | GLib.IO_HUP, self.read)
        self.say(root=self.testbed.get_root_dir())

    def say(self, **answer):
        self.sock.sendall(json.dumps(answer).encode() + b"\n")

    def read(self, *_):
        data = self.sock.recv(1 << 16)
        if not data:
            self.loop.quit()
            return False
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            command = json.loads(line)
            self.say(result=getattr(self, command.pop("do"))(**command))
        return True

    # Commands

    def plug(self, port, kind="dac", options=None, properties=None, initialized=True):
        device = KINDS[kind](**(options or {}))
        at = self.next
        self.next += 1
        node = f"/dev/bus/usb/001/{at:03}"
        usbfs = Usbfs(device, lambda: self.unplug(port))
        self.usbfs.append(usbfs)
        usbfs.readiness = Readiness(self.testbed.get_root_dir() + node)
        self.testbed.attach_ioctl(node, usbfs)
        self.plugged[port] = (f"/sys{ROOT}/usb1/{port}", node, usbfs)
        self.testbed.add_from_string(description(device, port, at, properties or {}))
        return at

    def unplug(self, port):
        path, _, usbfs = self.plugged.pop(port)
        usbfs.leave()
        self.testbed.uevent(path, "remove")
        self.testbed.remove_device(path)

    def uevent(self, port, action):
        self.testbed.uevent(self.plugged[port][0], action)

    def change(self, port, name, value):
        """A property of udev's changes, and udev tells."""
        self.testbed.set_property(self.plugged[port][0], name, value)
        self.testbed.uevent(self.plugged[port][0], "change")

    def attribute(self, port, name, value):
        self.testbed.set_attribute(self.plugged[port][0], name, value)

    def faults(self, port, faults):
        device = self.plugged[port][2].device
        for each in faults:
            each["how"] = How(each["how"])
            if "reply" in each:
                each["reply"] = bytes.fromhex(each["reply"])
        device.faults = [Fault(**each) for each in faults]

    def driver(self, port, interface):
        """A kernel driver has taken an interface."""
        self.plugged[port][2].claims[interface] = "driver"

    def record(self, port):
        return list(self.plugged[port][2].device.record)

    def board(self, port, name, **arguments):
        """Something happens to a board."""
        return getattr(self.plugged[port][2].device, name)(**arguments)

    def clock(self, port, seconds):
        """For the device it is this time, until it is told another one."""
        self.plugged[port][2].device.clock = lambda: seconds

    def trouble(self, port, name, value):
        setattr(self.plugged[port][2].device.trouble, name, value)

    def lines(self, port):
        return self.plugged[port][2].device.lines()

    def pending(self, port):
        return len(self.plugged[port][2].pending)

    def add_root(self):
        self.testbed.add_from_string(
            f"P: {ROOT}/usb1\n"
            "N: bus/usb/001/001\n"
            "E: BUSNUM=001\nE: DEVNUM=001\nE: DEVNAME=/dev/bus/usb/001/001\n"
            "E: DEVTYPE=usb_device\nE: SUBSYSTEM=usb\n"
            "A: busnum=1\nA: devnum=1\nA: speed=480\nA: bConfigurationValue=1\n"
            "A: idVendor=1d6b\nA: idProduct=0002\n"
            "H: descriptors=12010002090001406B1D020006060302010109021900010100E0000904000001090000"
            "000705810304000C\n"
        )


def description(device, port, at, properties):
    """A device in umockdev's own words."""
    descriptors = (device.device_descriptor() + device.configuration()).hex().upper()
    manufacturer, product, serial = device.strings
    version = f"{device.version >> 8:2x}.{device.version & 0xFF:02x}"
    known = {
        "BUSNUM": "001",
        "DEVNUM": f"{at:03}",
        "DEVNAME": f"/dev/bus/usb/001/{at:03}",
        "DEVTYPE": "usb_device",
        "DRIVER": "usb",
        "MAJOR": 189,
        "MINOR": at - 1,
        "PRODUCT": f"{device.vendor:x}/{device.product:x}/100",
        "SUBSYSTEM": "usb",
        **properties,
    }
    attributes = {
        "bConfigurationValue": 1,
        "bDeviceClass": "00",
        "busnum": 1,
        "devnum": at,
        "devpath": port.partition("-")[2],
        "idVendor": f"{device.vendor:04x}",
        "idProduct": f"{device.product:04x}",
        "speed": 480,
        "version": version,
        "manufacturer": manufacturer,
        "product": product,
        "serial": serial,
    }
    lines = [f"P: {ROOT}/usb1/{port}"]  # its node is there already
    lines += [f"E: {name}={value}" for name, value in known.items()]
    lines += [f"A: {name}={value}\\n" for name, value in attributes.items() if value is not None]
    return "\n".join([*lines, f"H: descriptors={descriptors}"]) + "\n"


if __name__ == "__main__":
    Kernel(socket.socket(fileno=int(sys.argv[1]))).loop.run()
