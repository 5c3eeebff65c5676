"""The newer protocol of the socket: JSON-RPC 2.0, an object a line, parameters by name.

It has the methods of methods.py and a few of its own, says statuses, texts and devices by name,
and its timelines may tell the time by the driver's monotonic clock. The protocol only ever
grows: members of an object that we do not know are passed over.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final, NamedTuple, NoReturn
from uuid import UUID

from buswork.fsct.wire import checks
from buswork.fsct.wire.methods import METHODS as SHARED_METHODS
from buswork.fsct.wire.methods import PARAMETERS, RESULTS, Check, Method, UnknownMethod
from buswork.fsct.wire.protocol import MAX_MESSAGE_BYTES, Broken, ProtocolVersion
from buswork.fsct.wire.terms import (
    JSON_FIELDS,
    TRACK_TEXTS,
    BadValue,
    DeviceInfo,
    PlayerState,
    Status,
    TextId,
    Timeline,
    TimeSync,
)

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
UNKNOWN_METHOD = -32601
INVALID_PARAMS = -32602
DRIVER_ERROR = -32000

# Arrays and objects of a line; a request of sense has five, the one inside of the other.
MAX_CONTAINERS = 32
# What parts its values. A request of sense has thirty; the list of all devices of a bus, 130.
MAX_SEPARATORS = 256

METHODS: Final = SHARED_METHODS | {
    method.name: method
    for method in (
        Method("get_timesync", result="clocks"),
        Method("get_detected_devices", result="devices"),
        Method("get_device_info", ("device_id",), "device's description"),
    )
}

Id = int | str | None


class Request(NamedTuple):
    id: Id
    method: str
    params: dict[str, Any]


class Response(NamedTuple):
    id: Id
    error: str | None  # None: there is a result
    result: Any
    code: int = 0  # of the error


class Notification(NamedTuple):
    method: str
    params: dict[str, Any]


class Refused(NamedTuple):
    """A line that is no message; its sender is told with encode_error()."""

    id: Id
    code: int
    text: str


Message = Request | Response | Notification | Refused


# -- lines ---------------------------------------------------------------------------------------


class Decoder:
    """Finds the messages in what a connection sends."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forgets what there is."""
        self._buffer = bytearray()
        self._start = 0  # of the next line
        self._searched = 0  # there is no newline before

    @property
    def partial(self) -> bool:
        """Whether a line has begun and not ended."""
        return len(self._buffer) > self._start

    @property
    def buffered(self) -> int:
        """How many bytes are kept here."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        if self._start:
            del self._buffer[: self._start]
            self._searched -= self._start
            self._start = 0
        self._buffer += data

    def next(self) -> Message | None:
        """The next message, if all of it is there; Broken if there will be no more."""
        while True:
            end = self._buffer.find(b"\n", self._searched)
            length = (end + 1 if end >= 0 else len(self._buffer)) - self._start
            if length > MAX_MESSAGE_BYTES:
                text = f"a line has {MAX_MESSAGE_BYTES} bytes at the most"
                raise Broken(text, encode_error(None, PARSE_ERROR, text))
            if not length:
                self.clear()  # it may have been a long one
                return None
            if end < 0:
                self._searched = len(self._buffer)
                return None
            line = bytes(self._buffer[self._start : end])
            self._start = self._searched = end + 1
            if line.strip(b" \t\r"):
                return parse_line(line)


class _Malformed(ValueError):
    """JSON, but not of the kind that a message is."""


_MOST: Final = (
    ((b"[", b"{"), MAX_CONTAINERS, "objects"),
    ((b",", b":"), MAX_SEPARATORS, "values"),
)


def _too_much(line: bytes) -> str | None:
    """What a line has too much of: what is small in all but its texts is read in no time."""
    for separators, most, what in _MOST:
        if sum(map(line.count, separators)) > most:
            return f"a line has {most} {what} at the most"
    return None


def _without_strings(line: bytes) -> bytes:
    """What is outside of the first strings; a line with more of them has too much behind them."""
    unescaped = line.replace(rb"\\", b"").replace(rb"\"", b"")
    return b"".join(unescaped.split(b'"', 2 * (MAX_SEPARATORS + 1))[::2])


def parse_line(line: bytes) -> Message:
    """What a line says."""
    if _too_much(line) and (why := _too_much(_without_strings(line))):
        return Refused(None, PARSE_ERROR, why)
    try:
        members = _decode(line.decode())
    except UnicodeDecodeError:
        return Refused(None, PARSE_ERROR, "parse error: the line is not UTF-8")
    except _Malformed as error:
        return Refused(None, INVALID_REQUEST, f"invalid request: {error}")
    except (ValueError, RecursionError) as error:
        return Refused(None, PARSE_ERROR, f"parse error: {error}")
    if type(members) is not dict:
        return Refused(None, INVALID_REQUEST, "invalid request: a message is one object")
    return _message(members)


def _message(members: dict[str, Any]) -> Message:
    message_id = members.get("id")
    if message_id is not None and type(message_id) not in (int, str):
        return Refused(None, INVALID_REQUEST, "invalid request: id must be integer or string")
    if members.get("jsonrpc") != "2.0":
        return Refused(message_id, INVALID_REQUEST, 'invalid request: jsonrpc must be "2.0"')
    if "method" not in members and ("result" in members or "error" in members):
        return _response(message_id, members)
    method = members.get("method")
    if type(method) is not str:
        return Refused(message_id, INVALID_REQUEST, "invalid request: method must be string")
    params = members.get("params")
    if params is None:
        params = {}
    if type(params) is not dict:
        return Refused(message_id, INVALID_PARAMS, "invalid params: must be an object")
    if "id" not in members:
        return Notification(method, params)
    return Request(message_id, method, params)


def _response(message_id: Id, members: dict[str, Any]) -> Response | Refused:
    error = members.get("error")
    if error is None:
        return Response(message_id, None, members.get("result"))
    if type(error) is not dict or not checks.is_text(error.get("message")):
        return Refused(message_id, INVALID_REQUEST, "invalid response: error has no message")
    code = error.get("code")
    return Response(message_id, error["message"], None, code if type(code) is int else 0)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _Malformed("a member is there twice")
    return members


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_decode = json.JSONDecoder(object_pairs_hook=_without_repeats, parse_constant=_refuse).decode


# -- a server's side -----------------------------------------------------------------------------


def parse_params(method: str, params: Mapping[str, Any], mono_to_unix_ns: int) -> tuple[Any, ...]:
    """The checked parameters in the order of METHODS; UnknownMethod or BadValue if they are not.

    `mono_to_unix_ns` added to a time of the driver's monotonic clock makes one since 1970.
    """
    found = METHODS.get(method)
    if found is None:
        raise UnknownMethod(method)
    for name in found.params:
        if name not in params and name not in _OPTIONAL:
            raise BadValue(name, f"missing {name}")
    return tuple(
        [
            _timeline_parameter(name, params.get(name), mono_to_unix_ns)
            if name in _WITH_TIMELINE
            else PARAMETERS[name](params.get(name))
            for name in found.params
        ]
    )


# To the original, these are null where they are missing.
_OPTIONAL: Final = ("timeline", "text", "preferred_player_id")
_WITH_TIMELINE: Final = ("timeline", "state")
_TIMELINE_MEMBERS: Final = ("position_ms", "update_unix_ms", "duration_ms", "rate")
_STATE_MEMBERS: Final = ("status", "timeline", "texts")


def _timeline_parameter(name: str, value: object, mono_to_unix_ns: int) -> Any:
    if name == "timeline":
        return checks.timeline(_timeline_in_unix_ms(value, mono_to_unix_ns))
    state = _known(value, _STATE_MEMBERS)
    if type(state) is dict:
        if "timeline" in state:
            state["timeline"] = _timeline_in_unix_ms(state["timeline"], mono_to_unix_ns)
        if "texts" in state:
            state["texts"] = _known(state["texts"], tuple(TRACK_TEXTS))
    return checks.player_state(state)


def _timeline_in_unix_ms(value: object, mono_to_unix_ns: int) -> object:
    if type(value) is not dict or "update_mono_ns" not in value:
        return _known(value, _TIMELINE_MEMBERS)
    mono_ns = value["update_mono_ns"]
    if not _takes("update_mono_ns", mono_ns):
        raise BadValue("update_mono_ns", "timeline missing update_mono_ns")
    unix_ms = (mono_ns + mono_to_unix_ns) // 1_000_000
    return _known({**value, "update_unix_ms": unix_ms}, _TIMELINE_MEMBERS)


def _takes(name: str, value: object) -> bool:
    return type(value) is int and JSON_FIELDS[name].takes(value)


def _known(value: object, names: tuple[str, ...]) -> object:
    """An object without what a later minor version has more."""
    if type(value) is not dict:
        return value
    return {name: value[name] for name in names if name in value}


def encode_result(message_id: Id, result: Any) -> bytes:
    return _line({"jsonrpc": "2.0", "id": message_id, "result": _plain(result, None)})


def encode_error(message_id: Id, code: int, text: str) -> bytes:
    error = {"code": code, "message": text}
    return _line({"jsonrpc": "2.0", "id": message_id, "error": error})


def device_changed(event: str, device_id: UUID) -> bytes:
    """Tells a client that a device was `added` or `removed`."""
    return encode_notification("device_changed", {"event": event, "device_id": device_id})


# -- a client's side -----------------------------------------------------------------------------


def encode_request(
    message_id: int, method: str, *args: Any, mono_to_unix_ns: int | None = None
) -> bytes:
    """A request with the arguments in the order of METHODS.

    With `mono_to_unix_ns` (for the driver's clock), timelines tell their time as newer servers
    want it, else as the earlier ones do.
    """
    values = [_plain(arg, mono_to_unix_ns) for arg in args]
    params = dict(zip(METHODS[method].params, values, strict=True))
    return _line({"jsonrpc": "2.0", "id": message_id, "method": method, "params": params})


def encode_notification(method: str, params: Mapping[str, Any]) -> bytes:
    members = {name: _plain(value, None) for name, value in params.items()}
    return _line({"jsonrpc": "2.0", "method": method, "params": members})


def parse_result(method: str, result: object) -> Any:
    """The result of a response; BadValue: the server is none of this kind."""
    return _RESULTS[METHODS[method].result](result)


def _clocks(value: object) -> TimeSync:
    if type(value) is dict:
        clocks: dict[str, Any] = {name: value.get(name) for name in TimeSync._fields}
        if all(_takes(name, clock) for name, clock in clocks.items()):
            return TimeSync(**clocks)
    raise BadValue("result", "the clocks are an object of wall_ns and mono_ns")


def _devices(value: object) -> list[UUID]:
    if type(value) is not list:
        raise BadValue("result", "the devices are an array")
    return [checks.device_id(device) for device in value]


def _device_info(value: object) -> DeviceInfo:
    if type(value) is not dict:
        raise BadValue("result", "a device's description is an object")
    numbers: dict[str, Any] = {name: value.get(name) for name in ("vendor_id", "product_id")}
    if not all(_takes(name, number) for name, number in numbers.items()):
        raise BadValue("result", "a device's vendor_id and product_id have 16 bits")
    name, manufacturer, serial = map(
        checks.text, map(value.get, ("name", "manufacturer", "serial_number"))
    )
    return DeviceInfo(
        id=checks.device_id(value.get("id")),
        name=name,
        manufacturer=manufacturer,
        serial_number=serial,
        **numbers,
    )


_RESULTS: Final[Mapping[str, Check]] = {
    **RESULTS,
    "clocks": _clocks,
    "devices": _devices,
    "device's description": _device_info,
}


# -- terms as JSON's values ----------------------------------------------------------------------


def _plain(value: Any, mono_to_unix_ns: int | None) -> Any:
    match value:
        case Status() | TextId():
            return value.name.lower()
        case UUID():
            return str(value)
        case ProtocolVersion() | TimeSync():
            return value._asdict()
        case DeviceInfo():
            return asdict(value) | {"id": str(value.id)}
        case Timeline():
            return _timeline(value, mono_to_unix_ns)
        case PlayerState():
            return {
                "status": _plain(value.status, None),
                "timeline": _plain(value.timeline, mono_to_unix_ns),
                "texts": asdict(value.texts),
            }
        case list() | tuple():
            return [_plain(item, mono_to_unix_ns) for item in value]
    return value


def _timeline(timeline: Timeline, mono_to_unix_ns: int | None) -> dict[str, Any]:
    if mono_to_unix_ns is None:
        clock, time = "update_unix_ms", timeline.update_unix_ms
    else:
        clock, time = "update_mono_ns", timeline.update_unix_ms * 1_000_000 - mono_to_unix_ns
    return {
        "position_ms": timeline.position_ms,
        clock: time,
        "duration_ms": timeline.duration_ms,
        "rate": float(timeline.rate),
    }


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
_encode_ascii = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def _line(message: dict[str, Any]) -> bytes:
    try:
        return f"{_encode(message)}\n".encode()
    except UnicodeEncodeError:  # an id with half a character, which only an escape can carry
        return f"{_encode_ascii(message)}\n".encode()
