"""buswork flipper flash: a firmware for the main processor of a board."""

import argparse
import asyncio

from buswork.cli.exits import Exit
from buswork.cli.flipper import chosen, read_file, shown
from buswork.cli.flipper_claim import claimed
from buswork.cli.output import InputError, Output, Progress
from buswork.client import Board, BusworkError, Client
from buswork.flipper.wire import samba
from buswork.flipper.wire.samba import SambaError, Session
from buswork.flipper.wire.terms import BadValue

# What the board says when nothing came in time.
SILENCE = "org.flipper.Error.Uart0PullTimeout"
NO_FIRMWARE = "the main processor may be without firmware now: flash it again"


async def flash(client: Client, options: argparse.Namespace, out: Output) -> int:
    try:
        pages = samba.pages(read_file(options.image))
    except BadValue as error:
        raise InputError(f"{options.image}: {error}") from None
    board = await chosen(client, options)
    if (await board.facts()).transport != "usb":
        raise InputError(f"{board.name} is not on USB, and can't be flashed from here")
    async with claimed(board, "its firmware is written", out, service=True):
        with out.progress("writing", len(pages)) as progress:
            is_done = False
            try:
                await _run(board, samba.flashed(pages, verify=options.verify), progress)
                is_done = True
            except SambaError as error:
                out.error(str(error))
                return Exit.FAILED
            finally:
                if not is_done:
                    out.note(NO_FIRMWARE)
                await _run(board, samba.restarted(), progress)
    return shown(out, {"board": board.name, "pages": len(pages), "verified": options.verify})


async def _run(board: Board, session: Session[None], progress: Progress) -> None:
    step = next(session, None)
    while step is not None:
        brought = await _carry_out(board, step, progress)
        try:
            step = session.send(brought)
        except StopIteration:
            return


async def _carry_out(board: Board, step: samba.Step, progress: Progress) -> bytes:
    match step:
        case samba.Talk(data, wanted):
            return await _talk(board, data, wanted)
        case samba.Pins(high, low):
            await board.invoke("u2.gpio", "write", high, low)
        case samba.Speed(baud, interrupts):
            await board.invoke("u2.uart0", "configure", baud, interrupts)
        case samba.Pause(seconds):
            await asyncio.sleep(seconds)
        case samba.Progress(done, _):
            progress.update(done)
    return b""


async def _talk(board: Board, data: bytes, wanted: int) -> bytes:
    if data:
        await board.push("u2.uart0", "push", data)
    if not wanted:
        return b""
    try:
        return await board.pull("u2.uart0", "pull", wanted)
    except BusworkError as error:
        if error.name == SILENCE:
            return b""
        raise
