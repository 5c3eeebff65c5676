import copy
import json

import pytest
from appview.wire.vectors import recorded

from buswork.appview.wire.configuration import (
    DEFAULTS,
    Died,
    Unusable,
    applied,
    check,
    merged,
    parsed,
    replacement,
)
from buswork.appview.wire.frames import MOST_REQUEST_BYTES
from buswork.appview.wire.shapes import MOST_MARKS

LIFE = recorded("09")
REDIS = {"name": "redis", "regex": "^[*]", "binary": "false", "len": 0, "detect": "true"}


@pytest.fixture
def current():
    return copy.deepcopy(DEFAULTS)


# -- what a process does, as recorded ------------------------------------------------------------


def test_a_part_replaces_the_whole():
    vector = LIFE["cfg_partial_set"]
    assert applied(vector["sent_cfg"], vector["before"]) == vector["after"]


def test_there_and_back():
    vector = LIFE["cfg_round_trip"]
    check(vector["first_current"])
    assert applied(vector["sent_cfg"], vector["first_current"]) == vector["second_current"]


def test_what_is_wrong_is_left_out(current):
    wrong = {"libappview": {"summaryperiod": "abc", "log": {"level": "loud"}}, "odd": 1}
    assert applied(wrong, current) == DEFAULTS


def test_of_what_is_in_a_list_it_keeps_what_it_knows(current):
    sent = {
        "metric": {"watch": [{"type": "fs", "odd": 1}, {"type": "odd"}, "net"]},
        "event": {"watch": [{"type": "console", "allowbinary": False, "odd": 1}, {"type": []}]},
        "protocol": [{"name": "a", "binary": True, "odd": 1}],
        "tags": {"a": "b"},
    }
    result = applied(sent, current)
    assert result["metric"]["watch"] == [{"type": "fs"}]
    assert result["event"]["watch"] == [{"type": "console", "allowbinary": "false"}]
    assert result["protocol"] == [
        {"name": "a", "regex": "", "binary": "true", "len": 0, "detect": "true", "payload": "false"}
    ]
    assert result["tags"] == {"a": "b"}
    check(result)


def test_a_protocol_that_is_there_kills(current):
    current["protocol"] = [REDIS]
    with pytest.raises(Died):
        applied({"protocol": [REDIS]}, current)


def test_protocols_stay_and_are_added(current):
    current["protocol"] = [REDIS]
    assert applied({"protocol": []}, current)["protocol"] == [REDIS]
    both = applied({"protocol": [{"name": "other", "regex": "^zz"}]}, current)["protocol"]
    assert [each["name"] for each in both] == ["redis", "other"]


@pytest.mark.parametrize("name", recorded("07"))
def test_transports_that_the_real_library_took(name, current):
    sent = recorded("07")[name]["cfg_set"]
    check(sent)
    for part in ("metric", "event"):
        if "transport" in sent.get(part, {}):
            transport = applied(sent, current)[part]["transport"]
            wanted = sent[part]["transport"]
            assert {key: str(transport[key]) for key in wanted if key != "tls"} == {
                key: str(value) for key, value in wanted.items() if key != "tls"
            }


# -- what may be sent -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "complaints"),
    [
        ("{", ["it is no JSON: "]),
        ("[" * MOST_MARKS, ["it has too many objects in one another"]),
        ("[]", ["the whole is a list, and should be an object"]),
        ('{"metrics":{}}', ["metrics is not known; there are metric, libappview, "]),
        ('{"metric":{"enable":"yes"}}', ["metric.enable is 'yes', and should be true or false"]),
        (
            '{"metric":{"format":{"verbosity":10}}}',
            ["metric.format.verbosity is 10, and should be a whole number from 0 to 9"],
        ),
        (
            '{"event":{"transport":{"type":"tcp","port":70000}}}',
            ["event.transport.port is 70000, and should be a port, 0 to 65535"],
        ),
        (
            '{"event":{"transport":{"type":"udp","path":"/x"}}}',
            ["event.transport.path is not known; there are type, host, port, tls"],
        ),
        (
            '{"event":{"watch":[{"type":"file"},{"type":"fill"}]}}',
            ["event.watch[1].type is 'fill', and should be file or "],
        ),
        ('{"tags":{"a":1}}', ["tags.a is 1, and should be a text"]),
        ('{"protocol":[{"regex":"x"}]}', ["protocol[0].name is missing"]),
        (
            '{"protocol":[{"name":"x"},{"name":"x"},{"name":"x"}]}',
            ["protocol has 'x' more than once"],
        ),
        ('{"payload":1,"tags":[]}', ["payload is 1", "tags is a list"]),
        ('{"tags":{"a":"\\ud800"}}', ["tags.a is "]),
        ('{"tags":{"a\\u0000":"x"}}', ["tags.'a\\x00' is no name"]),
        (" " * (MOST_REQUEST_BYTES + 1), ["it is too long: 1048576 characters of 1048575"]),
        (
            '{"tags":{"a":"' + "," * MOST_MARKS + '"}}',
            ["it has too many values: more than 16384 commas and brackets"],
        ),
        ('{"tags":{"a":"1","a":"2"}}', ["it is no JSON: the member 'a' is there twice"]),
    ],
)
def test_what_can_not_be_sent(text, complaints):
    with pytest.raises(Unusable) as unusable:
        parsed(text)
    found = unusable.value.complaints
    assert len(found) == len(complaints)
    assert all(each.startswith(start) for each, start in zip(found, complaints, strict=True))


@pytest.mark.parametrize("port", [0, 65535, "0", "8125"])
def test_ports(port):
    """0 is what a process has that was told none."""
    assert parsed(json.dumps({"event": {"transport": {"type": "tcp", "port": port}}}))


@pytest.mark.parametrize("port", ["1" * 5000, "٣", "", "-1", "1_0", 1.0, True])
def test_ports_that_are_none(port):
    with pytest.raises(Unusable):
        parsed(json.dumps({"event": {"transport": {"type": "tcp", "port": port}}}))


def test_protocols_without_a_name_are_none():
    """Whatever a process says that it has."""
    current = {"protocol": [{"regex": "x"}, {"name": ["x"]}, "x", {"name": "y"}]}
    wanted = {"protocol": [{"name": "x"}, {"name": "y"}]}
    assert replacement(wanted, current) == {"protocol": [{"name": "x"}]}


def test_some_complaints_are_enough():
    with pytest.raises(Unusable) as unusable:
        check({"tags": dict.fromkeys(map(str, range(1000)), 1)})
    assert len(unusable.value.complaints) == 10


@pytest.mark.parametrize("wrapping", ['{"cfg":{"current":%s}}', '{"cfg":%s}', "%s"])
def test_a_configuration_as_it_was_told(wrapping, current):
    assert parsed(wrapping % json.dumps(current)) == current


@pytest.mark.parametrize("value", [True, "true", False, "false"])
def test_switches(value):
    check({"payload": {"enable": value}})


@pytest.mark.parametrize("value", [1, 0, None, "True", "on"])
def test_what_is_no_switch(value):
    with pytest.raises(Unusable):
        check({"payload": {"enable": value}})


# -- protocols -----------------------------------------------------------------------------------


def test_protocols_that_are_there_are_not_sent(current):
    current["protocol"] = [REDIS]
    other = {"name": "other"}
    sent = replacement({"tags": {"a": "b"}, "protocol": [REDIS, other]}, current)
    assert sent == {"tags": {"a": "b"}, "protocol": [other]}
    assert [each["name"] for each in applied(sent, current)["protocol"]] == ["redis", "other"]
    assert replacement(current, current) == {
        name: value for name, value in current.items() if name != "protocol"
    }


def test_a_protocol_may_be_spelt_otherwise(current):
    current["protocol"] = [REDIS]
    same = {"name": "redis", "binary": False, "len": 0}
    assert replacement({"protocol": [same]}, current) == {}


def test_a_protocol_can_not_be_changed(current):
    current["protocol"] = [REDIS]
    with pytest.raises(Unusable, match="'redis'"):
        replacement({"protocol": [{**REDIS, "regex": "other"}]}, current)


# -- merging -------------------------------------------------------------------------------------


def test_only_what_is_named_changes(current):
    current["tags"] = {"team": "a"}
    changes = {"libappview": {"log": {"level": "debug"}}, "tags": {"site": "b"}}
    result = merged(current, changes)
    assert result["libappview"]["log"]["level"] == "debug"
    assert result["libappview"]["log"]["transport"] == DEFAULTS["libappview"]["log"]["transport"]
    assert result["tags"] == {"team": "a", "site": "b"}
    assert result["event"] == DEFAULTS["event"]
    assert current["libappview"]["log"]["level"] == "warning"  # the one that was given stays


def test_a_transport_of_another_type_has_nothing_of_the_old(current):
    result = merged(current, {"event": {"transport": {"type": "unix", "path": "/x"}}})
    assert result["event"]["transport"] == {"type": "unix", "path": "/x"}
    check(result)
    same = merged(current, {"event": {"transport": {"type": "tcp", "port": 1}}})
    assert same["event"]["transport"]["host"] == "127.0.0.1"


def test_lists_are_replaced(current):
    assert merged(current, {"metric": {"watch": []}})["metric"]["watch"] == []


def test_what_a_later_library_has_more_stays():
    current = {"tags": {"a": "1"}, "event": {"watch": [{"type": "new"}], "new": {"x": 1}}, "new": 1}
    result = merged(current, {"event": {"enable": True}, "tags": {"b": "2"}})
    assert result == {
        "tags": {"a": "1", "b": "2"},
        "event": {"watch": [{"type": "new"}], "new": {"x": 1}, "enable": True},
        "new": 1,
    }
    assert replacement(result, current) == result


def test_what_is_merged_can_be_sent(current):
    current["protocol"] = [REDIS]
    wanted = merged(current, {"tags": {"a": "b"}})
    check(wanted)
    after = applied(replacement(wanted, current), current)
    assert after == {**current, "tags": {"a": "b"}}
