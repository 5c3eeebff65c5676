"""What is to be done so that the system has what it is to have, and doing it.

A file is ours if the manifest has it, and still is as we left it; or if it already is what it is
to be, which a run that was broken off leaves behind.
"""

import enum
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from buswork.installation.files import Item, below, has_rights, mark, place, remove_folders
from buswork.installation.manifest import PATH, Manifest


class Verdict(enum.StrEnum):
    NEW = "new"
    CHANGED = "changed"
    SAME = "same"
    KEPT = "kept"
    REMOVED = "removed"


class Change(NamedTuple):
    path: str
    verdict: Verdict
    item: Item | None = None
    why: str = ""


MADE_BY_OTHERS = "not ours"
CHANGED_BY_OTHERS = "somebody changed it"


def plan(
    root: Path, wanted: Mapping[str, Item], manifest: Manifest, *, force: bool, whole: bool = True
) -> list[Change]:
    """What installing takes. Unless `wanted` is the whole of it, nothing is removed."""
    changes = [_judged(root, path, item, manifest, force) for path, item in wanted.items()]
    obsolete = [path for path in manifest.files if path not in wanted] if whole else []
    return changes + list(removal(root, manifest, obsolete))


def _judged(root: Path, path: str, item: Item, manifest: Manifest, force: bool) -> Change:
    target, ours = below(root, path), manifest.files.get(path)
    present = mark(target)
    if present is None:
        return Change(path, Verdict.NEW, item)
    if present == item.mark:
        verdict = Verdict.SAME if has_rights(target, item) else Verdict.CHANGED
        return Change(path, verdict, item)
    if present == ours or (force and not target.is_dir()):
        return Change(path, Verdict.CHANGED, item)
    return Change(path, Verdict.KEPT, None, CHANGED_BY_OTHERS if ours else MADE_BY_OTHERS)


def removal(root: Path, manifest: Manifest, paths: list[str]) -> Iterator[Change]:
    for path in paths:
        present = mark(below(root, path))
        if present == manifest.files[path]:
            yield Change(path, Verdict.REMOVED)
        elif present is not None:
            yield Change(path, Verdict.KEPT, None, CHANGED_BY_OTHERS)


def install(root: Path, changes: list[Change], manifest: Manifest) -> None:
    """Does what was planned. What is new is noted before, so a run that is killed can be undone;
    the rest when it is done, even if something fails on the way."""
    new = {change.path: change.item for change in changes if change.verdict is Verdict.NEW}
    manifest.expect(root, {path: item.mark for path, item in new.items() if item is not None})
    manifest.save(root)
    try:
        for change in changes:
            target = below(root, change.path)
            if change.verdict in (Verdict.NEW, Verdict.CHANGED):
                assert change.item is not None
                place(target, change.item)
            if change.verdict is Verdict.REMOVED:
                target.unlink(missing_ok=True)
                del manifest.files[change.path]
            elif change.item is not None:
                manifest.files[change.path] = change.item.mark
    finally:
        manifest.save(root)


def uninstall(root: Path, changes: list[Change], manifest: Manifest) -> None:
    """Removes what was planned; what was kept is nobody's but its changer's from now on."""
    for change in changes:
        if change.verdict is Verdict.REMOVED:
            below(root, change.path).unlink(missing_ok=True)
    below(root, PATH).unlink(missing_ok=True)
    remove_folders([below(root, folder) for folder in manifest.folders])
