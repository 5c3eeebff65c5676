"""One request on one of mapipcd's sockets, and JSON's strings, at the least cost.

`socket`, `json` and `re` take longer to import than a request takes, so the modules in C below
them are used; a reply that does not look as usual is worth the import of json.
"""

import os
import sys
from _json import encode_basestring, scanstring
from _socket import (
    AF_UNIX,
    SO_PEERCRED,
    SO_RCVTIMEO,
    SO_SNDTIMEO,
    SOCK_STREAM,
    SOL_SOCKET,
    socket,
)
from time import monotonic

SET, GET = "mapipc_set", "mapipc_get"

# Where systemd's units put the sockets.
DIRECTORY = "/run/buswork"

# Of a whole exchange. The daemon answers within a millisecond, or as soon as polkit does, which
# has 20 s.
SECONDS = 30
CHUNK_BYTES = 256 * 1024

_BEGIN, _END = '{\n    "value": "', "\n}\n"


class Untrusted(Exception):
    """The socket is a stranger's."""


def place(name: str) -> str:
    """Where a socket is: as $MAPIPC_SET or $MAPIPC_GET says, else where systemd makes it."""
    return os.environ.get(name.upper()) or f"{DIRECTORY}/{name}"


def original_place(name: str) -> str:
    """Where the original has it, for names that are no path."""
    return f"{os.environ.get('TMPDIR') or '/tmp'}/{name}"


def exchange(path: str, request: bytes, trusted: set[int] | None = None) -> bytes:
    """The answer to a request; OSError when nobody gives one.

    Where it matters who listens, nobody but one of these uids gets the request.
    """
    sock = socket(AF_UNIX, SOCK_STREAM)
    until = monotonic() + SECONDS
    try:
        _set_patience(sock, SO_SNDTIMEO, SECONDS)
        sock.connect(path)
        if trusted is not None and (uid := _uid_of(sock)) not in trusted:
            raise Untrusted(f"{path} is served by uid {uid}")
        return _answer(sock, request, until)
    except BlockingIOError:
        raise TimeoutError("the daemon did not answer in time") from None
    finally:
        sock.close()


def _answer(sock: socket, request: bytes, until: float) -> bytes:
    cut: ConnectionError | None = None
    try:
        sock.sendall(request)
    except (BrokenPipeError, ConnectionResetError) as error:
        cut = error  # it has seen enough, and may have said so
    # Our side stays open: the original daemon answers nobody who has closed it.
    pieces = []
    try:
        while piece := _receive(sock, until):
            pieces.append(piece)
    except ConnectionResetError as error:
        cut = error  # it did not read all of the request
    if cut is not None and not pieces:
        raise cut
    return b"".join(pieces)


def _receive(sock: socket, until: float) -> bytes:
    _set_patience(sock, SO_RCVTIMEO, max(until - monotonic(), 0.001))
    return sock.recv(CHUNK_BYTES)


def _set_patience(sock: socket, option: int, seconds: float) -> None:
    whole = int(seconds)
    rest = int((seconds - whole) * 1_000_000)
    timeval = whole.to_bytes(8, sys.byteorder) + rest.to_bytes(8, sys.byteorder)
    sock.setsockopt(SOL_SOCKET, option, timeval)


def _uid_of(sock: socket) -> int:
    """Who made the socket listen: of the name, anybody may be the owner by now."""
    credentials = sock.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)  # pid, uid, gid
    return int.from_bytes(credentials[4:8], sys.byteorder)


def get_request(key: str) -> bytes:
    """Bytes of the command line that are no UTF-8 stay what they are: the daemon answers them."""
    return key.encode(errors="surrogateescape")


def set_request(key: str, value: str) -> bytes:
    """As the original writes it; an empty value clears the key."""
    text = encode_basestring(value) if value else "null"
    request = f'{{\n    "key": {encode_basestring(key)},\n    "value": {text}\n}}\n'
    return request.encode(errors="surrogateescape")


def string_of(reply: bytes) -> str | None:
    """The string in an answer as the daemon writes it; None: it is anything else."""
    try:
        text = reply.decode()
        if text.startswith(_BEGIN):
            value, end = scanstring(text, len(_BEGIN), False)
            return value if text[end:] == _END else None
    except ValueError:
        pass
    return None


def members_of(reply: bytes) -> object:
    """The answer as JSON; ValueError when it is none."""
    import json

    try:
        return json.loads(reply.decode(), strict=False)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def is_text(value: str) -> bool:
    """Whether a C string of UTF-8 can be it: no NUL, no half of a character."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value


def compact_value(reply: bytes) -> str:
    """The JSON text of the value in a good answer, as it is there but for blanks."""
    import json
    import re

    text = "".join(re.findall(r'"(?:[^"\\]|\\.)*"|[^"\s]+', reply.decode(), re.DOTALL))
    skip, value, at = json.JSONDecoder(strict=False).raw_decode, "", 0
    while text[at] != "}":  # at a member's comma, or the opening brace
        name, start = scanstring(text, at + 2, False)
        _, at = skip(text, start + 1)
        if name == "value":
            value = text[start + 1 : at]
    return value


def printable(text: str) -> str:
    """text with nothing that a terminal would obey."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def write(text: str) -> None:
    """On stdout, as UTF-8 whatever the locale is; half a character becomes '?'."""
    _write(1, text)


def complain(text: str) -> None:
    try:
        _write(2, text + "\n")
    except OSError:
        pass  # nobody is there to be told; the exit status says it too


def reason(error: Exception) -> str:
    """An error in words, without its number."""
    return str(getattr(error, "strerror", None) or error)


def _write(fd: int, text: str) -> None:
    data = text.encode(errors="replace")
    while data:
        data = data[os.write(fd, data) :]
