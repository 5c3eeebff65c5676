import pytest

from buswork.installation import changes, manifest
from buswork.installation.changes import Verdict
from buswork.installation.files import File, Link, place
from buswork.installation.manifest import PATH, Manifest

WANTED = {"/usr/bin/a": File(b"a", 0o755), "/etc/b": File(b"b"), "/etc/c": Link("b")}


def noted(root):
    return manifest.load(root) or Manifest()


def install(root, wanted=None, *, force=False, whole=True):
    wanted, known = WANTED if wanted is None else wanted, noted(root)
    planned = changes.plan(root, wanted, known, force=force, whole=whole)
    changes.install(root, planned, known)
    return {change.path: change.verdict.value for change in planned}


def uninstall(root):
    known = noted(root)
    planned = list(changes.removal(root, known, list(known.files)))
    changes.uninstall(root, planned, known)
    return {change.path: change.verdict.value for change in planned}


def tree(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_first_and_again(tmp_path):
    assert set(install(tmp_path).values()) == {"new"}
    before = tree(tmp_path)
    assert set(install(tmp_path).values()) == {"same"}
    assert tree(tmp_path) == before
    assert (tmp_path / "usr/bin/a").stat().st_mode & 0o777 == 0o755


def test_nothing_is_left(tmp_path):
    install(tmp_path)
    install(tmp_path)
    assert set(uninstall(tmp_path).values()) == {"removed"}
    assert tree(tmp_path) == []


def test_a_new_version(tmp_path):
    install(tmp_path)
    found = install(tmp_path, {"/usr/bin/a": File(b"new"), "/etc/d": File(b"d")})
    removed = {"/etc/b": "removed", "/etc/c": "removed"}
    assert found == {"/usr/bin/a": "changed", "/etc/d": "new", **removed}
    assert sorted(noted(tmp_path).files) == ["/etc/d", "/usr/bin/a"]


def test_a_part_of_it_removes_nothing(tmp_path):
    install(tmp_path)
    assert install(tmp_path, {}, whole=False) == {}
    assert sorted(noted(tmp_path).files) == sorted(WANTED)


def test_what_somebody_changed_is_kept(tmp_path):
    install(tmp_path)
    (tmp_path / "etc/b").write_text("mine")
    newer = WANTED | {"/etc/b": File(b"newer")}
    assert install(tmp_path, newer)["/etc/b"] == "kept"
    assert (tmp_path / "etc/b").read_text() == "mine"
    assert uninstall(tmp_path) == {"/usr/bin/a": "removed", "/etc/c": "removed", "/etc/b": "kept"}
    assert tree(tmp_path) == ["etc", "etc/b"]


def test_what_somebody_changed_is_kept_when_it_is_not_wanted_any_more(tmp_path):
    install(tmp_path)
    (tmp_path / "etc/b").write_text("mine")
    assert install(tmp_path, {})["/etc/b"] == "kept"
    assert uninstall(tmp_path) == {"/etc/b": "kept"}


def test_what_somebody_else_made_is_kept(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/b").write_text("theirs")
    (tmp_path / "etc/c").mkdir()
    assert install(tmp_path) == {"/usr/bin/a": "new", "/etc/b": "kept", "/etc/c": "kept"}
    uninstall(tmp_path)
    assert tree(tmp_path) == ["etc", "etc/b", "etc/c"]


def test_force(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/b").write_text("theirs")
    (tmp_path / "etc/c").mkdir()
    found = install(tmp_path, force=True)
    assert found == {"/usr/bin/a": "new", "/etc/b": "changed", "/etc/c": "kept"}
    assert (tmp_path / "etc/b").read_text() == "b"


def test_a_mode_is_set_right(tmp_path):
    install(tmp_path)
    (tmp_path / "etc/b").chmod(0o666)
    assert install(tmp_path)["/etc/b"] == "changed"
    assert (tmp_path / "etc/b").stat().st_mode & 0o777 == 0o644


def test_what_was_removed_by_hand(tmp_path):
    install(tmp_path)
    (tmp_path / "etc/b").unlink()
    assert uninstall(tmp_path) == {"/usr/bin/a": "removed", "/etc/c": "removed"}
    assert tree(tmp_path) == []


def test_what_was_broken_off_is_taken_up(tmp_path):
    """Here by a folder that can't be made."""
    (tmp_path / "etc").write_text("in the way")
    with pytest.raises(OSError, match="etc"):
        install(tmp_path)
    (tmp_path / "etc").unlink()
    assert install(tmp_path) == {"/usr/bin/a": "same", "/etc/b": "new", "/etc/c": "new"}


def killed_on_the_way(root, monkeypatch, wanted=None):
    """Without a word of what was done: as by SIGKILL, or by a disk that is full."""

    def killed(target, item):
        if target.name == "c":
            monkeypatch.setattr(Manifest, "save", lambda *_: None)
            raise KeyboardInterrupt
        return place(target, item)

    with monkeypatch.context() as monkeypatch:
        monkeypatch.setattr(changes, "place", killed)
        with pytest.raises(KeyboardInterrupt):
            install(root, wanted)


def test_what_was_killed_can_be_undone(tmp_path, monkeypatch):
    killed_on_the_way(tmp_path, monkeypatch)
    assert (tmp_path / "etc/b").exists()
    assert uninstall(tmp_path) == {"/usr/bin/a": "removed", "/etc/b": "removed"}
    assert tree(tmp_path) == []


def test_an_upgrade_that_was_killed_is_taken_up(tmp_path, monkeypatch):
    install(tmp_path)
    newer = {"/etc/b": File(b"newer"), "/etc/c": File(b"newer")}
    killed_on_the_way(tmp_path, monkeypatch, newer)
    found = install(tmp_path, newer)
    assert found == {"/etc/b": "same", "/etc/c": "changed", "/usr/bin/a": "removed"}


def test_two_at_once(tmp_path):
    """Both have planned before either does anything."""
    knowns = [Manifest(), Manifest()]
    plans = [changes.plan(tmp_path, WANTED, known, force=False) for known in knowns]
    for planned, known in zip(plans, knowns, strict=True):
        changes.install(tmp_path, planned, known)
    assert set(install(tmp_path).values()) == {"same"}
    known = noted(tmp_path)
    planned = list(changes.removal(tmp_path, known, list(known.files)))
    changes.uninstall(tmp_path, planned, known)
    changes.uninstall(tmp_path, planned, known)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_same_without_a_manifest_becomes_ours(tmp_path):
    """A run that was killed leaves it behind."""
    install(tmp_path)
    (tmp_path / PATH[1:]).unlink()
    assert set(install(tmp_path).values()) == {"same"}
    uninstall(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_plan_alone_does_nothing(tmp_path):
    planned = changes.plan(tmp_path, WANTED, Manifest(), force=False)
    assert {change.verdict for change in planned} == {Verdict.NEW}
    assert tree(tmp_path) == []
