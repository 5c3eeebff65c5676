"""What was recorded of the original libraries: all that shows bytes on the wire."""

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from buswork.libipc.wire.forms import Form, header_bytes

VECTORS = Path(__file__).resolve().parents[2] / "vectors" / "libipc"

STREAMS = (
    "c_client_receives", "c_client_sends", "c_server_pongd", "c_switching",
    "zig_new_client_receives", "zig_new_client_sends", "zig_new_server_pongd", "zig_tcpd",
    "zig_old_client_receives", "zig_old_client_sends", "zig_old_server_pongd",
)  # fmt: skip
LOOKUPS = ("c_lookup", "zig_new_lookup", "zig_old_lookup")


class Stream(NamedTuple):
    """What went one way on one connection."""

    name: str
    form: Form
    data: bytes


def recorded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text())
    return found


def vectors(*files: str) -> Iterator[tuple[str, Form, dict[str, Any]]]:
    for file in files:
        form = Form.C if file.startswith("c_") else Form.ZIG
        for vector in recorded(file)["vectors"]:
            yield f"{file}/{vector['name']}", form, vector


def content(form: Form, shown: dict[str, Any]) -> bytes:
    """All bytes of something long, of which the ends are shown and the rest is alike."""
    if "hex" in shown:
        return bytes.fromhex(shown["hex"])
    head, tail = bytes.fromhex(shown["head_hex"]), bytes.fromhex(shown["tail_hex"])
    filler = head[header_bytes(form) :][:1] * (shown["length"] - len(head) - len(tail))
    data = head + filler + tail
    assert sha256(data).hexdigest() == shown["sha256"]
    return data


def streams() -> list[Stream]:
    return [
        Stream(f"{name}/{way}", form, data)
        for name, form, vector in vectors(*STREAMS)
        if "/callback" not in name  # theirs speak what they like
        for way, data in _ways(form, vector).items()
        if data
    ]


def _ways(form: Form, vector: dict[str, Any]) -> dict[str, bytes]:
    ways = dict.fromkeys(("sent", "received"), b"")
    ways["sent"] += content(form, vector.get("bytes", {"hex": ""}))
    for step in vector.get("server_sends", ()):
        if isinstance(step, dict):
            ways["sent"] += content(form, step)
    for step in vector.get("steps", ()):
        if isinstance(step, dict):
            ways["sent"] += content(form, step.get("send", {"hex": ""}))
            ways["received"] += content(form, step.get("recv", {"hex": ""}))
    for steps in (vector.get("steps"), vector.get("tcp_client"), vector.get("tcp_bytes")):
        told = [step for step in steps or () if isinstance(step, list) and len(step) == 2]
        # The TCP leg has the name and the agreement before its messages (section 9).
        for way, said in told[2:]:
            way = "sent" if way in ("send", "tcpd->remote") else "received"
            ways[way] += b"" if said == "TimeoutError" else bytes.fromhex(said)
    return ways
