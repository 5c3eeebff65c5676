"""One request on one of mapipcd's sockets, and JSON's strings, at the least cost.

`socket`, `json` and `re` take longer to import than a request takes, so the modules in C below
them are used; a reply that does not look as usual is worth the import of json.
"""

import os
import sys
from _json import encode_basestring, scanstring
from _socket import AF_UNIX, SO_RCVTIMEO, SO_SNDTIMEO, SOCK_STREAM, SOL_SOCKET, socket

SET, GET = "mapipc_set", "mapipc_get"

# Where systemd's units put the sockets.
DIRECTORY = "/run/buswork"

# The daemon answers within a millisecond, or as soon as polkit does, which has 20 s.
SECONDS = 30
CHUNK_BYTES = 256 * 1024

_BEGIN, _END = '{\n    "value": "', "\n}\n"


def place(name: str) -> str:
    """Where a socket is: as $MAPIPC_SET or $MAPIPC_GET says, else where systemd makes it."""
    return os.environ.get(name.upper()) or f"{DIRECTORY}/{name}"


def original_place(name: str) -> str:
    """Where the original has it, for names that are no path."""
    return f"{os.environ.get('TMPDIR') or '/tmp'}/{name}"


def exchange(path: str, request: bytes) -> bytes:
    """The answer to a request; OSError when nobody gives one."""
    sock = socket(AF_UNIX, SOCK_STREAM)  # closed with the process
    patience = SECONDS.to_bytes(8, sys.byteorder) + bytes(8)  # a struct timeval
    sock.setsockopt(SOL_SOCKET, SO_RCVTIMEO, patience)
    sock.setsockopt(SOL_SOCKET, SO_SNDTIMEO, patience)
    sock.connect(path)
    sock.sendall(request)
    # Our side stays open: the original daemon answers nobody who has closed it.
    pieces = []
    while piece := sock.recv(CHUNK_BYTES):
        pieces.append(piece)
    return b"".join(pieces)


def set_request(key: str, value: str) -> bytes:
    """As the original writes it; an empty value clears the key."""
    text = encode_basestring(value) if value else "null"
    return f'{{\n    "key": {encode_basestring(key)},\n    "value": {text}\n}}\n'.encode()


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


def compact(value: object) -> str:
    import json

    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def printable(text: str) -> str:
    """text with nothing that a terminal would obey."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def write(text: str) -> None:
    """On stdout, as UTF-8 whatever the locale is; half a character becomes '?'."""
    _write(1, text)


def complain(text: str) -> None:
    _write(2, text + "\n")


def _write(fd: int, text: str) -> None:
    data = text.encode(errors="replace")
    while data:
        data = data[os.write(fd, data) :]
