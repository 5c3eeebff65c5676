"""Tests of buswork.client.driver, and of its blocking face, on a private bus."""

import asyncio
import time
from uuid import UUID

import pytest
from client.private_bus import PrivateBus

from buswork.bus.library import variant
from buswork.client import (
    BusworkError,
    Client,
    InvalidArgs,
    LimitsExceeded,
    PlayerState,
    Status,
    TextId,
    Texts,
    Timeline,
    blocking,
)
from buswork.client.driver import MANAGER, Device, Player
from buswork.client.errors import UnknownObject

STATE = PlayerState(Status.PLAYING, Timeline(1000, 0, 60_000, 0.0), Texts("Song", "Singer"))
NOWHERE = "00000000-0000-0000-0000-000000000001"
PATIENCE = 10.0


@pytest.fixture(scope="module")
def simulated():
    with PrivateBus() as bus:
        bus.start_daemon("--simulate")
        yield bus


@pytest.fixture
async def client(simulated):
    async with Client(simulated.address) as client:
        yield client


class Displays:
    """What the simulated displays show, as word of it comes."""

    def __init__(self, client):
        self.client = client
        self.changed = asyncio.Event()

    async def until(self, port, wanted):
        async with asyncio.timeout(PATIENCE):
            end = await self.client.simulator.on_changed(lambda _: self.changed.set())
            while not wanted(lines := await self.client.simulator.get_display(port)):
                await self.changed.wait()
                self.changed.clear()
            end()
        return lines


@pytest.fixture
def displays(client):
    return Displays(client)


async def until(client, member, ask, wanted):
    """What `ask` answers when that is as wanted; it is asked again at each such signal."""
    changed = asyncio.Event()
    end = await client.listen(MANAGER, member, lambda _: changed.set())
    async with asyncio.timeout(PATIENCE):
        while not wanted(found := await ask()):
            await changed.wait()
            changed.clear()
    end()
    return found


async def devices(client):
    """Both simulated devices by their ports, as soon as they were recognised."""
    ask = client.driver.devices
    found = await until(client, "InterfacesAdded", ask, lambda found: len(found) == 2)
    return sorted(found, key=lambda device: device.port)


async def test_players(client):
    driver = client.driver
    assert await driver.get_protocol_version() == (1, 0)
    number = await driver.register_player("mine")
    assert await driver.list_players() == [number]
    await driver.update_player_state(number, STATE)
    (player,) = await driver.players()
    assert isinstance(player, Player)
    assert (player.id, player.self_id, player.status) == (number, "mine", Status.PLAYING)
    assert (player.texts, player.timeline, player.position_ms) == (
        STATE.texts,
        STATE.timeline,
        1000,
    )
    await driver.update_player_status(number, Status.PAUSED)
    await driver.update_player_metadata(number, TextId.CURRENT_GENRE, "Genre")
    await driver.update_player_metadata(number, TextId.CURRENT_TITLE, None)
    await driver.update_player_timeline(number, None)
    (player,) = await driver.players()
    assert player.status is Status.PAUSED
    assert player.texts == Texts(None, "Singer", None, "Genre")
    assert (player.timeline, player.position_ms) == (None, None)
    await driver.unregister_player(number)
    assert await driver.players() == []


@pytest.fixture
def altered(client, monkeypatch):
    """Functions that alter what GetManagedObjects answers."""
    ask, changes = client.call, []

    async def call(target, member, *args, **options):
        answer = await ask(target, member, *args, **options)
        if member == "GetManagedObjects":
            for change in changes:
                change(answer)
        return answer

    monkeypatch.setattr(client, "call", call)
    return changes


async def test_what_a_newer_daemon_knows_hides_nothing(client, altered):
    def newer(objects):
        for faces in objects.values():
            if "org.fsct.Player" in faces:
                faces["org.fsct.Player"]["Status"] = variant("u", 6)
            if "org.fsct.Device" in faces:
                texts = faces["org.fsct.Device"]["Texts"].value
                faces["org.fsct.Device"]["Texts"] = variant("a{uu}", texts | {0x55: 10})

    number = await client.driver.register_player("mine")
    await client.driver.update_player_state(number, STATE)
    before = await devices(client)
    altered.append(newer)
    (player,) = await client.driver.players()
    assert (player.status, player.texts) == (Status.UNKNOWN, STATE.texts)
    assert await devices(client) == before


async def test_more_than_one_answer_holds_is_read_piece_by_piece(client, simulated, altered):
    def refuse(objects):
        raise LimitsExceeded("too much")

    async with Client(simulated.address) as other:
        numbers = [
            await each.driver.register_player(f"player {n}")
            for n, each in enumerate((client, other, client))
        ]
        for number in numbers[::2]:
            await client.driver.update_player_state(number, STATE)
        players, both = await client.driver.players(), await devices(client)
        assert [player.id for player in players] == numbers
        altered.append(refuse)
        assert await client.driver.players() == players
        assert await devices(client) == both


async def test_what_goes_while_it_is_read_piece_by_piece_is_passed_over(client, altered):
    def refuse(objects):
        raise LimitsExceeded("too much")

    altered.append(refuse)
    stays, goes = [await client.driver.register_player(name) for name in ("stays", "goes")]
    ask, lists = client.driver.list_players, [[stays, goes]]

    async def list_players():
        return lists.pop() if lists else await ask()

    client.driver.list_players = list_players
    await client.driver.unregister_player(goes)
    assert [player.id for player in await client.driver.players()] == [stays]


async def test_a_running_position(client):
    number = await client.driver.register_player("mine")
    now = time.time_ns() // 1_000_000
    await client.driver.update_player_timeline(number, Timeline(5000, now, 0, 1.0))
    (player,) = await client.driver.players()
    assert 5000 <= player.position_ms <= 5000 + time.time_ns() // 1_000_000 - now


async def test_players_go_with_their_client(client, simulated):
    async with Client(simulated.address) as other:
        await other.driver.register_player("other's")
        assert len(await client.driver.list_players()) == 1
    ask = client.driver.list_players
    await until(client, "InterfacesRemoved", ask, lambda found: found == [])


async def test_devices(client):
    first, second = await devices(client)
    assert isinstance(first, Device)
    assert str(UUID(first.id)) == first.id
    assert (first.vendor, first.product, first.serial) == ("buswork", "Simulated DAC", "SIM-1")
    assert first.functionality == ("metadata", "progress", "status")
    assert (first.coding, second.coding) == ("utf8", "utf16")
    assert second.texts == {TextId.CURRENT_TITLE: 32, TextId.CURRENT_AUTHOR: 32}
    assert sorted(await client.driver.list_devices()) == sorted((first.id, second.id))
    assert (first.active_player, first.active_reason, first.last_error) == (None, "none", "")


async def test_who_is_shown_where(client, displays):
    first, second = await devices(client)
    one, two = [await client.driver.register_player(name) for name in ("one", "two")]
    for number in (one, two):
        await client.driver.update_player_state(
            number, PlayerState(Status.PLAYING, texts=Texts(f"player {number}"))
        )
    await displays.until("1-1", lambda lines: f"player {one}" in lines)
    assert await client.driver.get_player_assigned_device(two) is None
    await client.driver.assign_player_to_device(two, UUID(first.id))
    await displays.until("1-1", lambda lines: f"player {two}" in lines)
    await displays.until("1-2", lambda lines: f"player {one}" in lines)
    assert await client.driver.get_player_assigned_device(two) == first.id
    found = await devices(client)
    assert [(each.active_player, each.active_reason) for each in found] == [
        (two, "assigned"),
        (one, "playing"),
    ]
    with pytest.raises(BusworkError) as caught:
        await client.driver.unassign_player_from_device(two, second.id)
    assert caught.value.name == "org.fsct.Error.NotAssigned"
    await client.driver.unassign_player_from_device(two, first.id)

    assert await client.driver.get_preferred_player() is None
    await client.driver.set_preferred_player(two)
    assert await client.driver.get_preferred_player() == two
    await displays.until("1-2", lambda lines: f"player {two}" in lines)
    await client.driver.set_preferred_player(None)
    assert await client.driver.get_preferred_player() is None


async def test_the_simulator(client, displays):
    await devices(client)
    assert await client.simulator.list_displays() == ["1-1", "1-2"]
    await client.simulator.unplug("1-2")
    assert await client.simulator.get_display("1-2") == []
    await client.simulator.plug("1-2")
    await displays.until("1-2", lambda lines: lines == ["(off)"])
    with pytest.raises(BusworkError) as caught:
        await client.simulator.plug("9-9")
    assert caught.value.name == "org.buswork.Error.Usb.NoSuchPort"
    await devices(client)


async def test_failures(client):
    with pytest.raises(BusworkError) as caught:
        await client.driver.update_player_status(4_000_000_000, Status.PLAYING)
    assert caught.value.name == "org.fsct.Error.NoSuchPlayer"
    number = await client.driver.register_player("mine")
    with pytest.raises(InvalidArgs):
        await client.driver.assign_player_to_device(number, "nowhere")
    with pytest.raises(InvalidArgs):
        await client.driver.update_player_timeline(number, Timeline(-1, 0, 0, 1.0))
    with pytest.raises(InvalidArgs):
        await client.driver.update_player_timeline(number, Timeline(2**63, 0, 0, 1.0))


async def test_no_simulator(shared_bus):
    async with Client(shared_bus.address) as client:
        with pytest.raises(UnknownObject):
            await client.simulator.list_displays()


def test_blocking(simulated):
    with blocking.Client(simulated.address) as client:
        driver = client.driver
        assert driver.get_protocol_version() == (1, 0)
        number = driver.register_player("mine")
        assert driver.list_players() == [number]
        driver.update_player_state(number, STATE)
        driver.update_player_status(number, Status.PAUSED)
        driver.update_player_timeline(number, None)
        driver.update_player_metadata(number, TextId.CURRENT_ALBUM, "Album")
        (player,) = driver.players()
        assert (player.status, player.timeline) == (Status.PAUSED, None)
        assert player.texts == Texts("Song", "Singer", "Album")
        driver.assign_player_to_device(number, NOWHERE)
        assert driver.get_player_assigned_device(number) == NOWHERE
        driver.unassign_player_from_device(number, NOWHERE)
        driver.set_preferred_player(number)
        assert driver.get_preferred_player() == number
        driver.set_preferred_player(None)
        assert {device.id for device in driver.devices()} == set(driver.list_devices())
        driver.unregister_player(number)
        assert driver.players() == []
