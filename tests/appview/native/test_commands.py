import os
from types import SimpleNamespace

import pytest

from buswork.appview.native.commands import CommandFile, directory_of, lines
from buswork.errors import InvalidArgs


@pytest.fixture
def proc(tmp_path):
    """The /proc/PID of a process whose root directory is `tree`."""
    (tmp_path / "tree/dev/shm").mkdir(parents=True)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/root").symlink_to(tmp_path / "tree")
    fd = os.open(tmp_path / "proc", os.O_PATH)
    yield fd
    os.close(fd)


@pytest.fixture
def target(proc):
    return SimpleNamespace(own_pid=7, uid=os.geteuid(), gid=os.getegid(), proc=proc)


@pytest.fixture
def file(target):
    with directory_of(target) as directory:
        yield CommandFile(target, directory)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tree/dev/shm/appview_dconf.7"


def test_what_is_said():
    assert lines(False, {}) == b"APPVIEW_CMD_ATTACH=false\n"
    settings = {"APPVIEW_CONF_RELOAD": "TRUE", "APPVIEW_TAG_A": "b=c \u00e9"}
    assert lines(True, settings).decode().splitlines() == [
        "APPVIEW_CMD_ATTACH=true",
        "APPVIEW_CONF_RELOAD=TRUE",
        "APPVIEW_TAG_A=b=c \u00e9",
    ]


@pytest.mark.attack(21)
@pytest.mark.parametrize(
    "settings",
    [
        {"LD_PRELOAD": "/x"},
        {"APPVIEW_CMD_ATTACH": "false"},
        {"appview_tag": "x"},
        {"APPVIEW_A\nB": "x"},
        {"APPVIEW_A=B": "x"},
        {"APPVIEW_A": "x\nAPPVIEW_CMD_ATTACH=false"},
        {"APPVIEW_A": "x\0"},
        {"APPVIEW_A": "x" * 4097},
        {f"APPVIEW_{number}": "" for number in range(65)},
    ],
)
def test_what_can_not_be_said(settings):
    with pytest.raises(InvalidArgs):
        lines(True, settings)


def test_a_file_until_it_is_read(file, path):
    with file.written(b"said", 1_700_000_000):
        found = path.stat()
        assert path.read_bytes() == b"said"
        assert (found.st_mode & 0o777, found.st_mtime) == (0o600, 1_700_000_000)
        assert file.is_there()
        path.unlink()
        assert not file.is_there()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_it_belongs_to_the_user_of_the_process(file, target, path):
    target.uid, target.gid = 12345, 54321
    with file.written(b"said", 1):
        assert (path.stat().st_uid, path.stat().st_gid) == (12345, 54321)


@pytest.mark.parametrize("kind", ["file", "directory", "pipe"])
def test_what_is_there_is_left_alone(file, path, kind):
    {"file": path.touch, "directory": path.mkdir, "pipe": lambda: os.mkfifo(path)}[kind]()
    before = path.stat()
    with pytest.raises(FileExistsError), file.written(b"ours", 1):
        pass
    assert path.stat() == before


def test_what_somebody_has_put_in_its_place_is_left_alone(file, path):
    with file.written(b"ours", 1):
        path.unlink()
        path.write_bytes(b"theirs")
        assert not file.is_there()
    assert path.read_bytes() == b"theirs"


def test_a_directory_that_is_replaced_is_left_alone(file, path):
    """By one in which somebody else has a file of the same name."""
    with file.written(b"ours", 1):
        was = path.parent.rename(path.parent.with_name("was"))
        path.parent.mkdir()
        path.write_bytes(b"theirs")
    assert path.read_bytes() == b"theirs"
    assert list(was.iterdir()) == []


@pytest.mark.attack(41)
@pytest.mark.parametrize("where", ["inside", "outside"])
def test_a_link_at_its_place_is_not_followed(file, path, tmp_path, where):
    victim = tmp_path / "tree/victim"
    path.symlink_to(victim if where == "outside" else "../../victim")
    with pytest.raises(OSError, match=r"exists|link"), file.written(b"ours", 1):
        pass
    assert not victim.exists()
    assert path.is_symlink()


@pytest.mark.attack(41)
@pytest.mark.parametrize("linked", ["dev", "dev/shm"])
def test_a_link_on_the_way_is_not_followed(target, path, tmp_path, linked):
    (tmp_path / "victim/shm").mkdir(parents=True)
    path.parent.rmdir()
    if linked == "dev":
        path.parent.parent.rmdir()
        path.parent.parent.symlink_to(tmp_path / "victim")
    else:
        path.parent.symlink_to(tmp_path / "victim/shm")
    with pytest.raises(OSError, match="symbolic link"), directory_of(target):
        pass


def test_what_was_not_read_is_removed(file, path):
    with file.written(b"said", 1):
        pass
    assert not path.exists()


def test_what_can_not_be_finished_is_removed(target, path):
    target.uid = -5
    with (
        directory_of(target) as directory,
        pytest.raises(OverflowError),
        CommandFile(target, directory).written(b"said", 1),
    ):
        pass
    assert not path.exists()


def test_nothing_is_left_open(target):
    before = os.listdir("/proc/self/fd")
    with directory_of(target) as directory, CommandFile(target, directory).written(b"said", 1):
        pass
    assert os.listdir("/proc/self/fd") == before
