"""Tests of buswork.sim.viewed: the habits of the real library (protocol sections 1, 2 and 4)."""

import json
import os
import signal
import socket
from pathlib import Path

import pytest
from appview.people import Viewed, queues_of
from appview.wire.vectors import answered, asked, recorded

from buswork.appview.native import mqueue
from buswork.appview.wire import requests
from buswork.appview.wire.frames import (
    AnswerJoiner,
    BadFrame,
    OtherAnswer,
    RefusedFrame,
    request_frames,
)
from buswork.appview.wire.requests import Request, listed
from buswork.appview.wire.shapes import BOOLEAN
from buswork.sim import viewed
from buswork.sim.viewed import FAULTS, Knowledge, Library

pytestmark = pytest.mark.processes

STATUS = b'{"req":1}'
VIEWED = {"status": 200, "viewed": True}


class Queues:
    """Those that a client makes for the process, which is the one of the test."""

    def __init__(self):
        self.made = {}

    def make(self, which, most_messages=4, message_bytes=8192):
        name = f"AppViewIPC{which}.{os.getpid()}"
        flags = os.O_RDWR
        self.made[which] = mqueue.create(name, flags, most_messages, message_bytes)

    def send(self, *frames):
        for frame in frames:
            self.made["In"].send(frame)

    def ask(self, payload=STATUS, uniq=7, frame_bytes=8192):
        self.send(*request_frames(payload, uniq, frame_bytes))

    @property
    def waiting(self):
        return mqueue.attributes(self.made["In"].fileno()).waiting

    def receive(self):
        return self.made["Out"].receive()

    def received(self):
        found = []
        while True:
            try:
                found.append(self.receive())
            except BlockingIOError:
                return found

    def remove(self):
        for which, queue in self.made.items():
            mqueue.unlink(f"AppViewIPC{which}.{os.getpid()}")
            queue.close()
        self.made.clear()


@pytest.fixture
def bare():
    queues = Queues()
    yield queues
    queues.remove()


@pytest.fixture
def queues(bare):
    bare.make("In")
    bare.make("Out")
    return bare


@pytest.fixture
def library():
    return Library(Knowledge())


def answer(frames, uniq=7):
    joiner = AnswerJoiner(uniq)
    (payload,) = [found for frame in frames if (found := joiner.feed(frame)) is not None]
    return json.loads(payload)


def meanwhile(monkeypatch, *steps):
    """Steps that are done while the library waits, one each time."""
    left = list(steps)
    monkeypatch.setattr(viewed.time, "sleep", lambda _: left.pop(0)() if left else None)


# -- queues ----------------------------------------------------------------------------------------


def test_it_answers(library, queues):
    queues.ask()
    library.tick()
    assert answer(queues.received()) == VIEWED


def test_it_answers_whatever_is_in_the_table(library, queues, monkeypatch):
    """One entry, and what is to be done is a part of it."""
    monkeypatch.setattr(requests, "REQUESTS", [*requests.REQUESTS])

    def rename(process, asked):
        process.configuration["tags"]["name"] = asked["name"]
        return {"before": process.viewed}

    entry = listed(Request(9, "setName", {"before": BOOLEAN}, rename, ("name",)))
    queues.ask(requests.ask(entry, name="new"))
    library.tick()
    assert answer(queues.received()) == {"status": 200, "before": True}
    queues.ask(requests.ask(requests.GET_CONFIGURATION))
    library.tick()
    assert answer(queues.received())["cfg"]["current"]["tags"] == {"name": "new"}


def test_one_request_each_time(library, queues):
    for uniq in (1, 2):
        queues.ask(uniq=uniq)
    library.tick()
    assert answer(queues.received(), 1) == VIEWED
    assert queues.waiting == 1
    library.tick()
    assert answer(queues.received(), 2) == VIEWED


def test_without_a_queue_it_does_nothing(library):
    library.tick()
    assert queues_of(os.getpid()) == []


def test_a_request_waits_for_the_queue_of_answers(library, bare):
    bare.make("In")
    bare.ask()
    for _ in range(3):
        library.tick()
    assert bare.waiting == 1
    bare.make("Out")
    library.tick()
    assert answer(bare.received()) == VIEWED


def test_it_makes_and_removes_no_queue(library, queues):
    queues.ask()
    library.tick()
    assert queues_of(os.getpid()) == ["AppViewIPCIn", "AppViewIPCOut"]


def test_a_child_has_queues_of_its_own_and_the_same_uuid(library, queues, monkeypatch):
    queues.ask(b'{"req":5}')
    library.tick()
    before = answer(queues.received())
    own = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: own + 1)
    with_child = Queues()
    try:
        with_child.make("In")
        with_child.make("Out")
        with_child.ask(b'{"req":5}')
        library.tick()
        found = answer(with_child.received())
    finally:
        with_child.remove()
        monkeypatch.undo()
    assert (before["pid"], found["pid"]) == (own, own + 1)
    assert found["uuid"] == before["uuid"]


# -- frames ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [48, 56, 8192])
def test_an_answer_is_cut_to_the_clients_queue(library, bare, size):
    bare.make("In")
    bare.make("Out", 10 if size < 8192 else 4, size)
    bare.ask()
    library.tick()
    frames = bare.received()
    assert answer(frames) == VIEWED
    assert max(map(len, frames)) <= size
    assert (len(frames) == 1) == (size == 8192)


def test_a_queue_that_is_too_small_gets_no_answer(library, bare):
    bare.make("In")
    bare.make("Out", 4, 39)
    bare.ask(uniq=1234)
    library.tick()
    assert (bare.received(), bare.waiting) == ([], 0)


def test_frames_are_waited_for(library, queues, monkeypatch):
    frames = list(request_frames(b'{"req":1,"x":"' + b"x" * 100 + b'"}', 7, 64))
    assert len(frames) > 2
    meanwhile(monkeypatch, *(lambda frame=frame: queues.send(frame) for frame in frames[1:]))
    queues.send(frames[0])
    library.tick()
    assert answer(queues.received()) == VIEWED


def test_but_not_for_long(library, queues):
    frames = request_frames(b'{"req":1,"x":"' + b"x" * 100 + b'"}', 7, 128)
    first, second = frames
    queues.send(first)
    library.tick()
    with pytest.raises(RefusedFrame) as refused:
        answer(queues.received())
    assert refused.value.status == 500
    queues.send(second)
    library.tick()
    assert answer(queues.received()) == {"status": 400}


def test_the_first_bad_frame_ends_a_request(library, queues):
    (good,), (late,) = request_frames(STATUS, 7, 8192), request_frames(STATUS, 8, 8192)
    queues.send(good.replace(b'"req":0', b'"req":1', 1), b"bad", late)
    library.tick()
    with pytest.raises(RefusedFrame):
        answer(queues.received())
    assert queues.waiting == 1
    library.tick()
    assert answer(queues.received(), 8) == VIEWED


def test_room_for_an_answer_is_waited_for(library, bare, monkeypatch):
    bare.make("In")
    bare.make("Out", 1, 128)
    bare.ask(b'{"req":0}')
    found = []
    meanwhile(monkeypatch, *10 * [lambda: found.append(bare.receive())])
    library.tick()
    found += bare.received()
    assert len(answer(found)["commands_appview"]) == 6


def test_but_what_nobody_takes_is_lost(library, bare):
    bare.make("In")
    bare.make("Out", 2, 128)
    bare.ask(b'{"req":0}')
    library.tick()
    assert len(bare.received()) == 2
    bare.ask(uniq=8)
    library.tick()
    assert answer(bare.received(), 8) == VIEWED


RECORDED = {
    f"{file}/{name}": vector
    for file in ("02", "03", "04", "05")
    for name, vector in recorded(file).items()
}
# Undefined in the real library; and one in which it is time that passed.
NOT_HERE = {name for name in RECORDED if "remain_" in name or name.endswith("_remain")} | {
    "05/late_second_frame_200ms"
}


@pytest.mark.parametrize("name", sorted(set(RECORDED) - NOT_HERE))
def test_it_answers_as_recorded(bare, monkeypatch, name):
    vector = RECORDED[name]
    bare.make("In", 10)
    bare.make("Out", 10, vector["out_msgsize"])
    knowledge = Knowledge()
    if name == "04/cfg_large_8192":
        knowledge.configuration = json.loads(vector["response_payload"])["cfg"]["current"]
    if name == "05/two_requests_at_once":
        details = json.loads(answered(vector)[1].partition(b"\0")[2])
        monkeypatch.setattr(Knowledge, "details", {**details, "status": 200})
    library, found = Library(knowledge), []
    monkeypatch.setattr(viewed.time, "sleep", lambda _: found.extend(bare.received()))
    bare.send(*asked(vector))
    while bare.waiting:
        library.tick()
        found += bare.received()
    assert found == answered(vector)


# -- what it knows ---------------------------------------------------------------------------------


@pytest.fixture
def knowledge(tmp_path):
    knowledge = Knowledge()
    log = {"type": "file", "path": str(tmp_path / "log"), "buffering": "full"}
    knowledge.configuration["libappview"]["log"]["transport"] = log
    return knowledge


def interfaces(knowledge):
    return {each["name"]: each for each in knowledge.interfaces}


def test_where_it_writes_to(knowledge, tmp_path):
    found = interfaces(knowledge)
    assert list(found) == ["log", "events", "metrics"]
    assert found["log"] == {
        "name": "log",
        "config": f"file://{tmp_path / 'log'}",
        "connected": True,
    }
    assert found["metrics"]["config"] == "udp://127.0.0.1:8125"
    assert found["metrics"]["connected"]


def test_attempts_are_counted_until_it_is_configured_anew(knowledge):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        transport = {"type": "tcp", "host": "127.0.0.1", "port": str(taken.getsockname()[1])}
        knowledge.configuration["event"]["transport"] = transport
        for attempts in (1, 2):
            events = interfaces(knowledge)["events"]
            assert (events["connected"], events["attempts"]) == (False, attempts)
            assert events["failure_details"] == "Socket connection failed"
        knowledge.configure(knowledge.configuration)
        assert interfaces(knowledge)["events"]["attempts"] == 1


def test_a_host_that_is_no_name(knowledge):
    knowledge.configuration["event"]["transport"] = {"type": "tcp", "host": "..", "port": "1"}
    assert not interfaces(knowledge)["events"]["connected"]


def test_one_place_for_all(knowledge):
    knowledge.configuration["cribl"]["enable"] = "true"
    knowledge.configuration["cribl"]["transport"] = {"type": "edge"}
    found = interfaces(knowledge)
    assert list(found) == ["log", "cribl"]
    assert (found["cribl"]["config"], found["cribl"]["connected"]) == ("edge", False)


# -- files of commands -----------------------------------------------------------------------------


@pytest.fixture
def commands(tmp_path, monkeypatch):
    monkeypatch.setattr(viewed, "COMMANDS", tmp_path)
    return tmp_path / f"appview_dconf.{os.getpid()}"


def test_commands_are_done_once_in_a_period(commands):
    knowledge = Knowledge()
    commands.write_text("APPVIEW_CMD_ATTACH=false\n")
    Library(knowledge, period=1000).tick()
    assert knowledge.viewed
    assert commands.exists()
    Library(knowledge, period=0).tick()
    assert not knowledge.viewed
    assert not commands.exists()


def test_the_period_is_the_one_that_it_is_configured_to(commands, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(viewed.time, "monotonic", lambda: now)
    library = Library(Knowledge())
    commands.touch()
    library._knowledge.configuration["libappview"]["summaryperiod"] = 20
    now += 19
    library.tick()
    assert commands.exists()
    now += 1
    library.tick()
    assert not commands.exists()


def test_of_two_in_one_second_the_later_is_lost(commands):
    knowledge = Knowledge()
    library = Library(knowledge, period=0)
    for second, is_viewed in ((5, False), (5, False), (6, True)):
        word = "false" if knowledge.viewed else "true"
        commands.write_text(f"APPVIEW_CMD_ATTACH={word}\nAPPVIEW_TAG_SIMULATED=yes\n")
        os.utime(commands, (second, second))
        library.tick()
        assert not commands.exists()
        assert knowledge.viewed is is_viewed
    assert knowledge.configuration["tags"] == {"SIMULATED": "yes"}


# -- faults ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ("mute", ValueError),  # there is nothing
        ("never-ends", ValueError),
        ("other-uniq", OtherAnswer),
        ("no-uniq", OtherAnswer),
        ("remain-grows", BadFrame),
        ("cut", BadFrame),
        ("garbage", BadFrame),
        ("empty", BadFrame),
    ],
)
def test_faults(queues, fault, outcome):
    queues.ask()
    Library(Knowledge(), spoil=FAULTS[fault]).tick()
    with pytest.raises(outcome):
        answer(queues.received())


def test_every_fault_has_its_test():
    (mark,) = test_faults.pytestmark
    assert {fault for fault, _ in mark.args[1]} == set(FAULTS) - {"dies"}


# -- the process -----------------------------------------------------------------------------------


def send(process, payload):
    """To a real process: the queues are left for the caller to remove."""
    names = [f"AppViewIPC{which}.{process.pid}" for which in ("Out", "In")]
    made = [mqueue.create(name, os.O_RDWR, 4, 8192) for name in names]
    made[1].send(*request_frames(payload, 7, 8192))
    return made, names


@pytest.mark.parametrize(
    ("payload", "options"),
    [
        (STATUS, ["--fault", "dies"]),
        (b'{"req":3,"cfg":{"protocol":[{"name":"a"},{"name":"a"}]}}', []),
    ],
)
async def test_it_dies_as_the_real_one(payload, options):
    process = await Viewed.start(*options)
    queues, names = send(process, payload)
    try:
        status = await process.process.wait()
    finally:
        for queue, name in zip(queues, names, strict=True):
            queue.close()
            mqueue.unlink(name)
    assert status == -(signal.SIGKILL if options else signal.SIGSEGV)


def proc(process, name):
    return Path(f"/proc/{process.pid}/{name}")


async def test_it_ends_with_its_input():
    process = await Viewed.start("--name", "somebody")
    assert proc(process, "comm").read_text() == "somebody\n"
    assert "libappview" in proc(process, "maps").read_text()
    await process.stop()
    assert process.process.returncode == 0


async def test_one_that_was_never_begun_says_so():
    process = await Viewed.start("--state", "setup")
    links = [os.readlink(fd) for fd in proc(process, "fd").iterdir()]
    assert any("appview_anon" in link for link in links)
    await process.stop()
