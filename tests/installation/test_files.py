import os

import pytest

from buswork.installation.files import (
    File,
    Link,
    OutsideError,
    below,
    has_mode,
    mark,
    place,
    remove_folders,
)


def test_what_was_placed_is_there(tmp_path):
    for item in (File(b"text"), File(b"#!", 0o755), Link("elsewhere")):
        place(tmp_path / "it", item)
        assert mark(tmp_path / "it") == item.mark
        assert has_mode(tmp_path / "it", item)
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


def test_the_umask_does_not_count(tmp_path):
    before = os.umask(0o077)
    try:
        made = place(tmp_path / "a/b/it", File(b"", 0o755))
    finally:
        os.umask(before)
    assert made == [tmp_path / "a", tmp_path / "a/b"]
    assert {path.stat().st_mode & 0o777 for path in (*made, tmp_path / "a/b/it")} == {0o755}


def test_another_mode_is_noticed(tmp_path):
    place(tmp_path / "it", File(b"text"))
    (tmp_path / "it").chmod(0o666)
    assert not has_mode(tmp_path / "it", File(b"text"))


def test_a_link_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "victim").write_text("theirs")
    (tmp_path / "it").symlink_to("victim")
    place(tmp_path / "it", File(b"ours"))
    assert (tmp_path / "victim").read_text() == "theirs"
    assert mark(tmp_path / "it") == File(b"ours").mark


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
    made = place(tmp_path / "a/b/it", File(b""))
    remove_folders(made)
    assert (tmp_path / "a/b/it").exists()
    (tmp_path / "a/b/it").unlink()
    remove_folders(made)
    assert not list(tmp_path.iterdir())
