"""The recorded exchanges of mapipcd, and a client for its sockets."""

import hashlib
import json
import socket
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "mapipcd"


def vectors(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((VECTORS / f"{name}.json").read_text())["vectors"]
    return found


def large_request(vector: dict[str, Any]) -> bytes:
    """The request of a vector; the long ones are kept as length, ends and sum."""
    request = vector["request"]
    if "hex" in request:
        return bytes.fromhex(request["hex"])
    size = int(vector["name"].removeprefix("set_"))
    data = b'{"key":"L%d","value":"%b"}' % (size, b"x" * size)
    assert hashlib.sha256(data).hexdigest() == request["sha256"], vector["name"]
    return data


def matches(data: bytes, recorded: dict[str, Any]) -> bool:
    if "hex" in recorded:
        return data == bytes.fromhex(recorded["hex"])
    return bool(len(data) == recorded["length"]) and bool(
        hashlib.sha256(data).hexdigest() == recorded["sha256"]
    )


def ask(path: Path | str, request: bytes, *, half_close: bool = False) -> bytes:
    """One exchange as the original client does it: one write, then read to the end.

    A daemon may close before it has read everything, but not without an answer: that is
    ConnectionResetError.
    """
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(path))
        try:
            sock.sendall(request)
        except (BrokenPipeError, ConnectionResetError):
            pass
        if half_close:
            sock.shutdown(socket.SHUT_WR)
        reply = b""
        try:
            while piece := sock.recv(1 << 20):
                reply += piece
        except ConnectionResetError:
            if not reply:
                raise
        return reply
