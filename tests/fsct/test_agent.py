import asyncio
import logging
import os
import signal
import socket
import stat
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from support.fakebus import DRIVER, FakeBus
from support.fakedriver import FakeDriver
from support.fakeplayers import FakePlayer, track

from buswork import systemd
from buswork.bus.library import variant
from buswork.client import fsct as client
from buswork.client.endpoints import USER_SOCKET
from buswork.client.fsct import IpcDriver
from buswork.fsct import agent as module
from buswork.fsct import mpris
from buswork.fsct.agent import Bridge, make_parser
from buswork.fsct.mpris import PLAYERCTLD, PREFIX
from buswork.fsct.mpris_values import Position, Shown
from buswork.fsct.playerctld import PLAYERCTLD_INTERFACE
from buswork.fsct.wire.protocol import ProtocolVersion
from buswork.fsct.wire.terms import PlayerState, Status, TextId, Texts

PLAYING, PAUSED = (variant("s", word) for word in ("Playing", "Paused"))
M = 1_000_000
HERE = Position(60 * M, 0, 1.0)
SHOWN = Shown(Status.PLAYING, HERE, 240 * M, Texts("one", "artist", "album", "genre"))


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(client, "LONGEST_PAUSE", 0.01)


@pytest.fixture
async def server(tmp_path):
    async with FakeDriver(tmp_path / "driver.sock") as server:
        yield server


@pytest.fixture
async def driver(server):
    async with IpcDriver(server.path) as driver:
        yield driver


@pytest.fixture
async def bridge(driver):
    bridge = Bridge(driver)
    yield bridge
    await bridge.close()


def updates(server, since=0):
    return [asked.method for asked in server.log[since:] if asked.method.startswith("update")]


# -- from the one bus to the other ---------------------------------------------------------------


async def test_a_player_is_registered_by_its_bus_name_and_told_whole_at_first(server, bridge):
    bridge.appeared("org.mpris.MediaPlayer2.aa")
    bridge.changed("org.mpris.MediaPlayer2.aa", SHOWN)
    await server.asked("update_player_state")
    assert server.names() == ["org.mpris.MediaPlayer2.aa"]
    state = server.players[1].state
    assert (state.status, state.texts) == (SHOWN.status, SHOWN.texts)
    assert (state.timeline.position_ms, state.timeline.duration_ms) == (60_000, 240_000)
    assert state.timeline.rate == 1.0


async def test_later_only_what_changed_and_more_than_one_thing_at_once(server, bridge):
    bridge.appeared("aa")
    bridge.changed("aa", SHOWN)
    await server.asked("update_player_state")
    for shown, expected in (
        (Shown(Status.PAUSED, HERE, 240 * M, SHOWN.texts), ["status"]),
        (Shown(Status.PAUSED, Position(1, 0, 0.0), 240 * M, SHOWN.texts), ["timeline"]),
        (Shown(Status.PAUSED, Position(1, 0, 0.0), 100 * M, SHOWN.texts), ["timeline"]),
        (Shown(Status.PAUSED, Position(1, 0, 0.0), 100 * M, Texts("two")), ["state"]),
        (Shown(Status.PAUSED, Position(1, 0, 0.0), 100 * M, Texts("three")), ["metadata"]),
        (Shown(Status.PLAYING, HERE, 100 * M, Texts("three")), ["state"]),
        (SHOWN, ["state"]),
    ):
        since = len(server.log)
        bridge.changed("aa", shown)
        count = since + len(expected)
        await server.until(lambda count=count: len(server.log) == count)
        assert updates(server, since) == [f"update_player_{what}" for what in expected]
        assert server.players[1].state.status is shown.status
        assert server.players[1].state.texts == shown.texts
    assert server.calls("update_player_metadata")[0].args == (1, TextId.CURRENT_TITLE, "three")


async def test_what_the_driver_has_no_time_for_is_passed_over_and_the_newest_arrives(
    server, bridge
):
    bridge.appeared("aa")
    bridge.changed("aa", SHOWN)
    await server.asked("update_player_state")
    server.held.add("update_player_metadata")
    for n in range(600):
        texts = Texts(f"title {n}", "artist", "album", "genre")
        bridge.changed("aa", Shown(Status.PLAYING, HERE, 240 * M, texts))
        await asyncio.sleep(0)
    await server.asked("update_player_metadata")
    server.release()
    await server.until(lambda: server.players[1].state.texts.title == "title 599")
    assert len(server.calls("update_player_metadata")) == 2


async def test_one_player_that_is_slow_does_not_hold_up_another(server, bridge):
    server.held.add("update_player_state")
    bridge.appeared("aa")
    bridge.changed("aa", SHOWN)
    await server.asked("update_player_state")
    server.held.clear()
    bridge.appeared("bb")
    bridge.changed("bb", SHOWN)
    await server.until(lambda: server.by_name("bb").state.status is Status.PLAYING)
    assert server.by_name("aa").state == PlayerState()


async def test_a_player_that_vanishes_goes(server, bridge):
    bridge.appeared("aa")
    await server.asked("register_player")
    bridge.vanished("aa")
    await server.until(lambda: server.names() == [])
    bridge.appeared("aa")
    bridge.changed("aa", SHOWN)
    await server.asked("update_player_state")
    bridge.vanished("aa")
    await server.until(lambda: server.names() == [])
    assert len(bridge) == 0


async def test_a_player_that_vanishes_before_it_is_registered_goes(server, bridge):
    server.held.add("register_player")
    bridge.appeared("aa")
    await server.asked("register_player")
    bridge.vanished("aa")
    server.release()
    await server.asked("unregister_player")
    assert server.names() == []


async def test_after_a_restart_of_the_driver_all_are_there_again(server, bridge):
    for name in ("aa", "bb"):
        bridge.appeared(name)
        bridge.changed(name, SHOWN)
    await server.asked("update_player_state", 2)
    await server.stop()
    await bridge.driver.wait_disconnected()
    bridge.changed("bb", Shown(Status.PAUSED, None, 0, Texts("while it was away")))
    bridge.vanished("aa")
    bridge.appeared("cc")
    await asyncio.sleep(0)
    await server.start()
    await server.until(lambda: server.names() == ["bb", "cc"])
    await server.until(lambda: server.by_name("bb").state.texts.title == "while it was away")


async def test_players_that_a_new_driver_has_no_room_for_come_when_it_has(
    server, bridge, monkeypatch
):
    monkeypatch.setattr(client, "FIRST_REFUSED_PAUSE", 0.001)
    for name in ("aa", "bb"):
        bridge.appeared(name)
        bridge.changed(name, SHOWN)
    await server.asked("update_player_state", 2)
    server.refused["register_player"] = "uid 0 has 256 players already"
    server.hang_up()
    await server.asked("register_player", 6)
    server.refused.clear()
    for name in ("aa", "bb"):
        await server.until(lambda name=name: server.by_name(name).state.texts == SHOWN.texts)


async def test_without_a_driver_a_player_waits_for_one(tmp_path):
    server = FakeDriver(tmp_path / "late.sock")
    driver = IpcDriver(server.path, timeout=0.01)
    driver.start()
    bridge = Bridge(driver)
    bridge.appeared("aa")
    bridge.changed("aa", SHOWN)
    await asyncio.sleep(0.05)  # longer than it waits for one at a time
    driver.timeout = 10.0
    async with server:
        await server.until(lambda: server.players and server.by_name("aa").state.timeline)
        await bridge.close()
        await driver.close()


async def test_a_driver_that_refuses_is_asked_again_later(server, bridge, monkeypatch, caplog):
    monkeypatch.setattr(module, "REFUSED_SECONDS", 0.001)
    server.refused |= {"register_player": "Quota", "update_player_state": "Forbidden"}
    bridge.appeared("aa")
    bridge.changed("aa", SHOWN)
    await server.asked("register_player", 3)
    del server.refused["register_player"]
    await server.asked("update_player_state", 3)
    del server.refused["update_player_state"]
    await server.until(lambda: server.by_name("aa").state.texts == SHOWN.texts)
    assert "aa is no player to the driver: Quota" in caplog.text
    assert "aa can't be shown: Forbidden" in caplog.text


async def test_after_a_refusal_the_state_as_a_whole(server, bridge):
    bridge.appeared("aa")
    bridge.changed("aa", SHOWN)
    await server.asked("update_player_state")
    server.refused["update_player_status"] = "Forbidden"
    paused = Shown(Status.PAUSED, HERE, 240 * M, SHOWN.texts)
    bridge.changed("aa", paused)
    await server.until(lambda: server.players[1].state.status is Status.PAUSED)
    assert updates(server) == [f"update_player_{what}" for what in ("state", "status", "state")]
    assert len(server.calls("register_player")) == 1


async def test_a_player_that_somebody_unregistered_is_registered_again_at_once(server, bridge):
    bridge.appeared("aa")
    bridge.choose("aa")
    bridge.changed("aa", SHOWN)
    await server.asked("update_player_state")
    async with IpcDriver(server.path) as somebody:
        await somebody.unregister_player(1)
    bridge.changed("aa", Shown(Status.PAUSED, HERE, 240 * M, SHOWN.texts))
    async with asyncio.timeout(module.REFUSED_SECONDS / 2):
        await server.until(lambda: server.by_name("aa").state.status is Status.PAUSED)
        await server.until(lambda: server.preferred == 2)
    assert server.names() == ["aa"]
    bridge.vanished("aa")
    await server.until(lambda: server.names() == [])


async def test_pauses_after_refusals_double_until_there_is_news(server, bridge, monkeypatch):
    monkeypatch.setattr(module, "REFUSED_SECONDS", 0.01)
    times = []
    server.on_request = lambda asked: times.append(asyncio.get_running_loop().time())
    server.refused["register_player"] = "Quota"
    bridge.appeared("aa")
    await server.asked("register_player", 5)
    pauses = [later - earlier for earlier, later in pairwise(times)]
    for n, pause in enumerate(pauses):
        assert pause >= 0.0099 * 2**n
    server.refused.clear()
    await server.until(lambda: server.names() == ["aa"])
    bridge._mirrors["aa"]._patience._pause = 1000.0
    server.refused["update_player_state"] = "Forbidden"
    bridge.changed("aa", SHOWN)
    await server.asked("update_player_state")
    server.refused.clear()
    bridge.changed("aa", SHOWN)
    await server.until(lambda: server.by_name("aa").state.status is Status.PLAYING)


async def test_what_the_driver_has_no_answer_to_is_told_again(server, bridge, monkeypatch):
    monkeypatch.setattr(module, "REFUSED_SECONDS", 0.01)
    bridge.appeared("aa")
    bridge.changed("aa", SHOWN)
    await server.asked("update_player_state")
    server.held |= {"update_player_state", "unregister_player"}
    bridge.driver.timeout = 0.05
    bridge.changed("aa", Shown(Status.PAUSED, HERE, 240 * M, Texts("two")))
    await server.asked("update_player_state", 3)
    server.held.remove("update_player_state")
    await server.until(lambda: server.by_name("aa").state.status is Status.PAUSED)
    assert len(server.calls("register_player")) == 1
    bridge.vanished("aa")
    await server.asked("unregister_player", 2)
    server.held.clear()
    await server.until(lambda: server.names() == [])


async def test_at_the_end_all_players_are_taken_back(server, bridge):
    for name in ("aa", "bb"):
        bridge.appeared(name)
    await server.asked("register_player", 2)
    await bridge.close()
    assert server.names() == []


# -- the preferred one ---------------------------------------------------------------------------


async def test_the_choice_is_preferred(server, bridge):
    for name in ("aa", "bb"):
        bridge.appeared(name)
    await server.asked("register_player", 2)
    for name in ("aa", "bb", "aa"):
        bridge.choose(name)
        await server.until(
            lambda name=name: server.preferred and server.players[server.preferred].self_id == name
        )
    bridge.choose(None)
    await server.until(lambda: server.preferred is None)
    bridge.choose("unknown")
    await asyncio.sleep(0)
    assert len(server.calls("set_preferred_player")) == 4


async def test_a_choice_that_is_no_player_yet(server, bridge):
    bridge.choose("aa")
    bridge.appeared("aa")
    await server.until(lambda: server.preferred == 1)


async def test_the_end_of_the_choice_changes_no_choice_of_others(server, bridge):
    bridge.appeared("aa")
    bridge.choose("aa")
    await server.until(lambda: server.preferred == 1)
    async with IpcDriver(server.path) as other:
        theirs = await other.register_player("theirs")
        await other.set_preferred_player(theirs)
        bridge.vanished("aa")
        bridge.choose(None)
        await server.until(lambda: server.names() == ["theirs"])
        assert server.preferred == theirs
        assert len(server.calls("set_preferred_player")) == 2


async def test_a_choice_that_the_driver_does_not_allow_is_told_again_later(
    server, bridge, monkeypatch, caplog
):
    monkeypatch.setattr(module, "REFUSED_SECONDS", 0.001)
    server.refused["set_preferred_player"] = "Too many"
    bridge.appeared("aa")
    bridge.choose("aa")
    await server.asked("set_preferred_player", 3)
    assert "aa can't be preferred: Too many" in caplog.text
    server.refused.clear()
    await server.until(lambda: server.preferred == 1)
    bridge.choose("aa")
    bridge.changed("aa", SHOWN)
    await server.asked("update_player_state")
    assert bridge._telling.done()


async def test_another_choice_does_not_wait_for_the_one_that_was_refused(
    server, bridge, monkeypatch
):
    monkeypatch.setattr(module, "REFUSED_SECONDS", 0.001)
    for name in ("aa", "bb"):
        bridge.appeared(name)
    await server.asked("register_player", 2)

    class Long(module.Patience):
        def __init__(self):
            self._pause = 1000.0

    monkeypatch.setattr(module, "Patience", Long)
    server.refused["set_preferred_player"] = "Not this one"
    bridge.choose("aa")
    await server.asked("set_preferred_player")
    server.refused.clear()
    bridge.choose("bb")
    await server.until(lambda: server.preferred == 2)


async def test_a_choice_that_is_refused_and_goes_is_told_no_more(server, bridge, monkeypatch):
    monkeypatch.setattr(module, "REFUSED_SECONDS", 0.001)
    server.refused["set_preferred_player"] = "Too many"
    bridge.appeared("aa")
    bridge.choose("aa")
    await server.asked("set_preferred_player", 2)
    bridge.vanished("aa")
    await bridge._telling
    assert server.preferred is None


async def test_a_choice_that_found_no_driver_is_told_the_next_one(server, bridge):
    bridge.appeared("aa")
    bridge.changed("aa", SHOWN)
    await server.asked("update_player_state")
    server.held.add("set_preferred_player")
    bridge.driver.timeout = 0.02
    bridge.choose("aa")
    await server.asked("set_preferred_player", 3)
    server.release()
    await server.until(lambda: server.preferred == 1)


# -- the process ---------------------------------------------------------------------------------


@pytest.fixture
async def bus():
    async with FakeBus() as bus:
        bus.answers[DRIVER, "ListNames"] = lambda call: ("as", [[DRIVER, *bus.names]])
        yield bus


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    path = tmp_path / "runtime"
    path.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    monkeypatch.delenv("FSCT_IPC_ENDPOINT", raising=False)
    return path


@pytest.fixture
async def notes(tmp_path, monkeypatch):
    """What a service manager hears."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))

        async def heard(text):
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(10):
                while text not in (await loop.sock_recv(sock, 4096)).decode():
                    pass

        yield heard


@asynccontextmanager
async def running(bus, server, *arguments):
    """The agent in this process; yields the task whose result is its exit status."""
    options = make_parser().parse_args(
        ["--session-bus", bus.address, "--driver", server.path, *arguments]
    )
    accepting = asyncio.create_task(bus._accept())
    task = asyncio.create_task(module._serve(options))
    yield task
    if not task.done():
        os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(10):
        await task
    await accepting


async def test_a_player_of_the_session_is_one_of_the_driver(bus, server, runtime, notes):
    player = FakePlayer(
        bus, "aa", ":1.5", PlaybackStatus=PLAYING, Metadata=track("one"), Position=variant("x", M)
    )
    async with running(bus, server) as task:
        await notes("READY=1")
        await notes("STATUS=connected to the driver")
        await server.until(lambda: server.players and server.players[1].state.texts.title == "one")
        assert server.names() == [PREFIX + "aa"]
        state = server.players[1].state
        assert (state.status, state.timeline.rate) == (Status.PLAYING, 1.0)
        assert 1000 <= state.timeline.position_ms <= 2000
        player.change(PlaybackStatus=PAUSED)
        await server.until(lambda: (found := server.players[1].state.timeline) and found.rate == 0)
        assert server.players[1].state.status is Status.PAUSED
    assert task.result() == 0
    await server.until(lambda: not server.players)
    assert len(server.calls("unregister_player")) == 1  # it said good-bye


async def test_it_survives_the_end_of_the_driver(bus, server, runtime, notes):
    FakePlayer(bus, "aa", ":1.5", PlaybackStatus=PLAYING, Metadata=track("one"))
    async with running(bus, server):
        await notes("STATUS=connected to the driver")
        await server.until(lambda: server.players and server.players[1].state.texts.title == "one")
        await server.stop()
        await notes("STATUS=waiting for the driver")
        await server.start()
        await notes("STATUS=connected to the driver")
        assert server.by_name(PREFIX + "aa").state.texts.title == "one"


async def test_it_ends_with_the_session_bus(bus, server, runtime, notes, caplog):
    async with running(bus, server) as task:
        await notes("READY=1")
        bus.hang_up()
        assert await task == module.BUS_LOST
    assert "the session bus is gone" in caplog.text
    await server.until(lambda: not server._clients)


async def test_it_ends_when_the_driver_speaks_another_version(bus, server, runtime, caplog):
    server.version = ProtocolVersion(2, 0)
    async with running(bus, server) as task:
        assert await task == module.WRONG_VERSION
    assert "version 2.0" in caplog.text


async def test_it_does_not_begin_without_a_bus(runtime, server):
    options = make_parser().parse_args(["--session-bus", "unix:path=/nowhere"])
    assert await module._serve(options) == module.BUS_LOST


async def test_a_bus_that_ends_while_it_begins(bus, server, runtime):
    def hang_up(call):
        bus.hang_up()

    bus.answers[DRIVER, "ListNames"] = hang_up
    async with running(bus, server) as task:
        assert await task == module.BUS_LOST


async def test_its_own_socket_is_not_the_drivers(runtime, monkeypatch, caplog):
    own = str(runtime / "fsct" / "fsct.sock")
    assert await module._serve(make_parser().parse_args(["--driver", own])) == 2
    monkeypatch.setenv("FSCT_IPC_ENDPOINT", own)
    assert await module._serve(make_parser().parse_args([])) == 2
    assert "the agent's own socket" in caplog.text


async def test_its_own_socket_by_another_name(runtime):
    (runtime / "fsct").mkdir()
    own = runtime / "fsct" / "fsct.sock"
    (runtime / "link").symlink_to(own)
    names = [runtime / "fsct" / ".." / "fsct" / "fsct.sock", runtime / "link"]
    for is_there in (False, True):
        if is_there:
            own.touch()
            names.append(runtime / "hard")
            names[-1].hardlink_to(own)
        for name in names:
            assert await module._serve(make_parser().parse_args(["--driver", str(name)])) == 2


def test_where_the_driver_is(monkeypatch):
    monkeypatch.delenv("FSCT_IPC_ENDPOINT", raising=False)
    assert module._endpoint(None) == "/run/fsct/fsct.sock"
    monkeypatch.setenv("FSCT_IPC_ENDPOINT", "/there")
    assert module._endpoint(None) == "/there"
    assert module._endpoint("/here") == "/here"


def listed(folder):
    return sorted(folder.iterdir())


def modes(folder):
    return [stat.S_IMODE(path.stat().st_mode) for path in (folder, *listed(folder))]


async def test_the_users_socket_is_made_and_taken_away(bus, server, runtime, notes):
    async with running(bus, server):
        await notes("READY=1")
        assert modes(runtime / "fsct") == [0o700, 0o600]
        async with IpcDriver() as driver:  # which finds it by itself
            await driver.register_player("radio")
            assert server.names() == ["radio"]
        await server.until(lambda: server.names() == [])
    assert modes(runtime / "fsct") == [0o700]


async def test_clients_of_the_users_socket_leave_no_word_in_the_log(
    bus, server, runtime, notes, caplog
):
    """Each has a connection to the driver, and they come as often as they like."""
    caplog.set_level(logging.INFO)
    async with running(bus, server):
        await notes("STATUS=connected to the driver")
        for _ in range(3):
            async with IpcDriver() as driver:
                await driver.register_player("radio")
            await server.until(lambda: server.names() == [])
    words = [line for line in caplog.messages if "driver" in line]
    assert words == ["connected to the driver"]


async def test_the_users_socket_may_be_systemds(bus, server, runtime, notes, monkeypatch):
    path = str(runtime / "passed.sock")
    passed = socket.socket(socket.AF_UNIX)
    passed.bind(path)
    passed.listen()
    monkeypatch.setattr(systemd, "take_listen_fds", lambda: {"fsct": [passed.detach()]})
    async with running(bus, server):
        await notes("READY=1")
        async with IpcDriver(path) as driver:
            await driver.register_player("radio")
    assert [entry.name for entry in listed(runtime)] == ["passed.sock"]


@pytest.mark.parametrize("how", ["none", "taken"])
async def test_without_the_users_socket_players_are_shown_all_the_same(
    bus, server, runtime, monkeypatch, how, caplog
):
    if how == "none":
        monkeypatch.delenv("XDG_RUNTIME_DIR")
    else:
        (runtime / "fsct").write_text("a file")
    FakePlayer(bus, "aa", ":1.5", PlaybackStatus=PLAYING, Metadata=track("one"))
    async with running(bus, server) as task:
        await server.until(lambda: server.players and server.players[1].state.texts.title == "one")
    assert task.result() == 0
    assert ("there is no socket of the user's" in caplog.text) == (how == "taken")


async def test_playerctld_is_followed_only_if_asked_to(bus, server, runtime, notes):
    FakePlayer(bus, "aa", ":1.5")
    FakePlayer(bus, "bb", ":1.6")
    bus.names[PLAYERCTLD] = ":1.9"
    names = [PREFIX + "bb", PREFIX + "aa"]
    bus.answers[":1.9", "Get"] = lambda call: ("v", [variant("as", names)])
    async with running(bus, server, "--follow", "playerctld"):
        await server.until(lambda: server.preferred)
        assert server.players[server.preferred].self_id == PREFIX + "bb"
        values = [PLAYERCTLD_INTERFACE, {"PlayerNames": variant("as", names[::-1])}, []]
        bus.signal(":1.9", mpris.PATH, mpris.PROPERTIES, "PropertiesChanged", "sa{sv}as", values)
        await server.until(lambda: server.players[server.preferred].self_id == PREFIX + "aa")


async def test_playerctld_is_left_alone_otherwise(bus, server, runtime, notes):
    FakePlayer(bus, "aa", ":1.5", Metadata=track("one"))
    bus.names[PLAYERCTLD] = ":1.9"
    async with running(bus, server):
        await server.until(lambda: server.players and server.players[1].state.texts.title == "one")
    assert server.calls("set_preferred_player") == []
    assert not [call for call in bus.calls("Get") if call.fields[6] == ":1.9"]


async def test_the_watchdog_hears_of_it(bus, server, runtime, notes, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    async with running(bus, server):
        for _ in range(3):
            await notes("WATCHDOG=1")
        os.kill(os.getpid(), signal.SIGINT)
        await notes("STOPPING=1")


@pytest.mark.parametrize(
    "arguments", [["--follow", "vlc"], ["--log-level", "loud"], ["--nonsense"], ["word"]]
)
def test_wrong_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        module.main(arguments)
    assert caught.value.code == module.WRONG_ARGUMENTS
    assert "usage: buswork-agent" in capsys.readouterr().err


def test_help_and_version(capsys):
    for argument, expected in (("--help", "Exit status"), ("--version", "buswork-agent 0")):
        with pytest.raises(SystemExit) as caught:
            module.main([argument])
        assert caught.value.code == 0
        assert expected in capsys.readouterr().out


def test_the_units_say_what_the_program_does():
    folder = Path(__file__).parents[2] / "systemd" / "user"
    service = (folder / "buswork-agent.service").read_text()
    assert f"RestartPreventExitStatus={module.WRONG_ARGUMENTS} {module.WRONG_VERSION}" in service
    assert "Type=notify" in service
    unit = (folder / "buswork-agent.socket").read_text()
    assert f"FileDescriptorName={module.LISTENER}" in unit
    assert f"ListenStream=%t/{USER_SOCKET}" in unit
    assert "SocketMode=0600" in unit
    assert "DirectoryMode=0700" in unit
