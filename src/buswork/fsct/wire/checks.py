"""Plain values of callers, checked: each becomes a term of ours, or BadValue says why not.

The same for every face and protocol. The texts are the original driver's, to the letter, where
it has one; where it wrapped a number around or took what makes no sense, they are ours.
"""

import re
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from buswork.fsct.wire.terms import (
    FIELDS,
    TRACK_TEXTS,
    BadValue,
    PlayerState,
    Status,
    TextId,
    Texts,
    Timeline,
)

# What an error repeats of a caller's own words.
MAX_SHOWN_CHARACTERS = 64

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)
_STATUS_CODES: Final = {int(status): status for status in Status}
_STATUS_NAMES: Final = {status.name.lower(): status for status in Status}
_TEXT_CODES: Final = {int(text_id): text_id for text_id in TextId}
_TEXT_NAMES: Final = {text_id.name.lower(): text_id for text_id in TextId}
_CURRENT_TEXTS: Final = frozenset(TRACK_TEXTS.values())
_TIMELINE_NUMBERS: Final = ("position_ms", "update_unix_ms", "duration_ms")
_TIMELINE_KEYS: Final = (*_TIMELINE_NUMBERS, "rate")


def is_text(value: object) -> bool:
    """Whether this is Unicode text: no half characters, which stand for bytes that are no UTF-8."""
    if type(value) is not str:
        return False
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(text: str) -> str:
    """A caller's own words as an error repeats them."""
    return text[:MAX_SHOWN_CHARACTERS].encode(errors="replace").decode()


def self_id(value: object) -> str:
    if not isinstance(value, str) or not is_text(value):
        raise BadValue("self_id", "invalid param: self_id must be string")
    field = FIELDS["self_id"]
    if not (field.takes(len(value)) and field.takes(len(value.encode()))):
        text = f"invalid self_id: must have {field.highest} bytes of UTF-8 at the most"
        raise BadValue("self_id", text)
    return value


def player_id(value: object) -> int:
    # A bool is an int to Python, but no number.
    if type(value) is not int or value < 0:
        raise BadValue("player_id", "invalid param: player_id must be integer")
    field = FIELDS["player_id"]
    if value < field.lowest:
        raise BadValue("player_id", "invalid player_id: must be non-zero")
    if value > field.highest:
        raise BadValue("player_id", f"invalid player_id: must be at most {field.highest}")
    return value


def optional_player_id(value: object) -> int | None:
    return None if value is None else player_id(value)


def device_id(value: object) -> UUID:
    """16 bytes, or the 36 characters of a UUID in its usual form."""
    if isinstance(value, UUID):
        return value
    if isinstance(value, bytes | bytearray):
        if FIELDS["device_id"].takes(len(value)):
            return UUID(bytes=bytes(value))
        raise BadValue("device_id", "invalid device_id: uuid binary must be 16 bytes")
    if not isinstance(value, str):
        raise BadValue("device_id", "invalid param: device_id must be binary")
    if not _UUID.fullmatch(value):
        raise BadValue("device_id", "invalid device_id: a UUID in text has 36 characters")
    return UUID(value)


def status(value: object) -> Status:
    """A code, or a name in letters of any case."""
    found: Status | None = None
    if type(value) is str:
        found = _STATUS_NAMES.get(value.lower())
    elif isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        found = _STATUS_CODES.get(value)
        if found is None:
            raise BadValue("status", f"invalid status code: {_number(value)}")
    if found is None:
        raise BadValue("status", "invalid FsctStatus: expected integer")
    return found


def text_id(value: object) -> TextId:
    """A code, or a name of the newer protocol; only the texts of the track, not the queue's."""
    found: TextId | None = None
    if type(value) is str:
        found = _TEXT_NAMES.get(value.lower())
    elif isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        found = _TEXT_CODES.get(value)
        if found is None:
            raise BadValue("metadata_id", f"invalid text metadata id: {_number(value)}")
    if found is None:
        raise BadValue("metadata_id", "invalid FsctTextMetadata: expected integer")
    if found not in _CURRENT_TEXTS:
        text = f"invalid text metadata id: {int(found)} is a text of the queue, which is not sent"
        raise BadValue("metadata_id", text)
    return found


def text(value: object, complaint: str = "text must be string or nil") -> str | None:
    """A text or none; what no device could show any more is cut off."""
    if value is None:
        return None
    if not isinstance(value, str) or not is_text(value):
        raise BadValue("text", complaint)
    return value[: int(FIELDS["text"].highest)]


def timeline(value: object) -> Timeline | None:
    """A mapping with all four members, or none. Keys that are no text are passed over."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise BadValue("timeline", "invalid TimelineInfo: expected map or nil")
    for key in value:
        if key not in _TIMELINE_KEYS and is_text(key):
            raise BadValue("timeline", f"invalid timeline key: {shown(key)}")
    position_ms, update_unix_ms, duration_ms = (_whole(value, key) for key in _TIMELINE_NUMBERS)
    return Timeline(position_ms, update_unix_ms, duration_ms, _rate(value))


def player_state(value: object) -> PlayerState:
    """A mapping; what it does not have is none, or not known."""
    if not isinstance(value, Mapping):
        raise BadValue("state", "invalid PlayerState: expected map")
    members: dict[str, Any] = {}
    for key, member in value.items():
        if key in _STATE_MEMBERS:
            members[key] = _STATE_MEMBERS[key](member)
        elif is_text(key):
            raise BadValue("state", f"invalid player state key: {shown(key)}")
    return PlayerState(**members)


def texts(value: object) -> Texts:
    if not isinstance(value, Mapping):
        raise BadValue("texts", "texts must be map")
    members: dict[str, str | None] = {}
    for key, member in value.items():
        if key in TRACK_TEXTS:
            members[key] = text(member, f"text '{key}' must be string or nil")
        elif is_text(key):
            raise BadValue("texts", f"invalid text key: {shown(key)}")
    return Texts(**members)


_STATE_MEMBERS: Final = {"status": status, "timeline": timeline, "texts": texts}


def _whole(members: Mapping[Any, object], name: str) -> int:
    number = members.get(name)
    field = FIELDS[name]
    # To the original, a number of another kind is a missing one.
    if type(number) is not int or (number < 0 <= field.lowest):
        raise BadValue(name, f"timeline missing {name}")
    if not field.takes(number):
        raise BadValue(name, f"invalid timeline: {name} must be {field.lowest} to {field.highest}")
    return number


def _rate(members: Mapping[Any, object]) -> float:
    rate = members.get("rate")
    if isinstance(rate, bool) or not isinstance(rate, int | float):
        raise BadValue("rate", "timeline missing rate")
    field = FIELDS["rate"]
    if not field.takes(rate):
        text = f"invalid timeline: rate must be {field.lowest} to {field.highest}"
        raise BadValue("rate", text)
    return float(rate)


def _number(value: int) -> str:
    """JSON may bring a number of thousands of digits."""
    return str(value) if value < 2**64 else "more than 64 bits"
