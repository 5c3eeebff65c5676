from uuid import UUID

import pytest
from support.rpc import UID
from support.rpc_clients import (
    DEVICE,
    VERSION,
    a_client,
    a_house,
    nobody,
    their_player,
    until,
)

from buswork.authority import Limits
from buswork.fsct.native.calls import MANAGE, OBSERVE, REGISTER, ROUTE
from buswork.fsct.wire.methods import METHODS
from buswork.fsct.wire.terms import Status

TIMELINE = {"position_ms": 1, "update_unix_ms": 2, "duration_ms": 3, "rate": 1.0}


OWN = {
    "register_player": (("x",), REGISTER, REGISTER),
    "unregister_player": ((1,), REGISTER, MANAGE),
    "assign_player_to_device": ((1, DEVICE.bytes), ROUTE, MANAGE),
    "unassign_player_from_device": ((1, DEVICE.bytes), ROUTE, MANAGE),
    "update_player_state": ((1, {"status": 1}), REGISTER, MANAGE),
    "update_player_status": ((1, 1), REGISTER, MANAGE),
    "update_player_timeline": ((1, TIMELINE), REGISTER, MANAGE),
    "update_player_metadata": ((1, 1, "x"), REGISTER, MANAGE),
    "set_preferred_player": ((1,), ROUTE, MANAGE),
    "get_player_assigned_device": ((1,), OBSERVE, OBSERVE),
    "get_preferred_player": ((), OBSERVE, OBSERVE),
    "get_protocol_version": ((), None, None),
}
assert {*OWN} == {*METHODS}


def facts(house):
    """All that a client could have changed."""
    driver = house.driver
    players = [
        (p.id, p.self_id, p.status, p.timeline, p.texts, p.device) for p in driver.players.values()
    ]
    return players, driver.preferred


@pytest.mark.attack(18)
@pytest.mark.parametrize("whose", ["own", "others"])
@pytest.mark.parametrize("method", OWN)
async def test_what_is_asked_of_polkit(house, client, method, whose):
    params, own, others = OWN[method]
    player = house.register("p", UID if whose == "own" else UID + 1, "somebody")
    assert player.id == 1
    house.driver.assign(1, str(DEVICE if method.startswith("unassign") else UUID(int=1)))
    before = facts(house)
    expected = own if whose == "own" else others
    house.polkit.denied = {OBSERVE, REGISTER, ROUTE, MANAGE}
    answer = await client.call(method, *params)
    assert house.polkit.asked == ([expected] if expected else [])
    if expected is None:
        assert answer == VERSION
        return
    assert answer == f"polkit does not allow action {expected} to uid {UID}"
    assert facts(house) == before
    house.polkit.denied -= {expected}
    await client.call(method, *params)
    assert house.polkit.asked == [expected, expected]
    assert (facts(house) != before) == (not method.startswith("get_"))


async def test_a_yes_is_remembered_for_a_while(house, client):
    for _ in range(5):
        await client.call("register_player", "p")
    assert house.polkit.asked == [REGISTER]


async def test_a_yes_for_this_once_is_a_yes(house, client):
    house.polkit.temporary = True
    assert [await client.call("register_player", "p") for _ in range(3)] == [1, 2, 3]
    assert house.polkit.asked == [REGISTER] * 3


async def test_own_players_of_another_connection_are_ones_own(house, client):
    async with a_client(house) as other:
        assert await other.call("register_player", "p") == 1
        assert await client.call("update_player_status", 1, 2) is None
        assert house.driver.player(1).status is Status.PAUSED
    await until(lambda: not house.driver.players)
    assert await client.call("update_player_status", 1, 2) == "Player not found"


async def test_what_is_about_no_player_needs_no_more_than_ones_own(house, client):
    their_player(house)
    await client.call("set_preferred_player", None)
    await client.call("update_player_status", 99, 1)
    assert house.polkit.asked == [ROUTE, REGISTER]


async def test_methods_that_are_none_are_not_asked_about(house, client):
    assert await client.call("frobnicate") == "unknown method: frobnicate"
    assert await client.call("register_player", 5) == "invalid param: self_id must be string"
    assert house.polkit.asked == []


async def test_a_player_that_changes_hands_while_polkit_thinks_needs_the_other_right(house, client):
    """Its id is of nobody at first, then of somebody else: the yes was not for that."""
    house.polkit.may_answer.clear()
    house.polkit.denied = {MANAGE}
    client.ask("update_player_status", 1, 1)
    await house.polkit.was_asked.wait()
    player = their_player(house)
    house.polkit.may_answer.set()
    assert "does not allow" in (await client.answer())[2]
    assert house.polkit.asked == [REGISTER, MANAGE]
    assert player.status is Status.UNKNOWN


async def test_a_text_of_a_player_that_is_not_there(client):
    assert await client.call("update_player_metadata", 9, 1, "x") == "Player not found"
    assert await client.call("unregister_player", 9) == "unregister_player error"


async def test_a_uid_has_so_many_players(tmp_path):
    async with a_house(tmp_path, limits=Limits(objects=2)) as house, a_client(house) as client:
        assert [await client.call("register_player", "") for _ in range(2)] == [1, 2]
        assert "2 objects" in await client.call("register_player", "")
        await client.call("unregister_player", 1)
        assert await client.call("register_player", "") == 3
        client.close()
        await nobody(house)
