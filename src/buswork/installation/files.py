"""One file or link of the system: what is there, and putting another one there or removing it."""

import hashlib
import os
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class File:
    content: bytes
    mode: int = 0o644

    @property
    def mark(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True, slots=True)
class Link:
    target: str

    @property
    def mark(self) -> str:
        return f"-> {self.target}"


Item: TypeAlias = File | Link


class OutsideError(OSError):
    """A link leads out of the directory that is to be the system's root."""


def below(root: Path, path: str) -> Path:
    """Where an absolute path is in the system with this root. No link leads out of it."""
    target = root / path.lstrip("/")
    folder = os.path.realpath(target.parent)
    top = os.path.realpath(root)
    if os.path.commonpath((folder, top)) != top:
        raise OutsideError(f"{target.parent} leads out of {root}")
    return target


def mark(target: Path) -> str | None:
    """What is there, told as items tell it; None: nothing is."""
    try:
        kind = target.lstat().st_mode
        if stat.S_ISLNK(kind):
            return Link(os.readlink(target)).mark
        if stat.S_ISREG(kind):
            return File(target.read_bytes()).mark
    except (FileNotFoundError, NotADirectoryError):
        return None
    return "neither a file nor a link"


def has_mode(target: Path, item: Item) -> bool:
    return isinstance(item, Link) or stat.S_IMODE(target.lstat().st_mode) == item.mode


def place(target: Path, item: Item) -> list[Path]:
    """Puts it there: until it is whole, what was there stays. Returns folders that it made."""
    made = make_folders(target.parent)
    # With a dot and without the ending, it is none that anybody would read.
    unfinished = Path(tempfile.mktemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        if isinstance(item, Link):
            unfinished.symlink_to(item.target)
        else:
            _write(unfinished, item)
        unfinished.replace(target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    return made


def _write(path: Path, file: File) -> None:
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(number, "wb") as stream:
        stream.write(file.content)
        os.fchmod(number, file.mode)


def make_folders(folder: Path) -> list[Path]:
    """Those that are missing down to this one; returns them."""
    made = [] if folder.is_dir() else [*make_folders(folder.parent), folder]
    if made:
        folder.mkdir()
        folder.chmod(0o755)  # whatever the umask is
    return made


def remove_folders(folders: list[Path]) -> None:
    """Those that are empty, the inner ones first."""
    for folder in sorted(folders, reverse=True):
        with suppress(OSError):
            folder.rmdir()
