"""What a viewed process can be asked: one entry for each request, and nothing else to touch when
one is added (protocol section 4).

An entry says how a request is called, what is sent along, what the answer has in it, and what the
process does to answer. The last is for the simulated one: so it knows whatever we know.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from buswork.appview.wire.configuration import applied
from buswork.appview.wire.frames import Status, as_int, first_object
from buswork.appview.wire.shapes import (
    BOOLEAN,
    MOST_MARKS,
    NUMBER,
    OBJECT,
    TEXT,
    Shape,
    complaints,
    is_deeper,
    marks,
    whole,
)

JSON = dict[str, Any]


class BadAnswer(ValueError):
    """The process answered with what is no answer to this."""


class Refused(Exception):
    """The process answered that it won't, or can't."""

    def __init__(self, name: str, status: int) -> None:
        super().__init__(f"{name}: the process answered {status} ({_MEANINGS.get(status, '?')})")
        self.status = status


_MEANINGS: Final[Mapping[int, str]] = {
    Status.BAD: "it could not read the request",
    Status.FAILED: "it could not do it",
    Status.UNKNOWN: "it does not know this request",
}


class Process(Protocol):
    """What a process knows of itself, as far as requests are about it."""

    viewed: bool
    configuration: JSON

    @property
    def details(self) -> JSON: ...

    @property
    def interfaces(self) -> list[JSON]: ...

    def configure(self, configuration: JSON) -> None: ...


class CannotDo(Exception):
    """A process answers with this status and nothing else."""

    def __init__(self, status: Status) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """An entry of the table."""

    number: int
    name: str  # as the process calls it
    answer: Mapping[str, Shape]  # beside the status
    process: Callable[[Process, JSON], JSON]
    fields: tuple[str, ...] = ()  # what is sent along
    # The original sends the status last in some answers.
    status_is_last: bool = field(default=False, kw_only=True)


REQUESTS: Final[list[Request]] = []


def listed(request: Request) -> Request:
    """It is in the table from now on."""
    REQUESTS.append(request)
    return request


def _supported(process: Process, asked: JSON) -> JSON:
    return {
        "commands_meta": [
            {"id": 0, "name": "completeRequestJson"},
            {"id": 1, "name": "incompleteRequestJson"},
        ],
        "commands_appview": [{"id": each.number, "name": each.name} for each in REQUESTS],
    }


def _set_configuration(process: Process, asked: JSON) -> JSON:
    # The one name that is found whatever its case.
    found = next((value for name, value in asked.items() if name.lower() == "cfg"), None)
    if not isinstance(found, dict):
        raise CannotDo(Status.FAILED)
    process.configure(applied(found, process.configuration))
    return {}


_NAMED: Final[Shape] = [{"id": NUMBER, "name": TEXT}]

SUPPORTED: Final = listed(
    Request(0, "getSupportedCmd", {"commands_meta": _NAMED, "commands_appview": _NAMED}, _supported)
)
STATUS: Final = listed(
    Request(
        1,
        "getAppViewStatus",
        {"viewed": BOOLEAN},
        lambda process, asked: {"viewed": process.viewed},
    )
)
GET_CONFIGURATION: Final = listed(
    Request(
        2,
        "getAppViewCfg",
        {"cfg": {"current": OBJECT}},
        lambda process, asked: {"cfg": {"current": process.configuration}},
        status_is_last=True,
    )
)
SET_CONFIGURATION: Final = listed(Request(3, "setAppViewCfg", {}, _set_configuration, ("cfg",)))
TRANSPORTS: Final = listed(
    Request(
        4,
        "getTransportStatus",
        {
            "interfaces": [
                {
                    "name": TEXT,
                    "config": TEXT,
                    "connected": BOOLEAN,
                    "attempts?": NUMBER,
                    "failure_details?": TEXT,
                }
            ]
        },
        lambda process, asked: {"interfaces": process.interfaces},
    )
)
DETAILS: Final = listed(
    Request(
        5,
        "getProcessDetails",
        {"pid": NUMBER, "uuid": TEXT, "id": TEXT, "machine_id": TEXT},
        lambda process, asked: process.details,
    )
)


# -- ours ----------------------------------------------------------------------------------------

# A configuration is 7 deep. A D-Bus message may be 64, and each of these is two of those.
MOST_DEPTH: Final = 16
_STATUS: Final = whole(0, 999)


def ask(request: Request, **fields: Any) -> bytes:
    """The payload of a request, with exactly the fields that it has."""
    if set(fields) != set(request.fields):
        wanted = ", ".join(request.fields) or "nothing"
        raise TypeError(f"{request.name} is sent with {wanted}")
    return _written({"req": request.number, **fields})


def read(request: Request, payload: bytes | bytearray) -> JSON:
    """What the process answered. BadAnswer: it is no such answer; Refused: it says so."""
    answer = _parsed(request, payload)
    status: Any = answer.get("status") if isinstance(answer, dict) else None
    if not _STATUS.fits(status):
        raise BadAnswer(f"{request.name}: the answer has no status")
    if status != Status.DONE:
        raise Refused(request.name, status)
    wrong = next(complaints(request.answer, answer), None)
    if wrong is None and is_deeper(answer, MOST_DEPTH):
        wrong = f"it has things in things, more than {MOST_DEPTH} deep"
    if wrong is not None:
        raise BadAnswer(f"{request.name}: the answer is odd: {wrong}")
    return answer  # type: ignore[no-any-return]


def _parsed(request: Request, payload: bytes | bytearray) -> Any:
    try:
        text = payload.decode()
        if marks(text) <= MOST_MARKS:
            return _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise BadAnswer(f"{request.name}: the answer is no JSON: {error}") from error
    raise BadAnswer(f"{request.name}: the answer has more than {MOST_MARKS} commas and brackets")


def _finite(text: str) -> float:
    """What Python alone would read and write: NaN, and numbers that are too large."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is no number")
    return number


# Made once: to make one takes longer than to read, or to write, what is short.
_DECODER: Final = json.JSONDecoder(parse_float=_finite, parse_constant=_finite)
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


# -- the process's -------------------------------------------------------------------------------


def answer(process: Process, payload: bytes) -> bytes:
    """What a process answers to the payload of a request."""
    asked = first_object(payload)
    number = None if asked is None else as_int(asked.get("req"))
    if asked is None or number is None:
        return _written({"status": Status.BAD})
    request = next((each for each in REQUESTS if each.number == number), None)
    if request is None:
        return _written({"status": Status.UNKNOWN})
    try:
        members = request.process(process, asked)
    except CannotDo as error:
        return _written({"status": error.status})
    status = {"status": Status.DONE}
    return _written(members | status if request.status_is_last else status | members)


def _written(value: JSON) -> bytes:
    # What is no text is in no configuration that was checked.
    return _ENCODER.encode(value).encode(errors="replace")
