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
            with open(target, "rb", opener=unwaited) as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return "neither a file nor a link"


def unwaited(path: str, flags: int) -> int:
    """For open(): what was put there meanwhile may be a link, or a pipe that nobody writes to."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def has_rights(target: Path, item: Item) -> bool:
    """Whether nobody else can change it: the same bytes may be somebody's own file."""
    if isinstance(item, Link):
        return True
    facts = target.lstat()
    return stat.S_IMODE(facts.st_mode) == item.mode and facts.st_uid in (0, os.geteuid())


def place(target: Path, item: Item) -> None:
    """Puts it there: until it is whole, what was there stays."""
    for folder in missing_folders(target.parent):
        folder.mkdir(0o755, exist_ok=True)  # another run may have made it
        folder.chmod(0o755)  # whatever the umask is
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


def _write(path: Path, file: File) -> None:
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(number, "wb") as stream:
        stream.write(file.content)
        os.fchmod(number, file.mode)


def missing_folders(folder: Path) -> list[Path]:
    """Those that are not there, down to this one."""
    return [] if folder.is_dir() else [*missing_folders(folder.parent), folder]


def remove_folders(folders: list[Path]) -> None:
    """Those that are empty, the inner ones first."""
    for folder in sorted(folders, reverse=True):
        with suppress(OSError):
            folder.rmdir()
