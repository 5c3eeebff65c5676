"""What discovery does with udev's word. The same on real libudev: test_real_libusb.py."""

import asyncio
import errno
import os
import threading

import pytest
import pyudev

from buswork.sim.dac import SimDac
from buswork.usb import discovery as module
from buswork.usb.discovery import NoHotplug, UdevDiscovery


class FakeDevice:
    def __init__(self, sysfs, port, address, action=None, **properties):
        self.sys_path = str(sysfs / port)
        self.sys_name = port
        self.action = action
        self.properties = {"BUSNUM": "001", "DEVNUM": f"{address:03}", **properties}

    def write(self, device):
        os.makedirs(self.sys_path, exist_ok=True)
        values = {
            "busnum": "1\n",
            "devnum": f"{int(self.properties['DEVNUM'])}\n",
            "idVendor": "1209\n",
            "idProduct": "0001\n",
            "serial": f"{device.serial}\n",
            "bConfigurationValue": "1\n",
        }
        for name, value in values.items():
            with open(f"{self.sys_path}/{name}", "w") as file:
                file.write(value)
        with open(f"{self.sys_path}/descriptors", "wb") as file:
            file.write(device.device_descriptor() + device.configuration())


class FakeUdev:
    """pyudev's Context and Monitor in one."""

    def __init__(self, sysfs):
        self.sysfs = sysfs
        self.present = []
        self.events = []
        self._reader, self._writer = os.pipe()

    def __call__(self):
        return self

    def from_netlink(self, context):
        return self

    def filter_by(self, subsystem, device_type):
        assert (subsystem, device_type) == ("usb", "usb_device")

    def start(self):
        pass

    def fileno(self):
        return self._reader

    def list_devices(self, **match):
        return list(self.present)

    def poll(self, timeout):
        assert timeout == 0
        if not self.events:
            return None
        os.read(self._reader, 1)
        event = self.events.pop(0)
        if isinstance(event, OSError):
            raise event
        return event

    def tell(self, event):
        self.events.append(event)
        os.write(self._writer, b"x")

    def plug(self, port, address, action="add", serial="S", **properties):
        device = FakeDevice(self.sysfs, port, address, action, **properties)
        device.write(SimDac(serial))
        self.present = [each for each in self.present if each.sys_name != port] + [device]
        return device

    def unplug(self, port):
        gone = next(each for each in self.present if each.sys_name == port)
        self.present.remove(gone)
        return FakeDevice(self.sysfs, port, 0, "remove")

    def close(self):
        os.close(self._reader)
        os.close(self._writer)


@pytest.fixture
def udev(tmp_path, monkeypatch):
    udev = FakeUdev(tmp_path)
    monkeypatch.setattr(pyudev, "Context", udev)
    monkeypatch.setattr(pyudev, "Monitor", udev)
    yield udev
    udev.close()


@pytest.fixture
async def told(udev):
    """A queue of what discovery tells; started by the test."""
    told = asyncio.Queue()
    told.discovery = UdevDiscovery()
    told.start = lambda: told.discovery.start(told.put_nowait, told.put_nowait)
    yield told
    told.discovery.stop()


@pytest.fixture(autouse=True)
async def loop_errors():
    """Nothing goes wrong in a callback of the loop, where nobody looks."""
    errors = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
    yield
    assert errors == []


async def settled(udev, told):
    """Until all of udev's word has been passed on."""
    udev.tell(udev.plug("9-9", 99))
    last = await told.get()
    assert getattr(last, "port", None) == "9-9", last
    udev.present.pop()
    udev.tell(FakeDevice(udev.sysfs, "9-9", 99, "remove"))
    assert await told.get() == "9-9"
    while told.discovery._reading:  # noqa: ASYNC110
        await asyncio.sleep(0)


async def test_a_device_that_comes_while_we_look_is_told_of_once(udev, told):
    device = udev.plug("1-1", 2)
    udev.tell(device)  # the event came before we looked
    await told.start()
    assert (await told.get()).port == "1-1"
    await settled(udev, told)


async def test_a_device_that_leaves_before_it_is_known_is_never_told_of(udev, told, monkeypatch):
    go_on = threading.Event()
    read = module._read
    monkeypatch.setattr(module, "_read", lambda *arguments: go_on.wait() and read(*arguments))
    udev.plug("1-1", 2)
    await told.start()
    udev.tell(udev.unplug("1-1"))
    while udev.events:  # noqa: ASYNC110
        await asyncio.sleep(0)
    go_on.set()
    await settled(udev, told)


class Gates:
    """Holds the readers of some ports until their gate is opened."""

    def __init__(self, monkeypatch):
        self.entered = []
        self._gates = {}
        facts = module._facts

        def held(seen):
            self.entered.append((seen.port, seen.address))
            if (gate := self._gates.get(seen.port)) is not None:
                gate.wait()
            return facts(seen)

        monkeypatch.setattr(module, "_facts", held)

    def shut(self, *ports):
        self._gates |= {port: threading.Event() for port in ports}

    def open(self):
        while self._gates:
            self._gates.popitem()[1].set()

    async def until(self, number):
        async with asyncio.timeout(10):
            while len(self.entered) < number:  # noqa: ASYNC110
                await asyncio.sleep(0)


@pytest.fixture
def gates(monkeypatch):
    gates = Gates(monkeypatch)
    yield gates
    gates.open()


async def test_a_device_that_hangs_its_reader_holds_up_no_other(udev, told, gates):
    gates.shut("1-1")
    udev.plug("1-1", 2)
    udev.plug("1-2", 3)
    await told.start()
    assert (await told.get()).port == "1-2"
    await settled_but("1-1", udev, told)
    gates.open()
    assert (await told.get()).port == "1-1"


async def settled_but(port, udev, told):
    """As settled(), while the reader of this port hangs."""
    udev.tell(udev.plug("9-9", 99))
    assert (await told.get()).port == "9-9"
    assert told.discovery._reading == {port}


async def test_a_port_has_one_reader_and_the_newest_word_is_read_after_it(udev, told, gates):
    gates.shut("1-1")
    udev.plug("1-1", 2, serial="one")
    await told.start()
    await gates.until(1)
    for address in (3, 4, 5):
        udev.tell(udev.plug("1-1", address, serial=f"at {address}"))
    while udev.events:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert gates.entered == [("1-1", 2)]
    gates.open()
    assert (await told.get()).serial == "at 5"
    assert gates.entered == [("1-1", 2), ("1-1", 5)]
    await settled(udev, told)


async def test_what_waits_for_its_reader_and_leaves_is_not_read(udev, told, gates):
    gates.shut("1-1")
    udev.plug("1-1", 2)
    await told.start()
    await gates.until(1)
    udev.tell(udev.plug("1-1", 3))
    udev.tell(udev.unplug("1-1"))
    while udev.events:  # noqa: ASYNC110
        await asyncio.sleep(0)
    gates.open()
    await settled(udev, told)
    assert [port for port, _ in gates.entered] == ["1-1", "9-9"]


async def test_so_many_devices_are_read_at_once(udev, told, gates):
    ports = [f"1-{number}" for number in range(1, 2 * module.MAX_READERS)]
    gates.shut(*ports)
    for address, port in enumerate(ports, 2):
        udev.plug(port, address)
    await told.start()
    await gates.until(module.MAX_READERS)
    assert len(told.discovery._reading) == len(gates.entered) == module.MAX_READERS
    gates.open()
    assert {(await told.get()).port for _ in ports} == set(ports)
    await settled(udev, told)
    for thread in threading.enumerate():
        if thread.name in {f"usb {port}" for port in ports}:
            thread.join(10)
            assert not thread.is_alive()


async def test_a_system_that_allows_no_more_threads_is_asked_again(udev, told, monkeypatch, caplog):
    monkeypatch.setattr(module, "NO_THREAD_SECONDS", 0.001)
    refusals = [RuntimeError("can't start new thread")] * 2
    start = threading.Thread.start

    def refuse(thread):
        if thread.name.startswith("usb ") and refusals:
            raise refusals.pop()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    udev.plug("1-1", 2)
    await told.start()
    assert (await told.get()).port == "1-1"
    assert caplog.text.count("can't start new thread") == 2


async def test_what_is_read_after_the_stop_is_not_told(udev, told, gates):
    gates.shut("1-1")
    udev.plug("1-1", 2)
    await told.start()
    await gates.until(1)
    udev.tell(udev.plug("1-1", 3))
    while udev.events:  # noqa: ASYNC110
        await asyncio.sleep(0)
    told.discovery.stop()
    gates.open()
    while told.discovery._reading:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert told.empty()
    assert gates.entered == [("1-1", 2)]


async def test_another_device_at_the_same_port_takes_the_place_of_the_first(udev, told):
    udev.plug("1-1", 2, serial="one")
    await told.start()
    assert (await told.get()).serial == "one"
    udev.tell(udev.plug("1-1", 3, serial="two"))  # and no word of the first one's end
    assert await told.get() == "1-1"
    assert (await told.get()).serial == "two"


async def test_facts_of_a_device_that_was_exchanged_meanwhile_are_not_used(udev, told):
    stale = udev.plug("1-1", 2, serial="one")
    udev.plug("1-1", 3, serial="two")
    udev.present = [stale]
    await told.start()
    await settled(udev, told)
    udev.tell(udev.plug("1-1", 3, serial="two"))
    assert (await told.get()).address == 3


async def test_lost_events_are_made_up_for(udev, told):
    for port, address in (("1-1", 2), ("1-2", 3)):
        udev.plug(port, address)
    await told.start()
    assert {(await told.get()).port for _ in range(2)} == {"1-1", "1-2"}
    udev.unplug("1-1")
    udev.plug("1-3", 4)
    udev.tell(OSError(errno.ENOBUFS, "overrun"))
    assert await told.get() == "1-1"
    assert (await told.get()).port == "1-3"
    await settled(udev, told)


async def test_other_errors_are_logged(udev, told, caplog):
    await told.start()
    udev.tell(OSError(errno.EIO, "broken"))
    await settled(udev, told)
    assert "can't read udev's events" in caplog.text


async def test_floods_of_events_leave_the_loop_its_turns(udev, told):
    await told.start()
    device = udev.plug("1-1", 2)
    for _ in range(3 * module.TURN_EVENTS):
        udev.tell(device)
    turns = 0
    while udev.events:
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 3
    assert (await told.get()).port == "1-1"
    await settled(udev, told)


async def test_marks_change_and_ignored_devices_are_not_there(udev, told):
    udev.plug("1-1", 2, BUSWORK_IGNORE="1")
    udev.plug("1-2", 3)
    await told.start()
    assert not (await told.get()).properties
    named = {"ID_FSCT": "1", "BUSWORK_NAME": "bench"}
    udev.tell(udev.plug("1-2", 3, action="change", OTHER="x", **named))
    assert await told.get() == "1-2"
    assert (await told.get()).properties == named
    udev.tell(udev.plug("1-2", 3, action="change", BUSWORK_IGNORE="1"))
    assert await told.get() == "1-2"
    await settled(udev, told)


@pytest.mark.parametrize("broken", ["BUSNUM", "DEVNUM", "descriptors", "idVendor"])
async def test_a_device_without_an_identity_is_passed_over(udev, told, broken):
    device = udev.plug("1-1", 2)
    if broken in device.properties:
        device.properties[broken] = "x"
    else:
        os.unlink(f"{device.sys_path}/{broken}")
    await told.start()
    await settled(udev, told)


async def test_nothing_is_told_after_the_stop(udev, told):
    udev.plug("1-1", 2)
    await told.start()
    await told.get()
    udev.tell(udev.unplug("1-1"))
    told.discovery.stop()
    told.discovery.stop()
    await asyncio.sleep(0)
    assert told.empty()


async def test_one_who_was_told_may_stop_it(udev, told):
    for n in range(3):
        udev.plug(f"1-{n}", n + 2)
    seen = []
    stopped = asyncio.Event()

    def on_add(device):
        seen.append(device)
        told.discovery.stop()
        stopped.set()

    await told.discovery.start(on_add, seen.append)
    await stopped.wait()
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(seen) == 1


@pytest.mark.parametrize("how", ["removed", "changed"])
async def test_also_one_who_was_told_of_an_end(udev, told, how):
    udev.plug("1-1", 2)
    udev.plug("1-2", 3)
    seen = []
    stopped = asyncio.Event()

    def on_remove(port):
        seen.append(port)
        told.discovery.stop()
        stopped.set()

    await told.discovery.start(told.put_nowait, on_remove)
    for _ in range(2):
        await told.get()
    for at, port in enumerate(("1-1", "1-2"), 2):
        if how == "removed":
            udev.tell(udev.unplug(port))
        else:
            udev.tell(udev.plug(port, at, action="change", ID_FSCT="1"))
    await stopped.wait()
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(seen) == 1
    assert told.empty()


async def test_a_device_is_gone_when_another_is_there_of_which_nothing_is_known(udev, told):
    udev.plug("1-1", 2)
    await told.start()
    await told.get()
    other = udev.plug("1-1", 3)
    os.unlink(f"{other.sys_path}/descriptors")
    udev.tell(other)
    assert await told.get() == "1-1"
    await settled(udev, told)


@pytest.mark.parametrize("error", [OSError("no netlink"), ImportError("no libudev")])
async def test_a_machine_without_udev_says_so(udev, told, monkeypatch, error):
    def fail():
        raise error

    monkeypatch.setattr(pyudev, "Context", fail)
    with pytest.raises(NoHotplug, match=str(error)):
        await told.start()
