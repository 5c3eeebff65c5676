import pytest

from buswork.appview.model import Added, Changed, Process, Processes, Removed, State


@pytest.fixture
def known():
    known = Processes(most=2)
    known.changes = []
    known.on_change.append(known.changes.append)
    return known


def process(pid=7, started_at=100, **facts):
    return Process(pid, started_at, 1000, 1000, "worker", "worker -v", **facts)


def test_a_new_one(known):
    met = known.meet(process())
    assert known.by_pid == {7: met}
    assert known.changes == [Added(met)]
    assert not met.is_viewed


def test_the_same_again(known):
    met = known.meet(process())
    assert known.meet(process()) is met
    assert known.changes == [Added(met)]


def test_what_another_look_shows(known):
    met = known.meet(process())
    other = process()
    other.command = "worker -q"
    assert known.meet(other) is met
    assert (met.command, known.changes[1:]) == ("worker -q", [Changed(met, ("command",))])


def test_a_number_that_is_used_again(known):
    met = known.meet(process())
    other = known.meet(process(started_at=200))
    assert known.changes == [Added(met), Removed(met), Added(other)]
    known.learn(met, state=State.ACTIVE)  # heard too late
    known.forget(met)
    assert len(known.changes) == 3
    assert known.by_pid == {7: other}


def test_what_is_learnt(known):
    met = known.meet(process())
    known.learn(met, state=State.ACTIVE, uuid="u")
    known.learn(met, state=State.ACTIVE, uuid="u")
    assert known.changes[1:] == [Changed(met, ("state", "uuid"))]
    assert met.is_viewed


def test_those_that_are_gone(known):
    gone, stays = known.meet(process(1)), known.meet(process(2))
    known.keep_only({(2, 100), (1, 99)})
    assert known.changes[2:] == [Removed(gone)]
    assert known.by_pid == {2: stays}


def test_there_is_an_end_to_them(known):
    for pid in (1, 2, 3):
        known.meet(process(pid))
    assert (sorted(known.by_pid), known.left_out, len(known.changes)) == ([1, 2], {(3, 100)}, 2)
    known.keep_only({(2, 100), (3, 100)})
    known.meet(process(3))
    assert (sorted(known.by_pid), known.left_out) == ([2, 3], set())


def test_one_user_leaves_room_for_others():
    known = Processes(most_per_uid=1)
    first, second = known.meet(process(1)), known.meet(process(2))
    assert sorted(known.by_pid) == [1]
    other = Process(3, 100, 2000, 2000, "worker", "worker")
    known.meet(other)
    assert sorted(known.by_pid) == [1, 3]
    known.learn(other, uid=1000)  # a program with other rights
    known.forget(first)
    known.meet(second)
    assert sorted(known.by_pid) == [3]
    known.forget(other)
    known.learn(other, uid=2000)  # heard too late
    known.meet(second)
    assert sorted(known.by_pid) == [2]


def test_who_is_gone_is_not_left_out():
    known = Processes(most=0)
    known.meet(process(1))
    known.keep_only(set())
    assert known.left_out == set()
