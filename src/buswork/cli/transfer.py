"""buswork store export and import: many keys and values as one JSON object."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from buswork.cli.exits import Exit
from buswork.cli.output import InputError, Output
from buswork.client import Client, LimitsExceeded

# Far below the 32 MiB at which a bus cuts a sender off, and the 65,536 elements of one message.
MAX_PART_BYTES = 4 * 1024 * 1024
MAX_PART_KEYS = 5_000
# An export during which nothing changed is a snapshot; in a busy store there may be none.
ATTEMPTS = 5


async def export(client: Client, options: argparse.Namespace, out: Output) -> int:
    for _ in range(ATTEMPTS):
        before = await client.store.revision()
        values = await _read(client, options.prefix, out)
        if await client.store.revision() == before:
            break
    else:
        out.note("the store changed all the while; values may be from different moments")
    out.prose(json.dumps(values, indent=2))
    return Exit.OK


async def _read(client: Client, prefix: str, out: Output) -> dict[str, str]:
    keys = await client.store.list(prefix)
    values: dict[str, str] = {}
    with out.progress("reading", len(keys)) as progress:
        todo = [keys[at : at + MAX_PART_KEYS] for at in range(0, len(keys), MAX_PART_KEYS)]
        while todo:
            part = todo.pop()
            try:
                values |= await client.store.get_many(part)
            except LimitsExceeded:
                if len(part) == 1:
                    raise
                todo += [part[: len(part) // 2], part[len(part) // 2 :]]
            progress.update(len(values))
    return dict(sorted(values.items()))


async def import_(client: Client, options: argparse.Namespace, out: Output) -> int:
    values = _parse(_text(options.file))
    done = 0
    revision = 0
    with out.progress("setting", len(values)) as progress:
        for part in parts(values):
            try:
                revision = await client.store.set_many(part) or revision
            except Exception:
                if done:
                    out.note(f"{done} of {len(values)} keys were set before this failed")
                raise
            done += len(part)
            progress.update(done)
    if out.json:
        out.document({"keys": done, "revision": revision})
    return Exit.OK


def _text(file: str) -> bytes:
    return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()


def _parse(text: bytes) -> dict[str, str]:
    try:
        values: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"this is no JSON: {error}") from None
    if not isinstance(values, dict):
        raise InputError("this JSON is no object of keys and values")
    for key, value in values.items():
        if not isinstance(value, str | None):
            raise InputError(f"the value of {key!r} is no string")
    return {key: value or "" for key, value in values.items()}


def parts(values: dict[str, str]) -> Iterator[dict[str, str]]:
    """As few as the limits of one call allow."""
    part: dict[str, str] = {}
    size = 0
    for key, value in values.items():
        entry = len(key.encode(errors="replace")) + len(value.encode(errors="replace"))
        if part and (size + entry > MAX_PART_BYTES or len(part) >= MAX_PART_KEYS):
            yield part
            part, size = {}, 0
        part[key] = value
        size += entry
    if part:
        yield part
