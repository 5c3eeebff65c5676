import errno
import os
import resource
from contextlib import suppress

import pytest

from buswork.appview.native import mqueue
from buswork.appview.native.mqueue import Attributes, create, open_queue, unlink

# The queues of all tests are counted against one user.
pytestmark = pytest.mark.processes
# Who has no queues.
NOBODY_ELSE = 54321


@pytest.fixture
def name():
    name = f"buswork-test-{os.getpid()}"
    yield name
    with suppress(FileNotFoundError):
        unlink(name)


@pytest.fixture
def queue(name):
    queue = create(name, os.O_RDWR, 2, 100)
    yield queue
    queue.close()


def test_what_is_sent_is_received(queue):
    queue.send(b"a\0b")
    queue.send(b"")
    assert [queue.receive(), queue.receive()] == [b"a\0b", b""]


def test_a_full_and_an_empty_queue(queue):
    with pytest.raises(BlockingIOError):
        queue.receive()
    queue.send(b"1")
    queue.send(b"2")
    with pytest.raises(BlockingIOError):
        queue.send(b"3")
    assert mqueue.attributes(queue.fileno()) == Attributes(2, 100, 2)


def test_too_long_a_message(queue):
    queue.send(b"x" * 100)
    with pytest.raises(OSError, match="long") as error:
        queue.send(b"x" * 101)
    assert error.value.errno == errno.EMSGSIZE


def test_it_is_for_us_alone_and_closes_on_exec(queue):
    assert os.fstat(queue.fileno()).st_mode & 0o777 == 0o600
    assert not os.get_inheritable(queue.fileno())


def test_only_one_can_make_it(queue, name):
    with pytest.raises(FileExistsError):
        create(name, os.O_RDWR, 2, 100)


def test_another_one_opens_it(queue, name):
    other = open_queue(name, os.O_WRONLY)
    other.send(b"hello")
    assert queue.receive() == b"hello"
    with pytest.raises(OSError, match="descriptor"):
        other.receive()
    other.close()


def test_what_is_not_there(name):
    with pytest.raises(FileNotFoundError) as error:
        open_queue(name, os.O_RDONLY)
    assert error.value.filename == name
    with pytest.raises(FileNotFoundError):
        unlink(name)


@pytest.mark.parametrize("bad", ["a/b", "x" * 256, "a\0b", ""])
def test_names_that_are_none(bad):
    with pytest.raises(OSError, match=r"Errno"):
        create(bad, os.O_RDWR, 2, 100)


def test_closed_twice(queue):
    queue.close()
    queue.close()
    assert queue.fileno() == -1


@pytest.mark.parametrize("shape", [(10, 8192), (4, 8192), (2, 100)])
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_what_a_queue_is_charged(shape, name):
    """One byte less than two take, and there is room for one. To a user of its own: whatever else
    there is of ours, in containers too, counts for us."""
    child = os.fork()
    if child == 0:
        is_right = False
        try:
            os.setresuid(NOBODY_ELSE, NOBODY_ELSE, NOBODY_ELSE)
            two = 2 * Attributes(*shape, 0).charged
            is_right = room_for(2, two - 1, name, shape) == 1 and room_for(2, two, name, shape) == 2
        finally:
            os._exit(is_right)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def room_for(most, limit, name, shape):
    """How many of so many queues can be made."""
    _, hard = resource.getrlimit(resource.RLIMIT_MSGQUEUE)
    resource.setrlimit(resource.RLIMIT_MSGQUEUE, (limit, hard))
    made = []
    with suppress(OSError):
        made.extend(create(f"{name}-{number}", os.O_RDWR, *shape) for number in range(most))
    for number, queue in enumerate(made):
        unlink(f"{name}-{number}")
        queue.close()
    return len(made)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_SYS_ADMIN")
def test_a_look_from_outside(queue, name):
    os.fchown(queue.fileno(), 12345, 54321)
    os.fchmod(queue.fileno(), 0o200)
    for found in (mqueue.look(name), mqueue.all_queues()[name]):
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (12345, 54321, 0o200)
    with pytest.raises(FileNotFoundError):
        mqueue.look(f"{name}-other")
