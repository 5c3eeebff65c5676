"""buswork ipc listen: what programs send, as it comes."""

import argparse
import asyncio
import os

from buswork.cli import program
from buswork.cli.clients import user_name
from buswork.cli.exits import Exit
from buswork.cli.ipc import plain
from buswork.cli.ipc_reach import Event, Reach, Served
from buswork.cli.output import CommandError, Output
from buswork.cli.run import while_somebody_reads
from buswork.client import BusworkError, Client
from buswork.client.libipc import Connected, Disconnected, Received
from buswork.libipc import Message, PeerGone


async def listen(client: Client, options: argparse.Namespace, out: Output) -> int:
    if options.program is not None:
        program.check("--exec", options.program)
        if options.connect:
            raise CommandError("--exec is for a service, and not for --connect")
    async with Reach(client, options) as reach:
        with while_somebody_reads():
            if options.connect:
                await _listen_to(reach, options, out)
            else:
                await _serve(reach, options, out)
    return Exit.OK


async def _listen_to(reach: Reach, options: argparse.Namespace, out: Output) -> None:
    connection = await reach.connect(options.service)
    out.note(f"connected to {options.service} (form {connection.form})")
    left = options.count
    while left is None or left > 0:
        message = await connection.receive()
        if out.json:
            out.document({"event": "message", **plain(message, as_hex=options.hex)})
        else:
            out.prose(_text(message, out, as_hex=options.hex))
        left = None if left is None else left - 1


async def _serve(reach: Reach, options: argparse.Namespace, out: Output) -> None:
    served = await reach.serve(options.service)
    out.note(f"serving {served.name} (form {served.form})")
    left = options.count
    async for event in served.events():
        if options.program is None:
            _show(event, options, out)
        elif isinstance(event, Received):
            await _answer(served, event, options.program, out)
        if isinstance(event, Received) and left is not None:
            left -= 1
        if left == 0:
            break
    else:
        raise PeerGone(f"{served.name} was taken away")
    await served.settle()


def _show(event: Event, options: argparse.Namespace, out: Output) -> None:
    if out.json:
        out.document(_plain(event, options))
        return
    client = out.styled(str(event.client), "bold")
    match event:
        case Connected(_, uid, pid):
            of = f"{user_name(uid)}, process {pid}" if pid else user_name(uid)
            out.prose(f"{client} connected: {of}")
        case Received(_, message):
            out.prose(f"{client} {_text(message, out, as_hex=options.hex)}")
        case Disconnected():
            out.prose(f"{client} disconnected")


def _plain(event: Event, options: argparse.Namespace) -> dict[str, object]:
    match event:
        case Connected(client, uid, pid):
            return {"event": "connected", "client": client, "uid": uid, "pid": pid}
        case Received(client, message):
            facts = plain(message, as_hex=options.hex)
            return {"event": "message", "client": client, **facts}
        case Disconnected(client):
            return {"event": "disconnected", "client": client}


def _text(message: Message, out: Output, *, as_hex: bool) -> str:
    """A line: the user type, and the payload."""
    payload = message.payload
    text = payload.hex() if as_hex else payload.decode(errors="backslashreplace")
    return f"{out.styled(str(message.user_type), 'dim')} {out.styled(text, 'green')}"


async def _answer(served: Served, event: Received, command: list[str], out: Output) -> None:
    """What the command prints, if anything."""
    answer = await _run(command, event, out)
    if not answer:
        return
    try:
        await served.send(event.client, answer, event.message.user_type)
    except BusworkError as error:
        out.error(f"client {event.client}: {error}", error.name)


async def _run(command: list[str], event: Received, out: Output) -> bytes:
    """Foreign text is on stdin alone: never an argument."""
    facts = {
        "BUSWORK_IPC_CLIENT": str(event.client),
        "BUSWORK_IPC_USER_TYPE": str(event.message.user_type),
    }
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, env=os.environ | facts
        )
    except OSError as error:
        raise CommandError(f"{command[0]}: {error.strerror}") from None
    printed, _ = await process.communicate(event.message.payload)
    if process.returncode:
        out.note(f"{command[0]} ended with {process.returncode} for client {event.client}")
    return printed
