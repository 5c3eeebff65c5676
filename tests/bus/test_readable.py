"""Tests of buswork.bus.readable; more through GetAll and GetManagedObjects."""

import pytest
from support.toyface import ALICE, ALICE_UID, ROOT, ToyFace

from buswork.bus.caller import Call
from buswork.bus.objects import bind
from buswork.bus.readable import Readable

OPEN = {"Public", "Constant", "Silent", "Large", "Dial"}


class Judge:
    def __init__(self, known=(), asked=()):
        self.known, self.yes, self.asked = known, asked, []

    def allowed_until(self, sender, action):
        return 1.0 if action in self.known else 0.0

    async def may(self, sender, uid, action):
        self.asked.append((sender, uid, action))
        return action in self.yes


@pytest.fixture
def toy():
    return bind(ToyFace())


def readable(judge):
    return Readable(Call(ALICE, ALICE_UID, 0, ROOT), judge)


def names(found, bound):
    return {property_.name for property_ in found.of(ROOT, bound)}


async def test_19_nothing_is_readable_before_what_is_unknown_was_asked_for(toy):
    judge = Judge()
    found = readable(judge)
    assert not found.knows_of(ROOT, [toy])
    assert names(found, toy) == set()
    assert found.unknown == {"org.toy.read"}
    assert await found.asked_then(lambda: names(found, toy)) == OPEN | {"Theirs"}
    assert names(found, toy) == OPEN | {"Theirs"}
    assert judge.asked == [(ALICE, ALICE_UID, "org.toy.read")]


@pytest.mark.parametrize("judge", [Judge(known=["org.toy.read"]), Judge(asked=["org.toy.read"])])
async def test_what_is_allowed_is_readable(toy, judge):
    found = readable(judge)
    assert found.knows_of(ROOT, [toy]) is bool(judge.known)
    await found.ask()
    assert names(found, toy) == OPEN | {"Theirs", "Secret"}


async def test_19_what_is_another_users_has_an_action_of_its_own(toy):
    found = readable(Judge(known=["org.toy.read"]))
    assert "Theirs" in names(found, toy)
    toy.face.owner = 77
    assert not found.knows_of(ROOT, [toy])
    await found.ask()
    assert names(found, toy) == OPEN | {"Secret"}
    toy.face.owner = ALICE_UID
    assert "Theirs" in names(found, toy)
