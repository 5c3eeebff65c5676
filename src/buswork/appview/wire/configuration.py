"""The configuration of a viewed process (protocol section 4).

What is set replaces all: what is left out goes back to its default, except for protocols, which
are only ever added. The process takes what it can use, ignores the rest in silence, and dies of a
protocol whose name it has already. So we say what is wrong before it is sent, and merge here.

Switches are the texts "true" and "false" in what a process says; of us it takes both.
"""

import copy
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

from buswork.appview.wire.frames import MOST_REQUEST_BYTES
from buswork.appview.wire.shapes import (
    LIST,
    MOST_MARKS,
    TEXT,
    Choice,
    Each,
    Kind,
    Shape,
    complaints,
    marks,
    one_of,
    shown,
    whole,
)

JSON = dict[str, Any]

SWITCH: Final = Kind(
    "true or false", lambda value: isinstance(value, bool) or value in ("true", "false")
)
PORT: Final = Kind(
    "a port, 0 to 65535",
    lambda value: (
        type(value) in (int, str)
        and re.fullmatch(r"[0-9]{1,5}", str(value)) is not None
        and int(value) < 65536
    ),
)
_INT: Final = whole(0, 2**31 - 1)

_NETWORK: Final[Mapping[str, Shape]] = {
    "host?": TEXT,
    "port?": PORT,
    "tls?": {"enable?": SWITCH, "validateserver?": SWITCH, "cacertpath?": TEXT},
}
TRANSPORT: Final = Choice(
    "type",
    {
        "udp": _NETWORK,
        "tcp": _NETWORK,
        "unix": {"path?": TEXT},
        "file": {"path?": TEXT, "buffering?": one_of("line", "full")},
        "edge": {},
    },
)
_WATCHED: Final[Mapping[str, Shape]] = {"name?": TEXT, "field?": TEXT, "value?": TEXT}
_EVENT: Final = Choice(
    "type",
    {
        **dict.fromkeys(("file", "syslog", "metric", "net", "fs", "dns", "sec"), _WATCHED),
        "http": {**_WATCHED, "headers?": [TEXT]},
        "console": {**_WATCHED, "allowbinary?": SWITCH},
    },
)
_PROTOCOL: Final[Mapping[str, Shape]] = {
    "name": TEXT,
    "regex?": TEXT,
    "binary?": SWITCH,
    "len?": _INT,
    "detect?": SWITCH,
    "payload?": SWITCH,
}
SHAPE: Final[Mapping[str, Shape]] = {
    "metric?": {
        "enable?": SWITCH,
        "transport?": TRANSPORT,
        "format?": {
            "type?": one_of("statsd", "ndjson", "prometheus"),
            "statsdprefix?": TEXT,
            "statsdmaxlen?": _INT,
            "verbosity?": whole(0, 9),
        },
        "watch?": [{"type": one_of("fs", "net", "http", "dns", "process", "statsd")}],
    },
    "libappview?": {
        "log?": {
            "level?": one_of("trace", "debug", "info", "warning", "error", "none"),
            "transport?": TRANSPORT,
        },
        "snapshot?": {"coredump?": SWITCH, "backtrace?": SWITCH},
        "configevent?": SWITCH,
        "summaryperiod?": whole(1, 2**31 - 1),
        "commanddir?": TEXT,
    },
    "event?": {
        "enable?": SWITCH,
        "transport?": TRANSPORT,
        "format?": {"type?": one_of("ndjson"), "maxeventpersec?": _INT, "enhancefs?": SWITCH},
        "watch?": [_EVENT],
    },
    "payload?": {"enable?": SWITCH, "dir?": TEXT},
    "tags?": Each(TEXT),
    "protocol?": [_PROTOCOL],
    "cribl?": {"enable?": SWITCH, "transport?": TRANSPORT, "authtoken?": TEXT},
}


class Unusable(ValueError):
    """No configuration; each of `complaints` names a member."""

    def __init__(self, found: list[str]) -> None:
        super().__init__("; ".join(found))
        self.complaints = found


# -- ours: what may be sent ------------------------------------------------------------------------

# Of a text with many mistakes; who has mended so many will see the rest.
MOST_COMPLAINTS: Final = 10


def parsed(text: str) -> JSON:
    """The configuration in a JSON text, which may be as a process tells it (cfg, current)."""
    if len(text) > MOST_REQUEST_BYTES:  # before time is spent on it
        raise Unusable([f"it is too long: {len(text)} characters of {MOST_REQUEST_BYTES} at most"])
    if marks(text) > MOST_MARKS:
        raise Unusable([f"it has too many values: more than {MOST_MARKS} commas and brackets"])
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise Unusable(["it has too many objects in one another"]) from None
    except ValueError as error:
        raise Unusable([f"it is no JSON: {error}"]) from error
    for wrapping in ("cfg", "current"):
        if isinstance(value, dict) and value.keys() == {wrapping}:
            value = value[wrapping]
    check(value)
    return value  # type: ignore[no-any-return]


def check(configuration: Any) -> None:
    found = _wrong(configuration)
    if first := [complaint for complaint, _ in zip(found, range(MOST_COMPLAINTS), strict=False)]:
        raise Unusable(first)


def _wrong(configuration: Any) -> Iterator[str]:
    yield from complaints(SHAPE, configuration, strict=True)
    for name, count in Counter(_names(configuration)).items():
        if count > 1:  # the process would free its first entry twice (section 4)
            yield f"protocol has {shown(name)} more than once"


def replacement(configuration: JSON, current: JSON) -> JSON:
    """What to send so that a process that has `current` has this: its protocols stay in any case,
    and one that it has must not come again. Unusable: it should have changed."""
    known = {each["name"]: each for each in _protocols(current)}
    new, changed = [], []
    for each in configuration.get("protocol", []):
        if each["name"] not in known:
            new.append(each)
        elif not _same(each, known[each["name"]]):
            changed.append(each["name"])
    if changed:
        names = ", ".join(map(shown, changed[:MOST_COMPLAINTS]))
        raise Unusable([f"protocol: a process can't change or forget those it has, as {names}"])
    rest = {name: value for name, value in configuration.items() if name != "protocol"}
    return {**rest, "protocol": new} if new else rest


def merged(current: JSON, changes: JSON) -> JSON:
    """What a process has, with these changes: objects are gone into, all else is replaced. A
    transport of another type has nothing of the old one. What is not changed is as the process
    said it: a later library may have more than is known here."""
    changed = {name: _merged(current.get(name), value) for name, value in changes.items()}
    return {**current, **changed}


def _merged(old: Any, value: Any) -> Any:
    if isinstance(value, dict) and isinstance(old, dict) and _is_of_its_type(value, old):
        return merged(old, value)
    return value


def _is_of_its_type(value: JSON, old: JSON) -> bool:
    return "type" not in value or value["type"] == old.get("type")


def _protocols(configuration: Any) -> list[JSON]:
    found = configuration.get("protocol") if isinstance(configuration, dict) else None
    listed = found if isinstance(found, list) else []
    return [each for each in listed if isinstance(each, dict) and isinstance(each.get("name"), str)]


def _names(configuration: Any) -> list[str]:
    return [each["name"] for each in _protocols(configuration)]


def _same(one: JSON, other: JSON) -> bool:
    """Whether what the first says is so in the second, where it may be spelt otherwise."""
    return all(_spelt(value) == _spelt(other.get(name)) for name, value in one.items())


def _spelt(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _unique(pairs: list[tuple[str, Any]]) -> JSON:
    value = dict(pairs)
    if len(value) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the member {shown(twice)} is there twice")
    return value


# -- the process's: what it makes of what was sent ------------------------------------------------

_TLS: Final = {"enable": "false", "validateserver": "true", "cacertpath": ""}
_ANY: Final = {"name": ".*", "field": ".*", "value": ".*"}
_FILES: Final = r"(\/logs?\/)|(\.log$)|(\.log[.\d])"
DEFAULTS: Final[JSON] = {
    "metric": {
        "enable": "true",
        "transport": {"type": "udp", "host": "127.0.0.1", "port": "8125", "tls": _TLS},
        "format": {"type": "statsd", "statsdprefix": "", "statsdmaxlen": 512, "verbosity": 4},
        "watch": [{"type": each} for each in ("fs", "net", "http", "dns", "process", "statsd")],
    },
    "libappview": {
        "log": {
            "level": "warning",
            "transport": {"type": "file", "path": "/tmp/appview.log", "buffering": "line"},
        },
        "snapshot": {"coredump": "false", "backtrace": "false"},
        "configevent": "true",
        "summaryperiod": 10,
        "commanddir": "/tmp",
    },
    "event": {
        "enable": "true",
        "transport": {"type": "tcp", "host": "127.0.0.1", "port": "9109", "tls": _TLS},
        "format": {"type": "ndjson", "maxeventpersec": 10000, "enhancefs": "true"},
        "watch": [
            {"type": "file", **_ANY, "name": _FILES},
            {"type": "console", **_ANY, "name": "(stdout)|(stderr)", "allowbinary": "true"},
            {"type": "http", **_ANY, "headers": []},
            *({"type": each, **_ANY} for each in ("net", "fs", "dns", "sec")),
        ],
    },
    "payload": {"enable": "false", "dir": "/tmp"},
    "tags": {},
    "protocol": [],
    "cribl": {"enable": "false", "transport": {"type": "edge"}, "authtoken": ""},
}
_TRANSPORTS: Final[Mapping[str, JSON]] = {
    "udp": {"host": "127.0.0.1", "port": "0", "tls": _TLS},
    "tcp": {"host": "127.0.0.1", "port": "0", "tls": _TLS},
    "unix": {"path": ""},
    "file": {"path": "", "buffering": "line"},
    "edge": {},
}


_NEW_PROTOCOL: Final = {
    "name": "", "regex": "", "binary": "false", "len": 0, "detect": "true", "payload": "false",
}  # fmt: skip


class Died(Exception):
    """The process is gone: a protocol came whose name it had already."""


def applied(configuration: JSON, current: JSON) -> JSON:
    """What a process with `current` has after this was set."""
    result = copy.deepcopy(DEFAULTS)
    _take(SHAPE, configuration, result)
    known = list(current.get("protocol", []))
    for each in _protocols(configuration):
        if each["name"] in [other["name"] for other in known]:
            raise Died
        if _fits(_PROTOCOL, each):
            known.append({**_NEW_PROTOCOL, **_told(_PROTOCOL, each)})
    result["protocol"] = known
    return result


def _take(shape: Shape, value: Any, result: JSON) -> None:
    """Puts what is right into result, and leaves what is wrong as it was."""
    assert isinstance(shape, Mapping)
    for marked, each in shape.items():
        name = marked.removesuffix("?")
        if name == "protocol" or not isinstance(value, dict) or name not in value:
            continue
        given = value[name]
        if isinstance(each, Choice):
            _take_transport(given, result, name)
        elif isinstance(each, Mapping):
            _take(each, given, result[name])
        elif _fits(LIST if isinstance(each, list) else each, given):
            result[name] = _told(each, given)


def _take_transport(given: Any, result: JSON, name: str) -> None:
    kind = given.get("type") if isinstance(given, dict) else None
    if not isinstance(kind, str) or kind not in _TRANSPORTS:
        return
    transport = {"type": kind, **copy.deepcopy(_TRANSPORTS[kind])}
    _take(TRANSPORT.shapes[kind], given, transport)
    if "port" in transport:
        transport["port"] = str(transport["port"])
    result[name] = transport


def _fits(shape: Shape, value: Any) -> bool:
    return next(complaints(shape, value), None) is None


def _told(shape: Shape, value: Any) -> Any:
    """What a process says later of a value that fits: only what it knows, and texts for switches.
    Of a list, what fits."""
    match shape:
        case Kind():
            return str(value).lower() if isinstance(value, bool) else value
        case list():
            return [_told(shape[0], each) for each in value if _fits(shape[0], each)]
        case Each():
            return {name: _told(shape.shape, each) for name, each in value.items()}
        case Choice():
            chosen = value[shape.by]
            return {shape.by: chosen, **_told(shape.shapes[chosen], value)}
        case _:
            known = {marked.removesuffix("?"): each for marked, each in shape.items()}
            return {name: _told(each, value[name]) for name, each in known.items() if name in value}
