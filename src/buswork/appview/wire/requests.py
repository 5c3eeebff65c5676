"""What a viewed process can be asked: one entry for each request, and nothing else to touch when
one is added (protocol section 4).

An entry says how a request is called, what is sent along, what the answer has in it, and what the
process does to answer. The last is for the simulated one: so it knows whatever we know.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from buswork.appview.wire.configuration import applied
from buswork.appview.wire.frames import Status
from buswork.appview.wire.shapes import BOOLEAN, NUMBER, OBJECT, TEXT, Shape, complaints

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


def _supported(process: Process, asked: JSON) -> JSON:
    return {
        "commands_meta": [
            {"id": 0, "name": "completeRequestJson"},
            {"id": 1, "name": "incompleteRequestJson"},
        ],
        "commands_appview": [
            {"id": each.number, "name": each.name} for each in sorted(REQUESTS, key=_number)
        ],
    }


def _number(request: Request) -> int:
    return request.number


def _set_configuration(process: Process, asked: JSON) -> JSON:
    # The one name that is found whatever its case.
    found = next((value for name, value in asked.items() if name.lower() == "cfg"), None)
    if not isinstance(found, dict):
        raise CannotDo(Status.FAILED)
    process.configure(applied(found, process.configuration))
    return {}


_NAMED: Final[Shape] = [{"id": NUMBER, "name": TEXT}]

SUPPORTED: Final = Request(
    0, "getSupportedCmd", {"commands_meta": _NAMED, "commands_appview": _NAMED}, _supported
)
STATUS: Final = Request(
    1, "getAppViewStatus", {"viewed": BOOLEAN}, lambda process, asked: {"viewed": process.viewed}
)
GET_CONFIGURATION: Final = Request(
    2,
    "getAppViewCfg",
    {"cfg": {"current": OBJECT}},
    lambda process, asked: {"cfg": {"current": process.configuration}},
    status_is_last=True,
)
SET_CONFIGURATION: Final = Request(3, "setAppViewCfg", {}, _set_configuration, ("cfg",))
TRANSPORTS: Final = Request(
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
DETAILS: Final = Request(
    5,
    "getProcessDetails",
    {"pid": NUMBER, "uuid": TEXT, "id": TEXT, "machine_id": TEXT},
    lambda process, asked: process.details,
)

REQUESTS: Final[list[Request]] = [
    SUPPORTED, STATUS, GET_CONFIGURATION, SET_CONFIGURATION, TRANSPORTS, DETAILS,
]  # fmt: skip


# -- ours ----------------------------------------------------------------------------------------


def ask(request: Request, **fields: Any) -> bytes:
    """The payload of a request, with exactly the fields that it has."""
    if set(fields) != set(request.fields):
        wanted = ", ".join(request.fields) or "nothing"
        raise TypeError(f"{request.name} is sent with {wanted}")
    return _written({"req": request.number, **fields})


def read(request: Request, payload: bytes | bytearray) -> JSON:
    """What the process answered. BadAnswer: it is no such answer; Refused: it says so."""
    try:
        answer = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise BadAnswer(f"{request.name}: the answer is no JSON: {error}") from error
    if not isinstance(answer, dict) or type(answer.get("status")) is not int:
        raise BadAnswer(f"{request.name}: the answer has no status")
    if answer["status"] != Status.DONE:
        raise Refused(request.name, answer["status"])
    wrong = next(complaints(request.answer, answer), None)
    if wrong is not None:
        raise BadAnswer(f"{request.name}: the answer is odd: {wrong}")
    return answer


# -- the process's -------------------------------------------------------------------------------


def answer(process: Process, payload: bytes, requests: Iterable[Request] | None = None) -> bytes:
    """What a process answers to the payload of a request."""
    asked = _asked(payload)
    number = None if asked is None else asked.get("req")
    if asked is None or isinstance(number, bool) or not isinstance(number, int | float):
        return _written({"status": Status.BAD})
    known = {each.number: each for each in REQUESTS if requests is None}
    known |= {each.number: each for each in requests or ()}
    request = known.get(int(number)) if abs(number) < 1 << 31 else None
    if request is None:
        return _written({"status": Status.UNKNOWN})
    try:
        members = request.process(process, asked)
    except CannotDo as error:
        return _written({"status": error.status})
    status = {"status": Status.DONE}
    return _written(members | status if request.status_is_last else status | members)


def _asked(payload: bytes) -> JSON | None:
    try:
        value, _ = _DECODER.raw_decode(payload.decode().lstrip(" \t\r\n"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


_DECODER = json.JSONDecoder(object_pairs_hook=lambda pairs: dict(reversed(pairs)))


def _written(value: JSON) -> bytes:
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return text.encode(errors="replace")  # what is no text is in no configuration that was checked
