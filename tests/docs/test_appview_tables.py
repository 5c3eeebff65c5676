"""What the guide to viewed processes says in tables and numbers, held against the code."""

import re
from pathlib import Path

import pytest
from support.guides import rights, table

from buswork.appview import errors, model
from buswork.appview.face import ProcessFace
from buswork.appview.model import State
from buswork.appview.native import (
    commands,
    conversations,
    finding,
    inspector,
    mqueue,
    pairs,
    processes,
    watching,
)
from buswork.appview.wire import configuration, frames, requests, shapes
from buswork.errors import BusworkError

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/guide-appview.md").read_text()
TEXT = " ".join(GUIDE.split())
PERIOD = configuration.DEFAULTS["libappview"]["summaryperiod"]
QUEUES = 2 * mqueue.Attributes(conversations.MOST_MESSAGES, frames.FRAME_BYTES, 0).charged
LIMITS = {
    "processes that are shown": (
        f"{model.MAX_PROCESSES}; of one user {model.MAX_PROCESSES_PER_UID}"
    ),
    "conversations at once": (
        f"{conversations.CONVERSATIONS}, or as many as `LimitMSGQUEUE=` has room for"
    ),
    "of these, for one user": f"{conversations.CONVERSATIONS_PER_UID}",
    "processes that scans ask, or wait to ask, at once": (
        f"{inspector.SCANNED}, of one user's processes {inspector.SCANNED_PER_UID}; others wait"
    ),
    "a pair of queues": (
        f"2 x {conversations.MOST_MESSAGES} messages of {frames.FRAME_BYTES} bytes"
    ),
    "the same, where a configuration is asked for, or sent": (
        f"2 x {conversations.MOST_LONG_MESSAGES} messages of {frames.FRAME_BYTES} bytes"
    ),
    "a request": f"{frames.MOST_REQUEST_BYTES} bytes",
    "an answer": f"{frames.MOST_ANSWER_BYTES} bytes",
    "values in an answer, or in what is sent": f"{shapes.MOST_MARKS} commas and brackets",
    "lists and objects in one another, in an answer": f"{requests.MOST_DEPTH}",
    "mistakes that `BadConfiguration` names": f"the first {configuration.MOST_COMPLAINTS}",
    "an answer takes": (
        f"{conversations.ANSWER_SECONDS:.0f} seconds; in a scan {inspector.SCAN_SECONDS}, "
        f"and all of them together {inspector.WHOLE_SCAN_SECONDS:.0f}"
    ),
    "room for queues, or the end of another service's conversation, is waited for": (
        f"{conversations.ROOM_SECONDS:.0f} second"
    ),
    "the rest after a look at all processes": (
        f"as long as it took, and {finding.MOST_REST_SECONDS:.0f} second at the most"
    ),
    "a period that `Attach` and `Detach` wait for": f"{inspector.MOST_PERIOD_SECONDS} seconds",
    "how a process calls itself (`id`, `uuid`, `machine_id`)": f"{inspector.MOST_FACT} characters",
    "a command that is shown": f"{processes.COMMAND_BYTES} bytes",
    "the maps of a process": (
        f"{processes.MOST_MAPS_BYTES} bytes; with more it counts as unreadable"
    ),
    "settings with `Attach`": f"{commands.MOST_SETTINGS}, each of {commands.MOST_VALUE} characters",
}


def rows(heading):
    return table(GUIDE, heading)


def test_the_limits():
    assert {what: much for what, much in rows("## Limits")} == LIMITS  # noqa: C416


def test_the_states():
    assert {row[0].strip("`") for row in rows("## States")} == {str(state) for state in State}


def test_the_errors():
    classes = [each for each in vars(errors).values() if isinstance(each, type)]
    names = {each.__name__ for each in classes if issubclass(each, BusworkError)} - {"BusworkError"}
    assert {row[0].strip("`") for row in rows("## What can go wrong")} == names


def test_the_requests():
    told = {int(row[0]): (row[1], row[3].split(", ")) for row in rows("## Requests and answers")}
    assert told == {each.number: (each.name, [*each.answer] or [""]) for each in requests.REQUESTS}


@pytest.mark.parametrize("row", rows("## Requests and answers"), ids=lambda row: row[1])
def test_each_has_its_method(row):
    for method in re.findall(r"`(\w+)`", row[2]):
        snake = re.sub(r"(?<!^)(?=[A-Z])", "_", method).lower()
        assert callable(getattr(ProcessFace, snake))


def test_the_rights_are_those_of_the_policy():
    shipped = {name: set(answers) for name, answers in rights("org.appview").items()}
    told = {row[0].strip("`"): {row[2]} for row in rows("## Who may do what")}
    assert told == shipped


@pytest.mark.parametrize(
    "sentence",
    [
        f"has {conversations.ANSWER_SECONDS:.0f} seconds, and one that ends is noticed at once",
        f"new ones are looked for every {watching.LOOK_SECONDS:.0f} seconds",
        f"after {conversations.ANSWER_SECONDS:.0f} seconds its queues are thrown away",
        f"at most {frames.MOST_REQUEST_BYTES} bytes",
        f"up to the period and {inspector.PATIENCE_SECONDS:.0f} seconds later",
        f"(`libappview.summaryperiod`, {PERIOD} seconds by",
        f"which is room for {819_200 // QUEUES} conversations",
        f"0{pairs.ASK_MODE:o} and 0{pairs.ANSWER_MODE:o}, of the process's user",
    ],
)
def test_the_numbers_are_those_of_the_code(sentence):
    assert sentence in TEXT


def test_what_differs_from_the_document_is_so():
    assert (requests.STATUS.number, requests.SUPPORTED.number) == (1, 0)
    (frame,) = frames.request_frames(requests.ask(requests.SUPPORTED), 1234)
    assert frame == b'{"req":0,"uniq":1234,"remain":9}\0{"req":0}\0'
