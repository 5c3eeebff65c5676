"""What all loads do: come, wait a little, leave."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from random import Random

from soak_ledger import Desk

from buswork.client import Client


def steps(desk: Desk, random: Random, least: int, most: int) -> Iterator[int]:
    """So many, as long as the load goes on."""
    for number in range(random.randrange(least, most)):
        if desk.is_closing:
            return
        yield number


async def pause(random: Random, seconds: float) -> None:
    """About so long."""
    await asyncio.sleep(min(random.expovariate(1 / seconds), 5 * seconds))


@asynccontextmanager
async def caller(desk: Desk) -> AsyncIterator[Client]:
    """A connection to the bus of its own."""
    client = Client()
    await desk.ask(client.open())
    try:
        yield client
    finally:
        await client.close()


def word(random: Random, most: int = 40) -> str:
    return "".join(random.choices('abcdefgh äöü€🚌\n"\\', k=random.randrange(1, most)))
