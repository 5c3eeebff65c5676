"""busworkd without a real bus: its arguments, its life on a scripted one, its two own objects."""

import asyncio
import dataclasses
import logging
import signal
from pathlib import Path

import pytest
from support.fakebus import DRIVER, DRIVER_PATH, ERROR, FakeBus, FakePolkit, Refused

from buswork import __version__, daemon
from buswork.authority import Limits
from buswork.bus.contract import load
from buswork.bus.library import variant
from buswork.daemon import (
    BUS_NAME,
    DAEMON_PATH,
    DRAIN_SECONDS,
    LOG_CONTROL_PATH,
    Daemon,
    make_parser,
)
from buswork.host import Kind
from buswork.log import LEVELS
from buswork.store.model import Limits as StoreLimits

ALICE, ALICE_UID = ":1.7", 1000
FACE = "org.buswork.Daemon"
LOG_CONTROL = "org.freedesktop.LogControl1"
PROPERTIES = DRIVER + ".Properties"


@pytest.fixture
def root_logger():
    """The root logger, which is as it was when the test is over."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.fixture
async def bus():
    async with FakeBus() as bus:
        bus.uids[ALICE] = ALICE_UID
        yield bus


@pytest.fixture
def polkit(bus):
    return FakePolkit(bus)


@pytest.fixture
async def signals(monkeypatch):
    """The handlers of signals that were installed, by number; none is really installed."""
    installed = {}

    def add_signal_handler(number, callback, *arguments):
        installed[number] = lambda: callback(*arguments)

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "add_signal_handler", add_signal_handler)
    return installed


class ToyWing:
    def __init__(self, life, name, failure=None):
        self.life = life
        self.name = name
        self.failure = failure

    async def start(self):
        self.life.append(f"start {self.name}")
        if self.failure is not None:
            raise self.failure

    async def stop(self, *, for_good):
        self.life.append(f"stop {self.name}{' for good' if for_good else ''}")


def kind(make):
    return Kind(make=lambda host, limits, options: make(), limits=Limits)


@pytest.fixture
def life():
    """What became of the wings, in order."""
    return []


@pytest.fixture
async def made(bus, polkit, signals):
    return Daemon(await bus.connect(), Limits(objects=77), "console")


async def start(made, life, **failures):
    makers = {
        name: lambda _, name=name, failure=failure: ToyWing(life, name, failure)
        for name, failure in failures.items()
    }
    await made.start(makers)


async def call(bus, path, interface, member, signature="", *values):
    return await bus.answer_to(bus.call(ALICE, path, interface, member, signature, values))


async def get_all(bus, path, interface):
    answer = await call(bus, path, PROPERTIES, "GetAll", "s", interface)
    assert answer.error == ""
    return answer.values[0]


# Arguments


def test_without_arguments_all_wings_serve_the_system_bus():
    options = make_parser().parse_args([])
    assert options.wings == list(daemon.WINGS)
    assert (options.bus, options.log_level) == ("system", "info")
    assert options.limits[""] == Limits()
    assert options.limits["store"] == StoreLimits()


def test_wings_are_named_once():
    assert make_parser().parse_args(["--wings", "store,store"]).wings == ["store"]


def test_limits_are_lifted_one_by_one():
    options = make_parser().parse_args(["--limit", "calls=1000", "--limit", "objects=5"])
    assert options.limits[""] == dataclasses.replace(Limits(), calls=1000, objects=5)
    assert make_parser().parse_args([]).limits[""] == Limits()


def test_every_limit_can_be_lifted():
    before = make_parser().parse_args([]).limits
    words = [
        f"{wing}.{field.name}".removeprefix(".")
        for wing, limits in before.items()
        for field in dataclasses.fields(limits)
    ]
    after = make_parser().parse_args([f"--limit={word}=7" for word in words]).limits
    assert set(after) == {"", *daemon.WINGS}
    for wing, limits in after.items():
        assert set(dataclasses.asdict(limits).values()) <= {7}, wing


@pytest.mark.parametrize(
    "arguments",
    [
        ["--limit", "calls"],
        ["--limit", "calls="],
        ["--limit", "calls=-1"],
        ["--limit", "calls=1.5"],
        ["--limit", "calls=x"],
        ["--limit", "nothing=5"],
        ["--limit", "=5"],
        ["--limit", "store.calls=5"],
        ["--limit", "keys_per_uid=5"],
        ["--limit", "store.=5"],
        ["--wings", "nothing"],
        ["--wings", ""],
        ["--wings", "store,"],
        ["--log-level", "loud"],
        ["--bsu", "system"],
        ["more"],
    ],
)
def test_wrong_arguments_are_status_2(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        daemon.main(arguments)
    assert caught.value.code == 2
    assert "usage: busworkd" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--limit", "x=1"], ["--wings", "x"]])
def test_wrong_arguments_are_told_what_there_is(capsys, arguments):
    with pytest.raises(SystemExit):
        make_parser().parse_args(arguments)
    known = "native_connections" if arguments[0] == "--limit" else "store"
    assert known in capsys.readouterr().err


def test_the_version(capsys):
    with pytest.raises(SystemExit) as caught:
        daemon.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"busworkd {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "environment", "places"),
    [
        ([], {}, None),
        ([], {"NOTIFY_SOCKET": "/run/systemd/notify"}, []),
        ([], {"RUNTIME_DIRECTORY": "/run/a:/run/b"}, ["/run/a", "/run/b"]),
        (["--socket-dir", "/x"], {"RUNTIME_DIRECTORY": "/run/a"}, ["/x"]),
        (["--socket-dir", "/x", "--socket-dir", "/y"], {}, ["/x", "/y"]),
    ],
)
def test_where_sockets_are_made(monkeypatch, arguments, environment, places):
    for name in ("RUNTIME_DIRECTORY", "TMPDIR", "NOTIFY_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    options = make_parser().parse_args(arguments)
    found = daemon._socket_dirs(options)
    assert found == (None if places is None else [Path(place) for place in places])


# Exit status


@pytest.mark.parametrize("address", ["unix:path=/nonexistent/bus", "tcp:host=x", "nonsense"])
def test_without_a_bus_the_status_is_1(root_logger, capsys, address):
    assert daemon.main(["--bus", address]) == 1
    err = capsys.readouterr().err
    assert "no connection to the bus" in err
    assert "Traceback" not in err


class Serving:
    """The daemon as `main` runs it, on a FakeBus."""

    def __init__(self, bus, *arguments):
        options = make_parser().parse_args(["--bus", bus.address, *arguments])
        self.accepting = asyncio.create_task(bus._accept())
        self.task = asyncio.create_task(daemon._serve(options, "console"))

    async def status(self):
        async with asyncio.timeout(10):
            await self.accepting
            return await self.task


@pytest.fixture
def no_environment(monkeypatch):
    for name in ("RUNTIME_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS"):
        monkeypatch.delenv(name, raising=False)
    for name in ("freeze", "set_threshold"):  # they are for the whole process, which is the tests'
        monkeypatch.setattr(daemon.gc, name, lambda *_: None)


@pytest.fixture
def toy_makers(monkeypatch, life):
    monkeypatch.setattr(daemon, "WINGS", {"store": kind(lambda: ToyWing(life, "store"))})


@pytest.mark.parametrize("answer", [2, 3, 4])
async def test_a_name_that_somebody_else_has_is_status_1(
    bus, polkit, signals, no_environment, toy_makers, caplog, answer
):
    bus.answers[DRIVER, "RequestName"] = lambda call: ("u", [answer])
    assert await Serving(bus).status() == 1
    assert BUS_NAME in caplog.text
    assert bus.calls("RequestName")[0].values == [BUS_NAME, daemon.DO_NOT_QUEUE]


async def test_a_bus_that_refuses_the_name_is_status_1(
    bus, polkit, signals, no_environment, toy_makers, caplog
):
    def refuse(call):
        raise Refused(ERROR + "AccessDenied", "not allowed to own")

    bus.answers[DRIVER, "RequestName"] = refuse
    assert await Serving(bus).status() == 1
    assert "not allowed to own" in caplog.text


async def test_a_signal_to_end_is_status_0(
    bus, polkit, signals, no_environment, toy_makers, life, caplog
):
    caplog.set_level(logging.INFO)
    serving = Serving(bus)
    await bus.asked("RequestName")
    await bus.settle()
    assert f"hello, world: busworkd {__version__} serves store" in caplog.text
    signals[signal.SIGTERM]()
    assert await serving.status() == 0
    assert life == ["start store", "stop store for good"]


async def test_garbage_is_looked_for_seldom(
    bus, polkit, signals, no_environment, toy_makers, monkeypatch
):
    steps = []
    monkeypatch.setattr(daemon.gc, "collect", lambda: steps.append("collect"))
    monkeypatch.setattr(daemon.gc, "freeze", lambda: steps.append("freeze"))
    monkeypatch.setattr(daemon.gc, "set_threshold", lambda *numbers: steps.append(numbers[2]))
    monkeypatch.setattr(daemon.systemd, "notify", lambda *lines: steps.append(lines[0]))
    serving = Serving(bus)
    await bus.asked("RequestName")
    await bus.settle()
    assert steps == ["READY=1", "collect", "freeze", daemon.GARBAGE_LOOKS]
    signals[signal.SIGTERM]()
    assert await serving.status() == 0


async def test_a_wing_that_was_not_named_is_off(bus, polkit, signals, no_environment, monkeypatch):
    toy = kind(lambda: ToyWing([], "x"))
    monkeypatch.setattr(daemon, "WINGS", {"store": toy, "other": toy})
    serving = Serving(bus, "--wings", "other")
    await bus.asked("RequestName")
    await bus.settle()
    wings = (await get_all(bus, DAEMON_PATH, FACE))["Wings"]
    assert wings == variant("a{s(ss)}", {"store": ("off", ""), "other": ("running", "")})
    signals[signal.SIGINT]()
    assert await serving.status() == 0


# Starting


async def test_signals_are_handled_before_anything_else(bus, made, signals, life):
    """Else SIGTERM during the start kills what has sockets to remove."""
    bus.answers[DRIVER, "GetNameOwner"] = lambda call: None
    starting = asyncio.create_task(start(made, life, one=None))
    question = await bus.asked("GetNameOwner")
    assert set(signals) == {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    signals[signal.SIGTERM]()
    del bus.answers[DRIVER, "GetNameOwner"]
    bus.refuse(question, ERROR + "NameHasNoOwner")
    await starting
    assert await made.run() == 0
    assert life == ["start one", "stop one for good"]


async def test_a_hangup_is_no_end(bus, made, signals, life, caplog):
    caplog.set_level(logging.INFO)
    await start(made, life)
    signals[signal.SIGHUP]()
    assert "SIGHUP" in caplog.text
    assert not made._end.done()


async def test_the_name_is_asked_for_last(bus, made, life):
    seen = []
    bus.answers[DRIVER, "RequestName"] = lambda call: seen.extend(life) or ("u", [1])
    await start(made, life, one=None, two=None)
    assert seen == ["start one", "start two"]


async def test_a_wing_that_cannot_start_is_reported_and_the_others_run(bus, made, life, caplog):
    await start(made, life, one=None, two=OSError("no such device"), three=None)
    assert life == ["start one", "start two", "start three"]
    wings = (await get_all(bus, DAEMON_PATH, FACE))["Wings"].value
    assert wings == {
        **dict.fromkeys(daemon.WINGS, ("off", "")),
        "one": ("running", ""),
        "two": ("failed", "no such device"),
        "three": ("running", ""),
    }
    assert "the wing two could not start" in caplog.text
    made._stop(0)
    assert await made.run() == 0
    assert life[3:] == ["stop three for good", "stop one for good"]


async def test_a_wing_that_cannot_be_made_is_reported_as_well(bus, made):
    def fail(_):
        raise ValueError("a defect")

    await made.start({"one": fail})
    assert made.states["one"] == ("failed", "a defect")


# The end


async def ended(made):
    async with asyncio.timeout(10):
        return await made.run()


async def test_the_loss_of_the_name_is_status_1(bus, made, life):
    await start(made, life, one=None)
    bus.signal(DRIVER, DRIVER_PATH, DRIVER, "NameLost", "s", [BUS_NAME])
    assert await ended(made) == 1
    assert life == ["start one", "stop one"]


@pytest.mark.parametrize(
    ("sender", "values"), [(ALICE, [BUS_NAME]), (DRIVER, ["org.other"]), (BUS_NAME, [BUS_NAME])]
)
async def test_37_no_other_loss_is_one(bus, made, life, sender, values):
    await start(made, life)
    bus.signal(sender, DRIVER_PATH, DRIVER, "NameLost", "s", values)
    await bus.settle()
    assert not made._end.done()


async def test_36_the_loss_of_the_bus_is_status_1(bus, made, life):
    await start(made, life, one=None)
    bus.hang_up()
    assert await ended(made) == 1
    assert life == ["start one", "stop one"]


async def test_the_end_closes_the_connection_and_stays_the_end(bus, made, signals, life):
    await start(made, life)
    signals[signal.SIGTERM]()
    bus.signal(DRIVER, DRIVER_PATH, DRIVER, "NameLost", "s", [BUS_NAME])
    assert await ended(made) == 0
    assert not made.connection.is_open


async def test_the_manager_hears_of_the_loop_and_of_the_end(bus, made, life, monkeypatch):
    said = []
    monkeypatch.setattr(daemon.systemd, "notify", lambda *words: said.append(words))
    monkeypatch.setattr(daemon.systemd, "watchdog_seconds", lambda: 60.0)
    await start(made, life)
    made._stop(0)
    await ended(made)
    assert said == [("WATCHDOG=1",), ("STOPPING=1", "STATUS=going down")]


# org.buswork.Daemon


def types_of(values):
    return {name: value.signature for name, value in values.items()}


@pytest.mark.parametrize(("path", "name"), [(DAEMON_PATH, FACE), (LOG_CONTROL_PATH, LOG_CONTROL)])
async def test_every_property_is_as_the_contract_says(bus, made, life, path, name):
    await start(made, life)
    properties = load(name).properties
    assert types_of(await get_all(bus, path, name)) == {
        each.name: each.signature for each in properties.values()
    }


async def test_what_the_daemon_says_of_itself(bus, made, life):
    await start(made, life)
    facts = {name: value.value for name, value in (await get_all(bus, DAEMON_PATH, FACE)).items()}
    assert facts["Version"] == __version__
    assert facts["ApiVersion"] == daemon.API_VERSION
    assert facts["MaxCallsPerUid"] == Limits().calls
    assert facts["MaxObjectsPerUid"] == 77
    assert facts["MaxWatchesPerUid"] == Limits().watches
    assert facts["MaxDescriptorsPerUid"] == Limits().descriptors
    assert len(bytes.fromhex(facts["Epoch"])) == 16


async def test_an_epoch_is_never_the_same(bus, made, life):
    await start(made, life)
    assert (await get_all(bus, DAEMON_PATH, FACE))["Epoch"].value == made.epoch.hex()
    assert Daemon(made.connection, Limits(), "console").epoch != made.epoch


async def test_the_statistics_are_those_that_the_contract_names(bus, made, life):
    await start(made, life)
    await call(bus, DAEMON_PATH, FACE, "NoSuch")
    made.edge.emit(DAEMON_PATH, PROPERTIES, "PropertiesChanged", FACE, {}, ["Wings"])
    figures = (await get_all(bus, DAEMON_PATH, FACE))["Statistics"].value
    text = load(FACE).element.find("property[@name='Statistics']")[0].get("value")
    assert set(figures) == {
        word.strip(" .").split(" ")[0] for word in text.partition(":")[2].split(",")
    }
    assert (figures["calls"], figures["errors"], figures["signals"]) == (2, 1, 1)
    assert figures["bytes_in"] == made.connection.bytes_in
    assert figures["bytes_out"] > 0
    assert figures["resident_bytes"] > 1 << 20


async def hold(made, path, taken):
    caller = daemon.Call(ALICE, ALICE_UID, 0, DAEMON_PATH)
    return await made.holdings.hold(caller, path, "toy", "a thing", lambda: taken.append(path))


async def test_19_who_holds_what_is_told_after_a_yes(bus, polkit, made, life):
    await start(made, life)
    held = await hold(made, "/org/buswork/Toy/1", [])
    answer = await call(bus, DAEMON_PATH, FACE, "ListClients")
    assert answer.error == ERROR + "AccessDenied"
    assert "org.buswork.observe-others" in answer.values[0]
    polkit.rules["org.buswork.observe-others"] = "yes"
    (clients,) = (await call(bus, DAEMON_PATH, FACE, "ListClients")).values
    assert clients == [
        {
            "path": variant("o", "/org/buswork/Toy/1"),
            "wing": variant("s", "toy"),
            "what": variant("s", "a thing"),
            "uid": variant("u", ALICE_UID),
            "client": variant("s", ALICE),
            "since_unix_us": variant("t", held.since_unix_us),
        }
    ]


async def test_a_thing_is_taken_away_after_a_yes(bus, polkit, made, life):
    await start(made, life)
    taken = []
    path = "/org/buswork/Toy/1"
    await hold(made, path, taken)
    release = (DAEMON_PATH, FACE, "ForceRelease", "o")
    assert (await call(bus, *release, path)).error == ERROR + "AccessDenied"
    assert taken == []
    polkit.rules["org.buswork.force-release"] = "yes"
    assert (await call(bus, *release, path)).error == ""
    assert taken == [path]
    assert (await call(bus, *release, path)).error == ERROR + "UnknownObject"


# org.freedesktop.LogControl1


async def set_level(bus, level):
    value = variant("s", level)
    return await call(
        bus, LOG_CONTROL_PATH, PROPERTIES, "Set", "ssv", LOG_CONTROL, "LogLevel", value
    )


async def test_what_is_said_of_the_log(bus, made, life, root_logger):
    root_logger.setLevel(logging.INFO)
    await start(made, life)
    facts = await get_all(bus, LOG_CONTROL_PATH, LOG_CONTROL)
    assert {name: value.value for name, value in facts.items()} == {
        "LogLevel": "info",
        "LogTarget": "console",
        "SyslogIdentifier": "busworkd",
    }


async def test_the_level_is_set_after_a_yes_and_that_is_logged(
    bus, polkit, made, life, root_logger, caplog
):
    await start(made, life)
    level = root_logger.level
    assert (await set_level(bus, "debug")).error == ERROR + "AccessDenied"
    assert root_logger.level == level
    polkit.rules["org.buswork.set-log-level"] = "yes"
    for name, number in LEVELS.items():
        assert (await set_level(bus, name)).error == ""
        assert root_logger.level == number
    (record,) = [r for r in caplog.records if getattr(r, "fields", {}).get("level") == "debug"]
    assert record.fields["uid"] == ALICE_UID


@pytest.mark.parametrize("level", ["", "DEBUG", "loud", "7"])
async def test_26_a_level_that_there_is_not_is_invalid(bus, polkit, made, life, root_logger, level):
    await start(made, life)
    polkit.rules["org.buswork.set-log-level"] = "yes"
    before = root_logger.level
    answer = await set_level(bus, level)
    assert answer.error == ERROR + "InvalidArgs"
    assert "warning" in answer.values[0]
    assert root_logger.level == before


# Sleep, and sockets that are passed


async def test_37_only_logind_puts_the_machine_to_sleep(bus, made, life, caplog):
    caplog.set_level(logging.INFO)
    bus.names["org.freedesktop.login1"] = ":1.2"
    heard: list[bool] = []
    made.logind.on_sleep.append(heard.append)
    await start(made, life)
    sleep = ("/org/freedesktop/login1", "org.freedesktop.login1.Manager", "PrepareForSleep")
    bus.signal(ALICE, *sleep, "b", [True])
    bus.signal(":1.2", *sleep, "s", ["x"])
    await bus.settle()
    assert "sleep" not in caplog.text
    assert heard == []
    bus.signal(":1.2", *sleep, "b", [True])
    bus.signal(":1.2", *sleep, "b", [False])
    await bus.settle()
    assert "goes to sleep" in caplog.text
    assert "woke up" in caplog.text
    assert heard == [True, False]


async def test_what_was_passed_reaches_the_wings(bus, polkit, signals, life):
    made = Daemon(await bus.connect(), Limits(), "console", passed={"toy-1": [11]})
    assert made.host.passed == {"toy-1": [11]}
    assert made.host.epoch == made.epoch


def test_the_unit_waits_longer_than_calls_are_drained():
    unit = (Path(__file__).parents[1] / "systemd" / "buswork.service").read_text()
    (line,) = [line for line in unit.splitlines() if line.startswith("TimeoutStopSec=")]
    assert int(line.removeprefix("TimeoutStopSec=").removesuffix("s")) > 2 * DRAIN_SECONDS
