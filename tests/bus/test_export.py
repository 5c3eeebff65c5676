import pytest
from support import reference
from support.fakebus import DRIVER, ERROR
from support.toyface import ALICE, ALICE_UID, BOB_UID, OTHER, ROOT, TOY, OtherFace, ToyFace

from buswork.bus import export, news, writer
from buswork.bus.codec import CodecError
from buswork.bus.contract import ContractError
from buswork.bus.library import variant

MANAGER = DRIVER + ".ObjectManager"
PROPERTIES = DRIVER + ".Properties"


async def signals(bus, member):
    await bus.settle()
    return bus.signals(member)


def header(message):
    return message.fields[reference.PATH], message.fields[reference.INTERFACE]


async def test_a_signal_goes_to_all_or_to_one(bus, stack, toy):
    stack.edge.emit(ROOT, TOY, "Moved", "a", 1)
    stack.edge.emit(ROOT, TOY, "Moved", "b", 2, to=ALICE)
    stack.edge.emit(ROOT, TOY, "Moved", "c", 3)
    moved = await signals(bus, "Moved")
    assert [message.values for message in moved] == [["a", 1], ["b", 2], ["c", 3]]
    assert [message.fields.get(reference.DESTINATION) for message in moved] == [None, ALICE, None]
    assert {header(message) for message in moved} == {(ROOT, TOY)}
    assert stack.edge.signals == 3


async def test_19_unicast_signals_are_not_kept_as_templates(bus, stack, toy):
    for number in range(20):
        stack.edge.emit(ROOT, TOY, "Moved", "a", 1, to=f":1.{number}")
    assert stack.edge._templates == {}


async def test_templates_are_bounded(bus, stack, monkeypatch):
    monkeypatch.setattr(export, "MAX_TEMPLATES", 3)
    for number in range(10):
        stack.toy(f"{ROOT}/{number}")
        stack.edge.emit(f"{ROOT}/{number}", TOY, "Moved", "a", number)
        assert len(stack.edge._templates) <= 3
    assert len(await signals(bus, "Moved")) == 10


@pytest.mark.parametrize("values", [("a\0b", 1), ("a", -1), ("a",), ("a", 1, 2), (5, 5)])
async def test_26_a_bad_signal_never_leaves(bus, stack, toy, values):
    with pytest.raises(CodecError):
        stack.edge.emit(ROOT, TOY, "Moved", *values)
    assert await signals(bus, "Moved") == []
    assert stack.connection.is_open


@pytest.mark.attack(32)
async def test_32_signals_are_dropped_when_the_bus_carries_nothing_off(
    bus, stack, toy, monkeypatch
):
    monkeypatch.setattr(writer, "QUEUE_MAX", 100_000)
    bus.stop_listening()
    for number in range(100):
        stack.edge.emit(ROOT, TOY, "Moved", "x" * 10_000, number)
    assert stack.edge.dropped_signals > 80
    assert stack.edge.signals + stack.edge.dropped_signals == 100
    bus.listen()
    assert [message.values[1] for message in await signals(bus, "Moved")] == list(
        range(stack.edge.signals)
    )


async def test_who_can_wait_hears_whether_a_signal_was_sent(bus, stack, toy, monkeypatch):
    assert stack.edge.tell(ROOT, TOY, "Moved", "a", 1, to=ALICE)
    monkeypatch.setattr(writer, "QUEUE_MAX", 0)
    assert not stack.edge.tell(ROOT, TOY, "Moved", "b", 2, to=ALICE)
    assert [message.values for message in await signals(bus, "Moved")] == [["a", 1]]
    assert (stack.edge.signals, stack.edge.dropped_signals) == (1, 0)


async def test_what_one_caller_leaves_unread(bus, stack, toy):
    def stats(call):
        assert call.values == [ALICE]
        return "a{sv}", [{"IncomingBytes": variant("u", 5), "OutgoingBytes": variant("u", 7)}]

    bus.answers[DRIVER, "GetConnectionStats"] = stats
    assert await stack.edge.unread(ALICE) == 7
    del bus.answers[DRIVER, "GetConnectionStats"]
    assert await stack.edge.unread(ALICE) == 0


async def test_32_a_signal_that_would_get_us_thrown_out_is_not_sent(
    bus, stack, toy, monkeypatch, caplog
):
    stack.edge.emit(ROOT, TOY, "Moved", "x" * 1000, 1)
    size = stack.connection.writer.queued
    monkeypatch.setattr(export, "MAX_REPLY", size)
    stack.edge.emit(ROOT, TOY, "Moved", "y" * 1000, 2)
    stack.edge.emit(ROOT, TOY, "Moved", "z" * 1004, 3)
    stack.edge.emit(ROOT, TOY, "Moved", "z" * 1004, 4, to=ALICE)
    toy.public = "z" * 2000
    stack.edge.changed(ROOT, TOY, "Public")
    assert [message.values[1] for message in await signals(bus, "Moved")] == [1, 2]
    assert bus.signals("PropertiesChanged") == []
    assert (stack.edge.signals, stack.edge.dropped_signals) == (2, 3)
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 3
    assert export.MAX_REPLY < 32 << 20


# Object manager


async def test_a_new_object_is_announced_from_its_managers_path(bus, stack):
    stack.toy(ROOT, manager=True)
    await bus.settle()
    assert bus.signals("InterfacesAdded") == []
    toy = stack.toy(f"{ROOT}/a", OtherFace())
    (added,) = await signals(bus, "InterfacesAdded")
    assert header(added) == (ROOT, MANAGER)
    path, interfaces = added.values
    assert path == f"{ROOT}/a"
    assert interfaces == {
        TOY: {
            "Public": variant("s", toy.public),
            "Constant": variant("u", 5),
            "Silent": variant("u", 6),
            "Large": variant("s", toy.large),
            "Dial": variant("u", 1),
        },
        OTHER: {"Mood": variant("s", "good")},
    }


async def test_an_object_that_goes_is_announced_from_its_managers_path(bus, stack):
    stack.toy(ROOT, manager=True)
    stack.toy(f"{ROOT}/a", OtherFace())
    stack.edge.unexport(f"{ROOT}/a")
    stack.edge.unexport(ROOT)
    (removed,) = await signals(bus, "InterfacesRemoved")
    assert header(removed) == (ROOT, MANAGER)
    assert removed.values == [f"{ROOT}/a", [TOY, OTHER]]


async def test_the_nearest_manager_speaks(bus, stack):
    stack.toy(ROOT, manager=True)
    stack.toy(f"{ROOT}/a/b", manager=True)
    stack.toy(f"{ROOT}/a/b/c")
    stack.toy("/elsewhere")
    added = await signals(bus, "InterfacesAdded")
    assert [(message.fields[1], message.values[0]) for message in added] == [
        (ROOT, f"{ROOT}/a/b"),
        (f"{ROOT}/a/b", f"{ROOT}/a/b/c"),
    ]


# Properties changed


@pytest.mark.attack(19)
@pytest.mark.parametrize(
    ("names", "values", "invalidated"),
    [
        (["Public"], {"Public": variant("s", "open")}, []),
        (["Secret"], {}, ["Secret"]),
        (["Theirs"], {}, ["Theirs"]),
        (["Large"], {}, ["Large"]),
        (["Public", "Secret", "Constant"], {"Public": variant("s", "open")}, ["Secret"]),
    ],
)
async def test_19_values_are_broadcast_only_where_everybody_may_read_them(
    bus, stack, toy, names, values, invalidated
):
    stack.edge.changed(ROOT, TOY, *names)
    (changed,) = await signals(bus, "PropertiesChanged")
    assert header(changed) == (ROOT, PROPERTIES)
    assert changed.values == [TOY, values, invalidated]
    assert b"hush" not in changed.body


@pytest.mark.parametrize("names", [["Constant"], ["Silent"], ["Knob"], []])
async def test_what_tells_nothing_is_not_told(bus, stack, toy, names):
    stack.edge.changed(ROOT, TOY, *names)
    assert await signals(bus, "PropertiesChanged") == []


async def test_a_change_of_what_is_not_there_is_no_signal(bus, stack, toy):
    stack.edge.unexport(ROOT)
    stack.edge.changed(ROOT, TOY, "Public")
    assert await signals(bus, "PropertiesChanged") == []


async def test_32_changes_are_told_at_the_rate_of_whose_they_are(bus, stack, toy, monkeypatch):
    """As the contract's `owner_uid` says; of what tells nothing, there is nothing to count."""
    monkeypatch.setattr(news, "AT_ONCE", 5)
    monkeypatch.setattr(news, "A_SECOND", 0.001)
    other = stack.toy(f"{ROOT}/other")
    toy.owner, other.owner = ALICE_UID, BOB_UID
    for number in range(100):
        stack.edge.changed(ROOT, TOY, "Silent", "Constant")
        toy.public = str(number)
        stack.edge.changed(ROOT, TOY, "Public", "Silent")
    stack.edge.changed(f"{ROOT}/other", TOY, "Public")
    told = [message.values[1] for message in await signals(bus, "PropertiesChanged")]
    numbers = [{"Public": variant("s", str(number))} for number in range(5)]
    assert told == [*numbers, {"Public": variant("s", "open")}]
    assert stack.edge.dropped_signals == 0


async def test_32_a_change_that_can_not_be_told_now_is_told_later(bus, stack, toy, monkeypatch):
    monkeypatch.setattr(writer, "QUEUE_MAX", 0)
    monkeypatch.setattr(news, "A_SECOND", 1000)
    stack.connection.writer.is_held = True
    stack.edge.emit(ROOT, TOY, "Moved", "fills the queue", 1)
    stack.edge.changed(ROOT, TOY, "Public")
    toy.public = "newest"
    monkeypatch.setattr(writer, "QUEUE_MAX", 1 << 20)
    stack.connection.writer.is_held = False
    changed = await bus.next(lambda message: message.member == "PropertiesChanged")
    assert changed.values == [TOY, {"Public": variant("s", "newest")}, []]
    assert len(bus.signals("PropertiesChanged")) == 1
    assert stack.edge.dropped_signals == 0


async def test_a_change_of_what_went_before_it_was_told_is_no_signal(bus, stack, toy, monkeypatch):
    monkeypatch.setattr(news, "AT_ONCE", 1)
    monkeypatch.setattr(news, "A_SECOND", 1000)
    toy.owner = ALICE_UID
    for path in (ROOT, f"{ROOT}/a", f"{ROOT}/b"):
        if path != ROOT:
            stack.toy(path).owner = ALICE_UID
        stack.edge.changed(path, TOY, "Public")
    stack.edge.unexport(f"{ROOT}/a")
    changed = await bus.next(lambda message: message.member == "PropertiesChanged")
    while header(changed)[0] != f"{ROOT}/b":
        changed = await bus.next(lambda message: message.member == "PropertiesChanged")
    assert [header(message)[0] for message in bus.signals("PropertiesChanged")] == [
        ROOT,
        f"{ROOT}/b",
    ]


# Exporting


async def test_a_path_is_exported_once(stack, toy):
    with pytest.raises(ContractError):
        stack.toy(ROOT)


async def test_09_a_face_that_lacks_a_member_is_refused_and_not_half_there(stack):
    class Lame(ToyFace):
        echo = None

    with pytest.raises(ContractError, match="Echo"):
        stack.edge.export(ROOT, Lame(), wing=ROOT)
    answer = await stack.call(ALICE, "Echo", "s", "x")
    assert answer.error == ERROR + "UnknownObject"


async def test_drain_waits_for_calls_and_for_the_bus(bus, stack, toy):
    call = bus.call(ALICE, ROOT, TOY, "Wait", "s", ["gate"])
    await bus.settle()
    toy.gate("gate").set_result("x" * 1_000_000)
    await stack.edge.drain(60)
    assert stack.connection.writer.queued == 0
    assert len((await bus.answer_to(call)).values[0]) == 1_000_000
    assert stack.authority.quotas.used(ALICE_UID, "calls") == 0
