"""What we placed, and how we left it. All else, and what changed since, is not ours to touch.

There is one for a system, whatever the prefix is, as most places are the same for all prefixes.
Root removes what is named there; so it is where nobody but root can write.
"""

import json
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from buswork import __version__
from buswork.installation.files import File, Link, below, missing_folders, place, unwaited

PATH = "/usr/share/buswork/manifest.json"
MOST_BYTES = 1 << 20  # some fifty times what it is


class ManifestError(Exception):
    """The manifest is not one of ours."""


@dataclass(slots=True)
class Manifest:
    prefix: str = "/usr"
    package: bool = False
    files: dict[str, str] = field(default_factory=dict)  # what files.mark tells of each
    folders: list[str] = field(default_factory=list)

    def expect(self, root: Path, files: Mapping[str, str]) -> None:
        """Notes new files, and the folders that have to be made for them and for itself."""
        self.files.update(files)
        for path in (*files, PATH):
            missing = missing_folders(below(root, path).parent)
            self.folders += [f"/{folder.relative_to(root)}" for folder in missing]

    def save(self, root: Path) -> None:
        text = json.dumps(self._document(), indent=1)
        place(below(root, PATH), File(text.encode() + b"\n"))

    def _document(self) -> dict[str, object]:
        return {
            "version": __version__,
            "prefix": self.prefix,
            "package": self.package,
            "files": {path: _told(mark) for path, mark in sorted(self.files.items())},
            "folders": sorted(set(self.folders)),
        }


def load(root: Path) -> Manifest | None:
    target = below(root, PATH)
    try:
        with open(target, "rb", opener=unwaited) as stream:
            return _read(json.loads(stream.read(MOST_BYTES)))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ManifestError(f"{target} is no manifest: {error}") from None


def _told(mark: str) -> dict[str, str]:
    link = mark.removeprefix("-> ")
    return {"sha256": mark} if link == mark else {"link": link}


def _read(document: dict[str, object]) -> Manifest:
    files, folders = document["files"], document["folders"]
    if not isinstance(files, dict) or not isinstance(folders, list):
        raise TypeError("files or folders are not what they must be")
    return Manifest(
        _checked(document["prefix"]),
        document["package"] is True,
        {_checked(name): _mark_of(facts) for name, facts in files.items()},
        [_checked(folder) for folder in folders],
    )


def _mark_of(facts: dict[str, str]) -> str:
    return Link(facts["link"]).mark if "link" in facts else str(facts["sha256"])


def _checked(path: object) -> str:
    if not isinstance(path, str) or not path.isprintable():
        raise ValueError(f"{path!r} is no path")
    if path == "/" or path != posixpath.normpath("/" + path.lstrip("/")):
        raise ValueError(f"{path!r} is not the plain path of a file")
    return path
