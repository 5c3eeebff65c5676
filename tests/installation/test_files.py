import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from buswork.installation import files
from buswork.installation.files import (
    File,
    Link,
    OutsideError,
    below,
    has_rights,
    mark,
    missing_folders,
    place,
    remove_folders,
)


def test_what_was_placed_is_there(tmp_path):
    for item in (File(b"text"), File(b"#!", 0o755), Link("elsewhere")):
        place(tmp_path / "it", item)
        assert mark(tmp_path / "it") == item.mark
        assert has_rights(tmp_path / "it", item)
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


@pytest.mark.parametrize("umask", [0o077, 0])
def test_the_umask_does_not_count(umask, tmp_path):
    before = os.umask(umask)
    try:
        place(tmp_path / "a/b/it", File(b"", 0o755))
    finally:
        os.umask(before)
    made = [tmp_path / path for path in ("a", "a/b", "a/b/it")]
    assert {path.stat().st_mode & 0o777 for path in made} == {0o755}


@pytest.mark.parametrize(
    ("mode", "owner", "right"),
    [(0o644, 0, True), (0o644, 1000, True), (0o644, 1001, False), (0o666, 0, False)],
)
def test_another_mode_or_owner_is_noticed(mode, owner, right, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    facts = SimpleNamespace(st_mode=stat.S_IFREG | mode, st_uid=owner)
    monkeypatch.setattr(Path, "lstat", lambda _: facts)
    assert has_rights(Path("it"), File(b"text")) is right


def test_another_run_may_have_made_a_folder(tmp_path, monkeypatch):
    """After this one had seen that it is not there."""
    (tmp_path / "a").mkdir()
    monkeypatch.setattr(files, "missing_folders", lambda _: [tmp_path / "a"])
    place(tmp_path / "a/it", File(b""))
    assert (tmp_path / "a/it").exists()


def test_a_link_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "victim").write_text("theirs")
    (tmp_path / "it").symlink_to("victim")
    place(tmp_path / "it", File(b"ours"))
    assert (tmp_path / "victim").read_text() == "theirs"
    assert mark(tmp_path / "it") == File(b"ours").mark


def test_what_has_another_name_keeps_its_bytes(tmp_path):
    """A hard link may be somebody else's file."""
    (tmp_path / "victim").write_text("theirs")
    (tmp_path / "it").hardlink_to(tmp_path / "victim")
    place(tmp_path / "it", File(b"ours", 0o755))
    assert (tmp_path / "victim").read_text() == "theirs"
    assert (tmp_path / "victim").stat().st_mode & 0o777 != 0o755


def test_what_fails_leaves_what_was_there(tmp_path):
    (tmp_path / "it").mkdir()
    with pytest.raises(IsADirectoryError):
        place(tmp_path / "it", File(b"ours"))
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


def test_what_else_may_be_there(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    assert mark(tmp_path / "fifo") == mark(tmp_path) == "neither a file nor a link"
    assert mark(tmp_path / "nothing") is None
    (tmp_path / "file").touch()
    assert mark(tmp_path / "file/below") is None


def test_no_link_leads_out_of_the_root(tmp_path):
    root = tmp_path / "root"
    (root / "usr").mkdir(parents=True)
    (root / "lib").symlink_to("usr")
    (root / "out").symlink_to(tmp_path)
    assert below(root, "/lib/it") == root / "lib/it"
    with pytest.raises(OutsideError, match="leads out of"):
        below(root, "/out/it")


def test_folders_with_something_in_them_stay(tmp_path):
    made = missing_folders(tmp_path / "a/b")
    assert made == [tmp_path / "a", tmp_path / "a/b"]
    place(tmp_path / "a/b/it", File(b""))
    remove_folders(made)
    assert (tmp_path / "a/b/it").exists()
    (tmp_path / "a/b/it").unlink()
    remove_folders(made)
    assert not list(tmp_path.iterdir())
