import errno
import os
from contextlib import ExitStack
from dataclasses import replace

import pytest
from appview.people import descriptors, queues_of

from buswork.appview import errors
from buswork.appview.native import mqueue, pairs
from buswork.appview.native.namespaces import own_namespace
from buswork.appview.native.pairs import (
    ANSWER_MODE,
    ASK_MODE,
    InUse,
    Pair,
    remove_orphans,
)
from buswork.appview.native.target import Target
from buswork.errors import AccessDenied, LimitsExceeded

# A service that starts, as those of other files do, removes such queues as well.
pytestmark = pytest.mark.processes

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be several users")
OTHER = 65534
ENDS = [("ask_name", ASK_MODE), ("answer_name", ANSWER_MODE)]
# Of no process: such numbers are not given out.
NUMBER = 2_000_000_000


@pytest.fixture
def target():
    return Target(NUMBER, NUMBER, os.geteuid(), os.getegid(), -1, -1, -1, own_namespace())


@pytest.fixture
def pair(target):
    pair = Pair(target, 2)
    yield pair
    pair.remove()
    assert queues_of(NUMBER) == []


@pytest.fixture
def made():
    """Makes queues that are there already."""
    with ExitStack() as end:

        def make(name, mode, uid=None):
            queue = mqueue.create(name, os.O_RDWR, 2, 100)
            end.callback(queue.close)
            end.callback(lambda: queues_of(NUMBER) and mqueue.unlink(name))
            os.fchmod(queue.fileno(), mode)
            if uid is not None:
                os.fchown(queue.fileno(), uid, uid)
            return queue

        yield make


@pytest.mark.parametrize(("name", "mode"), ENDS)
@pytest.mark.parametrize("is_finished", [True, False])
def test_what_a_killed_daemon_left_goes(pair, made, name, mode, is_finished):
    made(getattr(pair.target, name), mode if is_finished else 0o600).send(b"stale")
    pair.open()
    assert mqueue.attributes(pair.answer.fileno()).waiting == 0
    assert mqueue.attributes(pair.ask.fileno()).waiting == 0


@pytest.mark.parametrize(("name", "mode"), ENDS)
def test_the_queues_of_others_stay(pair, made, name, mode):
    queue = made(getattr(pair.target, name), 0o666)  # as the original command makes them
    with pytest.raises(errors.QueueTaken, match=f"uid {os.geteuid()} "):
        pair.open()
    pair.remove()
    assert os.fstat(queue.fileno()).st_nlink == 1
    mqueue.unlink(getattr(pair.target, name))


@ROOT
@pytest.mark.parametrize("mode", [0o600, 0o666, ASK_MODE, ANSWER_MODE])
@pytest.mark.parametrize("name", ["ask_name", "answer_name"])
def test_a_squatter_gets_nothing(pair, made, name, mode):
    queue = made(getattr(pair.target, name), mode, OTHER)
    with pytest.raises(errors.QueueTaken, match=f"uid {OTHER}"):
        pair.open()
    pair.remove()
    assert os.fstat(queue.fileno()).st_nlink == 1
    mqueue.unlink(getattr(pair.target, name))


@ROOT
def test_what_is_not_finished_is_never_of_the_processs_user(target, made):
    queue = made(target.ask_name, 0o600, OTHER)
    pair = Pair(replace(target, uid=OTHER, gid=OTHER), 2)
    with pytest.raises(errors.QueueTaken, match=f"uid {OTHER}"):
        pair.open()
    pair.remove()
    assert os.fstat(queue.fileno()).st_nlink == 1
    mqueue.unlink(target.ask_name)


@ROOT
def test_a_squatter_whose_queue_may_not_be_opened(pair, made, monkeypatch):
    made(pair.target.answer_name, 0o600, OTHER)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(mqueue, "open_queue", refuse)
    with pytest.raises(errors.QueueTaken, match=f"uid {OTHER}"):
        pair.open()
    monkeypatch.undo()
    mqueue.unlink(pair.target.answer_name)


@pytest.mark.parametrize("name", ["ask_name", "answer_name"])
def test_what_has_the_name_by_now_is_left_alone(pair, made, name):
    """Ours belong to the user of the process, who may remove them."""
    pair.open()
    mqueue.unlink(getattr(pair.target, name))
    theirs = made(getattr(pair.target, name), 0o666)
    pair.remove()
    assert os.fstat(theirs.fileno()).st_nlink == 1
    mqueue.unlink(getattr(pair.target, name))


def test_what_goes_meanwhile_is_not_in_the_way(pair, made, monkeypatch):
    made(pair.target.answer_name, 0o666)

    def look(name, mode):
        mqueue.unlink(name)
        raise FileNotFoundError(2, "it went", name)

    monkeypatch.setattr(pairs, "_looked_at", look)
    pair.open()


def test_what_another_service_has_is_in_use(pair):
    other = Pair(pair.target, 2)
    other.open()
    with pytest.raises(InUse, match="another service"):
        pair.open()
    other.remove()
    pair.open()


@pytest.mark.parametrize(
    ("name", "flags"), [("ask_name", os.O_WRONLY), ("answer_name", os.O_RDONLY)]
)
def test_a_look_takes_no_lock(pair, monkeypatch, name, flags):
    """Of several services, one may look just when another has made its queue."""
    real, looks = os.fchmod, []

    def chmod(fd, mode):
        real(fd, mode)
        looks.append(pairs._looked_at(pair.target.answer_name, ANSWER_MODE)[1])

    monkeypatch.setattr(pairs.os, "fchmod", chmod)
    name = getattr(pair.target, name)
    lookers = [mqueue.create(name, flags, 2, 100), mqueue.open_queue(name, flags)]
    assert not any(map(pairs._is_locked, lookers))
    for each in lookers:
        each.close()
    mqueue.unlink(name)
    pair.open()
    assert looks == [True, True]
    with pytest.raises(InUse):
        Pair(pair.target, 2).open()


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.EACCES, AccessDenied),
        (errno.EMFILE, LimitsExceeded),
        (errno.ENOSPC, LimitsExceeded),
        (errno.EOVERFLOW, errors.Unsupported),
        (errno.EEXIST, errors.QueueTaken),
        (errno.EINVAL, errors.NotAnswering),
    ],
)
def test_what_goes_wrong_has_its_name(target, number, error):
    found = pairs.named(OSError(number, os.strerror(number)), target)
    assert type(found) is error
    assert f"process {NUMBER}" in str(found)


def test_what_fails_half_way_leaves_nothing(pair, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    before = descriptors()
    monkeypatch.setattr(pairs.os, "fchmod", refuse)
    with pytest.raises(errors.BusworkError, match="can't be made"):
        pair.open()
    pair.remove()
    assert (descriptors(), queues_of(NUMBER)) == (before, [])


@pytest.fixture
def orphans(monkeypatch):
    """Removes them, but for those of other services on this machine."""
    real = mqueue.all_queues

    def ours():
        return {name: each for name, each in real().items() if str(NUMBER) in name}

    monkeypatch.setattr(mqueue, "all_queues", ours)
    return remove_orphans


@ROOT
@pytest.mark.parametrize("is_finished", [True, False])
def test_what_was_left_for_processes_that_are_gone_goes(orphans, target, made, is_finished):
    for name, mode in ENDS:
        made(getattr(target, name), *((mode, OTHER) if is_finished else (0o600,)))
    assert orphans(lambda: {NUMBER}) == 0
    assert orphans(set) == 2
    assert queues_of(NUMBER) == []


@ROOT
def test_one_that_goes_meanwhile_does_not_keep_the_other(orphans, target, made, monkeypatch):
    for name, mode in ENDS:
        made(getattr(target, name), mode)
    real = mqueue.unlink

    def unlink(name):
        monkeypatch.setattr(mqueue, "unlink", real)
        real(name)
        real(name)

    monkeypatch.setattr(mqueue, "unlink", unlink)
    assert orphans(set) == 1
    assert queues_of(NUMBER) == []


@ROOT
@pytest.mark.parametrize(
    ("name", "mode", "uid"),
    [
        (f"AppViewIPCIn.{NUMBER}", 0o666, None),
        (f"AppViewIPCIn.{NUMBER}", ANSWER_MODE, None),
        (f"AppViewIPCIn.{NUMBER}", 0o600, OTHER),
        (f"AppViewIPCOut.{NUMBER}", ASK_MODE, OTHER),
        (f"AppViewIPCIn.0{NUMBER}", ASK_MODE, None),
        (f"AppViewIPCIn.{NUMBER}x", ASK_MODE, None),
        (f"buswork-test.{NUMBER}", ASK_MODE, None),
    ],
)
def test_nothing_else_goes(orphans, made, name, mode, uid):
    queue = made(name, mode, uid)
    assert orphans(set) == 0
    assert os.fstat(queue.fileno()).st_nlink == 1
    mqueue.unlink(name)


def test_without_the_right_to_list_queues_nothing_goes(monkeypatch):
    def refuse():
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(mqueue, "all_queues", refuse)
    assert remove_orphans(set) == 0
