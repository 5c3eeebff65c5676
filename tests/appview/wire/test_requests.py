import copy
import json

import pytest
from appview.wire.vectors import answered, asked, recorded

from buswork.appview.wire import requests
from buswork.appview.wire.configuration import DEFAULTS
from buswork.appview.wire.frames import AnswerJoiner, RequestJoiner, Status
from buswork.appview.wire.requests import (
    MOST_DEPTH,
    REQUESTS,
    BadAnswer,
    Refused,
    Request,
    answer,
    ask,
    listed,
    read,
)
from buswork.appview.wire.shapes import MOST_MARKS, NUMBER


class Process:
    def __init__(self, details=None, interfaces=(), configuration=DEFAULTS):
        self.viewed = True
        self.details = details or {}
        self.interfaces = list(interfaces)
        self.configuration = copy.deepcopy(configuration)

    def configure(self, configuration):
        self.configuration = configuration


@pytest.fixture
def process():
    return Process()


def told(vector):
    (frame,) = answered(vector)
    uniq = vector["response_meta"][0]["uniq"]
    return AnswerJoiner(uniq).feed(frame)


BY_NUMBER = {each.number: each for each in REQUESTS}
GOOD = {
    name: vector
    for name, vector in recorded("01").items()
    if vector.get("req") in BY_NUMBER and "cfg_" not in name
}


@pytest.mark.parametrize("name", GOOD)
def test_answers_of_the_real_library(name):
    vector = GOOD[name]
    request = BY_NUMBER[vector["req"]]
    assert read(request, told(vector)) == json.loads(vector["response_payload"])


@pytest.mark.parametrize("name", [name for name in GOOD if GOOD[name]["req"] != 3])
def test_requests_are_those_of_the_original(name):
    (frame,) = asked(GOOD[name])
    assert frame.endswith(b"\0" + ask(BY_NUMBER[GOOD[name]["req"]]) + b"\0")


def test_a_process_knows_what_the_real_one_knows(process):
    """In the order of the recording: what is set there is there."""
    for name, vector in recorded("01").items():
        if name in ("getAppViewCfg", "getProcessDetails", "getTransportStatus_not_connected"):
            said = json.loads(vector["response_payload"])
            process.details = {**said, "status": None}
            process.details.pop("status")
            process.interfaces = said.get("interfaces", [])
            process.configuration = said.get("cfg", {}).get("current", process.configuration)
        if name == "getAppViewCfg_defaults":
            process = Process()
        (frame,) = asked(vector)
        request = RequestJoiner().feed(frame)
        assert answer(process, request.payload).decode() == vector["response_payload"], name


@pytest.mark.parametrize("name", [n for n in recorded("02") if n.startswith("payload_")])
def test_what_the_process_can_not_read(process, name):
    vector = recorded("02")[name]
    (frame,) = asked(vector)
    assert (
        answer(process, RequestJoiner().feed(frame).payload).decode() == vector["response_payload"]
    )


@pytest.mark.parametrize("name", [n for n in recorded("03") if not n.startswith("meta_space")])
def test_what_the_process_takes_all_the_same(process, name):
    vector = recorded("03")[name]
    (frame,) = asked(vector)
    assert (
        answer(process, RequestJoiner().feed(frame).payload).decode() == vector["response_payload"]
    )


# -- the table -------------------------------------------------------------------------------------


def test_a_new_request_is_one_entry(process, monkeypatch):
    monkeypatch.setattr(requests, "REQUESTS", [*REQUESTS])
    count = listed(
        Request(
            6,
            "getCount",
            {"count": NUMBER},
            lambda process, asked: {"count": len(asked["of"])},
            ("of",),
        )
    )
    assert read(count, answer(process, ask(count, of=[1, 2, 3])))["count"] == 3
    named = read(requests.SUPPORTED, answer(process, ask(requests.SUPPORTED)))
    assert {"id": 6, "name": "getCount"} in named["commands_appview"]


def test_numbers_and_names_are_used_once():
    assert len({each.number for each in REQUESTS}) == len({each.name for each in REQUESTS}) == 6


def test_what_a_request_is_sent_with():
    assert ask(requests.SET_CONFIGURATION, cfg={"tags": {"ä": "b"}}) == (
        '{"req":3,"cfg":{"tags":{"ä":"b"}}}'.encode()
    )
    with pytest.raises(TypeError, match="with cfg"):
        ask(requests.SET_CONFIGURATION)
    with pytest.raises(TypeError, match="with nothing"):
        ask(requests.STATUS, cfg={})


# -- answers that are none -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"[" * 10_000, "no JSON"),
        (b"\xff", "no JSON"),
        (b'{"status":200,"viewed":true,"x":NaN}', "no JSON"),
        (b'{"status":200,"viewed":true,"x":1e999}', "no JSON"),
        (b'{"status":200,"viewed":true,"x":%b.0}' % (b"9" * 1000), "no JSON: 9{40} is"),
        (b"[]", "no status"),
        (b"{}", "no status"),
        (b'{"viewed":true}', "no status"),
        (b'{"status":"200","viewed":true}', "no status"),
        (b'{"status":true,"viewed":true}', "no status"),
        (b'{"status":%b}' % (b"9" * 4000), "no status"),
        (b'{"status":200}', "viewed is missing"),
        (b'{"status":200,"viewed":1}', "viewed is 1, and should be true or false"),
    ],
)
def test_odd_answers(payload, why):
    with pytest.raises(BadAnswer, match=why):
        read(requests.STATUS, payload)


def test_how_deep_an_answer_may_be():
    deep = b'{"status":200,"viewed":true,"x":%b}'
    assert read(requests.STATUS, deep % nested(MOST_DEPTH - 1))
    with pytest.raises(BadAnswer, match="16 deep"):
        read(requests.STATUS, deep % nested(MOST_DEPTH))


def test_how_many_values_an_answer_may_have():
    many = b'{"status":200,"viewed":true,"x":[0%b]}'
    assert read(requests.STATUS, many % (b",1" * (MOST_MARKS - 4)))
    with pytest.raises(BadAnswer, match="more than 16384 commas"):
        read(requests.STATUS, many % (b",1" * (MOST_MARKS - 3)))


def nested(count):
    return b"[" * count + b"]" * count


@pytest.mark.parametrize("status", [400, 500, 501, 7])
def test_refusals(status):
    with pytest.raises(Refused, match=f"getAppViewStatus.*{status}") as refused:
        read(requests.STATUS, b'{"status":%d}' % status)
    assert refused.value.status == status


def test_what_a_later_library_says_in_addition():
    payload = b'{"status":200,"viewed":true,"since":12}'
    assert read(requests.STATUS, payload)["since"] == 12


def test_a_process_can_not_do_it(process):
    assert answer(process, b'{"req":3}') == b'{"status":500}'
    with pytest.raises(Refused) as refused:
        read(requests.SET_CONFIGURATION, answer(process, b'{"req":3}'))
    assert refused.value.status == Status.FAILED
