"""What became of every request: in files, which outlive whoever is killed.

A request is answered, refused by an error that it may have at any time, cut off by what was done
to its target meanwhile (Weather says what), or lost: no answer, or one that nothing explains.
"""

import asyncio
import json
import mmap
import os
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from buswork.errors import FREEDESKTOP, BusworkError

T = TypeVar("T")

FATES = ("asked", "answered", "refused", "cut", "lost")
# What may be made to fail, each by the one who started it.
TARGETS = (
    *("daemon", "values", "appview", "doors", "polkit"),
    *("c", "zig", "1-1", "1-2", "1-3", "1-4"),
)
# An answer that takes longer is lost; every deadline of the daemon's own is shorter.
PATIENCE = 60.0
# One that takes so long is remarked.
SLOW_SECONDS = 3.0
_NUMBER = struct.Struct("=Q")
# How one learns that its target went away.
GONE = {
    *(FREEDESKTOP + name for name in ("NoReply", "ServiceUnknown", "NameHasNoOwner")),
    *(FREEDESKTOP + name for name in ("Disconnected", "UnknownObject", "UnknownInterface")),
    "org.appview.Error.NoSuchProcess",
    "org.flipper.Error.Disconnected",
    "org.flipper.Error.NoDoors",
    "org.flipper.Error.NoSuchBoard",
    "org.flipper.Error.NotClaimed",
    "org.flipper.Error.NotOwner",
    "org.flipper.Error.NotResponding",
    "org.fsct.Error.NoSuchPlayer",
    "org.libipc.Error.NoSuchService",
    "org.libipc.Error.PeerGone",
    "org.mapipc.Error.Closed",
    "org.mapipc.Error.Reopen",
    "org.mapipc.Error.RevisionGone",
    *("BrokenPipeError", "ConnectionRefusedError", "ConnectionResetError", "FileNotFoundError"),
    *("ConnectionClosedError", "ConnectionClosedOK", "EOFError", "InvalidMessage", "InvalidStatus"),
    *("Changed", "NoDatagram"),
}


class Changed(Exception):
    """The answer is not what was set before."""


class NoDatagram(Exception):
    """None came in time, and none is promised."""


class Cut(Exception):
    """What the round was about is gone, or said no: the next round begins anew."""


def name_of(error: BaseException) -> str:
    return error.name if isinstance(error, BusworkError) else type(error).__name__


class _Numbers:
    """Named numbers in a file that several processes see."""

    def __init__(self, path: Path, names: Collection[str], *, is_writer: bool) -> None:
        self._at = {name: _NUMBER.size * at for at, name in enumerate(names)}
        if is_writer and not path.exists():
            path.write_bytes(bytes(len(self._at) * _NUMBER.size))
            path.chmod(0o644)
        with path.open("r+b" if is_writer else "rb") as file:
            access = mmap.ACCESS_WRITE if is_writer else mmap.ACCESS_READ
            self._memory = mmap.mmap(file.fileno(), 0, access=access)

    def __getitem__(self, name: str) -> int:
        number: int = _NUMBER.unpack_from(self._memory, self._at[name])[0]
        return number

    def add(self, name: str) -> None:
        _NUMBER.pack_into(self._memory, self._at[name], self[name] + 1)

    def all(self) -> Counter[str]:
        return +Counter({name: self[name] for name in self._at})


class Weather(_Numbers):
    """How often something was done to each target; odd: it is being done."""

    def __init__(self, folder: Path, *, is_writer: bool = False) -> None:
        super().__init__(folder / "weather", TARGETS, is_writer=is_writer)

    def begin(self, target: str) -> None:
        self.add(target)

    end = begin


class Counts(_Numbers):
    """The fates of one process's requests."""

    def __init__(self, path: Path, *, is_writer: bool = False) -> None:
        super().__init__(path, FATES, is_writer=is_writer)


class Remarks:
    """A line for everything that was not answered; several processes write them."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "remarks"
        if not self._path.exists():
            self._path.touch()
            self._path.chmod(0o666)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND)

    def add(self, load: str, fate: str, name: str, text: str) -> None:
        line = json.dumps([round(time.time(), 3), load, fate, name, text[:300]])
        os.write(self._file, line.encode() + b"\n")

    def all(self) -> Iterator[tuple[float, str, str, str, str]]:
        with self._path.open() as lines:
            yield from (tuple(json.loads(line)) for line in lines)


class Desk:
    """Where the rounds of one kind of load put their requests."""

    def __init__(
        self,
        load: str,
        counts: Counts,
        weather: Weather,
        remarks: Remarks,
        targets: Collection[str],
    ) -> None:
        self._load = load
        self._counts = counts
        self._weather = weather
        self._remarks = remarks
        self._targets = (*targets, "polkit")
        self.is_closing = False
        self.begin()

    def begin(self) -> None:
        """A round: what it opens now, what happens from now on may take away."""
        self._since = self._look()

    def _look(self) -> Mapping[str, int]:
        return {target: self._weather[target] for target in self._targets}

    @property
    def is_stormy(self) -> bool:
        """Whether something was done to one of the targets since the round began, or is."""
        return any(
            number % 2 or number != self._weather[target] for target, number in self._since.items()
        )

    def is_same(self, target: str, number: int) -> bool:
        return self._weather[target] == number

    def number(self, target: str) -> int:
        return self._weather[target]

    async def ask(self, what: Awaitable[T], *, may: Collection[str] = ()) -> T:
        """The answer; Cut without one. may: names of errors that it may have at any time."""
        self._counts.add("asked")
        begin = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await what
        except Exception as error:
            fate = self._fate(name_of(error), may)
            self._counts.add(fate)
            self._remarks.add(self._load, fate, name_of(error), str(error))
            raise Cut(str(error)) from None
        self._counts.add("answered")
        if (took := time.monotonic() - begin) > SLOW_SECONDS:
            self._remarks.add(self._load, "answered", "slowly", f"{took:.1f} s")
        return answer

    def _fate(self, name: str, may: Collection[str]) -> str:
        if name in may:
            return "refused"
        return "cut" if name in GONE and self.is_stormy else "lost"
