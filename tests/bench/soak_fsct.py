"""Load on the displays: players that come, play and die."""

import asyncio
import itertools
import time
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import msgpack
from soak_ledger import Changed, Desk
from soak_steps import caller, pause, steps, word

from buswork.client import Client, PlayerState, Status, TextId, Texts, Timeline
from buswork.fsct.wire.msgpackrpc import encode_request

PACE = 0.08
PORTS = ("1-1", "1-2")
STATUSES = list(Status)


def timeline(random: Random) -> Timeline:
    position = random.randrange(200_000)
    return Timeline(position, time.time_ns() // 1_000_000, 200_000, random.choice((0.0, 1.0)))


async def plays(desk: Desk, random: Random, places: Mapping[str, Any]) -> None:
    async with caller(desk) as client:
        driver = client.driver
        players = [
            await desk.ask(driver.register_player(word(random)))
            for _ in range(random.randrange(1, 4))
        ]
        for _ in steps(desk, random, 10, 60):
            await one(desk, random, client, random.choice(players))
            await pause(random, PACE)
        if random.random() < 0.5:
            for player in players:
                await desk.ask(driver.unregister_player(player))


async def one(desk: Desk, random: Random, client: Client, player: int) -> None:
    driver = client.driver
    match random.randrange(8):
        case 0:
            texts = Texts(word(random), word(random), word(random), word(random))
            state = PlayerState(random.choice(STATUSES), timeline(random), texts)
            await desk.ask(driver.update_player_state(player, state))
        case 1:
            await desk.ask(driver.update_player_status(player, random.choice(STATUSES)))
        case 2:
            await desk.ask(driver.update_player_timeline(player, timeline(random)))
        case 3:
            text = word(random)
            await desk.ask(driver.update_player_metadata(player, TextId.CURRENT_TITLE, text))
        case 4:
            await assigns(desk, random, client, player)
        case 5:
            await desk.ask(driver.set_preferred_player(random.choice((player, None))))
        case 6:
            await desk.ask(driver.players())
        case 7:
            await desk.ask(client.simulator.get_display(random.choice(PORTS)))


async def assigns(desk: Desk, random: Random, client: Client, player: int) -> None:
    devices = await desk.ask(client.driver.list_devices())
    if devices:
        device = random.choice(devices)
        await desk.ask(client.driver.assign_player_to_device(player, device))
        await desk.ask(is_assigned(client, player, device))
        await desk.ask(client.driver.unassign_player_from_device(player, device))


async def is_assigned(client: Client, player: int, device: str) -> None:
    found = await client.driver.get_player_assigned_device(player)
    if found != device:
        raise Changed(f"player {player} is assigned to {found}, not to {device}")


class Native:
    """The driver's own protocol, one request at a time."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "fsct.sock"
        self._numbers = itertools.count(1)
        self._unpacker = msgpack.Unpacker(strict_map_key=False)

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_unix_connection(str(self._path))

    async def call(self, method: str, *params: Any) -> Any:
        number = next(self._numbers)
        self._writer.write(encode_request(number, method, list(params)))
        while (answer := next(iter(self._unpacker), None)) is None:
            data = await self._reader.read(65536)
            if not data:
                raise EOFError(method)
            self._unpacker.feed(data)
        kind, answered, error, result = answer
        if (kind, answered, error) != (1, number, None):
            raise Changed(f"{method}: {answer}")
        return result

    def close(self) -> None:
        self._writer.transport.abort()


async def native(desk: Desk, random: Random, places: Mapping[str, Any]) -> None:
    driver = Native(Path(places["sockets"]))
    await desk.ask(driver.open())
    try:
        await desk.ask(driver.call("get_protocol_version"))
        player = await desk.ask(driver.call("register_player", word(random)))
        for _ in steps(desk, random, 10, 80):
            await asked(desk, random, driver, player)
            await pause(random, PACE)
    finally:
        driver.close()


async def asked(desk: Desk, random: Random, driver: Native, player: int) -> None:
    match random.randrange(4):
        case 0:
            call = driver.call("update_player_metadata", player, 1, word(random))
        case 1:
            call = driver.call("update_player_status", player, random.choice((0, 1, 2)))
        case 2:
            call = driver.call("set_preferred_player", random.choice((player, None)))
        case _:
            call = driver.call("get_preferred_player")
    await desk.ask(call)
