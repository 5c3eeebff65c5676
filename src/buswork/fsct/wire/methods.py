"""The methods of the driver, and how MessagePack-RPC carries their parameters and results.

The parameters are positional. What is sent is what the original's own client and server send,
byte for byte; what is taken is what they take and a little more (checks.py), but no number that
the original would have wrapped around.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final
from uuid import UUID

from buswork.fsct.wire import checks
from buswork.fsct.wire.protocol import ProtocolVersion
from buswork.fsct.wire.terms import FIELDS, BadValue, PlayerState, Status, TextId, Timeline

Check = Callable[[Any], Any]


class UnknownMethod(ValueError):
    """Nothing has this name."""

    def __init__(self, method: str) -> None:
        super().__init__(f"unknown method: {checks.shown(method)}")


@dataclass(frozen=True, slots=True)
class Method:
    """One method: the names of its parameters, which say what they take, and its result."""

    name: str
    params: tuple[str, ...] = ()
    result: str = "nothing"
    # What the original answers whatever the driver's reason was.
    failure: str = ""

    @property
    def expects(self) -> str:
        """What is said of any other number of parameters."""
        count = len(self.params)
        names = f": {', '.join(self.params)}" if count else ""
        return f"expected {count} param{'' if count == 1 else 's'}{names}"


METHODS: Final = {
    method.name: method
    for method in (
        Method("get_protocol_version", result="version"),
        Method("register_player", ("self_id",), "player", "register_player error"),
        Method("unregister_player", ("player_id",), failure="unregister_player error"),
        Method("assign_player_to_device", ("player_id", "device_id")),
        Method(
            "unassign_player_from_device",
            ("player_id", "device_id"),
            failure="unassign_player_from_device error",
        ),
        Method("update_player_state", ("player_id", "state")),
        Method("update_player_status", ("player_id", "status")),
        Method("update_player_timeline", ("player_id", "timeline")),
        Method("update_player_metadata", ("player_id", "metadata_id", "text")),
        Method("set_preferred_player", ("preferred_player_id",)),
        Method("get_preferred_player", result="player or nothing"),
        Method("get_player_assigned_device", ("player_id",), "device or nothing"),
    )
}

PARAMETERS: Final[Mapping[str, Check]] = {
    "self_id": checks.self_id,
    "player_id": checks.player_id,
    "preferred_player_id": checks.optional_player_id,
    "device_id": checks.device_id,
    "state": checks.player_state,
    "status": checks.status,
    "timeline": checks.timeline,
    "metadata_id": checks.text_id,
    "text": checks.text,
}


# -- a server's side -----------------------------------------------------------------------------


def parse_params(method: str, params: Sequence[Any]) -> tuple[Any, ...]:
    """The checked parameters; UnknownMethod or BadValue, whose texts are the answer, if not."""
    found = METHODS.get(method)
    if found is None:
        raise UnknownMethod(method)
    if len(params) != len(found.params):
        raise BadValue("params", found.expects)
    return tuple(
        [_RPC_PARAMETERS[name](value) for name, value in zip(found.params, params, strict=True)]
    )


def _device_id(value: object) -> UUID:
    """To MessagePack, 16 raw bytes may be a text as well."""
    if type(value) is str and len(value) <= 16:
        try:
            value = value.encode(errors="surrogateescape")
        except UnicodeEncodeError:  # half a character, which no bytes have left
            pass
    return checks.device_id(value)


_RPC_PARAMETERS: Final = {**PARAMETERS, "device_id": _device_id}


def encode_result(value: ProtocolVersion | UUID | int | None) -> Any:
    """A result as it is put into a response."""
    return plain(value)


def error_text(method: str, reason: str) -> str:
    """What the original answers when its driver refused for this reason."""
    return METHODS[method].failure or reason


# -- a client's side -----------------------------------------------------------------------------


def encode_params(*args: Any) -> list[Any]:
    """Typed values, as parse_params() makes them, as the parameters of a request."""
    return [plain(arg) for arg in args]


def parse_result(method: str, result: object) -> Any:
    """The result of a response; BadValue: the server is none of this kind."""
    return RESULTS[METHODS[method].result](result)


def _version(value: object) -> ProtocolVersion:
    if isinstance(value, Mapping):
        numbers: dict[str, Any] = {name: value.get(name) for name in ProtocolVersion._fields}
        if all(type(each) is int and FIELDS[name].takes(each) for name, each in numbers.items()):
            return ProtocolVersion(**numbers)
    raise BadValue("result", "the version is a map of major and minor")


def _nothing(value: object) -> None:
    """Whatever it is: there is nothing to be learnt from it."""


def _optional_device_id(value: object) -> UUID | None:
    return None if value is None else _device_id(value)


RESULTS: Final[Mapping[str, Check]] = {
    "version": _version,
    "player": checks.player_id,
    "player or nothing": checks.optional_player_id,
    "device or nothing": _optional_device_id,
    "nothing": _nothing,
}


# -- terms as MessagePack's values ---------------------------------------------------------------


def plain(value: Any) -> Any:
    """A term in what MessagePack has: numbers, texts, bytes, maps."""
    convert = _PLAIN.get(type(value))
    return value if convert is None else convert(value)


def _state(state: PlayerState) -> dict[str, Any]:
    return {
        "status": int(state.status),
        "timeline": plain(state.timeline),
        "texts": asdict(state.texts),
    }


def _timeline(timeline: Timeline) -> dict[str, Any]:
    return {**asdict(timeline), "rate": float(timeline.rate)}


def _uuid(uuid: UUID) -> bytes:
    return uuid.bytes


_PLAIN: Final[Mapping[type, Callable[[Any], Any]]] = {
    ProtocolVersion: ProtocolVersion._asdict,
    UUID: _uuid,
    Status: int,
    TextId: int,
    Timeline: _timeline,
    PlayerState: _state,
}
