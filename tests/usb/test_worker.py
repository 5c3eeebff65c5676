"""Workers against simulated devices that do everything wrong. Nothing here is about how long
things take; where a deadline has to pass, it is made short."""

import asyncio
import logging
import threading
from unittest import mock

import pytest
import usb.core

from buswork.errors import Busy
from buswork.sim.dac import SimDac
from buswork.sim.device import Fault, How, SimDevice, SimEndpoint, SimInterface
from buswork.sim.usb import SimBackend
from buswork.usb import worker as module
from buswork.usb.link import IO, MAX_TIMEOUT, UsbError
from buswork.usb.worker import Worker

OUT, IN = 0x41, 0xC1
ENABLE, TIMESTAMP, STATUS = 1, 2, 4


class Board(SimDevice):
    """Bulk endpoints like those of a Flipper board, and an interface without any."""

    def __init__(self):
        ends = (SimEndpoint(0x81), SimEndpoint(0x02), SimEndpoint(0x83, 3, 32, 1))
        super().__init__([SimInterface(0, 0xFF, 1, 1, ends), SimInterface(1, 0xFF)])
        self.written = []
        self.to_send = []

    def receive(self, endpoint, data):
        self.written.append((endpoint, data))
        return True

    def send(self, endpoint, length):
        return self.to_send.pop(0) if self.to_send else None


@pytest.fixture
def backend():
    return SimBackend()


@pytest.fixture
def dac(backend):
    dac = SimDac()
    backend.plug(dac)
    return dac


@pytest.fixture
async def worker(backend, dac):
    worker, plug = Worker(backend.devices[0], backend), backend.plug_at("1-1")
    await worker.open()
    yield worker
    plug.release.set()
    await worker.close()


@pytest.fixture
def hasty(monkeypatch):
    """Deadlines that pass at once."""
    monkeypatch.setattr(module, "SLACK_SECONDS", 0.02)
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.02)


class Gate:
    """Holds the next transfer in the device until it is opened."""

    def __init__(self, dac, monkeypatch):
        self._entered, self.opened = threading.Event(), threading.Event()
        transfer = dac.transfer

        def held(*arguments):
            self._entered.set()
            self.opened.wait()
            return transfer(*arguments)

        monkeypatch.setattr(dac, "transfer", held)

    async def entered(self):
        await asyncio.to_thread(self._entered.wait)

    def open(self):
        self.opened.set()


@pytest.fixture
def gate(dac, monkeypatch):
    gate = Gate(dac, monkeypatch)
    yield gate
    gate.open()


@pytest.fixture(autouse=True)
async def loop_errors():
    """Nothing goes wrong in a callback of the loop, where nobody looks."""
    errors = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
    yield
    assert errors == []


def seen(dac):
    return [(entry["bRequest"], entry["wValue"]) for entry in dac.record]


async def fails(kind, awaitable):
    with pytest.raises(UsbError) as caught:
        await awaitable
    assert caught.value.kind == kind, caught.value
    assert caught.value.name == f"org.buswork.Error.Usb.{kind.capitalize()}"
    return caught.value


# What goes well


async def test_a_dac_is_driven(backend, dac):
    worker = Worker(backend.devices[0], backend)
    assert not worker.is_open
    await worker.open()
    assert worker.is_open
    await worker.claim(1)
    assert await worker.control_in(0x80, 6, 0x0F00, 0, 4096) == dac.bos
    assert await worker.control_in(0x81, 6, 0x3100, 1, 20) == dac.descriptors
    assert len(await worker.control_in(IN, TIMESTAMP, 0, 1, 8)) == 8
    await worker.control_out(OUT, ENABLE, 1, 1)
    await worker.control_out(OUT, 0x10, 0, 0x0101, b"title")
    assert dac.lines()[1] == "title"
    plug = backend.plug_at("1-1")
    assert (plug.opened, set(plug.claims)) == (1, {1})
    await worker.close()
    assert (plug.opened, plug.claims) == (0, {})
    await worker.close()
    await fails("gone", worker.control_out(OUT, ENABLE, 1, 1))
    assert (worker.is_gone, worker.is_left) == (False, False)


async def test_bytes_go_to_endpoints_and_come_from_them(backend):
    board = Board()
    worker = Worker(backend.plug(board), backend)
    await worker.open()
    await worker.claim(1)
    await fails("io", worker.write(0x02, b"not claimed"))
    await worker.claim(0)
    await worker.write(0x02, b"call")
    assert board.written == [(0x02, b"call")]
    board.to_send = [b"result", b"log"]
    assert await worker.read(0x81, 64) == b"result"
    assert await worker.read(0x83, 32) == b"log"
    await fails("io", worker.read(0x84, 64))
    await fails("timeout", worker.read(0x81, 64, timeout=0.01))
    board.to_send = [b"x" * 65]
    assert "Overflow" in str(await fails("io", worker.read(0x81, 64)))
    await worker.close()


async def test_requests_are_served_in_their_order(worker, dac):
    await asyncio.gather(*(worker.control_out(OUT, STATUS, n % 6, 1) for n in range(60)))
    assert seen(dac) == [("0x04", f"0x{n % 6:04x}") for n in range(60)]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda w: w.control_out(IN, 1, 0, 1),
        lambda w: w.control_out(OUT, 1, 0, 1, b"x" * 4097),
        lambda w: w.control_in(OUT, 1, 0, 1, 8),
        lambda w: w.control_in(IN, 1, 0, 1, 4097),
        lambda w: w.write(0x81, b"x"),
        lambda w: w.write(0x01, bytes(65537)),
        lambda w: w.read(0x01, 8),
        lambda w: w.read(0x81, 0),
        lambda w: w.control_out(OUT, 1, 0, 1, timeout=0),
        lambda w: w.control_out(OUT, 1, 0, 1, timeout=MAX_TIMEOUT + 1),
    ],
)
async def test_what_makes_no_sense_is_a_defect_of_the_wing(worker, dac, wrong):
    with pytest.raises(ValueError, match=r"."):
        await wrong(worker)
    assert seen(dac) == []


# Finding the device


async def test_a_device_that_left_is_not_confused_with_the_next(backend):
    before = backend.plug(SimDac())
    backend.unplug("1-1")
    backend.plug(SimDac())
    worker = Worker(before, backend)
    assert "no longer there" in str(await fails("gone", worker.open()))
    await fails("gone", worker.claim(1))
    await worker.close()
    assert backend.plug_at("1-1").opened == 0


@pytest.mark.parametrize("what", ["port", "vendor", "product"])
async def test_an_address_alone_is_not_enough(backend, dac, what):
    plug = backend.plug_at("1-1")
    if what == "port":
        plug.path = (2,)
    else:
        setattr(dac, what, 0x4711)
    worker = Worker(plug.facts, backend)
    await fails("gone", worker.open())
    assert plug.opened == 0


async def test_a_device_that_may_not_be_opened(backend, dac):
    backend.plug_at("1-1").may_be_opened = False
    worker = Worker(backend.devices[0], backend)
    assert "1209:0001 at port 1-1" in str(await fails("denied", worker.open()))
    assert not worker.is_open
    await fails("gone", worker.claim(1))
    await worker.close()


async def test_a_worker_is_opened_once(worker):
    with pytest.raises(RuntimeError):
        await worker.open()


async def test_a_worker_that_was_never_opened_can_be_closed(backend, dac):
    worker = Worker(backend.devices[0], backend)
    await worker.close()
    await fails("gone", worker.claim(1))


async def test_an_interface_of_another_program_or_driver_is_left_to_it(backend, dac, worker):
    other = Worker(backend.devices[0], backend)
    await other.open()
    await other.claim(1)
    await fails("busy", worker.claim(1))
    await other.close()
    backend.plug_at("1-1").claims[1] = None  # a kernel driver
    await fails("busy", worker.claim(1))
    await fails("io", worker.claim(7))
    assert worker.is_open


# Devices that misbehave


async def test_a_refused_request_harms_no_other(worker, dac):
    dac.faults = [Fault(How.STALL, request=ENABLE, after=1, times=1)]
    await worker.control_out(OUT, ENABLE, 1, 1)
    await fails("stall", worker.control_out(OUT, ENABLE, 1, 1))
    await worker.control_out(OUT, ENABLE, 1, 1)


async def test_a_device_that_never_is_ready_costs_its_timeout(worker, dac):
    dac.faults = [Fault(How.SILENCE, request=STATUS)]
    await fails("timeout", worker.control_out(OUT, STATUS, 1, 1, timeout=0.01))
    await worker.control_out(OUT, ENABLE, 1, 1)
    assert not worker.is_gone


async def test_a_slow_device_is_waited_for_or_not(worker, dac):
    dac.faults = [Fault(How.DONE, request=STATUS, delay=0.02)]
    await worker.control_out(OUT, STATUS, 1, 1, timeout=1.0)
    await fails("timeout", worker.control_out(OUT, STATUS, 2, 1, timeout=0.01))


async def test_answers_may_be_shorter_but_not_longer(worker, dac):
    dac.faults = [Fault(How.DONE, request=TIMESTAMP, length=3)]
    assert len(await worker.control_in(IN, TIMESTAMP, 0, 1, 8)) == 3
    dac.faults = [Fault(How.DONE, request=TIMESTAMP, reply=b"")]
    assert await worker.control_in(IN, TIMESTAMP, 0, 1, 8) == b""


async def test_half_a_write_is_none(backend, monkeypatch):
    worker = Worker(backend.plug(Board()), backend)
    await worker.open()
    await worker.claim(0)
    monkeypatch.setattr(backend, "bulk_write", lambda *arguments: 3)
    assert "3 of 5 bytes" in str(await fails("timeout", worker.write(0x02, b"12345")))
    await worker.close()


@pytest.mark.parametrize("step", range(4))
async def test_a_device_vanishes_at_any_step(backend, dac, step):
    dac.faults = [Fault(How.VANISH, after=step)]
    worker = Worker(backend.devices[0], backend)
    plug = backend.plug_at("1-1")
    await worker.open()
    await worker.claim(1)
    for _ in range(step):
        await worker.control_in(IN, TIMESTAMP, 0, 1, 8)
    waiting = [worker.control_out(OUT, STATUS, n, 1) for n in range(3)]
    for result in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(result, UsbError)
        assert result.kind == "gone"
    assert worker.is_gone
    await fails("gone", worker.control_out(OUT, STATUS, 1, 1))
    await worker.close()
    assert plug.opened == 0


async def test_unplugging_ends_a_transfer_that_waits(backend, worker, dac):
    dac.faults = [Fault(How.SILENCE, request=STATUS)]
    waiting = asyncio.create_task(worker.control_out(OUT, STATUS, 1, 1, timeout=5.0))
    await until(lambda: dac.record)
    backend.unplug("1-1")
    await fails("gone", waiting)


async def test_a_transfer_that_never_ends_costs_the_device(backend, dac, hasty, caplog):
    caplog.set_level(logging.INFO)
    plug = backend.plug_at("1-1")
    worker = Worker(plug.facts, backend, close_seconds=600)
    await worker.open()
    dac.faults = [Fault(How.HANG, request=STATUS)]
    running = asyncio.create_task(worker.control_out(OUT, STATUS, 1, 1, timeout=0.01))
    waiting = asyncio.create_task(worker.control_out(OUT, ENABLE, 1, 1, timeout=5.0))
    await fails("timeout", running)
    await fails("gone", waiting)
    assert (worker.is_gone, worker.is_left) == (True, True)
    assert "does not end a transfer" in caplog.text
    async with asyncio.timeout(10):
        await worker.close()  # at once, though the thread still hangs
    assert plug.opened == 1
    plug.release.set()
    await until(lambda: plug.opened == 0)  # it has let go by itself
    await until(lambda: not worker.is_left)
    assert seen(dac) == [("0x04", "0x0001")]


async def test_closing_does_not_wait_for_ever(backend, dac, caplog):
    worker = Worker(backend.devices[0], backend, close_seconds=0.01)
    await worker.open()
    dac.faults = [Fault(How.HANG, request=STATUS)]
    running = asyncio.create_task(worker.control_out(OUT, STATUS, 1, 1))
    await until(lambda: dac.record)
    await worker.close()
    await fails("gone", running)
    assert "left alone" in caplog.text
    assert worker.is_left
    plug = backend.plug_at("1-1")
    plug.release.set()
    await until(lambda: plug.opened == 0)


async def test_closing_lets_the_last_transfer_end_and_drops_what_waits(backend, dac, gate):
    worker = Worker(backend.devices[0], backend)
    await worker.open()
    running = asyncio.create_task(worker.control_out(OUT, STATUS, 1, 1))
    waiting = asyncio.create_task(worker.control_out(OUT, STATUS, 2, 1))
    await gate.entered()
    closing = asyncio.create_task(worker.close())
    await fails("gone", waiting)
    await fails("gone", worker.control_out(OUT, STATUS, 3, 1))
    gate.open()
    await running
    await closing
    assert seen(dac) == [("0x04", "0x0001")]
    assert backend.plug_at("1-1").opened == 0


async def test_a_close_that_is_cancelled_goes_on(backend, dac, gate):
    worker = Worker(backend.devices[0], backend)
    await worker.open()
    running = asyncio.create_task(worker.control_out(OUT, STATUS, 1, 1))
    await gate.entered()
    closing = asyncio.create_task(worker.close())
    await asyncio.sleep(0)
    closing.cancel()
    gate.open()
    await running
    await worker.close()
    assert backend.plug_at("1-1").opened == 0


# Many callers


async def test_only_so_many_requests_wait(backend, dac, gate):
    worker = Worker(backend.devices[0], backend, max_queued=3)
    await worker.open()
    running = asyncio.create_task(worker.control_out(OUT, ENABLE, 1, 1))
    await gate.entered()
    waiting = [asyncio.create_task(worker.control_out(OUT, STATUS, n, 1)) for n in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Busy, match="3 requests wait"):
        await worker.control_out(OUT, STATUS, 5, 1)
    gate.open()
    await asyncio.gather(running, *waiting)
    assert len(seen(dac)) == 4
    await worker.close()


async def test_who_waits_too_long_is_told_and_nothing_is_sent(worker, dac, gate, hasty):
    running = asyncio.create_task(worker.control_out(OUT, ENABLE, 1, 1, timeout=5.0))
    await gate.entered()
    error = await fails("timeout", worker.control_out(OUT, STATUS, 1, 1, timeout=0.01))
    assert "nothing was sent" in str(error)
    gate.open()
    await running
    await worker.control_out(OUT, 5, 0, 1)
    assert [request for request, _ in seen(dac)] == ["0x01", "0x05"]


async def test_a_cancelled_caller_takes_its_request_along(worker, dac, gate):
    running = asyncio.create_task(worker.control_out(OUT, ENABLE, 1, 1))
    waiting = asyncio.create_task(worker.control_out(OUT, STATUS, 1, 1))
    await gate.entered()
    waiting.cancel()
    await asyncio.wait([waiting])
    gate.open()
    await running
    await worker.control_out(OUT, 5, 0, 1)
    assert [request for request, _ in seen(dac)] == ["0x01", "0x05"]


async def test_the_answer_to_a_cancelled_caller_does_not_reach_the_next(worker, dac, gate):
    dac.faults = [Fault(How.DONE, request=TIMESTAMP, reply=b"first")]
    first = asyncio.create_task(worker.control_in(IN, TIMESTAMP, 0, 1, 8))
    await gate.entered()
    first.cancel()
    await asyncio.wait([first])
    gate.open()
    assert await worker.control_in(IN, ENABLE, 0, 1, 8) == b"\0"
    assert first.cancelled()


async def test_a_hang_is_noticed_though_its_caller_has_left(backend, worker, dac, hasty):
    dac.faults = [Fault(How.HANG, request=ENABLE)]
    first = asyncio.create_task(worker.control_out(OUT, ENABLE, 1, 1, timeout=0.01))
    await until(lambda: dac.record)
    first.cancel()
    await fails("gone", worker.control_out(OUT, STATUS, 1, 1, timeout=0.02))
    assert worker.is_gone


async def test_devices_do_not_wait_for_each_other(backend, dac, worker):
    quick = SimDac("quick")
    other = Worker(backend.plug(quick, "1-2"), backend)
    await other.open()
    dac.faults = [Fault(How.SILENCE, request=ENABLE)]
    slow = asyncio.create_task(worker.control_out(OUT, ENABLE, 1, 1, timeout=5.0))
    await until(lambda: dac.record)
    await other.control_out(OUT, ENABLE, 1, 1)
    assert not slow.done()
    backend.unplug("1-1")
    await fails("gone", slow)
    await other.close()


async def test_opening_can_be_cancelled(backend, dac, monkeypatch):
    entered, go_on = threading.Event(), threading.Event()
    enumerate_devices = backend.enumerate_devices

    def slowly():
        entered.set()
        go_on.wait()
        return enumerate_devices()

    monkeypatch.setattr(backend, "enumerate_devices", slowly)
    worker = Worker(backend.devices[0], backend)
    opening = asyncio.create_task(worker.open())
    await asyncio.to_thread(entered.wait)
    opening.cancel()
    go_on.set()
    await worker.close()
    assert backend.plug_at("1-1").opened == 0
    assert opening.cancelled()


async def test_a_defect_of_ours_is_not_taken_for_the_devices(worker, dac, monkeypatch):
    monkeypatch.setattr(dac, "transfer", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        await worker.control_out(OUT, ENABLE, 1, 1)
    monkeypatch.undo()
    await worker.control_out(OUT, ENABLE, 1, 1)


# Errors


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (usb.core.USBError("e", -4, 19), "gone"),
        (usb.core.USBError("e", -1, 108), "gone"),
        (usb.core.USBError("e", -9, 32), "stall"),
        (usb.core.USBTimeoutError("e", -7, 110), "timeout"),
        (usb.core.USBError("e", -6, 16), "busy"),
        (usb.core.USBError("e", -3, 13), "denied"),
        (usb.core.USBError("e", None, 1), "denied"),
        (usb.core.USBError("e", -1, 5), "io"),
        (usb.core.USBError("e", -99, None), "io"),
        (usb.core.USBError("e"), "io"),
        (usb.core.USBError("e", -9), "stall"),
        (usb.core.USBError("e", -4), "gone"),
        (NotImplementedError("e"), "io"),
    ],
)
async def test_errors_have_one_of_six_kinds(worker, backend, monkeypatch, error, kind):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(backend, "ctrl_transfer", fail)
    found = await fails(kind, worker.control_out(OUT, ENABLE, 1, 1))
    assert found.__cause__ is error
    assert "1209:0001 at port 1-1, request 0x01: " in str(found)
    assert worker.is_gone == (kind == "gone")


async def test_without_libusb_there_is_a_sentence(backend, dac, monkeypatch):
    monkeypatch.setattr(usb.backend.libusb1, "get_backend", lambda **options: None)
    worker = Worker(backend.devices[0])
    assert "libusb-1.0.so.0" in str(await fails("io", worker.open()))


async def until(condition):
    """What another thread does soon."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_a_thread_that_can_not_be_had_is_an_error_like_any_other():
    backend = SimBackend()
    worker = Worker(backend.plug(SimDevice()), backend)
    refusal = RuntimeError("can't start new thread")
    with (
        mock.patch.object(threading.Thread, "start", side_effect=refusal),
        pytest.raises(UsbError, match="can't have a thread now") as caught,
    ):
        await worker.open()
    assert caught.value.kind == IO
    assert not worker.is_open
    await worker.close()


# Several transfers in one go


@pytest.fixture
async def board(backend):
    board = Board()
    backend.plug(board, "1-3")
    return board


@pytest.fixture
async def busy_worker(backend, board):
    worker = Worker(backend.plug_at("1-3").facts, backend)
    await worker.open()
    await worker.claim(0)
    yield worker
    await worker.close()


async def test_nobody_comes_between_transfers_that_belong_together(busy_worker, board):
    board.to_send = [b"first", b"second"]

    def talk(transfers):
        transfers.write(0x02, b"1", 1.0)
        first = transfers.read(0x81, 64, 1.0)
        transfers.pause(0.001)
        transfers.write(0x02, b"2", 1.0)
        return first + transfers.read(0x81, 64, 1.0)

    together = busy_worker.together(talk, 1.0, "a talk")
    results = await asyncio.gather(together, busy_worker.write(0x02, b"3"))
    assert results == [b"firstsecond", None]
    assert [data for _, data in board.written] == [b"1", b"2", b"3"]


async def test_what_belongs_together_has_one_deadline(busy_worker, board):
    def talk(transfers):
        for _ in range(1000):
            transfers.write(0x02, b"again", 1.0)
            transfers.pause(0.01)

    error = await fails("timeout", busy_worker.together(talk, 0.05, "a talk"))
    assert "no time left" in str(error)
    assert 0 < len(board.written) < 10
    await busy_worker.write(0x02, b"another")
    await fails("timeout", busy_worker.together(lambda it: it.read(0x81, 64, 5.0), 0.01, "a read"))


async def test_work_that_nobody_waits_for_goes_on_to_its_end(busy_worker, board):
    entered, go_on = threading.Event(), threading.Event()

    def talk(transfers):
        transfers.write(0x02, b"1", 1.0)
        entered.set()
        go_on.wait()
        transfers.write(0x02, b"2", 1.0)

    talking = asyncio.create_task(busy_worker.together(talk, 5.0, "a talk"))
    await asyncio.to_thread(entered.wait)
    talking.cancel()
    await asyncio.wait([talking])
    go_on.set()
    await busy_worker.write(0x02, b"3")
    assert [data for _, data in board.written] == [b"1", b"2", b"3"]


async def test_work_may_go_on_after_a_transfer_that_failed(busy_worker, board):
    board.faults = [Fault(How.STALL, endpoint=0x02, times=1)]

    def talk(transfers):
        with pytest.raises(UsbError) as caught:
            transfers.write(0x02, b"1", 1.0)
        transfers.write(0x02, b"2", 1.0)
        return caught.value.kind

    assert await busy_worker.together(talk, 1.0, "a talk") == "stall"
    assert board.written == [(0x02, b"2")]


async def test_an_exchange_is_a_write_and_the_read_of_its_answer(busy_worker, board):
    def exchange(transfers):
        return transfers.exchange(0x02, b"call", 0x81, 64, 1.0)

    board.to_send = [b"answer", b"another's"]
    assert await busy_worker.together(exchange, 1.0, "an exchange") == b"answer"
    assert board.written == [(0x02, b"call")]
    board.faults = [Fault(How.STALL, endpoint=0x02)]
    await fails("stall", busy_worker.together(exchange, 1.0, "an exchange"))
    assert board.to_send == [b"another's"]


async def test_a_device_is_told_its_configuration_again(backend, board):
    worker = Worker(backend.plug_at("1-3").facts, backend)
    await worker.open()
    await worker.configure(1)
    assert [(entry["bRequest"], entry["wValue"]) for entry in board.record] == [("0x09", "0x0001")]
    board.faults = [Fault(How.STALL, request=9)]
    await fails("stall", worker.configure(1))
    await worker.close()


async def test_an_interface_that_the_configuration_does_not_count(busy_worker, board, monkeypatch):
    counted = board.configuration().replace(bytes((2, 1, 0)), bytes((1, 1, 0)))
    ends = [SimEndpoint(0x85, 3, 32, 1)]
    board.interfaces = board.interfaces[0], SimInterface(1, 0xFF, endpoints=ends)
    monkeypatch.setattr(board, "configuration", lambda: counted)
    board.to_send = [b"text"]
    await busy_worker.claim(1)
    await fails("io", busy_worker.read(0x85, 32))
    await busy_worker.claim(1, 0x85)
    assert await busy_worker.read(0x85, 32) == b"text"
