"""Tests of buswork.flipper.model.claims."""

import pytest
from flipper.model.bench import Bench

from buswork.errors import InvalidArgs
from buswork.flipper.errors import Claimed, NotOwner
from buswork.flipper.model import calls
from buswork.flipper.model.claims import Claim, Claims


def claim(key="usb:1-2", owner="one", lease=60, token="token", reason="a test"):
    return Claim(key, owner, 1000, reason, lease, token)


def granted(*given, now=0.0):
    changed = []
    claims = Claims(changed.append)
    for each in given:
        claims.grant(each, now)
    changed.clear()
    return claims, changed


@pytest.mark.parametrize("lease", [0, -1, 3601, 2**32])
def test_leases_have_their_range(lease):
    with pytest.raises(InvalidArgs, match="1 to 3600 seconds"):
        claim(lease=lease)


def test_a_reason_is_for_people():
    assert claim(reason="a\nb\x1b[31m").reason == "a\ufffdb\ufffd[31m"
    assert claim(reason="x" * 1000).reason == "x" * 64
    with pytest.raises(InvalidArgs, match="reason"):
        claim(reason="")


def test_tokens_do_not_show():
    assert "secret" not in repr(claim(token="secret"))


def test_a_claim_is_granted_and_released():
    given = claim()
    claims, changed = granted()
    claims.grant(given, 10.0)
    assert (claims.at("usb:1-2"), given.expires, changed) == (given, 70.0, ["usb:1-2"])
    assert claims.at("usb:1-3") is None
    claims.release("token", "one")
    assert claims.at("usb:1-2") is None
    assert changed == ["usb:1-2"] * 2


@pytest.mark.attack(34)
@pytest.mark.parametrize("act", ["renew", "release", "lend"])
@pytest.mark.parametrize(("token", "owner"), [("token", "two"), ("guess", "one"), ("", "two")])
def test_only_its_owner_does_something_with_a_claim(act, token, owner):
    given = claim()
    claims, changed = granted(given, claim("usb:1-3", "two", token="other"))
    arguments = (token, owner, 50.0) if act == "renew" else (token, owner)
    with pytest.raises(NotOwner):
        getattr(claims, act)(*arguments)
    assert (claims.at("usb:1-2"), given.expires, given.lent, changed) == (given, 60.0, False, [])


def test_a_lease_runs_out_unless_it_is_renewed():
    first, second = claim(lease=10), claim("usb:1-3", lease=20, token="other")
    claims, changed = granted(first, second)
    assert claims.next_expiry() == 10.0
    claims.expire(9.9)
    assert changed == []
    claims.renew("token", "one", 9.0)
    assert claims.next_expiry() == 19.0
    claims.expire(19.0)
    assert (claims.at("usb:1-2"), claims.at("usb:1-3")) == (None, second)
    claims.expire(100.0)
    assert changed == ["usb:1-2", "usb:1-3"]
    assert claims.next_expiry() is None
    with pytest.raises(NotOwner):
        claims.renew("token", "one", 100.0)


def test_who_is_told_finds_all_of_it_done():
    claims = Claims(lambda key: seen.append((claims.at("usb:1-2"), claims.at("usb:1-3"))))
    seen = []
    claims.grant(claim(), 0.0)
    claims.grant(claim("usb:1-3"), 0.0)
    seen.clear()
    claims.expire(100.0)
    assert seen == [(None, None)] * 2


def test_a_board_is_lent_under_a_claim():
    claims, changed = granted(claim())
    claims.lend("token", "one")
    assert claims.at("usb:1-2").lent
    assert changed == ["usb:1-2"]


# -- on a board ----------------------------------------------------------------------------------


def test_a_claim_outlives_the_board():
    bench = Bench()
    token = bench.claim("one", reason="flashing").result.token
    before = bench.board
    bench.replug()
    assert bench.board is not before
    assert bench.board.claim.token == token
    with pytest.raises(Claimed, match="flashing"):
        bench.ask("two", calls.reset(bench.board))
    assert bench.result(calls.reset(bench.board), "one") is None
    bench.boards.detach(bench.key)
    # Also while there is no board, it can be renewed, and runs out.
    bench.boards.renew(token, "one", 30.0)
    assert bench.boards.next_expiry() == 90.0
    bench.boards.expire(90.0)
    bench.board = bench.boards.attach(bench.key)
    assert bench.board.claim is None
    assert bench.result(calls.reset(bench.board), "two") is None


@pytest.mark.parametrize("is_there", [True, False])
def test_its_owner_releases_it_wherever_the_board_is(is_there):
    bench = Bench()
    token = bench.claim("one").result.token
    if not is_there:
        bench.boards.detach(bench.key)
    bench.boards.release(token, "one")
    if not is_there:
        bench.board = bench.boards.attach(bench.key)
    assert bench.board.claim is None
    assert bench.claim("two").is_told


def test_who_watches_claims_hears_of_them_wherever_the_board_is():
    bench = Bench()
    heard = []
    bench.boards.on_claim.append(lambda *claim: heard.append(claim))
    claim = bench.claim("one").result
    bench.boards.detach(bench.key)
    bench.boards.expire(claim.expires)
    assert heard == [(bench.key, claim), (bench.key, None)]


def test_a_thousand_claims_leave_nothing():
    bench = Bench()
    for number in range(1000):
        token = bench.claim(number).result.token
        bench.boards.release(token, number)
    assert bench.boards.next_expiry() is None
    assert bench.turns.waiting() == []
