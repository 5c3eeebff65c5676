"""buswork fsct: players, and the USB audio displays that show what they play."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
import unicodedata
from collections.abc import Coroutine, Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from buswork.cli import program
from buswork.cli.clients import user_name
from buswork.cli.exits import Exit
from buswork.cli.output import CommandError, InputError, Output
from buswork.cli.run import while_somebody_reads
from buswork.client import (
    Client,
    Disconnected,
    NoReply,
    NotRunning,
    PlayerState,
    Status,
    Texts,
    Timeline,
)
from buswork.client.driver import MANAGER, ROOT, Device, Player
from buswork.client.errors import BusworkError, UnknownInterface, UnknownObject
from buswork.log import escaped

if TYPE_CHECKING:
    from buswork.bus.message import Frame

T = TypeVar("T")

PLAYERS_HEAD = ("ID", "USER", "STATUS", "POSITION", "TITLE", "ARTIST", "SHOWN ON", "SELF ID")
DEVICES_HEAD = ("ID", "NAME", "SERIAL", "PORT", "SHOWS", "WHY", "ERROR")

# What others play is theirs.
HIDDEN = "?"

# A box that does not change its size with every title; no simulated display has more.
COLUMNS = 48

# The first part of a UUID, which tells the devices of one machine apart.
SHORT_ID = 8


# -- what there is -----------------------------------------------------------------------------


async def players(client: Client, options: argparse.Namespace, out: Output) -> int:
    found, preferred = await client.driver.players(), await client.driver.get_preferred_player()
    shown_on = _shown_on(await _devices(client))
    if out.json:
        out.document([_plain_player(each, preferred, shown_on) for each in found])
    elif not found:
        out.note("there are no players; `buswork fsct play --title Hello` is one")
    else:
        out.table(PLAYERS_HEAD, (_player_row(each, preferred, shown_on) for each in found))
    return Exit.OK


def _shown_on(devices: Iterable[Device]) -> dict[int | None, list[str]]:
    """By player: the devices that show it."""
    shown_on: dict[int | None, list[str]] = {}
    for device in devices:
        shown_on.setdefault(device.active_player, []).append(device.id)
    return shown_on


def _plain_player(
    player: Player, preferred: int | None, shown_on: dict[int | None, list[str]]
) -> dict[str, Any]:
    return {
        **asdict(player),
        "status": player.status.name.lower(),
        "preferred": player.id == preferred,
        "shown_on": shown_on.get(player.id, []),
    }


def _player_row(
    player: Player, preferred: int | None, shown_on: dict[int | None, list[str]]
) -> tuple[str, ...]:
    texts = player.texts
    return (
        f"{player.id}{'*' if player.id == preferred else ''}",
        user_name(player.uid),
        player.status.name.lower(),
        _position(player),
        HIDDEN if texts is None else texts.title or "",
        HIDDEN if texts is None else texts.artist or "",
        " ".join(device[:SHORT_ID] for device in shown_on.get(player.id, [])),
        HIDDEN if player.self_id is None else player.self_id,
    )


def _position(player: Player) -> str:
    if player.texts is None:
        return HIDDEN
    if player.timeline is None or player.position_ms is None:
        return ""
    position, duration = _clock(player.position_ms), _clock(player.timeline.duration_ms)
    return f"{position} / {duration}" if player.timeline.duration_ms else position


def _clock(milliseconds: int) -> str:
    minutes, second = divmod(milliseconds // 1000, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


async def _devices(client: Client) -> list[Device]:
    return sorted(await client.driver.devices(), key=lambda device: device.port)


async def devices(client: Client, options: argparse.Namespace, out: Output) -> int:
    found = await _devices(client)
    if out.json:
        out.document([_plain_device(each) for each in found])
    elif not found:
        out.note("no display is connected")
    else:
        out.table(DEVICES_HEAD, map(_device_row, found))
    return Exit.OK


def _plain_device(device: Device) -> dict[str, Any]:
    texts = {text_id.name.lower(): most for text_id, most in device.texts.items()}
    return {**asdict(device), "texts": texts}


def _device_row(device: Device) -> tuple[str, ...]:
    return (
        device.id,
        f"{device.vendor} {device.product}".strip(),
        device.serial,
        device.port,
        str(device.active_player or ""),
        device.active_reason,
        device.last_error,
    )


async def status(client: Client, options: argparse.Namespace, out: Output) -> int:
    """What each display shows, and why."""
    found = {player.id: player for player in await client.driver.players()}
    connected = await _devices(client)
    preferred = await client.driver.get_preferred_player()
    if out.json:
        shown_on = _shown_on(connected)
        out.document(
            {
                "players": [_plain_player(each, preferred, shown_on) for each in found.values()],
                "devices": [_plain_device(each) for each in connected],
                "preferred": preferred,
            }
        )
        return Exit.OK
    for device in connected:
        name = f"{device.vendor} {device.product}".strip() or device.id
        out.prose(f"{out.styled(name, 'bold')} (port {escaped(device.port)})")
        shown = found.get(device.active_player or 0)
        what = "nothing" if shown is None else f"player {_summary(shown)}"
        out.prose(f"  shows      {out.styled(what, 'green')} ({escaped(device.active_reason)})")
        if device.last_error:
            out.prose(f"  error      {out.styled(device.last_error, 'red')}")
    if not connected:
        out.prose("no display is connected")
    out.prose(f"players      {len(found)}")
    if preferred is not None:
        summary = _summary(found[preferred]) if preferred in found else str(preferred)
        out.prose(f"preferred    player {escaped(summary)}")
    return Exit.OK


def _summary(player: Player) -> str:
    words = [f"{player.id}", player.status.name.lower()]
    if player.texts is not None:
        texts = (player.texts.title, player.texts.artist)
        words += filter(None, (" - ".join(filter(None, texts)), _position(player)))
    return ", ".join(words)


# -- who is shown where ------------------------------------------------------------------------


async def assign(client: Client, options: argparse.Namespace, out: Output) -> int:
    player_id = await _find_player(client, options.player)
    device_id = await _find_device(client, options.device)
    await client.driver.assign_player_to_device(player_id, device_id)
    if out.json:
        out.document({"player": player_id, "device": device_id})
    return Exit.OK


async def unassign(client: Client, options: argparse.Namespace, out: Output) -> int:
    player_id = await _find_player(client, options.player)
    device_id = await client.driver.get_player_assigned_device(player_id)
    if device_id is None:
        raise InputError(f"player {player_id} is assigned to no device")
    await client.driver.unassign_player_from_device(player_id, device_id)
    if out.json:
        out.document({"player": player_id, "device": None})
    return Exit.OK


async def prefer(client: Client, options: argparse.Namespace, out: Output) -> int:
    if options.none and options.player is not None:
        raise CommandError("--none takes no PLAYER")
    if options.none:
        await client.driver.set_preferred_player(None)
    elif options.player is not None:
        await client.driver.set_preferred_player(await _find_player(client, options.player))
    if out.json or not (options.none or options.player):
        preferred = await client.driver.get_preferred_player()
        if out.json:
            out.document({"preferred": preferred})
        elif preferred is not None:
            out.prose(str(preferred))
    return Exit.OK


async def _find_player(client: Client, word: str) -> int:
    """The player with this number, or the only one that calls itself so."""
    if word.isascii() and word.isdecimal():
        return int(word)
    found = [each.id for each in await client.driver.players() if each.self_id == word]
    if len(found) != 1:
        how_many = "several players call themselves" if found else "no player calls itself"
        raise InputError(f"{how_many} {word}")
    return found[0]


async def _find_device(client: Client, word: str) -> str:
    """The device whose id begins so; one that is not connected by its whole id."""
    wanted = word.lower()
    if not wanted:
        raise InputError("a DEVICE has an id")
    found = [each for each in await client.driver.list_devices() if each.startswith(wanted)]
    if len(found) > 1:
        raise InputError(f"the ids of several devices begin with {word}")
    return found[0] if found else word


# -- a player of one's own ---------------------------------------------------------------------


async def play(client: Client, options: argparse.Namespace, out: Output) -> int:
    """Registers a player, which goes with us."""
    if options.program is not None:
        program.check("--while", options.program)
    state = _state(options)
    changes = asyncio.Event()
    is_new = False  # the daemon, which does not know our player

    def restarted() -> None:
        nonlocal is_new
        is_new = True
        changes.set()

    def removed(frame: Frame) -> None:
        if frame.header.signature == "oas" and frame.values()[0] == f"{ROOT}/players/{player_id}":
            changes.set()

    client.on_restart(restarted)
    player_id = await _register(client, options.self_id, state, out)
    if options.program is not None:
        return await program.run(options.program)

    await client.listen(MANAGER, "InterfacesRemoved", removed)
    owner = client.owner
    changes.set()  # it may have gone before we listened
    while True:
        await _until(client, changes.wait())
        changes.clear()
        if is_new:
            is_new = False
            player_id = await _register(client, options.self_id, state, out)
            owner = client.owner
        if not await _is_there(client, player_id) and client.owner == owner:
            raise InputError(f"somebody took player {player_id} away")


async def _is_there(client: Client, player_id: int) -> bool:
    """A daemon that goes down takes its players away first; it is as if they still were there."""
    try:
        return player_id in await client.driver.list_players()
    except (Disconnected, NoReply, NotRunning):
        return True


async def _register(client: Client, self_id: str, state: PlayerState, out: Output) -> int:
    player_id = await client.driver.register_player(self_id)
    await client.driver.update_player_state(player_id, state)
    if out.json:
        out.document({"player": player_id})
    else:
        out.note(f"player {player_id} is there until this command ends")
    return player_id


def _state(options: argparse.Namespace) -> PlayerState:
    status = Status[options.status.upper()]
    texts = Texts(options.title, options.artist, options.album, options.genre)
    if options.position is None and options.duration is None and options.rate is None:
        return PlayerState(status, None, texts)
    rate = options.rate
    if rate is None:
        rate = 1.0 if status is Status.PLAYING else 0.0
    timeline = Timeline(
        int((options.position or 0) * 1000),
        time.time_ns() // 1_000_000,
        int((options.duration or 0) * 1000),
        rate,
    )
    return PlayerState(status, timeline, texts)


async def _until(client: Client, change: Coroutine[Any, Any, T]) -> T:
    """What comes of waiting for a change; Disconnected when there will be no more."""
    waiting = asyncio.ensure_future(change)
    try:
        closed = client.connection.closed
        await asyncio.wait((waiting, closed), return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise Disconnected("the connection to the bus is gone")
        return waiting.result()
    finally:
        waiting.cancel()


# -- simulated displays ------------------------------------------------------------------------


async def display(client: Client, options: argparse.Namespace, out: Output) -> int:
    try:
        return await _display(client, options, out)
    except (UnknownObject, UnknownInterface) as error:
        text = "there is no simulated display: busworkd runs without --simulate"
        raise BusworkError(text, error.name) from None


async def _display(client: Client, options: argparse.Namespace, out: Output) -> int:
    if options.plug is not None:
        await client.simulator.plug(options.plug)
    if options.unplug is not None:
        await client.simulator.unplug(options.unplug)
    if not options.watch and (options.plug or options.unplug):
        return Exit.OK
    changes = _Changes()
    if options.watch:
        await client.simulator.on_changed(changes.note)
    ports = [options.port] if options.port else await client.simulator.list_displays()
    drawn = {port: await client.simulator.get_display(port) for port in ports}
    if not options.watch:
        _draw_all(drawn, out)
        return Exit.OK
    with while_somebody_reads():
        _draw_anew(drawn, drawn, out)
        while True:
            noted = await _until(client, changes.take())
            lines = {
                port: await client.simulator.get_display(port) for port in drawn if port in noted
            }
            changed = {port: lines[port] for port in lines if lines[port] != drawn[port]}
            drawn |= changed
            if changed:
                _draw_anew(changed, drawn, out)


class _Changes:
    """The displays that changed; a terminal that is slow gets the newest, not all between."""

    def __init__(self) -> None:
        self._ports: set[str] = set()
        self._are_there = asyncio.Event()

    def note(self, port: str) -> None:
        self._ports.add(port)
        self._are_there.set()

    async def take(self) -> set[str]:
        """Those since the last time, as soon as somebody reads what is drawn of them."""
        await self._are_there.wait()
        await _until_writable(sys.stdout.fileno())
        ports, self._ports = self._ports, set()
        self._are_there.clear()
        return ports


async def _until_writable(number: int) -> None:
    loop = asyncio.get_running_loop()
    is_writable = asyncio.Event()
    try:
        loop.add_writer(number, is_writable.set)
    except PermissionError:
        return  # a file, which takes all
    try:
        await is_writable.wait()
    finally:
        loop.remove_writer(number)


def _draw_all(drawn: dict[str, list[str]], out: Output) -> None:
    if out.json:
        out.document(drawn)
    else:
        for port, lines in drawn.items():
            _draw(port, lines, out)


def _draw_anew(changed: dict[str, list[str]], drawn: dict[str, list[str]], out: Output) -> None:
    """A terminal shows all of them, always at the same place; a file gets what changed."""
    if out.json or not sys.stdout.isatty():
        _draw_all(changed, out)
    else:
        out.raw(b"\x1b[H\x1b[J")  # home, and nothing below
        _draw_all(drawn, out)


def _draw(port: str, lines: list[str], out: Output) -> None:
    """The display as a box."""
    shown = [escaped(line) for line in lines] or ["(not plugged in)"]
    name = escaped(port)
    inside = max(COLUMNS, *map(_width, (*shown, name)))
    out.prose(f"┌─ {name} {'─' * (inside - _width(name) - 1)}┐")
    for line in shown:
        out.prose(f"│ {line}{' ' * (inside - _width(line))} │")
    out.prose(f"└{'─' * (inside + 2)}┘")


def _width(text: str) -> int:
    """How many columns of a terminal it takes."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) > 0 for char in text)
