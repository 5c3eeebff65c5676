"""The one who talks to a device: a thread that alone touches it, and its side on the loop.

Rules
* Everything is done one after the other, in the order in which it was asked for.
* Everything ends: a transfer at its own deadline, waiting for one's turn at WAIT_SECONDS, closing
  at CLOSE_SECONDS. A thread that the kernel does not give back is left behind, and the device is
  gone for us; should it come back, it lets go of the device.
* A caller that is cancelled takes its request along if nothing of it was sent, else the answer is
  thrown away when it comes; the next caller never sees it.
* No kernel driver is ever taken from a device.
"""

import asyncio
import logging
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from usb.backend import IBackend
from usb.core import USBError

from buswork.errors import Busy
from buswork.usb.devices import UsbDevice
from buswork.usb.link import (
    GONE,
    IN,
    IO,
    TIMED_OUT,
    Link,
    Transfers,
    UsbError,
    all_sent,
    milliseconds,
    usb_error,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

# What may wait for a device. A wing asks for the next step when it has the answer to the last one;
# this many are in line only if a caller does not wait.
MAX_QUEUED = 64
# A transfer's time, unless the protocol has a number of its own.
TIMEOUT = 1.0
# How long a request may wait for its turn.
WAIT_SECONDS = 5.0
# Opening waits while the kernel is busy with the device; that is over soon, or never.
OPEN_SECONDS = 3.0
# What a timeout may be late: the kernel takes a transfer back, and others want the processor.
SLACK_SECONDS = 1.0
# The daemon has 15 seconds to stop.
CLOSE_SECONDS = 3.0
# The kernel's own limit.
MAX_CONTROL_BYTES = 4096


class _Job:
    """One request on its way to the device and back."""

    __slots__ = ("answer", "asked", "started", "timeout", "timer", "what", "work")

    def __init__(
        self, work: Callable[[], Any], timeout: float, what: str, answer: asyncio.Future[Any]
    ) -> None:
        self.work = work
        self.timeout = timeout
        self.what = what
        self.answer = answer
        self.asked = time.monotonic()
        self.started: float | None = None  # the thread's word
        self.timer: asyncio.TimerHandle | None = None

    def is_overdue(self, now: float) -> bool:
        return self.started is not None and now >= self.started + self.timeout + SLACK_SECONDS


class Worker:
    """A device that is in use. It is opened once and closed once; then make another one."""

    def __init__(
        self,
        device: UsbDevice,
        backend: IBackend | None = None,
        *,
        max_queued: int = MAX_QUEUED,
        close_seconds: float = CLOSE_SECONDS,
    ) -> None:
        """backend: one for pyusb, in place of libusb."""
        self.device = device
        self.max_queued = max_queued
        self._close_seconds = close_seconds
        self._link = Link(device, backend)
        self._jobs: deque[_Job] = deque()
        self._running: _Job | None = None
        self._stop = False
        self._wake = threading.Condition()  # for the four above
        self._ended: asyncio.Future[None] | None = None
        # Why nothing is taken any more.
        self._refusal: UsbError | None = UsbError(GONE, f"{device} is not open")
        self.is_gone = False
        self._was_left = False  # the thread, in a transfer that did not end

    @property
    def is_open(self) -> bool:
        return self._refusal is None

    @property
    def is_left(self) -> bool:
        """Its thread hangs in the device, though it was told to end."""
        return self._was_left and self._ended is not None and not self._ended.done()

    async def open(self) -> None:
        """Opens the device, if it still is the one that was found."""
        if self._ended is not None:
            raise RuntimeError("a worker is opened once")
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._refusal = None
        name = f"usb {self.device.port}"
        try:
            threading.Thread(target=self._run, name=name, daemon=True).start()
        except RuntimeError as error:  # no more threads are allowed; others may end
            self._has_ended()
            self._end(UsbError(GONE, f"{self.device} could not be opened"))
            raise UsbError(IO, f"{self.device} can't have a thread now: {error}") from error
        try:
            await self._do(self._link.open, OPEN_SECONDS, "opening")
        except BaseException:
            self._end(UsbError(GONE, f"{self.device} could not be opened"))
            raise

    async def configure(self, value: int) -> None:
        """Tells the device its configuration once more, after which it may come to its senses.

        UsbError busy: somebody has claimed an interface, us included.
        """
        await self._do(lambda: self._link.configure(value), TIMEOUT, "choosing a configuration")

    async def claim(self, interface: int, *unlisted: int) -> None:
        """Takes an interface; UsbError busy: another program or a kernel driver has it.

        unlisted: the interrupt endpoints of an interface that the configuration does not count.
        """
        await self._do(lambda: self._link.claim(interface, *unlisted), TIMEOUT, "claiming")

    async def control_out(
        self,
        request_type: int,
        request: int,
        value: int,
        index: int,
        data: bytes = b"",
        timeout: float = TIMEOUT,
    ) -> None:
        if request_type & IN or len(data) > MAX_CONTROL_BYTES:
            raise ValueError("a request to the device, with 4096 bytes at most")
        buffer, ms = array("B", data), milliseconds(timeout)
        done = await self._do(
            lambda: self._link.control(request_type, request, value, index, buffer, ms),
            timeout,
            f"request {request:#04x}",
        )
        all_sent(done, data)

    async def control_in(
        self,
        request_type: int,
        request: int,
        value: int,
        index: int,
        length: int,
        timeout: float = TIMEOUT,
    ) -> bytes:
        """The answer; it may be shorter than what was asked for, never longer."""
        if not request_type & IN or not 0 <= length <= MAX_CONTROL_BYTES:
            raise ValueError("a request for an answer of 4096 bytes at most")
        buffer, ms = array("B", bytes(length)), milliseconds(timeout)
        done = await self._do(
            lambda: self._link.control(request_type, request, value, index, buffer, ms),
            timeout,
            f"request {request:#04x}",
        )
        return buffer.tobytes()[:done]

    async def write(self, endpoint: int, data: bytes, timeout: float = TIMEOUT) -> None:
        await self.together(lambda it: it.write(endpoint, data, timeout), timeout, "a write")

    async def read(self, endpoint: int, length: int, timeout: float = TIMEOUT) -> bytes:
        return await self.together(lambda it: it.read(endpoint, length, timeout), timeout, "a read")

    async def together(self, work: Callable[[Transfers], T], timeout: float, what: str) -> T:
        """Does several transfers in one go, in the thread; what work returns or raises.

        A transfer that does not suit the next one costs no way to the loop and back. Who is
        cancelled while it runs has no say in it any more: it goes on to its end.
        """
        result: T = await self._do(
            lambda: work(Transfers(self._link, self.device, timeout)), timeout, what
        )
        return result

    async def close(self) -> None:
        """Lets go of the device: no new requests, none of those that wait; the last one ends.

        It ends within CLOSE_SECONDS, whatever the device does, and may be called at any time.
        """
        self._end(UsbError(GONE, f"{self.device} is closed"))
        if self._ended is None or self.is_left:
            return
        try:
            async with asyncio.timeout(self._close_seconds):
                await asyncio.shield(self._ended)
        except TimeoutError:
            log.warning("%s does not end its last transfer; it is left alone", self.device)
            self._leave(UsbError(GONE, f"{self.device} is closed"))

    # The loop's side

    async def _do(self, work: Callable[[], Any], timeout: float, what: str) -> Any:
        if self._refusal is not None:
            raise UsbError(self._refusal.kind, str(self._refusal))
        job = _Job(work, timeout, what, self._loop.create_future())
        with self._wake:
            if len(self._jobs) >= self.max_queued:
                raise Busy(f"{len(self._jobs)} requests wait for {self.device}")
            self._jobs.append(job)
            self._wake.notify()
        job.timer = self._loop.call_at(job.asked + timeout + SLACK_SECONDS, self._look_after, job)
        try:
            return await job.answer
        finally:
            job.timer.cancel()
            with self._wake, suppress(ValueError):
                self._jobs.remove(job)

    def _look_after(self, job: _Job) -> None:
        """Comes when a request should have been answered, had it not been made to wait."""
        now = time.monotonic()
        with self._wake:
            running, started = self._running, job.started
        if running is not None and running.is_overdue(now):
            self._lose("does not end a transfer")
            return
        due = job.asked + WAIT_SECONDS
        if started is not None:
            due = started + job.timeout + SLACK_SECONDS
        elif now >= due:
            text = f"{self.device} had no time for the request; nothing was sent"
            _fail(job, UsbError(TIMED_OUT, text))
            return
        job.timer = self._loop.call_at(max(due, now), self._look_after, job)

    def _answered(self, job: _Job, result: Any, error: Exception | None) -> None:
        if isinstance(error, UsbError) and error.kind == GONE:
            self._lose("is gone")
        if job.answer.done():
            return
        if error is not None:
            job.answer.set_exception(error)
        else:
            job.answer.set_result(result)

    def _lose(self, how: str) -> None:
        """The device is gone, or as good as gone."""
        if not self.is_gone:
            self.is_gone = True
            log.info("%s %s", self.device, how)
        error = UsbError(GONE, f"{self.device} {how}")
        self._end(error)
        with self._wake:
            running = self._running
        if running is not None and running.is_overdue(time.monotonic()):
            self._leave(UsbError(TIMED_OUT, f"{self.device} {how}"))

    def _leave(self, error: UsbError) -> None:
        """Goes on without the thread."""
        self.is_gone = self._was_left = True
        with self._wake:
            running = self._running
        if running is not None:
            _fail(running, error)

    def _end(self, refusal: UsbError) -> None:
        """From now on every request is refused; what waits is over, what runs may end."""
        if self._refusal is None:
            self._refusal = refusal
        with self._wake:
            waiting = list(self._jobs)
            self._jobs.clear()
            self._stop = True
            self._wake.notify()
        for job in waiting:
            _fail(job, UsbError(refusal.kind, str(refusal)))

    # The thread's side

    def _run(self) -> None:
        while (job := self._next()) is not None:
            result: Any = None
            error: Exception | None = None
            try:
                result = job.work()
            except (USBError, NotImplementedError) as caught:
                error = usb_error(caught, f"{self.device}, {job.what}")
                error.__cause__ = caught
            except Exception as caught:
                error = caught
            with self._wake:
                self._running = None
            self._tell(self._answered, job, result, error)
        try:
            self._link.close()
        except Exception:
            log.exception("can't close %s", self.device)
        self._tell(self._has_ended)

    def _next(self) -> _Job | None:
        with self._wake:
            while not self._jobs and not self._stop:
                self._wake.wait()
            if self._stop:
                return None
            job = self._jobs.popleft()
            job.started = time.monotonic()
            self._running = job
            return job

    def _tell(self, callback: Callable[..., None], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed; nobody waits
            self._loop.call_soon_threadsafe(callback, *arguments)

    def _has_ended(self) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)


def _fail(job: _Job, error: UsbError) -> None:
    if not job.answer.done():
        job.answer.set_exception(error)
