"""buswork flipper push and pull: data for a board, and data of it."""

import argparse
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import BinaryIO, Literal

from buswork.cli.exits import Exit
from buswork.cli.flipper import chosen
from buswork.cli.output import Output
from buswork.client import Client

# Each call is some hundred turns of the board, after which others see how far it is.
PIECE_BYTES = 16 * 1024


async def push(client: Client, options: argparse.Namespace, out: Output) -> int:
    board = await chosen(client, options)
    done = 0
    with _opened(options.file, "rb") as file, out.progress("sending", _size(file)) as progress:
        while piece := file.read(PIECE_BYTES):
            done += await board.push(options.module, options.function, piece)
            progress.update(done)
    if out.json:
        out.document({"taken": done})
    return Exit.OK


async def pull(client: Client, options: argparse.Namespace, out: Output) -> int:
    board = await chosen(client, options)
    done = 0
    with _opened(options.file, "wb") as file, out.progress("getting", options.length) as progress:
        while done < options.length:
            size = min(options.length - done, PIECE_BYTES)
            file.write(await board.pull(options.module, options.function, size))
            file.flush()
            done += size
            progress.update(done)
    return Exit.OK


def _opened(path: str, mode: Literal["rb", "wb"]) -> AbstractContextManager[BinaryIO]:
    """The standard ones stay open when we are done."""
    if path == "-":
        return nullcontext((sys.stdin if mode == "rb" else sys.stdout).buffer)
    return Path(path).open(mode)


def _size(file: BinaryIO) -> int:
    """What is left of it; 0 where nobody knows."""
    if not file.seekable():
        return 0
    here = file.tell()
    size = file.seek(0, os.SEEK_END) - here
    file.seek(here)
    return size
