"""buswork flipper claim and lend: a board for one command alone."""

import argparse
import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

from buswork.cli import program
from buswork.cli.flipper import chosen
from buswork.cli.output import Output
from buswork.client import Board, BusworkError, Client

# A claim whose command was killed ends with its connection; this is for a machine that hangs.
LEASE_SECONDS = 60
# Where CMD finds the number of a descriptor that speaks FMR.
CHANNEL = "BUSWORK_FMR_FD"
NAME = "BUSWORK_BOARD"


async def claim(client: Client, options: argparse.Namespace, out: Output) -> int:
    command = _command(options)
    board = await chosen(client, options)
    async with claimed(board, options.reason, out, service=options.service):
        channel = await board.open_channel()
        try:
            facts = {CHANNEL: str(channel), NAME: board.name}
            return await program.run(command, facts, [channel])
        finally:
            os.close(channel)


async def lend(client: Client, options: argparse.Namespace, out: Output) -> int:
    command = _command(options)
    board = await client.flipper.find(options.board)
    token = await board.lend(options.reason, LEASE_SECONDS)
    async with _held(board, token, out):
        return await program.run(command, {NAME: board.name})


def _command(options: argparse.Namespace) -> list[str]:
    words: list[str] = options.program
    command = words[1:] if words[:1] == ["--"] else words
    program.check("--", command)
    return command


@contextlib.asynccontextmanager
async def claimed(
    board: Board, reason: str, out: Output, *, service: bool = False
) -> AsyncIterator[None]:
    """The board is ours alone."""
    token = await board.claim(reason, LEASE_SECONDS, service=service)
    async with _held(board, token, out):
        yield


@contextlib.asynccontextmanager
async def _held(board: Board, token: str, out: Output) -> AsyncIterator[None]:
    """The claim lasts until we are done, and is given back."""
    renewing = asyncio.create_task(_renew(board, token, out))
    try:
        yield
    finally:
        renewing.cancel()
        with contextlib.suppress(BusworkError):  # it ended before
            await board.release(token)


async def _renew(board: Board, token: str, out: Output) -> None:
    while True:
        await asyncio.sleep(LEASE_SECONDS / 3)
        try:
            await board.renew(token)
        except BusworkError as error:
            out.note(f"{board.name} is not ours alone any more: {error}")
            return
