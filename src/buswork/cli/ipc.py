"""buswork ipc: services, and messages to them."""

import argparse
import asyncio
import contextlib
import dataclasses
import sys
from typing import Any

from buswork.cli.clients import user_name
from buswork.cli.exits import Exit
from buswork.cli.ipc_parser import MOST_BYTES, STDIO
from buswork.cli.ipc_reach import Reach
from buswork.cli.output import InputError, Output
from buswork.cli.run import while_somebody_reads
from buswork.client import Client, TimedOut
from buswork.client.libipc import ServiceFacts
from buswork.libipc import Form, Message

HEAD = ("SERVICE", "FORM", "STATE", "OWNER", "CONNECTIONS", "DIRECTORY")
# How often it is looked again: of a service that was killed nobody tells.
LOOK_SECONDS = 1.0
# Two digits and a blank for each byte.
MOST_INPUT_BYTES = 3 * MOST_BYTES


# -- what there is -----------------------------------------------------------------------------


async def list_(client: Client, options: argparse.Namespace, out: Output) -> int:
    async with Reach(client, options) as reach:
        shown = await _services(reach, options)
        _show_services(shown, out)
        while options.watch:
            with while_somebody_reads():
                await asyncio.sleep(LOOK_SECONDS)
            found = await _services(reach, options)
            if found != shown:
                _show_services(found, out)
                shown = found
    return Exit.OK


async def _services(reach: Reach, options: argparse.Namespace) -> list[ServiceFacts]:
    forms = [options.form] if options.form else [*Form]
    found = await reach.services()
    return sorted((each for each in found if each.form in forms), key=lambda each: each.name)


def _show_services(found: list[ServiceFacts], out: Output) -> None:
    if out.json:
        out.document([_plain(each) for each in found])
    elif not found:
        out.note("there is no service")
    else:
        out.table(HEAD, map(_row, found))


def _plain(facts: ServiceFacts) -> dict[str, Any]:
    """Who serves for others is the daemon's to tell, and not known of a socket."""
    found = dataclasses.asdict(facts)
    del found["served"]
    return found


def _row(facts: ServiceFacts) -> tuple[str, ...]:
    state = "alive" if facts.alive else "left behind"
    owner = user_name(facts.owner_uid)
    return facts.name, facts.form, state, owner, str(facts.connections), facts.directory


# -- messages ----------------------------------------------------------------------------------


async def send(client: Client, options: argparse.Namespace, out: Output) -> int:
    payload = _payload(options)
    async with Reach(client, options) as reach:
        connection = await reach.connect(options.service)
        try:
            async with asyncio.timeout(options.wait_timeout):
                connection.send(payload, options.user_type)
                if options.no_reply:
                    await connection.consumed()
                for _ in range(0 if options.no_reply else options.wait or 1):
                    show_message(await connection.receive(), options, out)
        except TimeoutError:
            raise TimedOut(f"no answer in {options.wait_timeout:g} s") from None
    return Exit.OK


def _payload(options: argparse.Namespace) -> bytes:
    if options.payload == STDIO:
        data = sys.stdin.buffer.read(MOST_INPUT_BYTES + 1)
        if len(data) > MOST_INPUT_BYTES:
            raise InputError("stdin has more than a message can have")
    else:
        data = options.payload.encode(errors="surrogateescape")
    return of_hex(data) if options.hex else data


def of_hex(data: bytes) -> bytes:
    try:
        return bytes.fromhex(data.decode())
    except ValueError:
        raise InputError("this is not hexadecimal") from None


def show_message(message: Message, options: argparse.Namespace, out: Output) -> None:
    if out.json:
        out.document(plain(message, as_hex=options.hex))
    elif options.hex:
        out.prose(message.payload.hex())
    else:
        out.payload(message.payload, line=(options.wait or 1) > 1)


def plain(message: Message, *, as_hex: bool = False) -> dict[str, Any]:
    """As JSON has it: a text where it is one."""
    payload: str | bytes = message.payload
    if not as_hex:
        with contextlib.suppress(UnicodeDecodeError):
            payload = message.payload.decode()
    return {"type": message.type, "user_type": message.user_type, "payload": payload}
