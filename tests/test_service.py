"""A process of wings without a real bus: its life on a scripted one, its two own objects."""

import asyncio
import logging
import signal
from unittest import mock

import pytest
from support.fakebus import DRIVER, DRIVER_PATH, ERROR, FakeBus, FakePolkit, Refused

from buswork import __version__, service
from buswork.authority import Limits
from buswork.bus.contract import load
from buswork.bus.library import variant
from buswork.host import Kind
from buswork.log import LEVELS
from buswork.service import DAEMON_PATH, LOG_CONTROL_PATH, Daemon, Program, make_parser

ALICE, ALICE_UID = ":1.7", 1000
BUS_NAME = "org.toys"
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


def program(**wings):
    return Program("toyd", BUS_NAME, "Toys.", wings)


@pytest.fixture
def life():
    """What became of the wings, in order."""
    return []


@pytest.fixture
async def made(bus, polkit, signals):
    return Daemon(program(one=None, four=None), await bus.connect(), Limits(objects=77), "console")


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


class Serving:
    """A program as `main` runs it, on a FakeBus."""

    def __init__(self, bus, program, **options):
        parsed = make_parser(program).parse_args(["--bus", bus.address])
        vars(parsed).update(options)
        self.accepting = asyncio.create_task(bus._accept())
        self.task = asyncio.create_task(service._serve(program, parsed, "console"))

    async def status(self):
        async with asyncio.timeout(10):
            await self.accepting
            return await self.task


@pytest.fixture
def no_environment(monkeypatch):
    for name in ("RUNTIME_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS"):
        monkeypatch.delenv(name, raising=False)
    for name in ("freeze", "set_threshold"):  # they are for the whole process, which is the tests'
        monkeypatch.setattr(service.gc, name, lambda *_: None)


@pytest.fixture
def toys(life):
    return program(toy=kind(lambda: ToyWing(life, "toy")))


@pytest.mark.parametrize("answer", [2, 3, 4])
async def test_a_name_that_somebody_else_has_is_status_1(
    bus, polkit, signals, no_environment, toys, caplog, answer
):
    bus.answers[DRIVER, "RequestName"] = lambda call: ("u", [answer])
    assert await Serving(bus, toys).status() == 1
    assert BUS_NAME in caplog.text
    assert bus.calls("RequestName")[0].values == [BUS_NAME, service.DO_NOT_QUEUE]


async def test_a_bus_that_refuses_the_name_is_status_1(
    bus, polkit, signals, no_environment, toys, caplog
):
    def refuse(call):
        raise Refused(ERROR + "AccessDenied", "not allowed to own")

    bus.answers[DRIVER, "RequestName"] = refuse
    assert await Serving(bus, toys).status() == 1
    assert "not allowed to own" in caplog.text


async def test_a_signal_to_end_is_status_0(
    bus, polkit, signals, no_environment, toys, life, caplog
):
    caplog.set_level(logging.INFO)
    serving = Serving(bus, toys)
    await bus.asked("RequestName")
    await bus.settle()
    assert f"hello, world: toyd {__version__} serves toy" in caplog.text
    signals[signal.SIGTERM]()
    assert await serving.status() == 0
    assert life == ["start toy", "stop toy for good"]


async def test_garbage_is_looked_for_seldom(
    bus, polkit, signals, no_environment, toys, monkeypatch
):
    steps = []
    monkeypatch.setattr(service.gc, "collect", lambda: steps.append("collect"))
    monkeypatch.setattr(service.gc, "freeze", lambda: steps.append("freeze"))
    monkeypatch.setattr(service.gc, "set_threshold", lambda *numbers: steps.append(numbers[2]))
    monkeypatch.setattr(service.systemd, "notify", lambda *lines: steps.append(lines[0]))
    serving = Serving(bus, toys)
    await bus.asked("RequestName")
    await bus.settle()
    assert steps == ["READY=1", "collect", "freeze", service.GARBAGE_LOOKS]
    signals[signal.SIGTERM]()
    assert await serving.status() == 0


async def test_a_wing_that_was_not_named_is_off(bus, polkit, signals, no_environment):
    toy = kind(lambda: ToyWing([], "x"))
    serving = Serving(bus, program(store=toy, other=toy), wings=["other"])
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
        "four": ("off", ""),
        "one": ("running", ""),
        "two": ("failed", "no such device"),
        "three": ("running", ""),
    }
    assert "the wing two could not start" in caplog.text
    made._stop(0)
    assert await made.run() == 0
    assert life[3:] == ["stop three for good", "stop one for good"]


async def test_what_a_wing_starts_without_is_reported(bus, polkit, signals, no_environment, caplog):
    """To the bus, to the service manager, and in the log."""
    told = []
    manager = mock.patch.object(service.systemd, "notify", lambda *lines: told.extend(lines))

    def lacking(host, limits, options):
        host.lacks("no socket \x1b\n")
        return ToyWing([], "one")

    def failing(host, limits, options):
        raise AssertionError

    kinds = {"one": lacking, "two": failing}
    toys = program(**{name: Kind(make=make, limits=Limits) for name, make in kinds.items()})
    with manager:
        serving = Serving(bus, toys)
        await bus.asked("RequestName")
        await bus.settle()
        wings = (await get_all(bus, DAEMON_PATH, FACE))["Wings"].value
        signals[signal.SIGTERM]()
        assert await serving.status() == 0
    lacks = "no socket \\x1b\\n"
    assert wings == {"one": ("running", lacks), "two": ("failed", "AssertionError")}
    assert f"STATUS=serving one; one running: {lacks}; two failed: AssertionError" in told
    assert "no socket" in caplog.text


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


@pytest.mark.attack(36)
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
    monkeypatch.setattr(service.systemd, "notify", lambda *words: said.append(words))
    monkeypatch.setattr(service.systemd, "watchdog_seconds", lambda: 60.0)
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
    assert facts["ApiVersion"] == service.API_VERSION
    assert facts["MaxCallsPerUid"] == Limits().calls
    assert facts["MaxObjectsPerUid"] == 77
    assert facts["MaxWatchesPerUid"] == Limits().watches
    assert facts["MaxDescriptorsPerUid"] == Limits().descriptors
    assert len(bytes.fromhex(facts["Epoch"])) == 16


@pytest.mark.attack(36)
async def test_an_epoch_is_never_the_same(bus, made, life):
    await start(made, life)
    assert (await get_all(bus, DAEMON_PATH, FACE))["Epoch"].value == made.epoch.hex()
    assert Daemon(program(), made.connection, Limits(), "console").epoch != made.epoch


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
    caller = service.Call(ALICE, ALICE_UID, 0, DAEMON_PATH)
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
        "SyslogIdentifier": "toyd",
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
    made = Daemon(program(), await bus.connect(), Limits(), "console", passed={"toy-1": [11]})
    assert made.host.passed == {"toy-1": [11]}
    assert made.host.epoch == made.epoch
