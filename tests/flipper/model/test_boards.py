"""Tests of buswork.flipper.model.boards."""

import pytest
from flipper.model.bench import Bench, Carbon, Told

from buswork.errors import Busy, InvalidArgs, LimitsExceeded
from buswork.flipper.errors import AlreadyAttached, Claimed, Disconnected, NoSuchBoard
from buswork.flipper.model import calls
from buswork.flipper.model.boards import (
    BoardAdded,
    BoardChanged,
    BoardRemoved,
    Boards,
    Holder,
    Limits,
    State,
    Transport,
)
from buswork.flipper.model.events import parse_source
from buswork.flipper.model.turns import Limits as Waiting
from buswork.flipper.wire.errors import BoardError
from buswork.flipper.wire.exchanges import Answer
from buswork.flipper.wire.modules import TABLES
from buswork.flipper.wire.results import Result
from buswork.flipper.wire.terms import BadValue, Generation, Processor

UDP = Transport.UDP


# -- names, and the current one ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "given", "name"),
    [
        ("usb:1-2.3", "", "carbon-1-2.3"),
        ("usb:1-2.3", "bench", "bench"),
        ("usb:1-2.3", "B_e.n-2", "B_e.n-2"),
        ("usb:1-2.3", "no good", "carbon-1-2.3"),
        ("usb:1-2.3", "böse", "carbon-1-2.3"),
        ("usb:1-2.3", "../etc", "carbon-1-2.3"),
        ("usb:1-2.3", "x" * 65, "carbon-1-2.3"),
        ("udp:localhost:3258", "", "carbon-localhost"),
        ("udp:10.0.0.7:4000", "", "carbon-10.0.0.7:4000"),
    ],
)
def test_names(key, given, name):
    board = Boards().attach(key, name=given)
    assert (board.name, board.key) == (name, key)


def test_a_name_is_one_boards():
    boards = Boards()
    names = [boards.attach(f"usb:1-{port}", name="bench").name for port in range(3)]
    assert names == ["bench", "bench-2", "bench-3"]
    assert boards.attach("usb:2-1", name="carbon-1-9").name == "carbon-1-9"
    assert boards.attach("usb:1-9").name == "carbon-1-9-2"
    assert list(boards.boards) == ["bench", "bench-2", "bench-3", "carbon-1-9", "carbon-1-9-2"]
    boards.detach("usb:1-0")
    assert boards.attach("usb:1-0", name="bench").name == "bench"


def test_the_newest_is_meant_and_then_the_one_before():
    boards = Boards()
    assert boards.current is None
    with pytest.raises(NoSuchBoard, match=r"There is no board\."):
        boards.find()
    first, second, third = (boards.attach(f"usb:1-{port}") for port in (1, 2, 3))
    assert boards.find() is boards.current is third
    boards.detach("usb:1-2")
    assert boards.current is third
    boards.detach("usb:1-3")
    assert boards.current is first
    again = boards.attach("usb:1-2")
    assert boards.find("") is again
    assert again is not second
    boards.detach("usb:1-1")
    boards.detach("usb:1-2")
    assert boards.current is None


def test_boards_are_found_by_name_and_by_place():
    boards = Boards()
    board = boards.attach("usb:1-2")
    boards.attach("usb:1-3")
    assert boards.find("carbon-1-2") is board
    assert boards.by_key("usb:1-2") is board
    assert boards.by_key("usb:9") is None
    with pytest.raises(NoSuchBoard, match="no board 'other'"):
        boards.find("other")
    with pytest.raises(NoSuchBoard) as caught:
        boards.find("x" * 10_000)
    assert len(str(caught.value)) < 100


# -- they come and go ----------------------------------------------------------------------------


def test_what_a_board_is():
    board = Boards().attach("usb:1-2")
    assert (board.transport, board.generation) == (Transport.USB, Generation.G1)
    assert board.modules["led"] == TABLES[Generation.G1, Processor.U2].modules["led"]
    board = Boards().attach("udp:a:1", transport=UDP, generation=Generation.G2)
    assert (board.transport, board.generation) == (UDP, Generation.G2)
    assert "fld" not in board.modules


def test_each_place_counts_how_often_a_board_came():
    boards = Boards()
    counts = []
    for key in ("usb:1-2", "usb:1-3", "usb:1-2", "usb:1-2"):
        boards.detach(key)
        counts.append(boards.attach(key).incarnation)
    assert counts == [1, 1, 2, 3]
    # Of the network, there are more places than anybody can count.
    for _ in range(2):
        assert boards.attach("udp:a:1", transport=UDP).incarnation == 1
        boards.detach("udp:a:1")


def test_a_place_has_one_board():
    boards = Boards()
    boards.attach("usb:1-2", name="bench")
    with pytest.raises(AlreadyAttached, match="as bench"):
        boards.attach("usb:1-2")
    assert boards.boards["bench"].incarnation == 1


def test_only_so_many_fit():
    boards = Boards(Limits(boards=2))
    boards.attach("usb:1-1")
    boards.attach("usb:1-2")
    with pytest.raises(LimitsExceeded, match="There are 2 boards"):
        boards.attach("usb:1-3")
    boards.detach("usb:1-1")
    assert boards.attach("usb:1-3").incarnation == 1


def test_with_a_board_all_ends_that_was_asked_of_it():
    bench = Bench()
    told = [bench.ask(owner, calls.reset(bench.board)) for owner in ("one", "two")]
    running = bench.begin()
    old = bench.board
    bench.replug()
    for each in told:
        assert isinstance(each.error, Disconnected)
        assert "carbon-1-2 was unplugged" in str(each.error)
    bench.finish(running)
    with pytest.raises(Disconnected):
        old.turns.ask("one", 1, calls.reset(old), Told())
    assert bench.result(calls.reset(bench.board)) is None
    bench.boards.detach("usb:nowhere")


def test_each_place_has_its_own_limits_for_what_waits():
    bench = Bench(limits=Limits(waiting=Waiting(jobs=1)))
    bench.ask("one", calls.reset(bench.board))
    with pytest.raises(LimitsExceeded):
        bench.ask("two", calls.reset(bench.board))
    other = bench.boards.attach("usb:1-3")
    other.turns.ask("one", 1, calls.reset(other), Told())


# -- what is told --------------------------------------------------------------------------------


def listening(bench):
    changes = []
    bench.boards.on_change.append(changes.append)
    return changes


def test_boards_are_told_of_when_they_are_there_and_gone():
    boards = Boards()
    seen = []
    boards.on_change.append(lambda change: seen.append((change, dict(boards.boards))))
    board = boards.attach("usb:1-2")
    boards.detach("usb:1-2")
    assert seen == [(BoardAdded(board), {"carbon-1-2": board}), (BoardRemoved(board), {})]


def test_the_state_follows_the_line():
    bench = Bench()
    changes = listening(bench)
    board = bench.board
    assert (board.state, board.is_open) == (State.READY, False)
    board.line_opened()
    assert (board.state, board.is_open) == (State.IN_USE, True)
    board.line_opened()
    board.line_closed()
    assert board.state is State.READY
    board.line_closed("x" * 1000)
    assert (board.state, len(board.error)) == (State.FAILED, 256)
    board.line_closed("another program has it")
    board.line_opened()
    assert (board.state, board.error) == (State.IN_USE, "")
    assert changes == [
        BoardChanged(board, names)
        for names in (("state",), ("state",), ("state", "error"), ("error",), ("state", "error"))
    ]


def test_an_opened_line_is_not_trusted():
    bench = Bench()
    bench.result(calls.invoke(bench.board, "gpio", "read", [1]))
    steps = bench.line.steps
    bench.board.line_opened()
    bench.result(calls.invoke(bench.board, "gpio", "read", [1]))
    assert bench.line.steps == steps + 4


def test_claims_are_told_of():
    bench = Bench()
    changes = listening(bench)
    woken = []
    bench.turns.on_work = lambda: woken.append(bench.board.claim)
    claim = bench.claim("one").result
    bench.boards.renew(claim.token, "one", 5.0)
    assert bench.boards.next_expiry() == 65.0
    bench.boards.release(claim.token, "one")
    assert changes == [BoardChanged(bench.board, ("claim",))] * 2
    assert woken == [claim, None]


# -- lending -------------------------------------------------------------------------------------


def test_a_board_is_lent_when_its_line_is_closed():
    bench = Bench()
    board = bench.board
    board.line_opened()
    claim = bench.claim("one", reason="dfu-programmer").result
    waiting = bench.ask("one", calls.invoke(board, "led", "configure", []))
    changes = listening(bench)
    bench.boards.lend(claim.token, "one")
    assert (board.is_lent, board.state) == (True, State.IN_USE)
    for owner in ("one", "two"):
        with pytest.raises(Claimed, match="The board is lent: dfu-programmer"):
            bench.ask(owner, calls.reset(board))
    bench.run()
    assert waiting.result == 0
    board.line_closed()
    assert board.state is State.LENT
    bench.boards.release(claim.token, "one")
    assert board.state is State.READY
    assert changes == [
        BoardChanged(board, names) for names in (("claim",), ("state",), ("claim",), ("state",))
    ]
    assert bench.result(calls.reset(board), "two") is None


def test_a_board_stays_lent_when_it_is_plugged_in_again():
    bench = Bench()
    claim = bench.claim("one").result
    bench.boards.lend(claim.token, "one")
    bench.replug()
    assert bench.board.state is State.LENT
    bench.boards.release(claim.token, "one")
    assert bench.board.state is State.READY


# -- subscriptions -------------------------------------------------------------------------------


class Watched(Bench):
    """A board whose events and failures are kept."""

    def __init__(self, *values):
        self.values = iter(values)
        super().__init__(Carbon(on_u2=self._answer_u2))
        self.told, self.failures = [], []
        self.boards.on_event.append(lambda board, event: self.told.append((board, event)))
        self.boards.on_poll_failed.append(lambda *what: self.failures.append(what))

    def _answer_u2(self, exchange):
        return Answer(next(self.values))

    def poll_at(self, now):
        self.board.poll(now)
        self.run()


def test_a_subscriber_is_told_of_changes():
    bench = Watched(Result(0), Result(0), Result(1))
    woken = []
    bench.turns.on_work = lambda: woken.append(bench.board.next_poll())
    assert bench.board.next_poll() is None
    source = bench.board.subscribe("one", 1, "button", 100)
    assert len(woken) == 1
    for now in (0.0, 0.05, 0.1, 0.2):
        bench.poll_at(now)
    assert len(bench.ran) == 3
    assert bench.told == [
        (bench.board, ("one", source, 0, None)),
        (bench.board, ("one", source, 1, 0)),
    ]
    bench.board.unsubscribe("one", "button")
    assert bench.board.next_poll() is None
    bench.poll_at(5.0)
    assert len(bench.ran) == 3


def test_what_is_not_there_or_not_subscribed_to():
    bench = Bench(transport=UDP, generation=Generation.G2)
    bench.board.processors.has_only({"led": 0})
    with pytest.raises(BadValue, match="no module 'button'"):
        bench.board.subscribe("one", 1, "button", 100)
    with pytest.raises(InvalidArgs, match="no source 'led'"):
        bench.board.subscribe("one", 1, "led", 100)
    with pytest.raises(InvalidArgs, match="not subscribed"):
        bench.board.unsubscribe("one", "button")


def test_polling_takes_its_turn_among_the_others():
    bench = Watched(*[Result(0)] * 20)
    bench.board.subscribe("one", 1, "button", 10)
    for _ in range(4):
        bench.ask("two", calls.invoke(bench.board, "led", "configure", []))
    for now in range(6):
        bench.board.poll(now)
        bench.run(1)
    assert bench.ran == ["two", "the poller", "two", "the poller", "two", "the poller"]


def test_what_can_not_be_read_is_told_to_who_logs():
    bench = Watched(Result(0, 24), Result(1))
    source = bench.board.subscribe("one", 1, "button", 100)
    bench.poll_at(0.0)
    ((board, failed, error),) = bench.failures
    assert (board, failed, type(error)) == (bench.board, source, BoardError)
    assert bench.board.next_poll() == 1.0
    bench.poll_at(1.0)
    assert [event.value for _, event in bench.told] == [1]


def test_a_full_board_is_read_later():
    bench = Bench(limits=Limits(waiting=Waiting(jobs=1)))
    bench.board.subscribe("one", 1, "button", 100)
    bench.ask("two", calls.reset(bench.board))
    bench.board.poll(0.0)
    assert bench.board.next_poll() == 1.0


def test_a_claimed_board_is_read_for_its_owner_alone():
    bench = Watched(*[Result(1)] * 10)
    bench.board.subscribe("one", 1, "button", 100)
    bench.board.subscribe("two", 1, "usart", 100)
    bench.board.poll(0.0)
    told = bench.claim("two")
    assert not told.is_told
    bench.run()
    assert told.is_told
    # Nothing of others' is read, even while the claim's owner has nothing to do.
    assert bench.board.next_poll() == pytest.approx(0.1)
    bench.ran.clear()
    bench.poll_at(0.1)
    assert len(bench.ran) == 1
    assert len(bench.line.s4) == 2
    bench.board.unsubscribe("two", "usart")
    assert bench.board.next_poll() is None
    bench.boards.release(told.result.token, "two")
    assert bench.board.next_poll() is not None


def test_a_lent_board_is_not_read():
    bench = Bench()
    bench.board.subscribe("one", 1, "button", 100)
    claim = bench.claim("one").result
    bench.boards.lend(claim.token, "one")
    assert bench.board.next_poll() is None
    bench.board.poll(5.0)
    assert not bench.turns.has_work
    bench.boards.release(claim.token, "one")
    assert bench.board.next_poll() is not None


def test_polling_that_waits_ends_with_the_board():
    bench = Watched()
    bench.board.subscribe("one", 1, "button", 100)
    bench.board.poll(0.0)
    bench.boards.detach(bench.key)
    assert [type(error) for _, _, error in bench.failures] == [Disconnected]


# -- who holds it --------------------------------------------------------------------------------


def test_holders_are_those_that_wait_watch_or_have_claimed():
    bench = Bench()
    board = bench.board
    assert board.holders() == []
    for _ in range(2):
        bench.ask("caller", calls.reset(board), uid=1)
    board.subscribe("watcher", 2, "button", 100)
    board.subscribe("watcher", 2, "gpio:1", 100)
    board.subscribe("both", 4, "button", 100)
    board.poll(0.0)
    bench.claim("both", uid=4)
    sources = tuple(parse_source(text) for text in ("button", "gpio:1"))
    assert board.holders() == [
        Holder("caller", 1, 2),
        Holder("both", 4, 1, sources[:1]),
        Holder("watcher", 2, 0, sources),
    ]
    bench.run()
    assert board.holders() == [
        Holder("watcher", 2, 0, sources),
        Holder("both", 4, 0, sources[:1], board.claim),
    ]


def test_who_has_claimed_a_board_holds_it():
    bench = Bench()
    claim = bench.claim("one", uid=7).result
    assert bench.board.holders() == [Holder("one", 7, claim=claim)]


def test_a_line_that_fails_leaves_subscriptions():
    bench = Watched(Result(1))
    bench.board.subscribe("one", 1, "button", 100)
    bench.board.poll(0.0)
    bench.turns.fail(Busy("another program has it"), 0.0)
    assert [type(error) for _, _, error in bench.failures] == [Busy]
    assert bench.board.next_poll() == 1.0
