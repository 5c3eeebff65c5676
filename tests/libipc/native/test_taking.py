"""Names of services: sockets of ours in a directory of everybody."""

import fcntl
import os
import socket

import pytest

from buswork.libipc.errors import NameTaken, NotAllowed
from buswork.libipc.model.terms import RunDirectory
from buswork.libipc.native.taking import Taken
from buswork.libipc.wire.forms import Form


@pytest.fixture(params=Form)
def place(request, tmp_path):
    tmp_path.chmod(0o1777)
    return RunDirectory(request.param, str(tmp_path))


@pytest.fixture
def zig(tmp_path):
    return RunDirectory(Form.ZIG, str(tmp_path))


def test_a_name_is_there_and_goes_without_a_trace(place):
    taken = Taken(place, "pong")
    assert str(taken.path) == f"{place.path}/pong"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(taken.path))
    taken.close()
    assert os.listdir(place.path) == []


def test_a_living_service_keeps_its_name(place):
    taken = Taken(place, "pong")
    with pytest.raises(NameTaken):
        Taken(place, "pong")
    taken.close()


def test_what_an_earlier_daemon_left_is_taken_over(place):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(f"{place.path}/pong")
    Taken(place, "pong").close()


@pytest.mark.parametrize(
    "make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/etc/passwd", path)]
)
def test_what_else_has_the_name_keeps_it(place, make):
    make(f"{place.path}/pong")
    with pytest.raises(NameTaken):
        Taken(place, "pong")
    assert os.listdir(place.path) == ["pong"]


def test_a_directory_that_is_not_there(tmp_path):
    with pytest.raises(NotAllowed):
        Taken(RunDirectory(Form.C, str(tmp_path / "none")), "pong")


def test_servers_of_the_newer_zig_version_see_that_it_is_taken(zig):
    taken = Taken(zig, "pong")
    with open(f"{zig.path}/pong.lock", "w") as theirs, pytest.raises(BlockingIOError):
        fcntl.flock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)
    taken.close()


def test_and_we_see_theirs(zig):
    """Also while its socket is not there yet; and their lock is theirs, and stays."""
    with open(f"{zig.path}/pong.lock", "w") as theirs:
        fcntl.flock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(NameTaken, match="locked"):
            Taken(zig, "pong")
    assert os.listdir(zig.path) == ["pong.lock"]


@pytest.mark.parametrize(
    "make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/etc/passwd", path)]
)
def test_a_lock_that_is_none_is_in_the_way(zig, make):
    make(f"{zig.path}/pong.lock")
    with pytest.raises(NameTaken, match="in the way"):
        Taken(zig, "pong")


def test_no_lock_stays_when_the_name_was_taken(zig):
    os.mkdir(f"{zig.path}/pong")
    with pytest.raises(NameTaken):
        Taken(zig, "pong")
    assert os.listdir(zig.path) == ["pong"]


def test_a_socket_of_another_one_that_came_later_stays(place):
    taken = Taken(place, "pong")
    os.unlink(taken.path)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(taken.path))
        taken.close()
        assert "pong" in os.listdir(place.path)
