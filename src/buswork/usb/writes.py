"""A write that goes on while something else is done: the read of what it will be answered with.

The kernel then knows of both at once, and nobody has to be woken up between them. pyusb begins and
ends a transfer in one call; so here, and nowhere else, its library is called directly. The
structure of a transfer is pyusb's, which has it for isochronous ones.

Rules
* libusb reads and writes a transfer that is on its way, so it and its data are kept until it has
  ended, which its timeout sees to.
* The status says that it has ended; there is no callback. libusb sets it while it handles events,
  which only this thread has it do in this context (`libusb_apart`): in `end`, or for the read.
"""

import ctypes
from typing import Any

from usb.core import USBError

_ON_ITS_WAY = -1  # no status of libusb's
# By status, as libusb itself has it for transfers that begin and end in one call: completed,
# failed, timed out, cancelled, stalled, no device, overflow.
_ERRORS = (0, -1, -7, -1, -9, -4, -8)
_TIMED_OUT = -7


class Write:
    """Begins at once; `end` has to follow. USBError: it could not begin."""

    def __init__(
        self, backend: Any, handle: Any, endpoint: int, kind: int, data: bytes, time_ms: int
    ) -> None:
        """kind: the endpoint's."""
        self._libusb, self._context = backend.lib, backend.ctx
        self._buffer = ctypes.create_string_buffer(data, len(data))
        self._pointer = self._libusb.libusb_alloc_transfer(0)
        self._transfer = transfer = self._pointer.contents
        transfer.dev_handle, transfer.endpoint, transfer.type = handle.handle, endpoint, kind
        transfer.buffer, transfer.length = ctypes.addressof(self._buffer), len(data)
        transfer.timeout, transfer.status = time_ms, _ON_ITS_WAY
        if error := self._libusb.libusb_submit_transfer(self._pointer):
            self._free()
            raise self._failure(error)

    def end(self) -> int:
        """How much was sent; where the time was over, that may be a part."""
        while self._transfer.status == _ON_ITS_WAY:
            self._libusb.libusb_handle_events(self._context)
        error, count = _ERRORS[self._transfer.status], int(self._transfer.actual_length)
        self._free()
        if error and not (error == _TIMED_OUT and count):
            raise self._failure(error)
        return count

    def _free(self) -> None:
        self._libusb.libusb_free_transfer(self._pointer)

    def _failure(self, error: int) -> USBError:
        return USBError(self._libusb.libusb_strerror(error).decode(), error)
