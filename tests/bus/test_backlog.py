"""What callers leave unread, on a bus that has figures and on one that has none."""

import asyncio
import os

import pytest
from support.fakebus import DRIVER, ERROR, OWN_NAME, PINGER, Refused
from support.reference import PATH
from support.toyface import ALICE, ALICE_UID, BOB, ROOT, TOY, Stack

from buswork.bus import backlog as module
from buswork.bus import writer
from buswork.bus.library import variant
from buswork.bus.writer import close_all

MIB = 1 << 20
PART_BYTES = module.PART_BYTES
WINGS = 5
OTHER_ROOT = "/org/toys"
# What nobody should look at: the other figure of the same connection.
MISLEADING = 1 << 31


class Figures:
    """The bus's figures: how much of ours lies unread in all, and how much for each caller."""

    def __init__(self, bus):
        self.unread = {}
        self.never_read = None  # the path from which signals are not
        self._bus = bus
        self.asked = []
        self.held = set()
        bus.answers[DRIVER, "GetConnectionStats"] = self._answer

    def of(self, name):
        incoming, outgoing = MISLEADING, self.unread.get(name, 0)
        if name == OWN_NAME:
            incoming, outgoing = outgoing + self.of_ours(), incoming
        figures = {"IncomingBytes": variant("u", incoming), "OutgoingBytes": variant("u", outgoing)}
        return "a{sv}", [figures]

    def of_ours(self):
        moved = self._bus.signals("Moved") if self.never_read else ()
        return sum(len(m.body) for m in moved if m.fields[PATH] == self.never_read)

    def _answer(self, call):
        (name,) = call.values
        if name != PINGER:
            self.asked.append(name)
        return None if name in self.held else self.of(name)


class Clock:
    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture(autouse=True)
def parts(monkeypatch):
    """No wing is silent for what it sends itself, but only where a test says so."""
    monkeypatch.setattr(module, "PART_BYTES", 1 << 40)


@pytest.fixture
def figures(bus):
    return Figures(bus)


@pytest.fixture
def clock(monkeypatch):
    """The time of looks, which stands still; and the figure is asked for only after output. Of a
    caller, the first look decides."""
    clock = Clock()
    for name in ("transport", "dispatch", "backlog"):
        monkeypatch.setattr(f"buswork.bus.{name}.time", clock)
    monkeypatch.setattr(module, "LOOK_SECONDS", 3600.0)
    monkeypatch.setattr(module, "MORE_LOOKS", 0)
    return clock


@pytest.fixture
def watched(stack):
    return stack.edge.dispatcher.backlog


async def output(stack, size=MIB + 1):
    """The daemon sends so much, and what follows from it has come to pass."""
    target = stack.connection.writer.sent + size
    while stack.connection.writer.sent + stack.connection.writer.queued < target:
        stack.edge.emit(ROOT, TOY, "Moved", "x" * 60_000, 1)
        assert not stack.edge.dropped_signals
    await stack.connection.writer.drain()
    await stack.bus.settle()


async def be_careful(stack, figures):
    figures.unread[OWN_NAME] = module.CAREFUL_BYTES + 1
    await output(stack)
    assert stack.edge.dispatcher.backlog.careful
    figures.asked.clear()


# When the bus is asked


async def test_nothing_is_asked_before_a_megabyte_was_sent(stack, toy, figures):
    sent = stack.connection.writer.sent
    await output(stack, MIB - sent - 100_000)
    assert stack.connection.writer.sent < MIB
    assert figures.asked == []
    await output(stack, 100_000)
    assert figures.asked == [OWN_NAME]


async def test_one_figure_is_asked_for_every_megabyte(stack, toy, figures):
    for number in range(1, 6):
        await output(stack)
        assert figures.asked == [OWN_NAME] * number


async def test_large_answers_are_reason_to_ask_at_once(stack, toy, figures):
    await stack.call(ALICE, "Blob", "u", 1000)
    assert figures.asked == []
    await stack.call(ALICE, "Blob", "u", 100_000)
    await stack.bus.settle()
    assert figures.asked == [OWN_NAME]


async def test_one_question_at_a_time(bus, stack, toy, figures):
    figures.held.add(OWN_NAME)
    for _ in range(3):
        await output(stack)
    assert figures.asked == [OWN_NAME]
    bus.reply(bus.calls("GetConnectionStats")[0], *figures.of(OWN_NAME))
    await bus.settle()
    await output(stack)
    assert figures.asked == [OWN_NAME] * 2


# When care is taken


@pytest.mark.parametrize(("more", "careful"), [(0, False), (1, True)])
async def test_32_care_is_taken_past_so_much_unread(stack, toy, figures, watched, more, careful):
    figures.unread[OWN_NAME] = module.CAREFUL_BYTES + more
    await output(stack)
    assert watched.careful is careful


async def test_32_care_is_taken_when_no_figure_covers_what_was_sent(
    bus, stack, toy, figures, watched, monkeypatch, clock
):
    monkeypatch.setattr(module, "UNCONFIRMED_BYTES", 3 * MIB)
    figures.held.add(OWN_NAME)
    await output(stack, 2 * MIB)
    assert not watched.careful
    await output(stack, 2 * MIB)
    assert watched.careful
    assert figures.asked == [OWN_NAME]


async def test_32_what_is_queued_counts_as_well(
    bus, stack, toy, figures, watched, monkeypatch, clock
):
    monkeypatch.setattr(module, "UNCONFIRMED_BYTES", 3 * MIB)
    bus.stop_listening()
    for _ in range(60):
        stack.edge.emit(ROOT, TOY, "Moved", "x" * 60_000, 1)
    await asyncio.sleep(0)
    assert stack.connection.writer.sent < MIB
    watched.look()
    assert watched.careful
    bus.listen()


async def test_32_a_figure_covers_what_was_queued_before_it_was_asked_for(
    bus, stack, toy, figures, watched, monkeypatch, clock
):
    """Not what was sent while the bus made up its mind."""
    monkeypatch.setattr(module, "UNCONFIRMED_BYTES", 3 * MIB)
    figures.held.add(OWN_NAME)
    await output(stack)
    await output(stack, 5 * MIB)
    assert watched.careful
    bus.reply(bus.calls("GetConnectionStats")[0], *figures.of(OWN_NAME))
    await bus.settle()
    assert watched.careful


async def test_care_ends_when_little_is_unread(stack, toy, figures, watched, monkeypatch):
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)
    await be_careful(stack, figures)
    await stack.bus.settle()
    assert watched.careful
    assert figures.asked.count(OWN_NAME) > 1
    figures.unread[OWN_NAME] = 0
    await stack.bus.settle()
    assert not watched.careful
    asked = len(figures.asked)
    await stack.bus.settle()
    assert len(figures.asked) == asked


async def test_32_what_is_remembered_of_callers_goes_when_care_begins(
    stack, toy, figures, watched, clock
):
    for _ in range(2):
        await stack.call(ALICE, "Echo", "s", "x")
    await be_careful(stack, figures)
    assert not any(known.until for known in stack.edge.dispatcher._known.values())
    for _ in range(3):
        await stack.call(ALICE, "Echo", "s", "x")
    assert not any(known.until for known in stack.edge.dispatcher._known.values())


async def test_who_wants_to_know_is_told_once(stack, toy, figures, watched, clock):
    told = []
    watched.on_careful(lambda: told.append(1))
    await be_careful(stack, figures)
    await output(stack)
    assert told == [1]


@pytest.mark.parametrize(("more", "sent"), [(0, 1), (1, 0)])
async def test_32_broadcasts_are_left_out_when_very_much_is_unread(
    bus, stack, toy, figures, clock, more, sent
):
    figures.unread[OWN_NAME] = module.SILENT_BYTES + more
    await output(stack)
    dropped = stack.edge.dropped_signals
    stack.edge.emit(ROOT, TOY, "Moved", "last", 1)
    await bus.settle()
    assert len([m for m in bus.signals("Moved") if m.values[0] == "last"]) == sent
    assert stack.edge.dropped_signals == dropped + 1 - sent


# Each wing's part


@pytest.fixture
def small_parts(stack, toy, monkeypatch):
    """Two wings with a part of 3 MiB each, and a bus that is asked whenever there is a need."""
    monkeypatch.setattr(module, "PART_BYTES", 3 * MIB)
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)
    stack.toy(OTHER_ROOT, wing=OTHER_ROOT)


async def emit(stack, path, size=MIB):
    """Whether all of so much could be sent; the bus has read it, and was asked about it."""
    dropped = stack.edge.dropped_signals
    for _ in range(size // 65_536):
        stack.edge.emit(path, TOY, "Moved", "x" * 65_400, 1)
    await stack.connection.writer.drain()
    await stack.bus.settle()
    return stack.edge.dropped_signals == dropped


async def fill(stack, figures, path):
    """Nobody reads what this wing sends."""
    figures.never_read = path
    while await emit(stack, path):
        assert figures.of_ours() <= 4 * MIB


async def test_32_a_wing_that_is_not_read_takes_no_other_wings_signals(
    bus, stack, figures, small_parts
):
    await fill(stack, figures, ROOT)
    for _ in range(20):
        assert await emit(stack, OTHER_ROOT)
        assert not await emit(stack, ROOT, MIB // 16)
    assert not stack.edge.dispatcher.backlog.careful


async def test_32_what_is_not_read_is_of_those_who_sent_meanwhile(stack, figures, small_parts):
    await emit(stack, OTHER_ROOT)
    await fill(stack, figures, ROOT)
    parts = [stack.edge.dispatcher.backlog.part(wing) for wing in (ROOT, OTHER_ROOT)]
    assert parts[0].unread == pytest.approx(3 * MIB, rel=0.4)
    assert parts[1].unread + parts[1].sent < MIB // 8


async def test_wings_have_their_part_of_what_is_not_read_by_what_they_sent(watched):
    parts = [watched.part("a"), watched.part("b")]
    for size, unread, told in [
        ((100, 300), 200, [50, 150]),  # half of all is not read
        ((0, 0), 50, [12.5, 37.5]),  # three quarters were read
        ((100, 300), 50, [12.5, 37.5]),
        ((100, 0), 1050, [112.5, 37.5]),  # what else is not read are answers
        ((5, 5), 0, [0, 0]),
    ]:
        for part, bytes_ in zip(parts, size, strict=True):
            part.sent += bytes_
        sent = watched._sent()
        parts[0].sent += 7  # while the bus is asked
        watched._set_unread(unread, watched._confirmed + sum(size), sent)
        assert [part.unread for part in parts] == told
        assert [part.sent for part in parts] == [7, 0]
        parts[0].sent = 0


async def test_who_is_read_again_is_sent_again(stack, figures, small_parts):
    await fill(stack, figures, ROOT)
    asked = len(figures.asked)
    await stack.bus.settle()
    assert len(figures.asked) > asked, "as long as a part is full"
    figures.never_read = None
    await stack.bus.settle()
    assert await emit(stack, ROOT)
    await stack.bus.settle()
    asked = len(figures.asked)
    await stack.bus.settle()
    assert len(figures.asked) == asked


async def test_a_part_that_is_full_is_reason_to_ask(stack, figures, small_parts):
    """Though nothing was sent since that would be."""
    stack.edge.dispatcher.backlog.part(ROOT).unread = 4 * MIB
    assert not await emit(stack, ROOT, MIB // 16)
    assert figures.asked == [OWN_NAME]


async def test_32_without_figures_it_is_what_the_bus_does_not_take(bus, polkit, monkeypatch):
    monkeypatch.setattr(module, "PART_BYTES", 3 * MIB)
    stack = await Stack.make(bus)
    stack.toy()
    stack.toy(OTHER_ROOT, wing=OTHER_ROOT)
    for path in (ROOT, OTHER_ROOT) * 5:
        assert await emit(stack, path)
    bus.stop_listening()
    for _ in range(80):
        stack.edge.emit(ROOT, TOY, "Moved", "x" * 65_400, 1)
    dropped = stack.edge.dropped_signals
    assert dropped > 10
    for _ in range(30):
        stack.edge.emit(OTHER_ROOT, TOY, "Moved", "x" * 65_400, 1)
    assert stack.edge.dropped_signals == dropped
    bus.listen()
    await stack.connection.writer.drain()
    for path in (ROOT, OTHER_ROOT) * 5:
        await emit(stack, path, MIB // 16)
        assert await emit(stack, path)


# Callers


async def test_without_need_nobody_is_looked_at(stack, toy, figures):
    figures.unread[ALICE] = MISLEADING
    for _ in range(3):
        assert (await stack.call(ALICE, "Echo", "s", "x")).values == ["x"]
    assert figures.asked == []


@pytest.mark.attack(32)
async def test_32_a_deaf_caller_is_answered_no_more_and_others_are(
    bus, stack, toy, figures, clock, caplog
):
    for sender in (ALICE, BOB):
        await stack.call(sender, "Echo", "s", "before")
    await be_careful(stack, figures)
    toy.calls.clear()
    figures.unread[ALICE] = module.DEAF_BYTES + 1
    calls = [bus.call(ALICE, ROOT, TOY, "Echo", "s", [str(number)]) for number in range(3)]
    assert (await stack.call(BOB, "Echo", "s", "bob")).values == ["bob"]
    await bus.settle()
    assert [bus.answer_now(call) for call in calls] == [None] * 3
    assert toy.calls == [(BOB, "bob")]
    assert stack.edge.dispatcher._lanes == {}
    assert stack.authority.quotas.used(ALICE_UID, "waiting_bytes") == 0
    assert len([record for record in caplog.records if ALICE in record.getMessage()]) == 1


async def test_32_a_deaf_caller_gets_no_errors_either(bus, stack, toy, figures, clock):
    await stack.call(ALICE, "Echo", "s", "before")
    await be_careful(stack, figures)
    figures.unread[ALICE] = module.DEAF_BYTES + 1
    bus.call(ALICE, ROOT, TOY, "Echo", "s", ["x"])
    await bus.settle()
    errors = stack.edge.dispatcher.errors
    calls = [bus.call(ALICE, ROOT, TOY, "NoSuch"), bus.call(ALICE, ROOT, TOY, "Echo", "u", [1])]
    other = await stack.call(BOB, "NoSuch")
    await bus.settle()
    assert [bus.answer_now(call) for call in calls] == [None] * 2
    assert other.error == ERROR + "UnknownMethod"
    assert stack.edge.dispatcher.errors == errors + 3


async def test_31_descriptors_of_a_deaf_caller_are_closed(
    bus, stack, toy, figures, clock, open_fds
):
    pipe = os.pipe()
    await stack.call(ALICE, "Echo", "s", "before")
    await be_careful(stack, figures)
    figures.unread[ALICE] = module.DEAF_BYTES + 1
    before = open_fds()
    for _ in range(3):
        bus.call(ALICE, ROOT, TOY, "Take", "ah", [[0]], fds=[pipe[0]] * 4)
        await bus.settle()
    assert open_fds() == before
    assert stack.authority.quotas.used(ALICE_UID, "descriptors") == 0
    assert (ALICE, "before") in toy.calls
    assert len(toy.calls) == 1
    close_all(pipe)


async def test_who_leaves_a_little_unread_is_no_deaf_caller(stack, toy, figures, clock):
    await be_careful(stack, figures)
    figures.unread[ALICE] = module.DEAF_BYTES // 2
    assert (await stack.call(ALICE, "Echo", "s", "x")).values == ["x"]
    assert figures.asked == [ALICE]


@pytest.mark.parametrize("reads", [True, False])
async def test_who_has_asked_for_much_is_given_time_to_read_it(
    bus, stack, toy, figures, clock, monkeypatch, reads
):
    monkeypatch.setattr(module, "MORE_LOOKS", 2)
    monkeypatch.setattr(module, "AGAIN_SECONDS", 0)
    looks = []

    async def unread(name):
        looks.append(name)
        return 0 if reads and len(looks) == 3 else module.DEAF_BYTES + 1

    await be_careful(stack, figures)
    monkeypatch.setattr(stack.edge.dispatcher.backlog, "unread", unread)
    call = bus.call(ALICE, ROOT, TOY, "Echo", "s", ["x"])
    await bus.settle()
    assert looks == [ALICE] * 3
    assert toy.calls == ([(ALICE, "x")] if reads else [])
    assert (bus.answer_now(call) is not None) == reads
    # Who is known for it is not waited for.
    bus.call(ALICE, ROOT, TOY, "Echo", "s", ["y"])
    await bus.settle()
    assert len(looks) == (3 if reads else 4)


async def test_who_reads_again_is_answered_again(bus, stack, toy, figures, clock):
    await be_careful(stack, figures)
    figures.unread[ALICE] = module.DEAF_BYTES + 1
    bus.call(ALICE, ROOT, TOY, "Echo", "s", ["lost"])
    await bus.settle()
    figures.unread[ALICE] = 0
    assert (await stack.call(ALICE, "Echo", "s", "x")).values == ["x"]
    assert (await stack.call(ALICE, "NoSuch")).error == ERROR + "UnknownMethod"
    assert toy.calls == [(ALICE, "x")]


async def test_32_a_look_is_good_for_a_while_and_no_longer(bus, stack, toy, figures, clock):
    await be_careful(stack, figures)
    for _ in range(3):
        await stack.call(ALICE, "Echo", "s", "x")
    assert figures.asked == [ALICE]
    figures.unread[ALICE] = module.DEAF_BYTES + 1
    clock.now += module.LOOK_SECONDS - 1
    assert (await stack.call(ALICE, "Echo", "s", "x")).values == ["x"]
    clock.now += 2
    call = bus.call(ALICE, ROOT, TOY, "Echo", "s", ["lost"])
    await bus.settle()
    assert bus.answer_now(call) is None
    assert figures.asked == [ALICE] * 2
    assert len(toy.calls) == 4


async def test_32_earlier_looks_do_not_count_when_care_is_taken_anew(
    bus, stack, toy, figures, clock
):
    await be_careful(stack, figures)
    await stack.call(ALICE, "Echo", "s", "x")
    stack.edge.dispatcher.backlog._be_careful()
    await stack.call(ALICE, "Echo", "s", "x")
    assert figures.asked == [ALICE] * 2


async def test_32_while_one_is_looked_at_others_are_served(bus, stack, toy, figures, clock):
    await stack.call(ALICE, "Echo", "s", "before")
    await be_careful(stack, figures)
    await stack.call(BOB, "Echo", "s", "x")
    figures.held.add(ALICE)
    waiting = bus.call(ALICE, ROOT, TOY, "Echo", "s", ["late"])
    await bus.settle()
    assert bus.answer_now(waiting) is None
    assert (await stack.call(BOB, "Echo", "s", "y")).values == ["y"]
    look = next(call for call in bus.calls("GetConnectionStats") if call.values == [ALICE])
    bus.reply(look, *figures.of(ALICE))
    assert (await bus.answer_to(waiting)).values == ["late"]


async def test_a_caller_of_whom_there_is_no_figure_is_answered(bus, stack, toy, figures, clock):
    await be_careful(stack, figures)
    answer = bus.answers[DRIVER, "GetConnectionStats"]

    def refuse(call):
        if call.values != [OWN_NAME]:
            raise Refused(ERROR + "NameHasNoOwner")
        return answer(call)

    bus.answers[DRIVER, "GetConnectionStats"] = refuse
    assert (await stack.call(ALICE, "Echo", "s", "x")).values == ["x"]
    assert stack.edge.dispatcher.backlog.careful


async def test_the_deaf_are_forgotten_when_care_ends(bus, stack, toy, figures, watched, clock):
    await be_careful(stack, figures)
    figures.unread[ALICE] = module.DEAF_BYTES + 1
    bus.call(ALICE, ROOT, TOY, "Echo", "s", ["lost"])
    await bus.settle()
    assert watched.is_deaf(ALICE)
    assert not watched.is_deaf(BOB)
    figures.unread[OWN_NAME] = 0
    await watched._update()
    assert not watched.careful
    assert not watched.is_deaf(ALICE)
    assert (await stack.call(ALICE, "Echo", "s", "x")).values == ["x"]


async def test_29_looks_that_are_remembered_are_bounded(
    bus, stack, toy, figures, watched, clock, monkeypatch
):
    monkeypatch.setattr(module, "MAX_LOOKS", 5)
    await be_careful(stack, figures)
    for number in range(20):
        bus.uids[f":2.{number}"] = 2000
        await stack.call(f":2.{number}", "Echo", "s", "x")
        assert len(watched._hearing) <= 5


# Buses without figures


@pytest.mark.parametrize("answer", [None, ("a{sv}", [{}]), ("", [])])
async def test_a_bus_without_figures_is_asked_once_and_no_care_is_taken(
    bus, polkit, monkeypatch, answer
):
    monkeypatch.setattr(module, "UNCONFIRMED_BYTES", 2 * MIB)
    if answer is not None:
        bus.answers[DRIVER, "GetConnectionStats"] = lambda call: answer
    stack = await Stack.make(bus)
    toy = stack.toy()
    told = []
    stack.edge.dispatcher.backlog.on_careful(lambda: told.append(1))
    for _ in range(5):
        await output(stack)
    await stack.call(ALICE, "Blob", "u", 100_000)
    assert len(bus.calls("GetConnectionStats")) == 1
    assert told == []
    assert not stack.edge.dispatcher.backlog.careful
    assert (await stack.call(ALICE, "Echo", "s", "x")).values == ["x"]
    assert toy.calls == [(ALICE, "x")]


async def test_36_the_watch_ends_with_the_bus(stack, toy, figures, watched, monkeypatch):
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)
    complaints = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
    await be_careful(stack, figures)
    task = watched._task
    stack.bus.hang_up()
    await stack.connection.closed
    await task
    assert not watched.careful
    assert complaints == []


def test_the_figures_fit_together():
    """What may lie unread at the worst stays under what makes dbus-daemon stop reading us."""
    assert 2 * module.CAREFUL_BYTES < module.SILENT_BYTES < 127 * MIB
    assert module.UNCONFIRMED_BYTES <= module.CAREFUL_BYTES
    assert WINGS * PART_BYTES < module.CAREFUL_BYTES
    assert writer.OUTPUT_STEP < module.DEAF_BYTES < module.CAREFUL_BYTES
