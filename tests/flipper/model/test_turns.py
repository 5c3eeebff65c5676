"""Tests of buswork.flipper.model.turns."""

from itertools import pairwise

import pytest
from flipper.model.bench import Bench, Carbon, Told, filled, run_job, turnless
from hypothesis import given
from hypothesis import strategies as st

from buswork.errors import Busy, LimitsExceeded
from buswork.flipper.errors import Claimed, Disconnected, NotClaimed
from buswork.flipper.model import boards, calls
from buswork.flipper.model.turns import Limits
from buswork.flipper.model.work import Job, single
from buswork.flipper.wire.plans import ALIVE, BridgeError

STEPS = 3


def job(bench, steps=1):
    """So many turns; the bytes that went through."""
    return calls.push(bench.board, "spi", "push", bytes(128 * steps))


def light(bench):
    return calls.invoke(bench.board, "led", "rgb", [1, 2, 3])


def keep_asking(bench, owner, uid):
    """A caller that asks for one thing at a time, again and again."""

    def done(result, error):
        assert error is None
        bench.turns.ask(owner, uid, light(bench), done)

    bench.turns.ask(owner, uid, light(bench), done)


# -- whose turn it is ----------------------------------------------------------------------------


@pytest.mark.parametrize("of_one_user", [True, False])
def test_of_ten_that_ask_each_has_a_tenth(of_one_user):
    bench = Bench()
    for owner in range(10):
        keep_asking(bench, owner, 1000 if of_one_user else owner)
    bench.run(1000)
    assert bench.shares() == dict.fromkeys(range(10), 100)
    # And nobody waits longer than for all the others.
    for owner in range(10):
        places = [place for place, ran in enumerate(bench.ran) if ran == owner]
        assert {later - place for place, later in pairwise(places)} == {10}


def test_who_asks_for_much_takes_nothing_from_others():
    bench = Bench()
    much = bench.ask("much", job(bench, 50))
    for _ in range(20):
        bench.ask("much", light(bench))
    bench.run(2)
    little = bench.ask("little", light(bench))
    bench.run(2)
    assert little.is_told
    assert not much.is_told
    bench.run()
    assert much.result == 50 * 128


def test_who_has_many_connections_has_the_turns_of_one_user():
    bench = Bench()
    for owner in range(9):
        keep_asking(bench, owner, 1000)
    keep_asking(bench, "another", 1001)
    bench.run(180)
    shares = bench.shares()
    assert shares["another"] == 90
    assert {shares[owner] for owner in range(9)} == {10}


def test_an_owners_jobs_are_done_in_their_order():
    bench = Bench()
    told = []
    for number, make in enumerate((job, light, job)):
        bench.turns.ask("one", 1, make(bench), lambda *_, number=number: told.append(number))
        bench.turns.ask("one", 1, turnless(None), lambda *_, number=number: told.append(-number))
    bench.ask("two", job(bench, 5), uid=2)
    bench.run()
    assert told == [0, 0, 1, -1, 2, -2]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=20))
def test_whatever_is_asked_each_is_told_once_and_in_order(asked):
    bench = Bench()
    told = []
    for number, (owner, steps) in enumerate(asked):
        wanted = job(bench, steps)

        def done(result, error, place=(owner, number), length=steps * 128):
            assert (result, error) == (length, None)
            told.append(place)

        bench.turns.ask(owner, owner % 2, wanted, done)
    bench.run()
    assert not bench.turns.has_work
    assert bench.turns.waiting() == []
    assert len(told) == len(asked)
    for owner in range(4):
        mine = [number for its, number in told if its == owner]
        assert mine == sorted(mine)


def test_one_turn_runs_at_a_time():
    bench = Bench()
    bench.ask("one", light(bench))
    bench.ask("two", light(bench))
    bench.begin()
    with pytest.raises(AssertionError, match="one turn at a time"):
        bench.begin()


def test_there_is_work_until_the_last_turn_has_run():
    bench = Bench()
    assert not bench.turns.has_work
    assert bench.begin() is None
    bench.ask("one", light(bench))
    assert bench.turns.has_work
    asked = bench.begin()
    assert bench.turns.has_work
    bench.finish(asked)
    assert not bench.turns.has_work


def test_the_line_is_told_of_work():
    bench = Bench()
    woken = []
    bench.turns.on_work = lambda: woken.append(bench.turns.has_work)
    bench.ask("one", turnless(None))
    assert woken == []
    bench.ask("one", light(bench))
    bench.ask("two", light(bench))
    assert woken == [True, True]


def test_what_needs_no_turn_is_told_at_once_unless_others_are_before_it():
    bench = Bench()
    assert bench.ask("one", turnless("now")).result == "now"
    bench.ask("one", light(bench))
    later = bench.ask("one", turnless("later"))
    assert not later.is_told
    bench.run()
    assert later.result == "later"


def test_a_thousand_jobs_without_turns_are_no_burden():
    bench = Bench(limits=boards.Limits(waiting=Limits(jobs=5000, jobs_per_uid=5000)))
    bench.ask("one", light(bench))
    told = [bench.ask("one", turnless(number)) for number in range(3000)]
    bench.run()
    assert [each.result for each in told] == [*range(3000)]


def test_who_is_told_may_ask_at_once():
    bench = Bench()
    order = []

    def done(result, error):
        order.append("first")
        bench.turns.ask("one", 1, turnless(None), lambda *_: order.append("third"))

    bench.turns.ask("one", 1, light(bench), done)
    bench.turns.ask("one", 1, turnless(None), lambda *_: order.append("second"))
    bench.run()
    assert order == ["first", "second", "third"]


# -- what fails ----------------------------------------------------------------------------------


def test_an_error_of_a_turn_is_the_jobs():
    bench = Bench()
    bench.line.bridge.late = 1 + 3  # one is drained
    told = bench.ask("one", job(bench))
    after = bench.ask("one", job(bench))
    bench.run()
    assert isinstance(told.error, BridgeError)
    assert after.result == 128


def test_a_defect_in_a_job_is_told_and_stops_nobody():
    def broken():
        yield single(ALIVE)
        raise ZeroDivisionError

    def broken_at_once():
        raise ZeroDivisionError
        yield single(ALIVE)

    bench = Bench()
    told = [bench.ask("one", Job(turns())) for turns in (broken, broken_at_once)]
    last = bench.ask("one", light(bench))
    bench.run()
    assert [type(each.error) for each in told] == [ZeroDivisionError] * 2
    assert last.result is None


def test_a_line_that_can_not_be_opened_fails_all():
    bench = Bench()
    error = Busy("another program has it")
    told = [bench.ask(owner, job(bench, 2)) for owner in ("one", "one", "two")]
    running = bench.begin()
    bench.turns.fail(error, bench.now)
    assert [each.error for each in told] == [error] * 3
    assert not bench.turns.has_work
    # Its turn comes to its end all the same.
    bench.finish(running)
    assert [len(each.results) for each in told] == [1, 1, 1]
    again = bench.ask("one", light(bench))
    bench.run()
    assert again.result is None


def test_who_is_told_of_a_failure_may_try_again():
    bench = Bench()
    again = []

    def done(result, error):
        again.append(bench.ask("one", light(bench)))

    bench.turns.ask("one", 1, light(bench), done)
    bench.turns.ask("one", 1, light(bench), done)
    bench.turns.fail(Busy(""), bench.now)
    bench.run()
    assert [each.result for each in again] == [None, None]


@pytest.mark.attack(35)
def test_a_board_that_went_ends_everything_at_once():
    bench = Bench()
    told = [bench.ask(owner, job(bench, 2)) for owner in ("one", "one", "two")]
    running = bench.begin()
    claim = bench.claim("one")
    bench.turns.close("carbon was unplugged")
    for each in (*told, claim):
        assert isinstance(each.error, Disconnected)
    bench.finish(running)
    assert [len(each.results) for each in told] == [1, 1, 1]
    with pytest.raises(Disconnected, match="carbon was unplugged"):
        bench.ask("three", light(bench))
    with pytest.raises(Disconnected):
        bench.claim("three")
    assert bench.begin() is None


# -- who does not wait any more ------------------------------------------------------------------


@pytest.mark.parametrize("turns", range(STEPS))
@pytest.mark.parametrize("running", [False, True])
def test_a_job_can_be_cancelled_at_every_step(turns, running):
    bench = Bench()
    told = bench.ask("one", job(bench, STEPS), uid=1)
    behind = bench.ask("one", light(bench), uid=1)
    other = bench.ask("two", job(bench, STEPS), uid=2)
    bench.run(2 * turns)
    asked = bench.begin() if running else None
    assert asked is (told.asked if running else None)
    bench.turns.cancel(told.asked, bench.now)
    if asked is not None:
        # What has begun is not broken off: the answer is taken from the line.
        bench.finish(asked)
    steps = len(bench.line.s4)
    bench.run()
    assert told.results == []
    assert len(bench.line.s4) == steps + STEPS - turns
    assert other.result == 128 * STEPS
    assert behind.is_told
    assert bench.turns.waiting() == []
    assert bench.line.bridge.said == b""


def test_who_waits_behind_a_cancelled_job_waits_for_its_turn():
    bench = Bench()
    told = bench.ask("one", job(bench, 3))
    behind = bench.ask("one", turnless("behind"))
    asked = bench.begin()
    bench.turns.cancel(told.asked, bench.now)
    assert not behind.is_told
    bench.finish(asked)
    assert behind.result == "behind"


def test_a_cancelled_job_is_not_told_of_a_failing_board_either():
    for end in (lambda turns: turns.close("gone"), lambda turns: turns.fail(Busy(""), 0)):
        bench = Bench()
        told = bench.ask("one", job(bench, 3))
        bench.begin()
        bench.turns.cancel(told.asked, bench.now)
        end(bench.turns)
        assert told.results == []


def test_what_is_done_can_be_cancelled_without_harm():
    bench = Bench()
    told = bench.ask("one", light(bench))
    bench.run()
    bench.turns.cancel(told.asked, bench.now)
    bench.turns.cancel(told.asked, bench.now)
    assert told.result is None


def test_a_job_that_is_cancelled_is_closed():
    closed = []

    def turns():
        try:
            yield single(ALIVE)
        finally:
            closed.append(True)

    bench = Bench()
    told = bench.ask("one", Job(turns()))
    bench.turns.cancel(told.asked, bench.now)
    assert closed == [True]


# -- how much waits ------------------------------------------------------------------------------


def limited(**limits):
    return Bench(limits=boards.Limits(waiting=Limits(**limits)))


def test_only_so_many_jobs_wait():
    bench = limited(jobs=3, jobs_per_uid=2)
    bench.ask("one", light(bench), uid=1)
    bench.ask("two", light(bench), uid=1)
    with pytest.raises(LimitsExceeded, match="2 calls wait for this board, 2 of them yours"):
        bench.ask("three", light(bench), uid=1)
    with pytest.raises(LimitsExceeded):
        bench.claim("one", uid=1)
    assert bench.turns.holder is None
    bench.ask("four", light(bench), uid=2)
    with pytest.raises(LimitsExceeded, match="3 calls wait for this board, 0 of them yours"):
        bench.ask("five", light(bench), uid=3)
    bench.run(1)
    bench.ask("five", light(bench), uid=3)
    bench.run()
    assert bench.shares() == {"one": 1, "two": 1, "four": 1, "five": 1}


def test_only_so_much_data_waits():
    bench = limited(job_bytes=1000, job_bytes_per_uid=600)
    first = bench.ask("one", calls.push(bench.board, "spi", "push", bytes(600)), uid=1)
    with pytest.raises(LimitsExceeded, match="Too much data waits"):
        bench.ask("two", calls.pull(bench.board, "spi", "pull", 1), uid=1)
    with pytest.raises(LimitsExceeded, match="Too much data waits"):
        bench.ask("two", calls.pull(bench.board, "spi", "pull", 401), uid=2)
    bench.ask("two", calls.pull(bench.board, "spi", "pull", 400), uid=2)
    bench.turns.cancel(first.asked, bench.now)
    bench.ask("two", calls.pull(bench.board, "spi", "pull", 600), uid=1)


def test_what_is_over_leaves_room_for_data():
    bench = limited(job_bytes_per_uid=600)
    bench.ask("other", calls.push(bench.board, "spi", "push", bytes(100)))
    for _ in range(3):
        told = bench.ask("one", calls.push(bench.board, "spi", "push", bytes(500)))
        bench.turns.cancel(told.asked, bench.now)


def test_users_that_are_gone_are_forgotten():
    bench = Bench()
    for uid in range(100):
        bench.ask(uid, light(bench), uid=uid)
    bench.run()
    assert not bench.turns._room._jobs
    assert not bench.turns._room._bytes


def test_what_is_over_leaves_room():
    bench = limited(jobs_per_uid=1)
    for _ in range(3):
        bench.result(light(bench))
        told = bench.ask("one", light(bench))
        bench.turns.cancel(told.asked, bench.now)
        bench.ask("one", light(bench))
        bench.turns.fail(Busy(""), bench.now)


# -- claims --------------------------------------------------------------------------------------


def test_a_claim_is_granted_at_once_where_nobody_waits():
    bench = Bench()
    bench.now = 100.0
    claim = bench.claim("one").result
    assert (claim.owner, claim.expires) == ("one", 160.0)
    assert bench.turns.holder is claim
    assert bench.board.claim is claim


def test_a_claim_is_granted_after_what_was_asked_before():
    bench = Bench()
    before = [bench.ask(owner, job(bench, 2)) for owner in ("one", "two", "three")]
    told = bench.claim("one")
    after = bench.ask("one", light(bench))
    for done in range(6):
        assert not told.is_told, done
        assert bench.board.claim is None
        bench.now += 1
        bench.run(1)
    assert [each.result for each in before] == [256] * 3
    # The lease begins now.
    assert told.result.expires == 6.0 + 60
    assert not after.is_told
    bench.run()
    assert after.result is None


def test_an_owners_claim_comes_after_its_own_jobs():
    bench = Bench()
    before = bench.ask("one", job(bench, 2))
    told = bench.claim("one")
    for _ in range(2):
        assert (told.is_told, before.is_told) == (False, False)
        bench.run(1)
    assert (told.is_told, before.is_told) == (True, True)


def test_meanwhile_and_then_others_may_ask_for_nothing():
    bench = Bench()
    bench.ask("two", light(bench))
    told = bench.claim("one", reason="flashing")
    for _ in range(2):
        with pytest.raises(Claimed, match=r"claimed the board: flashing$"):
            bench.ask("two", light(bench))
        with pytest.raises(Claimed, match="flashing"):
            bench.claim("two")
        with pytest.raises(Claimed, match="You have claimed the board already"):
            bench.claim("one")
        bench.run()
    assert told.is_told
    bench.boards.release(told.result.token, "one")
    assert bench.ask("two", turnless(1)).result == 1


def test_a_claim_that_waits_can_be_cancelled():
    bench = Bench()
    bench.ask("two", light(bench))
    told = bench.claim("one")
    bench.turns.cancel(told.asked, bench.now)
    bench.ask("two", light(bench))
    bench.run()
    assert told.results == []
    assert bench.board.claim is None


def test_with_a_claim_that_waits_goes_what_needs_it():
    bench = Bench()
    bench.ask("two", light(bench))
    claim = bench.claim("one")
    told = bench.ask("one", reserved(bench))
    bench.turns.cancel(claim.asked, bench.now)
    assert isinstance(told.error, NotClaimed)
    bench.run()
    assert bench.ran == ["two"]


@pytest.mark.parametrize("how", ["cancel", "fail"])
def test_a_claim_is_granted_when_the_others_are_gone(how):
    bench = Bench()
    other = bench.ask("two", light(bench))
    told = bench.claim("one")
    bench.now = 5.0
    if how == "cancel":
        bench.turns.cancel(other.asked, bench.now)
    else:
        bench.turns.fail(Busy(""), bench.now)
    assert told.result.expires == 65.0


def test_a_claim_waits_for_a_turn_that_nobody_waits_for():
    bench = Bench()
    other = bench.ask("two", job(bench, 2))
    told = bench.claim("one")
    asked = bench.begin()
    bench.turns.cancel(other.asked, bench.now)
    assert not told.is_told
    bench.finish(asked)
    assert told.is_told


def test_who_is_told_of_its_claim_may_use_it():
    bench = Bench()
    used = Told()

    def done(claim, error):
        bench.turns.ask("one", 1, calls.pull(bench.board, "uart0", "pull", 1), used)

    bench.ask("two", light(bench))
    claim = bench.claim("one")
    claim.asked.on_done = done
    bench.line = filled
    bench.run()
    assert used.result == b"\0"


def reserved(bench):
    return calls.invoke(bench.board, "u2.gpio", "write", [0, 0x40])


@pytest.mark.parametrize("how", ["release", "expire"])
def test_what_needs_the_claim_ends_with_it(how):
    bench = Bench()
    token = bench.claim("one").result.token
    first, second = bench.ask("one", reserved(bench)), bench.ask("one", reserved(bench))
    plain = bench.ask("one", light(bench))
    asked = bench.begin()
    if how == "release":
        bench.boards.release(token, "one")
    else:
        bench.boards.expire(60.0)
    assert not first.is_told
    assert isinstance(second.error, NotClaimed)
    bench.finish(asked)
    assert isinstance(first.error, NotClaimed)
    bench.run()
    assert plain.result is None
    assert len(bench.line.u2) == 2


def test_a_claim_alone_gives_no_right_to_disturb():
    bench = Bench()
    bench.claim("one", service=False)
    with pytest.raises(NotClaimed, match="claim the board for service"):
        bench.ask("one", reserved(bench))
    assert bench.line.steps == 0


def test_what_needs_a_claim_may_be_asked_for_with_it():
    bench = Bench()
    with pytest.raises(NotClaimed, match="claim the board for service"):
        bench.ask("one", reserved(bench))
    bench.ask("two", light(bench))
    bench.claim("one")
    told = bench.ask("one", reserved(bench))
    bench.run()
    assert told.result is None
    with pytest.raises(Claimed):
        bench.ask("two", reserved(bench))


def test_a_claim_makes_one_of_many_turns():
    bench = Bench()
    bench.claim("one")
    told = bench.ask("one", job(bench, 3))
    with pytest.raises(Claimed):
        bench.ask("two", light(bench))
    bench.run()
    assert bench.ran == ["one"] * 3
    assert told.result == 384


# -- the line ------------------------------------------------------------------------------------


def test_jobs_run_without_turns_of_others_in_between_as_well():
    """The bench itself: a job that runs alone does what it does in turns."""
    bench, line = Bench(), Carbon()
    assert run_job(job(bench, 4), line) == 512
    assert len(line.s4) == 4
