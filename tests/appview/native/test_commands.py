import os
from types import SimpleNamespace

import pytest

from buswork.appview.native.commands import CommandFile, lines, root_of
from buswork.errors import InvalidArgs


@pytest.fixture
def root(tmp_path):
    """The root directory of a process."""
    (tmp_path / "dev/shm").mkdir(parents=True)
    fd = os.open(tmp_path, os.O_PATH)
    yield fd
    os.close(fd)


@pytest.fixture
def target():
    return SimpleNamespace(own_pid=7, uid=os.geteuid(), gid=os.getegid())


@pytest.fixture
def file(root, target):
    return CommandFile(target, root)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "dev/shm/appview_dconf.7"


def test_what_is_said():
    assert lines(False, {}) == b"APPVIEW_CMD_ATTACH=false\n"
    settings = {"APPVIEW_CONF_RELOAD": "TRUE", "APPVIEW_TAG_A": "b=c \u00e9"}
    assert lines(True, settings).decode().splitlines() == [
        "APPVIEW_CMD_ATTACH=true",
        "APPVIEW_CONF_RELOAD=TRUE",
        "APPVIEW_TAG_A=b=c \u00e9",
    ]


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
    file.write(b"said", 1_700_000_000)
    found = path.stat()
    assert path.read_bytes() == b"said"
    assert (found.st_mode & 0o777, found.st_mtime) == (0o600, 1_700_000_000)
    assert file.is_there()
    path.unlink()
    assert not file.is_there()


def test_what_is_there_is_left_alone(file, path):
    path.write_bytes(b"theirs")
    with pytest.raises(FileExistsError):
        file.write(b"ours", 1)
    assert path.read_bytes() == b"theirs"


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_a_link_at_its_place_is_not_followed(file, path, tmp_path, where):
    victim = tmp_path / "victim"
    path.symlink_to(victim if where == "outside" else "../../victim")
    with pytest.raises(OSError, match=r"exists|link"):
        file.write(b"ours", 1)
    assert not victim.exists()
    assert path.is_symlink()


@pytest.mark.parametrize("linked", ["dev", "dev/shm"])
def test_a_link_on_the_way_is_not_followed(root, target, tmp_path, linked):
    victim = tmp_path.parent / f"{tmp_path.name}-victim"
    (victim / "shm").mkdir(parents=True)
    place = tmp_path / linked
    if linked == "dev":
        (place / "shm").rmdir()
    place.rmdir()
    place.symlink_to(victim if linked == "dev" else victim / "shm")
    with pytest.raises(OSError, match="symbolic link"):
        CommandFile(target, root).write(b"ours", 1)
    assert list((victim / "shm").iterdir()) == []


def test_what_was_not_read_is_removed(file, path):
    file.write(b"said", 1)
    file.remove()
    assert not path.exists()
    file.remove()


def test_what_can_not_be_finished_is_removed(root, path):
    target = SimpleNamespace(own_pid=7, uid=-5, gid=0)
    with pytest.raises(OverflowError):
        CommandFile(target, root).write(b"said", 1)
    assert not path.exists()


def test_the_root_of_a_process():
    with root_of(os.getpid()) as root:
        assert os.path.samestat(os.fstat(root), os.stat("/"))
