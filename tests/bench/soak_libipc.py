"""Load on messages between programs: everything that is sent comes back."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

from soak_house import ECHO, FORMS, ORIGIN, TOKEN
from soak_ledger import Changed, Desk
from soak_steps import caller, pause, steps
from websockets.asyncio.client import connect as connect_websocket

from buswork import libipc
from buswork.client.libipc import Received
from buswork.libipc import Form, RunDir
from buswork.libipc.wire.forms import Assembler, frame

PACE = 0.08
MOST_BYTES = 4_000


def payload(random: Random) -> bytes:
    return random.randbytes(random.randrange(1, MOST_BYTES))


async def echoed(
    data: bytes, send: Callable[[bytes], Awaitable[None]], receive: Callable[[], Awaitable[bytes]]
) -> None:
    await send(data)
    if (found := await receive()) != data:
        raise Changed(f"{len(found)} bytes came back of {len(data)}")


async def serves(desk: Desk, random: Random, places: Mapping[str, Any]) -> None:
    """A service on the bus, with clients on the bus, on sockets that it hands out, and native."""
    name, form = f"soak-{os.getpid()}", random.choice(FORMS)
    async with caller(desk) as owner, caller(desk) as client:
        serving = owner.libipc.serve(name, form=form)
        service = await desk.ask(serving.__aenter__())
        echo = asyncio.create_task(echo_all(service))
        try:
            await desk.ask(client.libipc.list())
            connecting = client.libipc.connect(name, form=form)
            connection = await desk.ask(connecting.__aenter__())
            try:
                for _ in steps(desk, random, 5, 40):
                    await desk.ask(by_connection(connection, payload(random)))
                    await pause(random, PACE)
            finally:
                await connecting.__aexit__(None, None, None)
        finally:
            echo.cancel()
            await asyncio.wait([echo])
            await serving.__aexit__(None, None, None)


async def echo_all(service: Any) -> None:
    async for event in service:
        if isinstance(event, Received):
            message = event.message
            await service.send(event.client, message.payload, message.user_type)


async def by_connection(connection: libipc.Connection, data: bytes) -> None:
    async def send(data: bytes) -> None:
        connection.send(data)

    async def receive() -> bytes:
        return bytes((await connection.receive()).payload)

    await echoed(data, send, receive)


async def channels(desk: Desk, random: Random, places: Mapping[str, Any]) -> None:
    """To a native service."""
    async with caller(desk) as client:
        opening = client.libipc.channel(ECHO, form="c")
        channel = await desk.ask(opening.__aenter__())

        async def receive() -> bytes:
            return bytes((await channel.receive()).payload)

        try:
            for _ in steps(desk, random, 5, 80):
                await desk.ask(echoed(payload(random), channel.send, receive))
                await pause(random, PACE)
        finally:
            await opening.__aexit__(None, None, None)


async def native(desk: Desk, random: Random, places: Mapping[str, Any]) -> None:
    """Without anybody in between: what the service does beside all others' load."""
    form = random.choice(FORMS)
    folder = RunDir(Path(places["sockets"]) / f"ipc-{form}", Form(form))
    connecting = libipc.connect(ECHO, rundir=folder)
    connection = await desk.ask(connecting.__aenter__())
    try:
        for _ in steps(desk, random, 5, 40):
            await desk.ask(by_connection(connection, payload(random)))
            await pause(random, PACE)
    finally:
        await connecting.__aexit__(None, None, None)


async def tcp(desk: Desk, random: Random, places: Mapping[str, Any]) -> None:
    reader, writer = await desk.ask(asyncio.open_connection("127.0.0.1", places["tcp"]))
    assembler = Assembler(Form.C)

    async def send(data: bytes) -> None:
        writer.write(frame(Form.C, data))

    async def receive() -> bytes:
        while not (messages := list(assembler.feed(await some(reader)))):
            pass
        return bytes(messages[0].payload)

    try:
        writer.write(ECHO.encode())
        await desk.ask(agreed(reader))
        for _ in steps(desk, random, 5, 40):
            await desk.ask(echoed(payload(random), send, receive))
            await pause(random, PACE)
    finally:
        writer.transport.abort()


async def some(reader: asyncio.StreamReader) -> bytes:
    data = await reader.read(65536)
    if not data:
        raise EOFError("the connection was closed")
    return data


async def agreed(reader: asyncio.StreamReader) -> None:
    if (said := await some(reader)) != b"OK":
        raise Changed(repr(said))


async def websocket(desk: Desk, random: Random, places: Mapping[str, Any]) -> None:
    url = f"ws://127.0.0.1:{places['ws']}/{ECHO}"
    words: Any = ["buswork.libipc.c", f"buswork.token.{TOKEN}"]
    opening = connect_websocket(
        url,
        origin=ORIGIN,  # type: ignore[arg-type]
        subprotocols=words,
        open_timeout=None,
    )
    page = await desk.ask(opening.__aenter__())

    async def send(data: bytes) -> None:
        await page.send(b"\0" + data)

    async def receive() -> bytes:
        return bytes(await page.recv(decode=False))[1:]

    try:
        for _ in steps(desk, random, 5, 40):
            await desk.ask(echoed(payload(random), send, receive))
            await pause(random, PACE)
    finally:
        await page.close()
