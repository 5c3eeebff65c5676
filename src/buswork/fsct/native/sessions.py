"""The life of a display: recognised when it is plugged in, open while there is something to show.

Each device that may be one has a task of its own. It looks at the device once, tells the driver
of it, and from then on asks the display for one step after the other. What goes wrong is tried
again, later each time, until the device is unplugged; no other device waits for it.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from contextlib import suppress

from buswork.errors import BusworkError
from buswork.fsct.model.changes import Change, DeviceAdded
from buswork.fsct.model.display import Device, Display, ProgressStep, StatusStep, Step
from buswork.fsct.model.driver import Driver
from buswork.fsct.native.identities import Identities
from buswork.fsct.wire import requests
from buswork.fsct.wire.descriptors import (
    VENDOR_CLASS,
    BadDescriptor,
    DescriptorSet,
    Interface,
    NotFsct,
    find_interface,
    has_bos,
    parse_bos,
    parse_set,
    parse_set_length,
)
from buswork.fsct.wire.requests import BadAnswer, ControlRequest
from buswork.fsct.wire.terms import Functionality
from buswork.fsct.wire.texts import encode_text
from buswork.native.clock import Clock
from buswork.usb.devices import ID_FSCT, UsbDevice
from buswork.usb.discovery import Discovery
from buswork.usb.worker import MAX_CONTROL_BYTES, TIMEOUT, Worker
from buswork.usb.workers import Workers

log = logging.getLogger(__name__)

# A device that was just plugged in may need a moment: the kernel's and udev's work, its own start.
ARRIVAL_TRIES = 10
ARRIVAL_PAUSE_S = 0.2
# What fails after that, another program that has the device perhaps, lasts longer.
RETRY_FIRST_S = 0.5
RETRY_MAX_S = 30.0
# A player that ends and another one that begins should not make the display go off and on.
LINGER_S = 5.0
# The clocks of a device and of its host part by some milliseconds in this time (the original's).
SYNC_S = 600.0
# A device that is asked to go dark at the end has so long, for all are asked at once.
GOODBYE_S = 0.5

# What devices do and others with them; anything else is a defect of ours.
EXPECTED = (BusworkError, BadAnswer)
DEFECT = "a defect of the driver; its log says more"

MakeWorker = Callable[[UsbDevice], Worker]


class Sessions:
    """The sessions of all devices that are plugged in."""

    def __init__(
        self,
        driver: Driver,
        discovery: Discovery,
        make_worker: MakeWorker,
        *,
        unmarked: bool,
        clock: Clock | None = None,
    ) -> None:
        """unmarked: devices are opened that udev did not mark as FSCT's."""
        self._driver = driver
        self._discovery = discovery
        self._unmarked = unmarked
        self._clock = clock or Clock()
        self._workers = Workers(make_worker)
        self._identities = Identities()
        # Called with True when there is a display, and with False when there is none any more and
        # those that were have gone dark.
        self.on_lit: Callable[[bool], None] = lambda lit: None
        self._is_lit = False
        self._plugged: dict[str, UsbDevice] = {}  # by port
        self._sessions: dict[str, _Session] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._asleep = False
        driver.on_change.append(self._changed)

    async def start(self) -> None:
        await self._discovery.start(self._add, self._remove)

    async def stop(self) -> None:
        """Lets all displays go dark."""
        self._discovery.stop()
        for port in list(self._sessions):
            self._end(port)
        if self._ending:
            await asyncio.wait(self._ending)

    def sleep(self, sleeping: bool) -> None:
        """The machine goes to sleep or wakes up: to a device, as if it were plugged in anew."""
        self._asleep = sleeping
        for port, device in self._plugged.items():
            if sleeping:
                self._end(port)
            elif port not in self._sessions:
                self._begin(device)

    def _add(self, device: UsbDevice) -> None:
        if not self._may_be_ours(device):
            return
        self._plugged[device.port] = device
        if not self._asleep:
            self._begin(device)

    def _remove(self, port: str) -> None:
        if self._plugged.pop(port, None) is not None:
            self._end(port)

    def _may_be_ours(self, device: UsbDevice) -> bool:
        if not self._unmarked and device.properties.get(ID_FSCT) != "1":
            return False
        return has_bos(device.version) and any(
            interface.interface_class == VENDOR_CLASS for interface in device.interfaces
        )

    def _begin(self, device: UsbDevice) -> None:
        self._sessions[device.port] = _Session(
            self._driver, device, self._workers, self._identities, self._clock
        )

    def _end(self, port: str) -> None:
        session = self._sessions.pop(port, None)
        if session is not None:
            task = session.end()
            self._ending.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._ending.discard(task)
        if not self._ending and not self._driver.displays:
            self._set_lit(False)

    def _changed(self, change: Change) -> None:
        if isinstance(change, DeviceAdded):
            self._set_lit(True)

    def _set_lit(self, lit: bool) -> None:
        if lit is not self._is_lit:
            self._is_lit = lit
            self.on_lit(lit)


class _Session:
    """One device, from its being plugged in to its end."""

    def __init__(
        self,
        driver: Driver,
        usb: UsbDevice,
        workers: Workers,
        identities: Identities,
        clock: Clock,
    ) -> None:
        self._driver = driver
        self._usb = usb
        self._workers = workers
        self._identities = identities
        self._clock = clock
        self._defect = ""  # what was logged last
        self._work = asyncio.Event()
        self._display: Display | None = None
        self._interface: int
        # The device's clock minus ours (monotonic), in ms; None: not known.
        self._clock_ahead_ms: int | None = None
        self._sync_due = -math.inf
        self._task = asyncio.create_task(self._run(), name=f"fsct {usb.port}")

    def end(self) -> asyncio.Task[None]:
        """The device is gone for the driver at once: it may be plugged in again in a moment."""
        self._leave()
        self._task.cancel()
        return self._task

    def _leave(self) -> None:
        if self._display is not None:
            display, self._display = self._display, None
            display.on_work = lambda: None
            self._driver.remove_device(display.device.id)

    async def _run(self) -> None:
        try:
            display = await self._recognise()
            if display is not None:
                await self._live(display)
        finally:
            self._leave()

    # -- recognising -----------------------------------------------------------------------------

    async def _recognise(self) -> Display | None:
        """Tells the driver of the display; None: it is none. Tries as long as it is plugged in."""
        tries, said = 0, ""
        while True:
            try:
                async with self._workers.opened(self._usb) as worker:
                    descriptors = await self._look(worker)
                    await self._darken(worker)
                return self._add(descriptors)
            except NotFsct as error:
                log.info("%s is no display: %s", self._usb, error)
                return None
            except BadDescriptor as error:
                log.warning("%s is no display for us: %s", self._usb, error)
                return None
            except EXPECTED as error:
                tries += 1
                if tries >= ARRIVAL_TRIES and str(error) != said:
                    said = str(error)
                    log.warning("%s can't be used yet: %s", self._usb, said)
            except Exception as error:
                tries += 1
                self._say_defect(error)
            late = tries - ARRIVAL_TRIES
            await self._clock.sleep(ARRIVAL_PAUSE_S if late < 0 else _backoff(late))

    async def _look(self, worker: Worker) -> DescriptorSet:
        bos = requests.whole_bos(await _ask(worker, requests.read_bos()))
        interfaces = [
            Interface(each.number, each.interface_class, each.subclass, each.protocol)
            for each in self._usb.interfaces
            if each.alternate == 0
        ]
        number = find_interface(interfaces, parse_bos(bos))
        if number is None:
            raise BadDescriptor("it has no interface of the subclass that it names")
        self._interface = number
        await worker.claim(number)
        header = requests.whole_set_header(await _ask(worker, requests.read_set_header(number)))
        # Of more than one transfer can bring, the beginning is taken.
        length = min(parse_set_length(header), MAX_CONTROL_BYTES)
        answer = await _ask(worker, requests.read_set(number, length))
        return parse_set(requests.whole_set_header(answer))

    async def _darken(self, worker: Worker) -> None:
        """Whoever had the device before us, a life of ours that crashed, may have left it lit."""
        try:
            await _tell(worker, requests.enable(self._interface, on=False))
        except BusworkError as error:
            if worker.is_gone:
                raise
            log.info("%s: %s", self._usb, error)

    def _add(self, descriptors: DescriptorSet) -> Display:
        self._display = self._driver.add_device(self._facts(descriptors))
        self._display.on_work = self._work.set
        return self._display

    def _facts(self, descriptors: DescriptorSet) -> Device:
        usb = self._usb
        if descriptors.unsupported:
            log.info("%s has what we don't know: %s", usb, ", ".join(descriptors.unsupported))
        return Device(
            self._identities.id_of(usb, self._driver.displays),
            descriptors.functionality,
            {field.id: field.max_bytes for field in descriptors.texts},
            descriptors.coding,
            usb.vendor,
            usb.product,
            usb.manufacturer,
            usb.product_name,
            usb.serial,
            usb.port,
        )

    # -- showing ---------------------------------------------------------------------------------

    async def _live(self, display: Display) -> None:
        failures = 0
        while True:
            await self._until_used(display)
            began = self._clock.now()
            try:
                async with self._workers.opened(self._usb) as worker:
                    await self._serve(worker, display)
                failures = 0
                continue
            except EXPECTED as error:
                self._say(display, str(error))
            except Exception as error:
                self._say_defect(error)
            if self._clock.now() > began + RETRY_MAX_S:  # it went well for some time
                failures = 0
            await self._clock.sleep(_backoff(failures))
            failures += 1

    async def _until_used(self, display: Display) -> None:
        while display.active is None:
            self._work.clear()
            await self._clock.wait(self._work, None)

    async def _serve(self, worker: Worker, display: Display) -> None:
        """Fills the display until nobody has been there for a while."""
        await worker.claim(self._interface)
        if Functionality.PROGRESS in display.device.functionality:
            self._sync_due = -math.inf
            with suppress(*EXPECTED):  # tried again when it is needed
                await self._synchronise(worker)
        try:
            await _tell(worker, requests.enable(self._interface))
            display.reset()
            await self._fill(worker, display)
        finally:
            if not worker.is_gone:
                with suppress(BusworkError):
                    await _tell(worker, requests.enable(self._interface, on=False), GOODBYE_S)

    async def _fill(self, worker: Worker, display: Display) -> None:
        left_at: float | None = None  # since when nobody has been there
        while True:
            self._work.clear()
            now = self._clock.now()
            step = display.next_step(now)
            if step is not None:
                await self._apply(worker, display, step)
                continue
            if display.active is not None:
                left_at = None
            elif left_at is None:
                left_at = now
            elif now >= left_at + LINGER_S:
                return
            times = (display.next_retry(), left_at + LINGER_S if left_at is not None else None)
            until = min((at for at in times if at is not None), default=None)
            await self._clock.wait(self._work, until)

    async def _apply(self, worker: Worker, display: Display, step: Step) -> None:
        try:
            await _tell(worker, await self._request(worker, display.device, step))
        except EXPECTED as error:
            if worker.is_gone:
                raise
            display.failed(step, self._clock.now())
            self._say(display, str(error))
        else:
            display.done(step)
            if display is self._display and display.error and display.next_retry() is None:
                self._driver.set_error(display.device.id, "")

    async def _request(self, worker: Worker, device: Device, step: Step) -> ControlRequest:
        interface = self._interface
        if isinstance(step, StatusStep):
            return requests.status(interface, step.value)
        if isinstance(step, ProgressStep):
            if step.value is None:
                return requests.progress(interface)
            ahead_ms = await self._ahead_ms(worker)
            # By the wall clock as it was when the player spoke: it may have been set since then.
            now_ms = self._steady_ms() + step.wall_offset_ms
            difference_ms = step.wall_offset_ms - ahead_ms
            payload = requests.progress_payload(step.value, now_ms, difference_ms)
            return requests.progress(interface, payload)
        assert device.coding is not None  # else the display has no such step
        max_bytes = min(device.texts[step.text_id], MAX_CONTROL_BYTES)
        data = encode_text(step.value or "", device.coding, max_bytes)
        return requests.text(interface, step.text_id, data)

    # -- the device's clock ------------------------------------------------------------------------

    async def _ahead_ms(self, worker: Worker) -> int:
        """How far the device's clock is ahead of ours, not older than SYNC_S if it can be had."""
        if self._clock.now() >= self._sync_due:
            try:
                await self._synchronise(worker)
            except EXPECTED as error:
                if self._clock_ahead_ms is None or worker.is_gone:
                    raise
                log.warning("%s: what its clock said before has to do: %s", self._usb, error)
                self._sync_due = self._clock.now() + SYNC_S
        assert self._clock_ahead_ms is not None  # else there was an error
        return self._clock_ahead_ms

    async def _synchronise(self, worker: Worker) -> None:
        before_ms = self._steady_ms()
        answer = await _ask(worker, requests.read_timestamp(self._interface))
        device_ms = requests.parse_timestamp(answer)
        self._clock_ahead_ms = -requests.clock_difference_ms(
            before_ms, self._steady_ms(), device_ms
        )
        self._sync_due = self._clock.now() + SYNC_S

    def _steady_ms(self) -> int:
        return round(self._clock.now() * 1000)

    def _say(self, display: Display, error: str) -> None:
        if display is self._display and error != display.error:
            log.warning("%s: %s", self._usb, error)
            self._driver.set_error(display.device.id, error)

    def _say_defect(self, error: Exception) -> None:
        if self._display is not None:
            self._driver.set_error(self._display.device.id, DEFECT)
        if repr(error) != self._defect:
            self._defect = repr(error)
            log.error("%s: %s", self._usb, self._defect, exc_info=error)


async def _ask(worker: Worker, request: ControlRequest) -> bytes:
    return await worker.control_in(
        request.request_type, request.request, request.value, request.index, request.length
    )


async def _tell(worker: Worker, request: ControlRequest, timeout: float = TIMEOUT) -> None:
    await worker.control_out(
        request.request_type, request.request, request.value, request.index, request.data, timeout
    )


def _backoff(failures: int) -> float:
    return float(min(RETRY_FIRST_S * 2.0 ** min(failures, 16), RETRY_MAX_S))
