"""The lines of a Watch stream: one compact JSON object per change, each ended by a newline.

    {"revision":7,"key":"greeting","value":"hello"}     the key has this value now
    {"revision":8,"key":"greeting"}                     the key went
    {"revision":9,"kind":"clear"}                       every key went at once
    {"cut":{"revision":9}}                              the reader fell behind; nothing follows

The contract is the DocString of Watch in dbus/org.mapipc.Store.xml.
"""

import json
from dataclasses import dataclass
from typing import Any

from buswork.store.wire.values import shown

MAX_REVISION = 2**64 - 1  # a revision is a D-Bus `t`


# Not frozen, because a frozen one takes three times as long to make; nobody alters it.
@dataclass(slots=True)
class Change:
    """One step of the store from one revision to the next."""

    revision: int
    key: str | None  # None: every key went at once
    value: bytes | None  # UTF-8; None: the key went


@dataclass(frozen=True, slots=True)
class Cut:
    """The last line for a reader that fell too far behind: the last revision it was sent."""

    revision: int


# Quoting the two strings alone takes a quarter of the time of encoding a dictionary.
_quoted = json.JSONEncoder(ensure_ascii=False).encode


def change_line(change: Change) -> bytes:
    revision, key, value = change.revision, change.key, change.value
    if key is None:
        return b'{"revision":%d,"kind":"clear"}\n' % revision
    if value is None:
        return f'{{"revision":{revision},"key":{_quoted(key)}}}\n'.encode()
    text = _quoted(_shown(value))
    return f'{{"revision":{revision},"key":{_quoted(key)},"value":{text}}}\n'.encode()


def _shown(value: bytes) -> str:
    """As Get shows it; a string that D-Bus can't carry as its JSON."""
    if type(value) is bytes:
        return value.decode()
    text = shown(value)
    return value.decode() if text is None else text


def cut_line(revision: int) -> bytes:
    return b'{"cut":{"revision":%d}}\n' % revision


def parse_line(line: bytes) -> Change | Cut:
    """What a line says; ValueError says what is wrong with any other bytes.

    Members that we do not know are passed over: the interface may grow within a major version.
    """
    members = _members(line)
    if "cut" in members:
        return Cut(_cut_revision(members))
    revision = _revision(members, lowest=1)
    if "kind" in members:
        return _clear(revision, members)
    return Change(revision, _text(members, "key"), _value(members))


def _members(line: bytes) -> dict[str, Any]:
    if line.find(b"\n") != len(line) - 1 or not line:
        raise ValueError("a Watch line is ended by its only newline")
    try:
        members = json.loads(line.decode(), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"a Watch line is JSON in UTF-8: {error}") from error
    if not isinstance(members, dict):
        raise ValueError("a Watch line is a JSON object")
    return members


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is there twice")
    return members


def _cut_revision(members: dict[str, Any]) -> int:
    cut = members["cut"]
    if not isinstance(cut, dict) or not members.keys().isdisjoint(("revision", "key", "value")):
        raise ValueError("a cut line has one object, cut, and no change")
    return _revision(cut, lowest=0)


def _clear(revision: int, members: dict[str, Any]) -> Change:
    if members["kind"] != "clear":
        raise ValueError(f"kind is clear or absent, not {members['kind']!r}")
    if not members.keys().isdisjoint(("key", "value")):
        raise ValueError("a clear line has neither key nor value")
    return Change(revision, None, None)


def _revision(members: dict[str, Any], lowest: int) -> int:
    revision = members.get("revision")
    # bool is an int to Python, but true is no number in JSON.
    if type(revision) is not int or not lowest <= revision <= MAX_REVISION:
        raise ValueError(f"revision is a whole number from {lowest} to {MAX_REVISION}")
    return revision


def _value(members: dict[str, Any]) -> bytes | None:
    if members.get("value") == "":  # native clients may set the empty string
        return b""
    return _text(members, "value").encode() if "value" in members else None


def _text(members: dict[str, Any], name: str) -> str:
    text = members.get(name)
    if not isinstance(text, str) or not text or "\0" in text or not _is_unicode(text):
        raise ValueError(f"{name} is a string of Unicode text, neither empty nor with a NUL")
    return text


def _is_unicode(text: str) -> bool:
    """Whether UTF-8 can carry the text: JSON's \\ud800 makes half a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
