"""GetManagedObjects: thousands of objects in one answer, and nobody waits while it is made.

It is made in pieces, with a look at what else has come between two of them, and one answer at
a time. An object that comes, goes or is told to have changed meanwhile is looked at once more,
so that the answer fits to the signals before it.
"""

import asyncio
import itertools
import struct
from collections.abc import Sequence

from buswork.bus.caller import Call
from buswork.bus.codec import Parts, body_encoder
from buswork.bus.library import Variant
from buswork.bus.objects import Exported, ObjectTree
from buswork.bus.places import Places
from buswork.bus.readable import PropertyJudge, Readable

# So many objects of a dozen properties take one or two milliseconds.
OBJECTS_A_PIECE = 32

_encode = body_encoder("a{oa{sa{sv}}}")
# Before the first entry: the length of the array, and what pads it to a multiple of 8.
_HEAD = struct.Struct("<I4x")
_HEAD_BYTES = _HEAD.size
_PADDING = tuple(bytes(n) for n in range(8))

# What an object adds to the array, padded to where the next may begin, and how much of it that is.
_Entry = tuple[bytes, int]


class ManagedObjects:
    """Answers on what is below the managers of one tree."""

    def __init__(self, tree: ObjectTree, judge: PropertyJudge) -> None:
        self._tree = tree
        self._judge = judge
        self._places = Places()

    async def below(self, path: str, call: Call) -> Parts:
        """The body of the answer, which is true at the moment in which it is returned."""
        readable = Readable(call, self._judge)
        while True:
            async with self._places.place(call.uid):
                entries = await self._entries(path, readable)
            if not readable.unknown:
                return _array(list(entries.values()))
            await readable.ask()  # however long that takes, others have their turn

    async def _entries(self, path: str, readable: Readable) -> dict[str, _Entry]:
        """By path; not all of them if something is unknown."""
        entries: dict[str, _Entry] = {}
        waiting = {exported.path: None for exported in self._tree.below(path)}
        with self._tree.noting(path, waiting):
            while waiting and not readable.unknown:
                await asyncio.sleep(0)
                for each in list(itertools.islice(waiting, OBJECTS_A_PIECE)):
                    del waiting[each]
                    self._look_at(each, readable, entries)
        return entries

    def _look_at(self, path: str, readable: Readable, entries: dict[str, _Entry]) -> None:
        exported = self._tree.get(path)
        if exported is None:
            entries.pop(path, None)
        else:
            entries[path] = _entry(exported, readable)


def _entry(exported: Exported, readable: Readable) -> _Entry:
    """An object's entry in the array; of no use if something is unknown of it."""
    path = exported.path
    faces = [(name, bound, readable.of(path, bound)) for name, bound in exported.faces.items()]
    try:
        told = {name: bound.unchecked(properties) for name, bound, properties in faces}
        return _encoded(path, told)
    except Exception:  # one property that can't be sent must not hide all the others
        told = {name: bound.readable(path, properties) for name, bound, properties in faces}
        return _encoded(path, told)


def _encoded(path: str, told: dict[str, dict[str, Variant]]) -> _Entry:
    body = _encode(({path: told},))
    return bytes(body[_HEAD_BYTES:] + _PADDING[-len(body) & 7]), len(body) - _HEAD_BYTES


def _array(entries: Sequence[_Entry]) -> Parts:
    """The array of these entries, without the padding of the last."""
    pieces = [padded for padded, _ in entries]
    if pieces:
        padded, length = entries[-1]
        pieces[-1] = padded[:length]
    return Parts([_HEAD.pack(sum(map(len, pieces))), *pieces])
