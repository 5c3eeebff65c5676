"""sd-bus, the D-Bus library of systemd, as the other end of a socket: what does it make of it?

with SdBus() as sd:
    sd.read(message_bytes) == values
    sd.write("as", [["x"]]) == message_bytes
"""

import ctypes
import socket
from typing import Any, Self

from buswork.bus.library import variant
from support import reference

try:
    _lib = ctypes.CDLL("libsystemd.so.0")
except OSError:
    _lib = None

AVAILABLE = _lib is not None
_NUMBERS = {
    "y": ctypes.c_uint8, "b": ctypes.c_int, "n": ctypes.c_int16, "q": ctypes.c_uint16,
    "i": ctypes.c_int32, "u": ctypes.c_uint32, "x": ctypes.c_int64, "t": ctypes.c_uint64,
    "d": ctypes.c_double,
}  # fmt: skip


def _check(result: int) -> int:
    if result < 0:
        raise OSError(-result, f"sd-bus: {result}")
    return result


class SdBus:
    """A started, anonymous peer-to-peer connection of sd-bus to us."""

    def __enter__(self) -> Self:
        self._ours, theirs = socket.socketpair()
        self._ours.settimeout(10)
        self._bus = ctypes.c_void_p()
        _check(_lib.sd_bus_new(ctypes.byref(self._bus)))
        fd = theirs.detach()
        _check(_lib.sd_bus_set_fd(self._bus, fd, fd))
        _check(_lib.sd_bus_start(self._bus))
        self._turn()
        auth = b""
        while b"BEGIN\r\n" not in auth:
            auth += self._ours.recv(4096)
        answers = b"DATA\r\nOK 0123456789abcdef0123456789abcdef\r\n"
        if b"NEGOTIATE_UNIX_FD" in auth:
            answers += b"AGREE_UNIX_FD\r\n"
        self._ours.sendall(answers)
        self._turn()
        return self

    def __exit__(self, *_: object) -> None:
        _lib.sd_bus_close(self._bus)
        _lib.sd_bus_unref(self._bus)
        self._ours.close()

    def _turn(self) -> None:
        for _ in range(10):
            _check(_lib.sd_bus_process(self._bus, None))

    # -- reading -------------------------------------------------------------------------------

    def read(self, signature: str, data: bytes) -> list[Any]:
        """The values that sd-bus finds in a message (a signal, so that it answers nothing)."""
        self._ours.sendall(data)
        message = ctypes.c_void_p()
        for _ in range(10):
            _check(_lib.sd_bus_process(self._bus, ctypes.byref(message)))
            if message:
                break
        else:
            raise OSError("sd-bus made nothing of it")
        try:
            values = [self._value(message, type_) for type_ in reference.split(signature)]
            assert _check(_lib.sd_bus_message_at_end(message, 1)) == 1
            return values
        finally:
            _lib.sd_bus_message_unref(message)

    def _value(self, message: ctypes.c_void_p, type_: str) -> Any:
        token = type_[0]
        if token in _NUMBERS:
            number = _NUMBERS[token]()
            self._read_basic(message, token, number)
            return bool(number.value) if token == "b" else number.value
        if token in "sog":
            text = ctypes.c_char_p()
            self._read_basic(message, token, text)
            return text.value.decode()
        if token == "v":
            kind, contents = ctypes.c_char(), ctypes.c_char_p()
            _check(
                _lib.sd_bus_message_peek_type(message, ctypes.byref(kind), ctypes.byref(contents))
            )
            inner = contents.value.decode()
            self._enter(message, b"v", contents.value)
            value = variant(inner, self._value(message, inner))
            self._leave(message)
            return value
        if token == "a":
            return self._array(message, type_[1:])
        kind = b"r" if token == "(" else b"e"
        self._enter(message, kind, type_[1:-1].encode())
        values = tuple(self._value(message, member) for member in reference.split(type_[1:-1]))
        self._leave(message)
        return values

    def _array(self, message: ctypes.c_void_p, element: str) -> Any:
        self._enter(message, b"a", element.encode())
        values = []
        while not _check(_lib.sd_bus_message_at_end(message, 0)):
            values.append(self._value(message, element))
        self._leave(message)
        if element == "y":
            return bytes(values)
        return dict(values) if element[0] == "{" else values

    def _read_basic(self, message: ctypes.c_void_p, token: str, into: Any) -> None:
        kind = ctypes.c_char(token.encode())
        assert _check(_lib.sd_bus_message_read_basic(message, kind, ctypes.byref(into))) == 1

    def _enter(self, message: ctypes.c_void_p, kind: bytes, contents: bytes) -> None:
        kind_ = ctypes.c_char(kind)
        assert _check(_lib.sd_bus_message_enter_container(message, kind_, contents)) == 1

    def _leave(self, message: ctypes.c_void_p) -> None:
        _check(_lib.sd_bus_message_exit_container(message))

    # -- writing -------------------------------------------------------------------------------

    def write(self, signature: str, values: Any) -> bytes:
        """The message that sd-bus makes of these values: a signal."""
        message = ctypes.c_void_p()
        _check(
            _lib.sd_bus_message_new_signal(
                self._bus, ctypes.byref(message), b"/org/toy", b"org.toy", b"Moved"
            )
        )
        try:
            for type_, value in zip(reference.split(signature), values, strict=True):
                self._append(message, type_, value)
            _check(_lib.sd_bus_send(self._bus, message, None))
        finally:
            _lib.sd_bus_message_unref(message)
        data = b""
        while (size := reference.length(data)) is None or len(data) < size:
            self._turn()
            data += self._ours.recv(1 << 16)
        assert len(data) == size
        return data

    def _append(self, message: ctypes.c_void_p, type_: str, value: Any) -> None:
        token = type_[0]
        if token in _NUMBERS:
            number = ctypes.byref(_NUMBERS[token](value))
            _check(_lib.sd_bus_message_append_basic(message, ctypes.c_char(token.encode()), number))
        elif token in "sog":
            text = ctypes.c_char_p(value.encode())
            _check(_lib.sd_bus_message_append_basic(message, ctypes.c_char(token.encode()), text))
        elif token == "v":
            self._open(message, b"v", value.signature)
            self._append(message, value.signature, value.value)
            self._close(message)
        elif token == "a":
            self._open(message, b"a", type_[1:])
            for item in value.items() if type_[1] == "{" else value:
                self._append(message, type_[1:], item)
            self._close(message)
        else:
            self._open(message, b"r" if token == "(" else b"e", type_[1:-1])
            for member, item in zip(reference.split(type_[1:-1]), value, strict=True):
                self._append(message, member, item)
            self._close(message)

    def _open(self, message: ctypes.c_void_p, kind: bytes, contents: str) -> None:
        kind_ = ctypes.c_char(kind)
        _check(_lib.sd_bus_message_open_container(message, kind_, contents.encode()))

    def _close(self, message: ctypes.c_void_p) -> None:
        _check(_lib.sd_bus_message_close_container(message))
