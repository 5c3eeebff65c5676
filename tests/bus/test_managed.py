"""Tests of buswork.bus.managed: an answer in pieces that is true in the end."""

import asyncio

import pytest
from support.fakebus import DRIVER, ERROR
from support.toyface import ALICE, ALICE_UID, BOB, BOB_UID, OTHER, ROOT, TOY, OtherFace

from buswork.bus import dispatch
from buswork.bus import managed as module
from buswork.bus.caller import Call
from buswork.bus.codec import body_decoder, body_encoder
from buswork.bus.library import variant
from buswork.bus.managed import ManagedObjects
from buswork.bus.message import Flag

MANAGER = DRIVER + ".ObjectManager"
SIGNATURE = "a{oa{sa{sv}}}"


@pytest.fixture
def pieces(monkeypatch):
    """What was encoded in each piece: an object, or nothing at the end of a piece."""
    monkeypatch.setattr(module, "OBJECTS_A_PIECE", 4)
    encode, encoded = module._entry, [[]]

    def entry(exported, readable):
        encoded[-1].append(exported.path)
        return encode(exported, readable)

    class Pauses:
        @staticmethod
        async def sleep(seconds):
            encoded.append([])
            await asyncio.sleep(seconds)

    monkeypatch.setattr(module, "_entry", entry)
    monkeypatch.setattr(module, "asyncio", Pauses)
    return encoded


@pytest.fixture
def manager(stack):
    return stack.toy(ROOT, manager=True)


@pytest.fixture
def managed(stack, manager):
    return ManagedObjects(stack.tree, stack.authority)


def decoded(parts):
    body = b"".join(parts.pieces)
    assert len(parts) == len(body)
    (objects,) = body_decoder(SIGNATURE)(body, ())
    return objects


def below(managed, uid=ALICE_UID, sender=ALICE):
    return asyncio.create_task(managed.below(ROOT, Call(sender, uid, 0, ROOT)))


async def begin(managed, pieces, count=1):
    """An answer of which so many pieces are made."""
    answer = below(managed)
    for _ in range(100):
        if len(pieces) == count + 2:
            break
        await asyncio.sleep(0)
    return answer


def told(pieces):
    return [path for piece in pieces for path in piece]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 9])
async def test_the_bytes_are_those_of_one_piece(stack, managed, pieces, count):
    for number in range(count):
        face = OtherFace()
        face.mood = "x" * number
        stack.edge.export(f"{ROOT}/{'y' * (number + 1)}", face, wing=ROOT)
    parts = await below(managed)
    objects = {
        f"{ROOT}/{'y' * (number + 1)}": {OTHER: {"Mood": variant("s", "x" * number)}}
        for number in range(count)
    }
    assert b"".join(parts.pieces) == bytes(body_encoder(SIGNATURE)((objects,)))


async def test_32_an_answer_is_made_in_pieces(bus, stack, manager, pieces, polkit):
    polkit.rules |= {"org.toy.read": "yes"}
    for number in range(20):
        stack.toy(f"{ROOT}/{number}")
    for sender in (ALICE, BOB):
        await stack.call(sender, "Both")
    long = bus.call(ALICE, ROOT, MANAGER, "GetManagedObjects")
    short = bus.call(BOB, ROOT, TOY, "Echo", "s", ["x"])
    await bus.answer_to(short)
    assert bus.answer_now(long) is None
    assert len((await bus.answer_to(long)).values[0]) == 20
    assert max(map(len, pieces)) == 4


async def test_32_one_answer_at_a_time_and_users_in_turn(stack, managed, pieces):
    for number in range(20):
        stack.edge.export(f"{ROOT}/{number}", OtherFace(), wing=ROOT)
    ended = []
    answers = [("alice", ALICE_UID)] * 3 + [("bob", BOB_UID)]
    tasks = [below(managed, uid) for _, uid in answers]
    for number, (task, (name, _)) in enumerate(zip(tasks, answers, strict=True)):
        task.add_done_callback(lambda _, name=f"{name} {number}": ended.append(name))
    await asyncio.gather(*tasks)
    assert ended == ["alice 0", "alice 1", "bob 3", "alice 2"]
    assert told(pieces) == [f"{ROOT}/{number}" for number in range(20)] * 4, "one after the other"


async def test_11_what_changes_comes_or_goes_meanwhile_is_told_as_it_is(stack, managed, pieces):
    faces = [OtherFace() for _ in range(10)]
    for number, face in enumerate(faces):
        stack.edge.export(f"{ROOT}/{number}", face, wing=ROOT)
    answer = await begin(managed, pieces)
    assert told(pieces) == [f"{ROOT}/{number}" for number in range(4)]
    faces[0].mood = faces[9].mood = "better"
    stack.edge.changed(f"{ROOT}/0", OTHER, "Mood")
    stack.edge.unexport(f"{ROOT}/1")
    stack.edge.unexport(f"{ROOT}/8")
    stack.edge.unexport(f"{ROOT}/2")
    anew = OtherFace()
    anew.mood = "new"
    stack.edge.export(f"{ROOT}/2", anew, wing=ROOT)
    stack.edge.export(f"{ROOT}/10", OtherFace(), wing=ROOT)
    stack.edge.export("/org/elsewhere", OtherFace(), wing=ROOT)
    moods = {path: faces[OTHER]["Mood"].value for path, faces in decoded(await answer).items()}
    assert moods == {
        f"{ROOT}/0": "better",
        f"{ROOT}/2": "new",
        **{f"{ROOT}/{number}": "good" for number in (3, 4, 5, 6, 7, 10)},
        f"{ROOT}/9": "better",
    }
    assert stack.tree._notes == []


async def test_11_a_change_that_is_not_told_yet_need_not_be_looked_at_again(
    stack, managed, pieces, monkeypatch
):
    """Its signal comes after the answer."""
    for number in range(8):
        stack.edge.export(f"{ROOT}/{number}", OtherFace(), wing=ROOT)
    answer = await begin(managed, pieces)
    monkeypatch.setattr(stack.edge, "_news", type("Later", (), {"changed": lambda *_: None}))
    stack.edge.changed(f"{ROOT}/0", OTHER, "Mood")
    await answer
    assert len(told(pieces)) == 8


async def test_13_while_polkit_is_asked_for_one_others_have_their_answer(
    bus, stack, manager, polkit
):
    stack.toy(f"{ROOT}/a")
    polkit.rules |= {"org.toy.read": "hang"}
    waiting = bus.call(ALICE, ROOT, MANAGER, "GetManagedObjects")
    question = await bus.asked("CheckAuthorization")
    polkit.rules |= {"org.toy.read": "no"}
    other = await stack.call(BOB, "GetManagedObjects", interface=MANAGER)
    assert "Secret" not in other.values[0][f"{ROOT}/a"][TOY]
    assert bus.answer_now(waiting) is None
    polkit.decide(question, "yes")
    assert "Secret" in (await bus.answer_to(waiting)).values[0][f"{ROOT}/a"][TOY]


async def test_32_a_long_answer_is_bounded_and_who_wants_none_gets_none(
    bus, stack, manager, monkeypatch
):
    for number in range(20):
        stack.toy(f"{ROOT}/{number}")
    ask = {"interface": MANAGER}
    size = len((await stack.call(ALICE, "GetManagedObjects", **ask)).body)
    quiet = bus.call(ALICE, ROOT, MANAGER, "GetManagedObjects", flags=Flag.NO_REPLY_EXPECTED)
    monkeypatch.setattr(dispatch, "MAX_REPLY", size)
    assert (await stack.call(ALICE, "GetManagedObjects", **ask)).error == ""
    assert bus.answer_now(quiet) is None
    monkeypatch.setattr(dispatch, "MAX_REPLY", size - 1)
    monkeypatch.setattr(dispatch, "LARGE_REPLY", 0)
    answer = await stack.call(ALICE, "GetManagedObjects", **ask)
    assert answer.error == ERROR + "LimitsExceeded"
