import asyncio
import logging
import os
import time
from itertools import pairwise

import pytest
from support import reference
from support.fakebus import DRIVER, ERROR, Refused
from support.toyface import (
    ALICE,
    ALICE_UID,
    BOB,
    ROOT,
    SECRET,
    TOY,
    OtherFace,
    Stack,
    ToyFace,
)

from buswork.authority import Limits
from buswork.bus import dispatch, transport, writer
from buswork.bus.library import variant
from buswork.bus.message import Flag
from buswork.bus.writer import close_all
from buswork.errors import Busy

PEER = "org.freedesktop.DBus.Peer"
PROPERTIES = "org.freedesktop.DBus.Properties"


async def warm_up(stack, sender=ALICE):
    """The uid of the sender is known from now on."""
    await stack.call(sender, "Ping", path="/", interface=PEER)


async def turns(count=20):
    for _ in range(count):
        await asyncio.sleep(0)


# Answers


async def test_a_plain_handler_answers(stack, toy):
    answer = await stack.call(ALICE, "Echo", "s", "hello")
    assert answer.kind == reference.RETURN
    assert answer.values == ["hello"]
    assert answer.fields[reference.DESTINATION] == ALICE
    assert toy.calls == [(ALICE, "hello")]


async def test_the_second_call_is_answered_as_the_first(stack, toy):
    for text in ("a", "b", "c"):
        assert (await stack.call(ALICE, "Echo", "s", text)).values == [text]
    assert (await stack.call(BOB, "Echo", "s", "d")).values == ["d"]
    assert toy.calls == [(ALICE, "a"), (ALICE, "b"), (ALICE, "c"), (BOB, "d")]
    assert len(stack.bus.calls("GetConnectionCredentials")) == 2
    assert stack.edge.dispatcher.calls == 4


async def test_an_async_handler_answers_when_it_has_waited(bus, stack, toy):
    for round_ in range(2):
        call = bus.call(ALICE, ROOT, TOY, "Wait", "s", [f"gate{round_}"])
        await bus.settle()
        assert bus.answer_now(call) is None
        toy.gate(f"gate{round_}").set_result("open")
        assert (await bus.answer_to(call)).values == ["open"]


async def test_several_outputs_and_none(stack, toy):
    for _ in range(2):
        assert (await stack.call(ALICE, "Pair")).values == ["a", 5]
        answer = await stack.call(ALICE, "Nothing")
        assert reference.SIGNATURE not in answer.fields
        assert answer.values == []


@pytest.mark.parametrize("order", ["<", ">"])
async def test_callers_of_both_byte_orders(stack, toy, order):
    for _ in range(2):
        assert (await stack.call(ALICE, "Echo", "s", "hé", order=order)).values == ["hé"]
        options = {"a": variant("(ut)", (1, 2)), "b": variant("as", ["x"])}
        answer = await stack.call(ALICE, "Options", "a{sv}", options, order=order)
        assert answer.values == [2]


async def test_callers_of_both_byte_orders_do_not_mix(stack, toy):
    for text, order in [("a", "<"), ("b", ">"), ("c", "<"), ("d", ">"), ("e", "<")]:
        assert (await stack.call(ALICE, "Echo", "s", text, order=order)).values == [text]


async def test_who_wants_no_reply_gets_none(bus, stack, toy):
    await warm_up(stack)
    before = len(bus.received)
    for _ in range(3):
        for member, values in [("Echo", ["x"]), ("Fail", ["value"]), ("Fail", ["busy"])]:
            bus.call(ALICE, ROOT, TOY, member, "s", values, flags=Flag.NO_REPLY_EXPECTED)
        bus.call(ALICE, ROOT, TOY, "NoSuch", flags=Flag.NO_REPLY_EXPECTED)
        bus.call(ALICE, ROOT, TOY, "FailLater", "s", ["busy"], flags=Flag.NO_REPLY_EXPECTED)
        bus.call(ALICE, ROOT, TOY, "Blob", "u", [100_000], flags=Flag.NO_REPLY_EXPECTED)
    await turns()
    answered = [m for m in bus.received[before:] if reference.REPLY_SERIAL in m.fields]
    assert answered == []
    assert toy.calls == [(ALICE, "x")] * 3


async def test_flags_reach_the_handler(stack, bus):
    seen = []

    class Curious(ToyFace):
        def echo(self, call, text):
            seen.append((call.flags, call.path, call.uid))
            return text

    stack.edge.export(ROOT, Curious(), wing=ROOT)
    for flags in (0, Flag.ALLOW_INTERACTIVE_AUTHORIZATION, 0):
        await stack.call(ALICE, "Echo", "s", "x", flags=flags)
    assert seen == [
        (0, ROOT, ALICE_UID),
        (4, ROOT, ALICE_UID),
        (0, ROOT, ALICE_UID),
    ]


# Errors (ATTACKS 24, 26)


@pytest.mark.parametrize("member", ["Fail", "FailLater"])
@pytest.mark.parametrize(
    ("how", "name", "text"),
    [
        ("busy", Busy.name, "come back later"),
        ("own", "org.toy.Error.Own", "own text"),
        ("nul", Busy.name, "a\N{REPLACEMENT CHARACTER}b"),
        ("bad name", ERROR + "Failed", "text"),
    ],
)
async def test_named_errors_reach_the_caller(stack, toy, member, how, name, text):
    for _ in range(2):
        answer = await stack.call(ALICE, member, "s", how)
        assert (answer.error, answer.values) == (name, [text])
        assert answer.fields[reference.DESTINATION] == ALICE


@pytest.mark.attack(24)
@pytest.mark.parametrize("member", ["Fail", "FailLater"])
@pytest.mark.parametrize("how", ["value", "key"])
async def test_24_a_defect_is_failed_and_only_the_log_says_more(stack, toy, member, how, caplog):
    for _ in range(2):
        answer = await stack.call(ALICE, member, "s", how)
        assert answer.error == ERROR + "Failed"
        assert SECRET not in answer.values[0]
        assert "Traceback" not in answer.values[0]
        assert ".py" not in answer.values[0]
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert SECRET in caplog.text


@pytest.mark.parametrize(
    ("path", "interface", "member", "signature", "values", "error"),
    [
        ("/nowhere", TOY, "Echo", "s", ["x"], "UnknownObject"),
        (ROOT, "org.toy.No", "Echo", "s", ["x"], "UnknownInterface"),
        ("/org", TOY, "Echo", "s", ["x"], "UnknownInterface"),
        (ROOT, TOY, "No", "s", ["x"], "UnknownMethod"),
        (ROOT, TOY, "Echo", "", [], "InvalidArgs"),
        (ROOT, TOY, "Echo", "ss", ["x", "y"], "InvalidArgs"),
        (ROOT, TOY, "Echo", "u", [5], "InvalidArgs"),
        (ROOT, PEER, "No", "", [], "UnknownMethod"),
        (ROOT, PROPERTIES, "Get", "s", [TOY], "InvalidArgs"),
        (ROOT, PROPERTIES, "Get", "ss", ["org.no", "Public"], "UnknownInterface"),
        (ROOT, PROPERTIES, "Get", "ss", [TOY, "No"], "UnknownProperty"),
        (ROOT, PROPERTIES, "Set", "ssv", [TOY, "No", variant("u", 1)], "UnknownProperty"),
        (ROOT, PROPERTIES, "Set", "ssv", [TOY, "Secret", variant("s", "x")], "PropertyReadOnly"),
        (ROOT, PROPERTIES, "Set", "ssv", [TOY, "Public", variant("u", 1)], "InvalidArgs"),
        (ROOT, PROPERTIES, "Get", "ss", [TOY, "Knob"], "InvalidArgs"),
        (ROOT, PROPERTIES, "GetAll", "s", ["org.no"], "UnknownInterface"),
        ("/org", PROPERTIES, "GetAll", "s", [""], "UnknownInterface"),
        (ROOT, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects", "", [],
         "UnknownInterface"),
    ],
)  # fmt: skip
async def test_26_what_is_not_there_has_a_name(
    stack, toy, path, interface, member, signature, values, error
):
    for _ in range(2):
        answer = await stack.call(ALICE, member, signature, *values, path=path, interface=interface)
        assert answer.error == ERROR + error
        assert answer.values[0]
    assert toy.calls == []


async def test_26_a_malformed_body_is_invalid_args_on_both_roads(stack, toy, bus):
    for _ in range(2):
        await stack.call(ALICE, "Echo", "s", "x")
        message = bus.call_message(ALICE, ROOT, TOY, "Echo", "s", ["x"])
        message.body = b"\1\0\0\0\xff\0"
        bus.write(message.write())
        assert (await bus.answer_to(message)).error == ERROR + "InvalidArgs"
    assert len(toy.calls) == 2


async def test_26_a_message_of_too_many_elements_is_limits_exceeded(stack, toy, bus):
    message = bus.call_message(ALICE, ROOT, TOY, "Options", "a{sv}", [{}])
    one = reference.encode("a(yvvvv)", [[(1, *[variant("y", 0)] * 4)] * 20_000])
    message.body = reference.encode("a{sv}", [{"k": variant("y", 0)}])
    options = {"k": variant("a(yvvvv)", [(1, *[variant("y", 0)] * 4)] * 20_000)}
    message.body = reference.encode("a{sv}", [options])
    assert len(one) > 100_000
    bus.write(message.write())
    assert (await bus.answer_to(message)).error == ERROR + "LimitsExceeded"


@pytest.mark.parametrize("member", ["BadString", "BadPath", "BadType"])
async def test_26_what_would_get_us_thrown_out_is_an_error_and_the_connection_stays(
    stack, toy, member, caplog
):
    for _ in range(2):
        answer = await stack.call(ALICE, member)
        assert answer.error == ERROR + "Failed"
    assert stack.connection.is_open
    assert (await stack.call(ALICE, "Echo", "s", "x")).values == ["x"]


@pytest.mark.attack(45)
async def test_32_a_reply_over_16_mib_is_limits_exceeded(stack, toy):
    most = dispatch.MAX_REPLY - 4
    for _ in range(2):
        assert len((await stack.call(ALICE, "Blob", "u", most)).body) == dispatch.MAX_REPLY
        answer = await stack.call(ALICE, "Blob", "u", most + 1)
        assert answer.error == ERROR + "LimitsExceeded"


async def test_32_large_replies_are_refused_while_the_bus_carries_nothing_off(
    stack, toy, bus, monkeypatch
):
    await stack.call(ALICE, "Blob", "u", 100_000)
    monkeypatch.setattr(writer, "QUEUE_MAX", 1 << 20)
    bus.stop_listening()
    stack.connection.send(reference.Message(reference.SIGNAL, 1, {}, bytes(4 << 20)).write())
    large = bus.call(ALICE, ROOT, TOY, "Blob", "u", [100_000])
    small = bus.call(ALICE, ROOT, TOY, "Echo", "s", ["x"])
    await turns()
    bus.listen()
    assert (await bus.answer_to(large)).error == ERROR + "LimitsExceeded"
    assert (await bus.answer_to(small)).values == ["x"]


async def test_26_a_call_without_a_sender_is_denied(bus, stack, toy):
    call = bus.call(None, ROOT, TOY, "Echo", "s", ["x"])
    assert (await bus.answer_to(call)).error == ERROR + "AccessDenied"
    assert toy.calls == []


async def test_26_a_face_whose_owner_hook_fails_is_an_error_and_no_more(stack, toy, bus, caplog):
    def fail(path, values):
        raise ValueError(SECRET)

    await warm_up(stack)
    toy.owner_uid = fail
    stack.edge.unexport(ROOT)
    stack.edge.export(ROOT, toy, wing=ROOT)
    bad = bus.call(ALICE, ROOT, TOY, "Private", "ss", ["k", "v"])
    good = bus.call(ALICE, ROOT, TOY, "Echo", "s", ["x"])
    answer = await bus.answer_to(bad)
    assert answer.error == ERROR + "Failed"
    assert SECRET not in answer.values[0]
    assert (await bus.answer_to(good)).values == ["x"]


# Calls that name no interface


async def test_a_call_without_interface_is_served_where_one_is_meant(stack, toy):
    for _ in range(2):
        answer = await stack.call(ALICE, "Echo", "s", "x", interface=None)
        assert answer.values == ["x"]
        assert (await stack.call(ALICE, "Ping", interface=None)).error == ""
        assert (await stack.call(ALICE, "No", interface=None)).error == ERROR + "UnknownMethod"


async def test_a_call_without_interface_is_refused_where_two_could_be_meant(stack):
    toy = stack.toy(ROOT, OtherFace())
    answer = await stack.call(ALICE, "Both", interface=None)
    assert answer.error == ERROR + "UnknownMethod"
    assert "ambiguous" in answer.values[0]
    assert toy.calls == []
    assert (await stack.call(ALICE, "Only", interface=None)).values == [ALICE]


async def test_09_a_call_without_interface_goes_by_the_same_guard(stack, toy, polkit):
    for interface in (TOY, None):
        answer = await stack.call(ALICE, "Guarded", "s", "x", interface=interface)
        assert answer.error == ERROR + "AccessDenied"
    assert toy.calls == []


# Descriptors (ATTACKS 31)


async def test_31_returned_descriptors_are_closed_once_they_are_sent(bus, stack, toy, open_fds):
    await stack.call(ALICE, "Give", "u", 1)
    for count in (0, 1, 16):
        before = open_fds()
        answer = await stack.call(ALICE, "Give", "u", count)
        assert answer.values == [list(range(count))]
        assert len(answer.fds) == count
        for fd in answer.fds:
            os.fstat(fd)
        assert open_fds() == before + count  # those that the bus has now


async def test_31_descriptors_for_nobody_are_closed(bus, stack, toy, open_fds):
    await stack.call(ALICE, "Give", "u", 0)
    before = open_fds()
    for _ in range(10):
        bus.call(ALICE, ROOT, TOY, "Give", "u", [16], flags=Flag.NO_REPLY_EXPECTED)
    await bus.settle()
    assert open_fds() == before


async def test_31_incoming_descriptors_are_closed_after_the_call(bus, stack, toy, open_fds):
    pipe = os.pipe()
    await stack.call(ALICE, "Echo", "s", "x")
    before = open_fds()
    for _ in range(3):
        answer = await stack.call(ALICE, "Take", "ah", [0, 1, 0], fds=pipe)
        assert answer.values == [3]
        assert open_fds() == before
    close_all(pipe)


async def test_31_incoming_descriptors_stay_open_while_a_handler_waits(bus, stack, toy, open_fds):
    pipe = os.pipe()
    before = open_fds()
    call = bus.call(ALICE, ROOT, TOY, "TakeLater", "ah", [[0, 1]], fds=pipe)
    await bus.settle()
    assert open_fds() == before + 2
    toy.gate("take").set_result("now")
    assert (await bus.answer_to(call)).values == [2]
    await bus.settle()
    assert open_fds() == before
    close_all(pipe)


@pytest.mark.attack(31)
@pytest.mark.parametrize(
    ("path", "interface", "member", "signature", "values"),
    [
        ("/nowhere", TOY, "Take", "ah", [[0]]),
        (ROOT, TOY, "No", "ah", [[0]]),
        (ROOT, TOY, "Take", "h", [0]),
        (ROOT, TOY, "Echo", "s", ["x"]),
        (ROOT, TOY, "Take", "ah", [[77]]),
        (ROOT, TOY, "Nothing", "", []),
    ],
)
async def test_31_descriptors_of_refused_calls_are_closed(
    bus, stack, toy, open_fds, path, interface, member, signature, values
):
    pipe = os.pipe()
    await warm_up(stack)
    before = open_fds()
    for _ in range(5):
        call = bus.call(ALICE, path, interface, member, signature, values, fds=[pipe[0]] * 8)
        assert (await bus.answer_to(call)).error
    assert open_fds() == before
    close_all(pipe)


async def test_31_descriptors_of_calls_that_wait_are_closed_when_their_sender_leaves(
    bus, stack, toy, polkit, open_fds
):
    pipe = os.pipe()
    polkit.rules["org.toy.guarded"] = "hang"
    before = open_fds()
    bus.call(ALICE, ROOT, TOY, "Guarded", "s", ["x"])
    await bus.asked("CheckAuthorization")
    for _ in range(5):
        bus.call(ALICE, ROOT, TOY, "Take", "ah", [[0]], fds=[pipe[0]] * 4)
    await bus.settle()
    assert open_fds() == before + 20
    bus.leave(ALICE)
    await bus.settle()
    assert open_fds() == before
    close_all(pipe)


@pytest.mark.parametrize("member", ["GiveBadly", "GiveBadlyLater"])
async def test_31_descriptors_of_an_answer_that_cannot_be_written_are_closed(
    bus, stack, toy, open_fds, member, caplog
):
    await stack.call(ALICE, member, "u", 0)
    before = open_fds()
    for count in (1, 16):
        answer = await stack.call(ALICE, member, "u", count)
        assert answer.error == ERROR + "Failed"
        assert len(toy.given) == count
    await bus.settle()
    assert open_fds() == before


async def test_31_descriptors_that_wait_are_charged_to_their_uid(bus, polkit, open_fds):
    pipe = os.pipe()
    stack = await Stack.make(bus, Limits(descriptors=10))
    toy = stack.toy()
    polkit.rules["org.toy.guarded"] = "hang"
    await warm_up(stack)
    before = open_fds()
    first = bus.call(ALICE, ROOT, TOY, "Guarded", "s", ["1"])
    calls = [bus.call(ALICE, ROOT, TOY, "Take", "ah", [[0]], fds=[pipe[0]] * 4) for _ in range(3)]
    question = await bus.asked("CheckAuthorization")
    await bus.settle()
    assert [bus.answer_now(call) for call in calls[:2]] == [None, None]
    assert bus.answer_now(calls[2]).error == ERROR + "LimitsExceeded"
    assert stack.authority.quotas.used(ALICE_UID, "descriptors") == 8
    assert open_fds() == before + 8
    polkit.decide(question, "yes")
    assert (await bus.answer_to(calls[1])).values == [1]
    assert bus.answer_now(first).values == ["1"]
    await bus.settle()
    assert stack.authority.quotas.used(ALICE_UID, "descriptors") == 0
    assert stack.authority.quotas.used(ALICE_UID, "waiting_bytes") == 0
    assert open_fds() == before
    assert len(toy.calls) == 3
    close_all(pipe)


async def test_31_descriptors_that_waited_are_given_back_when_their_sender_leaves(
    bus, stack, toy, polkit, open_fds
):
    pipe = os.pipe()
    polkit.rules["org.toy.guarded"] = "hang"
    await warm_up(stack)
    before = open_fds()
    bus.call(ALICE, ROOT, TOY, "Guarded", "s", ["1"])
    bus.call(ALICE, ROOT, TOY, "Take", "ah", [[0]], fds=[pipe[0]] * 4)
    await bus.asked("CheckAuthorization")
    await bus.settle()
    assert stack.authority.quotas.used(ALICE_UID, "descriptors") == 4
    bus.leave(ALICE)
    await bus.settle()
    assert stack.authority.quotas.used(ALICE_UID, "descriptors") == 0
    assert open_fds() == before
    close_all(pipe)


async def test_31_whoever_is_not_known_yet_shares_one_quota(bus, stack, toy, open_fds):
    """Nobody can be charged for them, and every new connection would bring another 1,024 calls."""
    pipe = os.pipe()
    bus.answers[DRIVER, "GetConnectionCredentials"] = lambda call: None
    before = open_fds()
    few = stack.authority.quotas.limits.descriptors // 4
    calls = [
        bus.call(f":5.{number}", ROOT, TOY, "Take", "ah", [[0]], fds=[pipe[0]] * 4)
        for number in range(few)
    ]
    refused = bus.call(ALICE, ROOT, TOY, "Take", "ah", [[0]], fds=[pipe[0]] * 4)
    plain = bus.call(ALICE, ROOT, TOY, "Echo", "s", ["x"])
    assert (await bus.answer_to(refused)).error == ERROR + "LimitsExceeded"
    assert open_fds() == before + 4 * few
    assert bus.answer_now(calls[0]) is None
    assert bus.answer_now(plain) is None
    stack.edge.connection.close()
    close_all(pipe)


# Who may (ATTACKS 9, 10, 11)


@pytest.mark.attack(10)
async def test_10_a_guarded_handler_runs_only_after_a_yes(bus, stack, toy, polkit):
    polkit.rules["org.toy.guarded"] = "hang"
    call = bus.call(ALICE, ROOT, TOY, "Guarded", "s", ["x"])
    question = await bus.asked("CheckAuthorization")
    await bus.settle()
    assert toy.calls == []
    polkit.decide(question, "yes")
    assert (await bus.answer_to(call)).values == ["x"]
    assert toy.calls == [(ALICE, "x")]


@pytest.mark.parametrize("rule", ["no", "challenge"])
async def test_10_a_no_is_a_no(stack, toy, polkit, rule):
    polkit.rules["org.toy.guarded"] = rule
    for _ in range(2):
        answer = await stack.call(ALICE, "Guarded", "s", "x")
        name = "AccessDenied" if rule == "no" else "InteractiveAuthorizationRequired"
        assert answer.error == ERROR + name
        assert "org.toy.guarded" in answer.values[0]
    assert toy.calls == []


async def test_11_who_owns_the_thing_decides_which_action_is_asked(stack, toy, polkit):
    polkit.rules |= {"org.toy.own": "yes", "org.toy.others": "no"}
    for owner, allowed in [(None, True), (ALICE_UID, True), (77, False), (ALICE_UID, True)]:
        toy.owner = owner
        answer = await stack.call(ALICE, "Private", "ss", "k", "v")
        assert answer.error == ("" if allowed else ERROR + "AccessDenied")
    assert [call.values[1] for call in polkit.questions] == ["org.toy.own", "org.toy.others"]
    assert (ROOT, ("k", "v")) in [(path, tuple(v)) for path, v in toy.asked_owner]


@pytest.mark.attack(11)
async def test_11_the_owner_is_looked_at_again_after_the_question(bus, stack, toy, polkit):
    polkit.rules |= {"org.toy.own": "hang", "org.toy.others": "no"}
    toy.owner = ALICE_UID
    call = bus.call(ALICE, ROOT, TOY, "Private", "ss", ["k", "v"])
    question = await bus.asked("CheckAuthorization")
    toy.owner = 77
    polkit.decide(question, "yes")
    assert (await bus.answer_to(call)).error == ERROR + "AccessDenied"
    assert toy.calls == []


async def test_11_arguments_are_those_that_were_asked_about(bus, stack, toy, polkit):
    polkit.rules |= {"org.toy.own": "hang"}
    call = bus.call(ALICE, ROOT, TOY, "Private", "ss", ["k", "first"])
    question = await bus.asked("CheckAuthorization")
    bus.call(ALICE, ROOT, TOY, "Private", "ss", ["k", "second"])
    await bus.settle()
    polkit.decide(question, "yes")
    assert (await bus.answer_to(call)).values == ["first"]
    assert toy.calls[0] == (ALICE, "k", "first")


@pytest.mark.attack(11)
@pytest.mark.parametrize("again", [False, True])
async def test_11_an_object_that_went_while_the_question_was_open_is_unknown(
    bus, stack, toy, polkit, again
):
    polkit.rules["org.toy.guarded"] = "hang"
    call = bus.call(ALICE, ROOT, TOY, "Guarded", "s", ["x"])
    question = await bus.asked("CheckAuthorization")
    stack.edge.unexport(ROOT)
    new = stack.toy() if again else None
    polkit.decide(question, "yes")
    assert (await bus.answer_to(call)).error == ERROR + "UnknownObject"
    assert toy.calls == []
    assert new is None or new.calls == []


async def test_11_what_is_remembered_goes_with_its_object(bus, stack, toy):
    await stack.call(ALICE, "Echo", "s", "x")
    await stack.call(ALICE, "Echo", "s", "x")
    stack.edge.unexport(ROOT)
    assert (await stack.call(ALICE, "Echo", "s", "x")).error == ERROR + "UnknownObject"
    new = stack.toy()
    assert (await stack.call(ALICE, "Echo", "s", "y")).values == ["y"]
    assert new.calls == [(ALICE, "y")]
    assert len(toy.calls) == 2


# What is remembered, and how it ends


async def test_a_yes_is_asked_for_once(bus, stack, toy, polkit):
    polkit.rules["org.toy.guarded"] = "yes"
    for _ in range(5):
        await stack.call(ALICE, "Guarded", "s", "x")
    assert len(polkit.questions) == 1
    await stack.call(BOB, "Guarded", "s", "x")
    assert len(polkit.questions) == 2


async def test_38_what_is_remembered_ends_when_polkit_changes(bus, stack, toy, polkit):
    polkit.rules["org.toy.guarded"] = "yes"
    for _ in range(3):
        await stack.call(ALICE, "Guarded", "s", "x")
    polkit.rules["org.toy.guarded"] = "no"
    polkit.change()
    await bus.settle()
    answer = await stack.call(ALICE, "Guarded", "s", "x")
    assert answer.error == ERROR + "AccessDenied"
    assert len(toy.calls) == 3


class Clock:
    def __init__(self, monkeypatch):
        self.now = 1000.0
        for module in ("authority", "bus.transport", "bus.dispatch"):
            monkeypatch.setattr(f"buswork.{module}.time.monotonic", lambda: self.now)


async def test_38_what_is_remembered_ends_with_its_time(bus, stack, toy, polkit, monkeypatch):
    clock = Clock(monkeypatch)
    polkit.rules["org.toy.guarded"] = "yes"
    for _ in range(3):
        await stack.call(ALICE, "Guarded", "s", "x")
    polkit.rules["org.toy.guarded"] = "no"
    clock.now += 3.9
    assert (await stack.call(ALICE, "Guarded", "s", "x")).values == ["x"]
    clock.now += 1.2
    answer = await stack.call(ALICE, "Guarded", "s", "x")
    assert answer.error == ERROR + "AccessDenied"
    assert len(toy.calls) == 4


async def test_38_a_password_is_not_remembered(bus, stack, toy, polkit):
    polkit.rules["org.toy.guarded"] = "challenge"
    flags = Flag.ALLOW_INTERACTIVE_AUTHORIZATION
    for number in range(3):
        answer = await stack.call(ALICE, "Guarded", "s", "x", flags=flags)
        assert answer.values == ["x"]
        assert len(polkit.questions) == 2 * (number + 1)
    answer = await stack.call(ALICE, "Guarded", "s", "x")
    assert answer.error == ERROR + "InteractiveAuthorizationRequired"


async def test_13_flags_are_part_of_what_is_remembered(bus, stack, toy, polkit):
    """A yes for one call is no yes for a call with other flags; it has to be looked up."""
    await stack.call(ALICE, "Echo", "s", "x", flags=Flag.ALLOW_INTERACTIVE_AUTHORIZATION)
    call = bus.call(ALICE, ROOT, TOY, "Echo", "s", ["y"], flags=Flag.NO_REPLY_EXPECTED)
    await bus.settle()
    assert bus.answer_now(call) is None
    assert toy.calls == [(ALICE, "x"), (ALICE, "y")]


async def test_29_remembered_headers_are_bounded(bus, stack, toy, monkeypatch):
    monkeypatch.setattr(dispatch, "MAX_KNOWN_HEADERS", 10)
    for number in range(30):
        sender = f":2.{number}"
        bus.uids[sender] = 2000
        assert (await stack.call(sender, "Echo", "s", "x")).values == ["x"]
        assert len(stack.edge.dispatcher._known) <= 10


async def test_29_headers_of_great_length_are_not_remembered(bus, stack):
    path = "/org/" + "x" * 2000
    stack.toy(path)
    await stack.call(ALICE, "Echo", "s", "x", path=path)
    await stack.call(ALICE, "Echo", "s", "x", path=path)
    assert all(len(fields) < 1100 for fields in stack.edge.dispatcher._known)


# Order and others (ATTACKS 12)


async def test_12_calls_of_one_sender_take_effect_in_order(bus, stack, toy, polkit):
    polkit.rules["org.toy.guarded"] = "hang"
    for sender in (ALICE, BOB, ALICE):  # so that the short road is known as well
        await stack.call(sender, "Echo", "s", "before")
    toy.calls.clear()
    first = bus.call(ALICE, ROOT, TOY, "Guarded", "s", ["1"])
    later = [bus.call(ALICE, ROOT, TOY, "Echo", "s", [str(n)]) for n in range(2, 6)]
    await bus.asked("CheckAuthorization")
    await bus.settle()
    assert toy.calls == []
    assert (await stack.call(BOB, "Echo", "s", "bob")).values == ["bob"]
    polkit.decide(polkit.questions[0], "yes")
    await bus.answer_to(later[-1])
    assert toy.calls == [(BOB, "bob")] + [(ALICE, str(n)) for n in range(1, 6)]
    assert bus.answer_now(first).values == ["1"]


@pytest.mark.attack(12)
async def test_12_other_wings_do_not_wait(bus, stack, toy, polkit):
    stack.toy("/org/else", wing="/org/else")
    polkit.rules["org.toy.guarded"] = "hang"
    bus.call(ALICE, ROOT, TOY, "Guarded", "s", ["1"])
    await bus.asked("CheckAuthorization")
    answer = await stack.call(ALICE, "Echo", "s", "x", path="/org/else")
    assert answer.values == ["x"]
    assert (await stack.call(ALICE, "Ping", path="/nowhere", interface=PEER)).error == ""


async def test_12_after_a_no_the_next_ones_go_on(bus, stack, toy, polkit):
    polkit.rules["org.toy.guarded"] = "hang"
    first = bus.call(ALICE, ROOT, TOY, "Guarded", "s", ["1"])
    second = bus.call(ALICE, ROOT, TOY, "Echo", "s", ["2"])
    polkit.decide(await bus.asked("CheckAuthorization"), "no")
    assert (await bus.answer_to(first)).error == ERROR + "AccessDenied"
    assert (await bus.answer_to(second)).values == ["2"]
    assert stack.edge.dispatcher._lanes == {}


async def test_calls_marked_so_are_not_overtaken(bus, stack, toy):
    for name in ("a", "b"):
        bus.call(ALICE, ROOT, TOY, "Ordered", "s", [name])
    last = bus.call(ALICE, ROOT, TOY, "Echo", "s", ["c"])
    await bus.settle()
    assert toy.calls == [(ALICE, "a")]
    assert (await stack.call(BOB, "Echo", "s", "bob")).values == ["bob"]
    toy.gate("a").set_result("")
    await bus.settle()
    assert toy.calls[-1] == (ALICE, "b")
    toy.gate("b").set_result("")
    assert (await bus.answer_to(last)).values == ["c"]


async def test_calls_that_only_wait_are_overtaken(bus, stack, toy):
    bus.call(ALICE, ROOT, TOY, "Wait", "s", ["a"])
    assert (await stack.call(ALICE, "Echo", "s", "x")).values == ["x"]


# Limits (ATTACKS 29, 30)


@pytest.mark.attack(29)
async def test_29_one_uid_has_64_calls_in_flight(bus, stack, toy):
    bus.uids[":1.70"] = ALICE_UID
    await warm_up(stack)
    calls = [
        bus.call([ALICE, ":1.70"][number % 2], ROOT, TOY, "Wait", "s", ["gate"])
        for number in range(64)
    ]
    await bus.settle()
    refused = await stack.call(ALICE, "Wait", "s", "gate")
    assert refused.error == ERROR + "LimitsExceeded"
    assert (await stack.call(ALICE, "Echo", "s", "x")).values == ["x"]
    others = bus.call(BOB, ROOT, TOY, "Wait", "s", ["gate"])
    await bus.settle()
    toy.gate("gate").set_result("open")
    for call in [*calls, others]:
        assert (await bus.answer_to(call)).values == ["open"]
    assert stack.authority.quotas.used(ALICE_UID, "calls") == 0


async def test_29_a_call_that_is_answered_at_once_never_counts(bus, stack, toy):
    """Also a thousand of a caller that nobody knows yet."""
    calls = [bus.call(ALICE, ROOT, TOY, "Echo", "s", [str(n)]) for n in range(1000)]
    await bus.answer_to(calls[-1])
    assert [bus.answer_now(call).values for call in calls] == [[str(n)] for n in range(1000)]
    assert toy.calls == [(ALICE, str(n)) for n in range(1000)]


@pytest.mark.attack(29)
async def test_29_a_lane_is_bounded(bus, stack, toy, polkit, monkeypatch):
    monkeypatch.setattr(dispatch, "MAX_LANE", 10)
    polkit.rules["org.toy.guarded"] = "hang"
    await warm_up(stack)
    calls = [bus.call(ALICE, ROOT, TOY, "Guarded", "s", [str(n)]) for n in range(12)]
    await bus.settle()
    assert [bus.answer_now(call).error for call in calls[10:]] == [ERROR + "LimitsExceeded"] * 2
    assert {bus.answer_now(call) for call in calls[:10]} == {None}
    assert (await stack.call(BOB, "Echo", "s", "bob")).values == ["bob"]


async def test_29_who_waits_behind_a_prompt_counts(bus, stack, toy, polkit):
    polkit.rules["org.toy.guarded"] = "challenge-hang"
    flags = Flag.ALLOW_INTERACTIVE_AUTHORIZATION
    await warm_up(stack)
    bus.call(ALICE, ROOT, TOY, "Guarded", "s", ["1"], flags=flags)
    await bus.asked("CheckAuthorization", 2)
    for _ in range(63):
        bus.call(ALICE, ROOT, TOY, "Echo", "s", ["x"])
    await bus.settle()
    assert stack.authority.quotas.used(ALICE_UID, "calls") == 64
    refused = bus.call(ALICE, ROOT, TOY, "Echo", "s", ["x"])
    assert (await bus.answer_to(refused)).error == ERROR + "LimitsExceeded"
    bus.leave(ALICE)
    await bus.settle()
    assert stack.authority.quotas.used(ALICE_UID, "calls") == 0
    assert stack.authority.quotas.used(ALICE_UID, "waiting_bytes") == 0


async def test_30_bytes_that_wait_are_bounded(bus, polkit):
    stack = await Stack.make(bus, Limits(waiting_bytes=10_000))
    toy = stack.toy()
    polkit.rules["org.toy.guarded"] = "hang"
    await warm_up(stack)
    bus.call(ALICE, ROOT, TOY, "Guarded", "s", ["1"])
    calls = [bus.call(ALICE, ROOT, TOY, "Echo", "s", ["x" * 4000]) for _ in range(4)]
    await bus.settle()
    answers = [bus.answer_now(call) for call in calls]
    assert answers[:2] == [None, None]
    assert [answer.error for answer in answers[2:]] == [ERROR + "LimitsExceeded"] * 2
    polkit.decide(polkit.questions[0], "yes")
    await bus.answer_to(calls[1])
    assert len(toy.calls) == 3
    assert stack.authority.quotas.used(ALICE_UID, "waiting_bytes") == 0


async def test_12_a_flood_of_one_uid_goes_to_the_background(bus, stack, toy, monkeypatch):
    """Who has had its share waits; others are served, and in the end all is answered in order."""
    await warm_up(stack)
    await warm_up(stack, BOB)
    monkeypatch.setattr(dispatch, "SHARE_SECONDS", -1.0)
    flood = [bus.call(ALICE, ROOT, TOY, "Echo", "s", [str(n)]) for n in range(200)]
    await bus.answer_to(flood[-1])
    assert [call[1] for call in toy.calls] == [str(n) for n in range(200)]


async def test_29_a_full_lane_refuses_without_a_look_at_the_arguments(
    bus, stack, toy, polkit, monkeypatch
):
    """A flood must not come in faster than it is refused."""
    await stack.call(ALICE, "Echo", "s", "x")
    monkeypatch.setattr(dispatch, "MAX_LANE", 3)
    polkit.rules["org.toy.guarded"] = "hang"
    waiting = [bus.call(ALICE, ROOT, TOY, "Guarded", "s", [str(n)]) for n in range(3)]
    await bus.asked("CheckAuthorization")
    calls, errors = stack.edge.dispatcher.calls, stack.edge.dispatcher.errors
    sent = []
    for flags in (0, Flag.NO_REPLY_EXPECTED, 0):
        message = bus.call_message(ALICE, ROOT, TOY, "Echo", "s", ["x"], flags=flags)
        message.body = b"\1\0\0\0\xff\0"
        bus.write(message.write())
        sent.append(message)
    await turns()
    answers = [bus.answer_now(message) for message in sent]
    assert answers[0].error == answers[2].error == ERROR + "LimitsExceeded"
    assert answers[0].fields[reference.DESTINATION] == ALICE
    assert answers[1] is None
    assert stack.edge.dispatcher.errors == errors + 3
    assert stack.edge.dispatcher.calls == calls + 3
    assert {bus.answer_now(call) for call in waiting} == {None}
    assert (await stack.call(BOB, "Echo", "s", "bob")).values == ["bob"]
    polkit.decide(polkit.questions[0], "yes")
    assert (await bus.answer_to(waiting[2])).values == ["2"]
    assert (await stack.call(ALICE, "Echo", "s", "y")).values == ["y"]


# Shares (floods)


SHARE = 50.0


@pytest.fixture
def shares(monkeypatch):
    """A share that no test takes by chance, in a window that does not end."""
    monkeypatch.setattr(dispatch, "SHARE_SECONDS", SHARE)
    monkeypatch.setattr(dispatch, "SHARE_WINDOW", 1e9)


def account_of(stack, sender):
    return stack.edge.dispatcher._account(sender)


async def known_to_both_roads(stack, toy, *senders):
    for sender in senders:
        for _ in range(2):
            await stack.call(sender, "Echo", "s", "before")
        account_of(stack, sender).is_over(time.monotonic())  # begins its window
    toy.calls.clear()


def count_turns(toy, until):
    """Writes a "turn" among the calls for every turn of the loop, until so many have come."""
    loop = asyncio.get_running_loop()

    def turn():
        if len([call for call in toy.calls if call != "turn"]) < until:
            toy.calls.append("turn")
            loop.call_soon(turn)

    loop.call_soon(turn)


async def test_12_who_had_its_share_is_served_one_call_a_turn_and_others_at_once(
    bus, stack, toy, shares
):
    await known_to_both_roads(stack, toy, ALICE, BOB)
    account_of(stack, ALICE).spent = SHARE + 1
    flood = [bus.call(ALICE, ROOT, TOY, "Echo", "s", [str(n)]) for n in range(20)]
    bob = bus.call(BOB, ROOT, TOY, "Echo", "s", ["bob"])
    count_turns(toy, 21)
    await bus.answer_to(flood[-1])
    served = [call for call in toy.calls if call != "turn"]
    assert served == [(BOB, "bob")] + [(ALICE, str(n)) for n in range(20)]
    for before, call in zip(toy.calls, toy.calls[1:], strict=False):
        if call != "turn" and call[0] == ALICE and before != (BOB, "bob"):
            assert before == "turn"
    assert [bus.answer_now(call).values for call in flood] == [[str(n)] for n in range(20)]
    assert bus.answer_now(bob).values == ["bob"]


async def test_12_who_is_within_its_share_is_served_at_once(bus, stack, toy, shares):
    await known_to_both_roads(stack, toy, ALICE)
    account_of(stack, ALICE).spent = SHARE - 1
    calls = [bus.call(ALICE, ROOT, TOY, "Echo", "s", [str(n)]) for n in range(20)]
    count_turns(toy, 20)
    await bus.answer_to(calls[-1])
    at = [number for number, call in enumerate(toy.calls) if call != "turn"]
    assert at == list(range(at[0], at[0] + 20))


async def test_12_all_connections_of_a_uid_and_all_uids_share_the_background(
    bus, stack, toy, shares
):
    bus.uids |= {":1.70": ALICE_UID, ":1.71": 2000}
    senders = (ALICE, ":1.70", ":1.71")
    await known_to_both_roads(stack, toy, *senders)
    account_of(stack, ALICE).spent = account_of(stack, ":1.71").spent = SHARE + 1
    calls = [
        bus.call(sender, ROOT, TOY, "Echo", "s", [str(n)]) for n in range(5) for sender in senders
    ]
    count_turns(toy, 15)
    for call in calls:
        await bus.answer_to(call)
    for before, call in zip(toy.calls, toy.calls[1:], strict=False):
        assert "turn" in (before, call)
    for sender in senders:
        mine = [call[1] for call in toy.calls if call != "turn" and call[0] == sender]
        assert mine == [str(n) for n in range(5)]


async def test_12_what_a_call_of_the_background_takes_is_charged(
    bus, stack, toy, monkeypatch, shares
):
    class Slow:
        now = 1000.0

        def monotonic(self):
            return self.now

    slow = Slow()

    class SlowFace(ToyFace):
        def echo(self, call, text):
            slow.now += 7.0
            return text

    stack.edge.unexport(ROOT)
    stack.edge.export(ROOT, SlowFace(), wing=ROOT)
    await warm_up(stack)
    monkeypatch.setattr(dispatch, "time", slow)
    monkeypatch.setattr(transport, "time", slow)
    account = account_of(stack, ALICE)
    account.spent, account._window_end = 100.0, 1e9
    await stack.call(ALICE, "Echo", "s", "x")
    assert account.spent == 107.0
    account.spent = 0.0
    await stack.call(ALICE, "Echo", "s", "x")
    await stack.call(ALICE, "Echo", "s", "x")
    assert account.spent == 14.0


async def test_12_what_the_arguments_take_is_charged(bus, stack, toy, polkit, monkeypatch, shares):
    """Whose thing a call is about is in its arguments, so they are read before it is allowed."""
    polkit.rules |= {"org.toy.own": "yes"}
    await warm_up(stack)
    spent = []
    charge = stack.edge.dispatcher._charge

    def note(request, begin):
        spent.append(request.decoded is not None)
        charge(request, begin)

    monkeypatch.setattr(stack.edge.dispatcher, "_charge", note)
    await stack.call(ALICE, "Private", "ss", "mine", "x")
    assert spent == [True, True]  # it was decided which action, and it was answered


def ahead_of_reading(monkeypatch):
    """More has come, whatever is read."""
    always = property(lambda connection: True, lambda connection, value: None)
    monkeypatch.setattr(transport.Connection, "is_behind", always, raising=False)


async def test_12_reading_goes_before_who_had_its_share(bus, stack, toy, monkeypatch, shares):
    await known_to_both_roads(stack, toy, ALICE)
    account_of(stack, ALICE).spent = SHARE + 1
    ahead_of_reading(monkeypatch)
    flood = [bus.call(ALICE, ROOT, TOY, "Echo", "s", [str(n)]) for n in range(10)]
    count_turns(toy, 10)
    await bus.answer_to(flood[-1])
    at = [number for number, call in enumerate(toy.calls) if call != "turn"]
    between = [after - before - 1 for before, after in pairwise(at)]
    assert set(between) <= {dispatch.MAX_LOOKS, dispatch.MAX_LOOKS + 1}


async def test_12_a_share_is_smaller_when_many_wait(bus, stack, toy, polkit, shares):
    await known_to_both_roads(stack, toy, BOB)
    dispatcher, account = stack.edge.dispatcher, account_of(stack, BOB)
    account.spent = 0.6 * SHARE
    polkit.rules["org.toy.guarded"] = "hang"
    calls = []
    for number, is_over in enumerate((False, False, True, True)):
        assert dispatcher._is_over(account, time.monotonic()) is is_over
        sender = f":3.{number}"
        bus.uids[sender] = 3000 + number
        calls.append(bus.call(sender, ROOT, TOY, "Guarded", "s", ["x"]))
        await bus.settle()
    for question in polkit.questions:
        polkit.decide(question, "yes")
    for call in calls:
        await bus.answer_to(call)
    assert not dispatcher._is_over(account, time.monotonic())


def test_12_a_share_is_never_next_to_nothing():
    account = dispatch._Account()
    account.is_over(10.0)
    account.spent = dispatch.SHARE_SECONDS / dispatch.MAX_SHARERS
    assert not account.is_over(10.0, dispatch.MAX_SHARERS + 1)


@pytest.mark.parametrize("seconds", [-1.0, 1e6])
async def test_12_a_lane_looks_at_what_else_has_come(
    bus, stack, toy, polkit, monkeypatch, shares, seconds
):
    """Those who waited for polkit together are not answered all in one piece."""
    await known_to_both_roads(stack, toy, ALICE)
    polkit.rules["org.toy.guarded"] = "hang"
    monkeypatch.setattr(dispatch, "LANE_SECONDS", seconds)
    calls = [bus.call(ALICE, ROOT, TOY, "Guarded", "s", ["x"]) for _ in range(10)]
    await bus.settle()
    count_turns(toy, 10)
    polkit.decide(polkit.questions[0], "yes")
    for call in calls:
        await bus.answer_to(call)
    at = [number for number, call in enumerate(toy.calls) if call != "turn"]
    steps = {after - before for before, after in pairwise(at)}
    assert steps == ({2} if seconds < 0 else {1})


def test_a_window_that_ended_is_forgotten():
    account = dispatch._Account()
    assert not account.is_over(10.0)
    account.spent = dispatch.SHARE_SECONDS
    assert not account.is_over(10.0)
    account.spent = dispatch.SHARE_SECONDS + 0.001
    assert account.is_over(10.0)
    assert account.is_over(10.0 + dispatch.SHARE_WINDOW)
    assert not account.is_over(10.001 + dispatch.SHARE_WINDOW)
    assert account.spent == 0.0


async def test_12_after_the_window_the_short_road_is_open_again(bus, stack, toy, monkeypatch):
    clock = Clock(monkeypatch)
    await known_to_both_roads(stack, toy, ALICE)
    account = account_of(stack, ALICE)
    account.is_over(clock.now + 10)
    account.spent = dispatch.SHARE_SECONDS + 1
    clock.now += 10
    assert (await stack.call(ALICE, "Echo", "s", "over")).values == ["over"]
    clock.now += 2 * dispatch.SHARE_WINDOW
    monkeypatch.setattr(stack.edge.dispatcher, "_background", None)
    assert (await stack.call(ALICE, "Echo", "s", "x")).values == ["x"]
    assert account.spent == 0.0


async def test_29_accounts_are_bounded(bus, stack, toy, monkeypatch):
    monkeypatch.setattr(dispatch, "MAX_ACCOUNTS", 5)
    for number in range(20):
        sender = f":2.{number}"
        bus.uids[sender] = 2000 + number
        assert (await stack.call(sender, "Echo", "s", "x")).values == ["x"]
        assert len(stack.edge.dispatcher._accounts) <= 5


# Leaving (ATTACKS 5, 35)


async def test_05_who_left_before_it_was_known_is_not_served(bus, stack, toy):
    del bus.uids[ALICE]
    call = bus.call(ALICE, ROOT, TOY, "Echo", "s", ["x"])
    await bus.settle()
    assert toy.calls == []
    assert bus.answer_now(call) is None
    assert stack.edge.dispatcher._lanes == {}


@pytest.mark.attack(3)
@pytest.mark.parametrize(
    "credentials",
    [
        {},
        {"UnixUserID": variant("i", 0)},
        {"UnixUserID": variant("s", "0")},
        {"UnixUserID": variant("t", 0)},
        {"ProcessID": variant("u", 0)},
    ],
)
async def test_05_who_cannot_be_identified_is_denied(bus, stack, toy, credentials):
    bus.answers[DRIVER, "GetConnectionCredentials"] = lambda call: ("a{sv}", [credentials])
    for _ in range(2):
        answer = await stack.call(ALICE, "Echo", "s", "x")
        assert answer.error == ERROR + "AccessDenied"
    assert toy.calls == []


async def test_05_an_error_of_the_look_up_is_a_denial(bus, stack, toy):
    def refuse(call):
        raise Refused(ERROR + "LimitsExceeded", SECRET)

    bus.answers[DRIVER, "GetConnectionCredentials"] = refuse
    answer = await stack.call(ALICE, "Echo", "s", "x")
    assert answer.error == ERROR + "AccessDenied"
    assert SECRET not in answer.values[0]
    assert toy.calls == []


@pytest.mark.parametrize("rule", ["hang", "challenge-hang"])
async def test_35_who_leaves_during_the_question_is_not_served(bus, stack, toy, polkit, rule):
    polkit.rules["org.toy.guarded"] = rule
    flags = Flag.ALLOW_INTERACTIVE_AUTHORIZATION
    calls = [bus.call(ALICE, ROOT, TOY, "Guarded", "s", ["x"], flags=flags) for _ in range(3)]
    count = 1 if rule == "hang" else 2
    question = await bus.asked("CheckAuthorization", count)
    await bus.settle()
    bus.leave(ALICE)
    await bus.settle()
    polkit.decide(question, "yes")
    await bus.settle()
    assert toy.calls == []
    assert [bus.answer_now(call) for call in calls] == [None] * 3
    assert question.values[4] in polkit.cancelled
    assert stack.edge.dispatcher._lanes == {}
    assert stack.callers._watched == {}
    assert not any(ALICE in rule for rule in bus.matches)


async def test_35_who_leaves_right_after_the_yes_is_not_served(bus, stack, toy, polkit):
    polkit.rules["org.toy.guarded"] = "hang"
    bus.call(ALICE, ROOT, TOY, "Guarded", "s", ["x"])
    question = await bus.asked("CheckAuthorization")
    await bus.settle()
    polkit.decide(question, "yes")
    bus.leave(ALICE)
    await bus.settle()
    assert toy.calls == []


async def test_35_who_leaves_while_its_handler_waits_costs_nothing_for_long(bus, stack, toy):
    bus.call(ALICE, ROOT, TOY, "Wait", "s", ["gate"])
    await bus.settle()
    bus.leave(ALICE)
    toy.gate("gate").set_result("open")
    await bus.settle()
    assert stack.authority.quotas.used(ALICE_UID, "calls") == 0
    assert stack.connection.is_open


# Going down


async def test_no_new_calls_while_going_down(bus, stack, toy):
    call = bus.call(ALICE, ROOT, TOY, "Wait", "s", ["gate"])
    await bus.settle()
    draining = asyncio.create_task(stack.edge.drain(60))
    await asyncio.sleep(0)
    assert (await stack.call(ALICE, "Echo", "s", "x")).error == ERROR + "Disconnected"
    toy.gate("gate").set_result("open")
    await draining
    assert (await bus.answer_to(call)).values == ["open"]


async def test_what_does_not_end_in_time_is_cancelled(bus, stack, toy, open_fds):
    pipe = os.pipe()
    before = open_fds()
    bus.call(ALICE, ROOT, TOY, "Wait", "s", ["gate"])
    bus.call(ALICE, ROOT, TOY, "TakeLater", "ah", [[0]], fds=[pipe[0]])
    bus.call(BOB, ROOT, TOY, "Ordered", "s", ["gate"])
    bus.call(BOB, ROOT, TOY, "Take", "ah", [[0]], fds=[pipe[0]])
    await bus.settle()
    await stack.edge.drain(0)
    await turns()
    assert stack.edge.dispatcher._tasks == set()
    assert stack.authority.quotas.used(ALICE_UID, "calls") == 0
    assert open_fds() == before
    close_all(pipe)


async def test_who_comes_up_while_going_down_is_waited_for_as_well(bus, stack, toy, polkit):
    """A lane that ends may have started a handler that has to wait."""
    polkit.rules["org.toy.guarded"] = "hang"
    call = bus.call(ALICE, ROOT, TOY, "GuardedWait", "s", ["gate"])
    question = await bus.asked("CheckAuthorization")
    draining = asyncio.create_task(stack.edge.drain(60))
    await asyncio.sleep(0)
    polkit.decide(question, "yes")
    await bus.settle()
    assert toy.calls == [(ALICE, "gate")]
    assert not draining.done()
    toy.gate("gate").set_result("open")
    await draining
    assert (await bus.answer_to(call)).values == ["open"]


async def test_who_comes_up_while_being_cancelled_is_cancelled_as_well(bus, stack, toy, polkit):
    class Stubborn(ToyFace):
        async def wait(self, call, name):
            try:
                return await self.gate(name)
            except asyncio.CancelledError:
                stack.edge.dispatcher._start(self.cleaning())
                raise

        async def cleaning(self):
            await self.gate("cleaning")

    stack.edge.unexport(ROOT)
    stack.edge.export(ROOT, Stubborn(), wing=ROOT)
    bus.call(ALICE, ROOT, TOY, "Wait", "s", ["gate"])
    await bus.settle()
    await stack.edge.drain(0)
    await turns()
    assert stack.edge.dispatcher._tasks == set()
    assert stack.authority.quotas.used(ALICE_UID, "calls") == 0


@pytest.mark.parametrize("member", ["TakeLater", "TakeInOrder"])
async def test_31_going_down_closes_each_descriptor_once(
    bus, stack, toy, open_fds, monkeypatch, member
):
    """Another may have its number by then."""
    pipe = os.pipe()
    await warm_up(stack)
    before = open_fds()
    for _ in range(3):
        bus.call(ALICE, ROOT, TOY, member, "ah", [[0]], fds=[pipe[0]] * 2)
    await bus.settle()
    assert open_fds() == before + 6
    closed = []
    close = os.close

    def close_and_tell(fd):
        closed.append(fd)
        close(fd)

    monkeypatch.setattr(writer.os, "close", close_and_tell)
    await stack.edge.drain(0)
    await turns()
    monkeypatch.undo()
    assert len(closed) == len(set(closed)) == 6
    assert open_fds() == before
    close_all(pipe)
