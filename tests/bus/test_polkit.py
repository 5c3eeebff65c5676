import asyncio

import pytest
from support import reference
from support.fakebus import ERROR, FakePolkit, Refused

from buswork.bus import polkit as module
from buswork.bus.caller import Peer
from buswork.bus.library import variant
from buswork.bus.message import Flag
from buswork.bus.polkit import Answer, Polkit, PolkitAbsent
from buswork.errors import BusworkError, TimedOut

ACTION = "org.toy.act"


@pytest.fixture
def changes():
    return []


@pytest.fixture
async def asker(bus, polkit, changes):
    asker = Polkit(await bus.connect())
    await asker.start(lambda: changes.append(1))
    changes.clear()
    return asker


# The question (ATTACKS 1, 2, 3, 4)


@pytest.mark.attack(1)
async def test_03_the_subject_on_the_wire_is_the_unique_name(polkit, asker):
    await asker.ask(":1.7", ACTION, interactive=False)
    (question,) = polkit.questions
    assert question.fields[reference.SIGNATURE] == "(sa{sv})sa{ss}us"
    subject, action, details, flags, cancellation = question.values
    assert subject == ("system-bus-name", {"name": variant("s", ":1.7")})
    assert subject[1]["name"].signature == "s"
    assert (action, details, flags) == (ACTION, {}, 0)
    assert cancellation.startswith("buswork-")
    assert question.fields[reference.DESTINATION] == FakePolkit.NAME
    assert question.fields[reference.PATH] == FakePolkit.PATH


@pytest.mark.attack(3)
async def test_03_a_native_peer_on_the_wire_is_a_process_with_its_uid(polkit, asker):
    await asker.ask(Peer(1000, 4711, 5), ACTION, interactive=False)
    kind, facts = polkit.questions[0].values[0]
    assert kind == "unix-process"
    assert {name: (value.signature, value.value) for name, value in facts.items()} == {
        "pid": ("u", 4711),
        "start-time": ("t", 0),
        "uid": ("i", 1000),
    }


async def test_13_interaction_is_asked_for_only_when_allowed(polkit, asker):
    polkit.rules[ACTION] = "challenge"
    assert await asker.ask(":1.7", ACTION, interactive=False) == Answer(False, True, False)
    assert await asker.ask(":1.7", ACTION, interactive=True) == Answer(True, False, False)
    assert [question.values[3] for question in polkit.questions] == [0, 1]
    assert asker.questions == 2


@pytest.mark.parametrize(
    ("rule", "answer"),
    [
        ("yes", Answer(True, False, False)),
        ("no", Answer(False, False, False)),
        ("challenge", Answer(False, True, False)),
        ("temporary", Answer(True, False, True)),
    ],
)
async def test_answers(polkit, asker, rule, answer):
    polkit.rules[ACTION] = rule
    assert await asker.ask(":1.7", ACTION, interactive=False) == answer


async def test_every_question_has_a_cancellation_id_of_its_own(polkit, asker):
    for _ in range(3):
        await asker.ask(":1.7", ACTION, interactive=False)
    assert len({question.values[4] for question in polkit.questions}) == 3


# Nobody there, or no sense (ATTACKS 7)


@pytest.mark.parametrize(
    "name",
    [
        "ServiceUnknown", "NameHasNoOwner", "NoReply", "Disconnected", "Spawn.ExecFailed",
        "Spawn.ServiceNotFound",
    ],
)  # fmt: skip
async def test_07_polkit_absent(polkit, asker, name):
    polkit.rules[ACTION] = Refused(ERROR + name)
    with pytest.raises(PolkitAbsent):
        await asker.ask(":1.7", ACTION, interactive=False)


async def test_07_polkit_refuses(polkit, asker):
    polkit.rules[ACTION] = Refused("org.freedesktop.PolicyKit1.Error.Failed")
    with pytest.raises(BusworkError) as caught:
        await asker.ask(":1.7", ACTION, interactive=False)
    assert caught.value.name == "org.freedesktop.PolicyKit1.Error.Failed"


async def test_07_the_bus_dies_during_a_question(bus, polkit, asker):
    polkit.rules[ACTION] = "hang"
    task = asyncio.create_task(asker.ask(":1.7", ACTION, interactive=False))
    await bus.asked("CheckAuthorization")
    bus.hang_up()
    with pytest.raises(PolkitAbsent):
        await task


@pytest.mark.attack(3)
@pytest.mark.parametrize(
    ("signature", "values"),
    [
        ("", []),
        ("b", [True]),
        ("(bb)", [(True, False)]),
        ("(ssa{ss})", [("yes", "no", {})]),
        ("(uua{ss})", [(1, 0, {})]),
        ("(bbs)", [(True, False, "")]),
        ("bba{ss}", [True, False, {}]),
        ("s", ["yes"]),
    ],
)
async def test_03_an_answer_of_another_type_is_no_answer(bus, polkit, asker, signature, values):
    bus.answers[FakePolkit.NAME, "CheckAuthorization"] = lambda call: (signature, values)
    with pytest.raises(BusworkError, match="nonsense"):  # which is not the same as absent
        await asker.ask(":1.7", ACTION, interactive=False)


# Giving up (ATTACKS 12)


@pytest.mark.parametrize("interactive", [False, True])
async def test_12_a_question_that_takes_too_long_is_cancelled_at_polkit(
    bus, polkit, asker, monkeypatch, interactive
):
    name = "INTERACTIVE_SECONDS" if interactive else "PLAIN_SECONDS"
    monkeypatch.setattr(module, name, 0.0)
    polkit.rules[ACTION] = "hang"
    with pytest.raises(TimedOut):
        await asker.ask(":1.7", ACTION, interactive=interactive)
    await bus.settle()
    assert polkit.cancelled == [polkit.questions[0].values[4]]


async def test_12_a_question_that_is_given_up_is_cancelled_at_polkit(bus, polkit, asker):
    polkit.rules[ACTION] = "hang"
    task = asyncio.create_task(asker.ask(":1.7", ACTION, interactive=True))
    question = await bus.asked("CheckAuthorization")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await bus.settle()
    assert polkit.cancelled == [question.values[4]]
    call = bus.calls("CancelCheckAuthorization")[0]
    assert call.flags == Flag.NO_REPLY_EXPECTED | Flag.NO_AUTO_START


async def test_12_people_get_more_time_than_rules():
    assert module.PLAIN_SECONDS > 15  # what polkit gives a rule that loops
    assert module.INTERACTIVE_SECONDS > 2 * module.PLAIN_SECONDS


# Changes (ATTACKS 37, 38)


async def test_38_polkit_says_that_something_changed(bus, polkit, asker, changes):
    polkit.change()
    await bus.settle()
    assert changes == [1]


async def test_38_polkit_restarts(bus, polkit, asker, changes):
    bus.own(polkit.NAME, None)
    bus.own(polkit.NAME, ":1.4")
    await bus.settle()
    assert changes == [1, 1]
    polkit.change(":1.3")
    await bus.settle()
    assert changes == [1, 1]
    polkit.change(":1.4")
    await bus.settle()
    assert changes == [1, 1, 1]


@pytest.mark.parametrize("sender", [":1.66", FakePolkit.NAME])
async def test_37_nobody_else_says_that_something_changed(bus, polkit, asker, changes, sender):
    polkit.change(sender)
    bus.owner_changed(polkit.NAME, ":1.3", "", sender=":1.66")
    await bus.settle()
    assert changes == []


async def test_07_polkit_that_comes_later_is_heard(bus):
    asker = Polkit(await bus.connect())
    changes = []
    await asker.start(lambda: changes.append(1))
    assert changes == []
    polkit = FakePolkit(bus, ":1.5")
    del bus.names[polkit.NAME]
    bus.own(polkit.NAME, ":1.5")
    polkit.change()
    await bus.settle()
    assert changes == [1, 1]
