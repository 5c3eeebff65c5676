import fcntl
import os
import socket
import stat
from pathlib import Path

import pytest

from buswork.libipc.errors import NameTaken, NoSuchService, NotAllowed
from buswork.libipc.library import rundirs
from buswork.libipc.library.rundirs import Place, RunDir, connect_to, from_environment, is_alive
from buswork.libipc.wire.forms import Form
from buswork.libipc.wire.names import BadName

FORMS = pytest.mark.parametrize("form", list(Form))


@pytest.fixture(autouse=True)
def umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def take(tmp_path):
    places = []

    def take(name="pong", form=Form.C, directory=tmp_path, **options):
        places.append(Place.take(RunDir(directory, form), name, **options))
        return places[-1]

    yield take
    for place in places:
        place.close()


def leave_stale(path):
    """As a service that was killed does."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def accepted(place):
    sock, _ = place.sock.accept()
    return sock


# -- directories -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "variable", "default"),
    [(Form.C, "IPC_RUNDIR", "/run/ipc"), (Form.ZIG, "RUNDIR", "/tmp/.libipc-run")],
)
def test_the_environment_says_where_it_is(form, variable, default, monkeypatch):
    monkeypatch.delenv(variable, raising=False)
    assert from_environment(form) == RunDir(Path(default), form)
    monkeypatch.setenv(variable, "/elsewhere")
    assert from_environment(form) == RunDir.of("/elsewhere", form)
    monkeypatch.setenv(variable, "")
    assert from_environment(form) == RunDir(Path(default), form)


@pytest.mark.parametrize("name", ["", "a/b", "..", "a\nb", "x" * 107])
def test_a_name_that_is_none_has_no_path(tmp_path, name):
    with pytest.raises(BadName):
        RunDir(tmp_path, Form.C).path_of(name)


def test_only_sockets_are_services(tmp_path):
    for name in ("b", "a"):
        leave_stale(tmp_path / name)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("a")
    leave_stale(tmp_path / "bad\nname")
    assert RunDir(tmp_path, Form.C).names() == ["a", "b"]
    assert RunDir(tmp_path / "absent", Form.C).names() == []


def test_form_c_makes_every_directory(tmp_path):
    RunDir(tmp_path / "a" / "b", Form.C).make()
    assert mode(tmp_path / "a") == mode(tmp_path / "a" / "b") == 0o1750


def test_form_zig_makes_one(tmp_path):
    directory = tmp_path / "a"
    RunDir(directory, Form.ZIG).make()
    assert mode(directory) == 0o770
    with pytest.raises(NotAllowed, match="No such file"):
        RunDir(directory / "b" / "c", Form.ZIG).make()


@FORMS
def test_one_that_is_there_stays_as_it_is(tmp_path, form):
    tmp_path.chmod(0o711)
    RunDir(tmp_path, form).make()
    assert mode(tmp_path) == 0o711


# -- connecting --------------------------------------------------------------------------------


def test_a_service_is_connected_to(take):
    place = take()
    with connect_to(place.path) as sock, accepted(place) as theirs:
        assert sock.gettimeout() == 0
        theirs.send(b"hello")
        assert sock.recv(10) == b"hello"


def test_so_is_one_whose_path_is_longer_than_sockets_have_it(tmp_path, monkeypatch):
    directory = tmp_path / ("d" * 120)
    directory.mkdir()
    monkeypatch.chdir(directory)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("pong")
        listener.listen()
        connect_to(directory / "pong").close()
        before = len(os.listdir("/proc/self/fd"))
        connect_to(directory / "pong").close()
        assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("what", ["nothing", "stale", "file", "datagram", "no directory"])
def test_where_nobody_listens_is_no_service(tmp_path, what):
    path = tmp_path / "pong"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram:
        match what:
            case "stale":
                leave_stale(path)
            case "file":
                path.touch()
            case "datagram":
                datagram.bind(str(path))
            case "no directory":
                path = tmp_path / "file" / "pong"
                path.parent.touch()
        with pytest.raises(NoSuchService, match="nobody serves 'pong'"):
            connect_to(path)
        assert is_alive(path) == (what == "datagram")


def test_a_full_backlog_is_somebody_who_listens(tmp_path):
    path = tmp_path / "pong"
    clients = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        clients.append(connect_to(path))
        with pytest.raises(BlockingIOError):
            connect_to(path)
        assert is_alive(path)
    for client in clients:
        client.close()


# -- serving -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "given", "wanted"),
    [
        (Form.C, None, 0o755), (Form.ZIG, None, 0o660),
        (Form.C, 0o777, 0o777), (Form.ZIG, 0o600, 0o600),
    ],
)  # fmt: skip
def test_a_socket_has_the_originals_mode_or_the_given_one(take, form, given, wanted):
    place = take(form=form, mode=given)
    assert mode(place.path) == wanted
    connect_to(place.path).close()


@FORMS
def test_the_name_is_free_again_afterwards(take, form):
    for _ in range(2):
        place = take(form=form)
        place.close()
        assert not place.path.exists()


@FORMS
def test_a_name_belongs_to_one(take, form):
    first = take(form=form)
    with pytest.raises(NameTaken):
        take(form=form)
    connect_to(first.path).close()


@FORMS
def test_what_a_process_left_that_was_killed_is_in_nobodys_way(take, tmp_path, form):
    leave_stale(tmp_path / "pong")
    connect_to(take(form=form).path).close()


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_a_socket_of_another_kind_stays_while_it_lives(take, tmp_path, kind):
    path = tmp_path / "pong"
    with socket.socket(socket.AF_UNIX, kind) as living:
        living.bind(str(path))
        if kind == socket.SOCK_SEQPACKET:
            living.listen()
        with pytest.raises(NameTaken):
            take()
    assert path.exists()
    take()


def test_what_is_no_socket_stays(take, tmp_path):
    (tmp_path / "pong").write_text("precious")
    with pytest.raises(NameTaken, match="no socket"):
        take()
    assert (tmp_path / "pong").read_text() == "precious"


@FORMS
def test_nor_is_a_link_followed(take, tmp_path, form):
    leave_stale(tmp_path / "other")
    (tmp_path / "pong").symlink_to("other")
    with pytest.raises(NameTaken, match="no socket"):
        take(form=form)
    assert (tmp_path / "other").exists()


def test_somebody_elses_socket_is_not_deleted(take, tmp_path):
    """An original takes a name from a living process too."""
    place = take()
    place.path.unlink()
    leave_stale(place.path)
    place.close()
    assert place.path.exists()


def test_one_that_was_exchanged_while_it_was_looked_at_stays(take, tmp_path, monkeypatch):
    path = tmp_path / "pong"
    leave_stale(path)

    def look(place):
        path.unlink()
        leave_stale(path)
        return False

    monkeypatch.setattr(rundirs, "is_alive", look)
    with pytest.raises(NameTaken):
        take()
    assert path.exists()


def test_form_zig_has_a_lock_that_stays(take):
    place = take(form=Form.ZIG)
    lock = Path(f"{place.path}.lock")
    assert mode(lock) == 0o644
    with lock.open() as held, pytest.raises(BlockingIOError):
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    place.close()
    with lock.open() as free:
        fcntl.flock(free, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_who_holds_the_lock_has_the_name(take, tmp_path):
    with (tmp_path / "pong.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(NameTaken, match="locked"):
            take(form=Form.ZIG)


@pytest.mark.attack(28)
def test_a_lock_that_is_a_link_is_not_opened(take, tmp_path):
    (tmp_path / "pong.lock").symlink_to(tmp_path / "made")
    with pytest.raises(NotAllowed):
        take(form=Form.ZIG)
    assert not (tmp_path / "made").exists()


def test_a_name_that_failed_is_left_unlocked(take, tmp_path):
    (tmp_path / "pong").touch()
    with pytest.raises(NameTaken):
        take(form=Form.ZIG)
    (tmp_path / "pong").unlink()
    take(form=Form.ZIG)


def test_who_locks_the_directory_for_ever_is_not_waited_for(take, tmp_path, monkeypatch):
    monkeypatch.setattr(rundirs, "_LOCK_PAUSE", 0)
    fd = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    take()
    os.close(fd)


@pytest.mark.parametrize("name", ["a/b", "", "pong.lock"])
def test_what_is_no_name_is_not_served(take, name):
    with pytest.raises(BadName):
        take(name)


def test_nor_is_one_that_the_originals_would_not_reach(take, tmp_path):
    with pytest.raises(BadName, match="bytes"):
        take(directory=tmp_path / ("d" * 100))
    assert not (tmp_path / ("d" * 100)).exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may")
def test_a_directory_that_is_not_ours_is_told(take, tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(NotAllowed, match="Permission denied"):
        take()
