"""What we placed, and how we left it. All else, and what changed since, is not ours to touch."""

import json
import posixpath
from dataclasses import dataclass, field
from pathlib import Path

from buswork import __version__
from buswork.installation.files import File, Link, below, make_folders, place


class ManifestError(Exception):
    """The manifest is not one of ours."""


@dataclass(slots=True)
class Manifest:
    path: str
    version: str = __version__
    package: bool = False
    files: dict[str, str] = field(default_factory=dict)  # what files.mark tells of each
    folders: list[str] = field(default_factory=list)

    def note_folders(self, root: Path, made: list[Path]) -> None:
        self.folders += [f"/{folder.relative_to(root)}" for folder in made]

    def save(self, root: Path) -> None:
        target = below(root, self.path)
        self.note_folders(root, make_folders(target.parent))
        text = json.dumps(self._document(), indent=1)
        place(target, File(text.encode() + b"\n"))

    def _document(self) -> dict[str, object]:
        return {
            "version": self.version,
            "package": self.package,
            "files": {path: _told(mark) for path, mark in sorted(self.files.items())},
            "folders": sorted(set(self.folders)),
        }


def load(root: Path, path: str) -> Manifest | None:
    target = below(root, path)
    try:
        return _read(path, json.loads(target.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(f"{target} is no manifest: {error}") from None


def _told(mark: str) -> dict[str, str]:
    link = mark.removeprefix("-> ")
    return {"sha256": mark} if link == mark else {"link": link}


def _read(path: str, document: dict[str, object]) -> Manifest:
    files, folders = document["files"], document["folders"]
    if not isinstance(files, dict) or not isinstance(folders, list):
        raise TypeError("files or folders are not what they must be")
    return Manifest(
        path,
        str(document["version"]),
        document["package"] is True,
        {_checked(name): _mark_of(facts) for name, facts in files.items()},
        [_checked(folder) for folder in folders],
    )


def _mark_of(facts: dict[str, str]) -> str:
    return Link(facts["link"]).mark if "link" in facts else facts["sha256"]


def _checked(path: object) -> str:
    """Root removes what is named here."""
    if not isinstance(path, str) or not path.startswith("/") or posixpath.normpath(path) != path:
        raise ValueError(f"{path!r} is no path of a file")
    return path
