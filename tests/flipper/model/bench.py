"""A board whose line is in the hands of a test: it runs turns one by one, and jobs to their end."""

from collections import Counter
from dataclasses import dataclass, field

from flipper.wire.boards import Bridge

from buswork.flipper.model.boards import Boards, Transport
from buswork.flipper.model.claims import Claim
from buswork.flipper.model.work import Job, Pause, known
from buswork.flipper.wire.exchanges import Answer, Exchange
from buswork.flipper.wire.packets import Pull, Push, data_to_host
from buswork.flipper.wire.results import Result
from buswork.flipper.wire.terms import Generation

ZERO = Answer(Result(0))
LEASE = 60


def filled(exchange):
    """Success, with as much data as are asked for."""
    return Answer(Result(0), bytes(data_to_host(exchange.request)))


class Carbon:
    """Both processors as a line sees them: `u2` and `s4` are what was asked of each."""

    def __init__(self, on_u2=filled, on_s4=filled):
        self.u2, self.s4 = [], []
        self.steps = 0
        self._on_u2, self._on_s4 = on_u2, on_s4
        self.bridge = Bridge(self._answer_s4)

    def __call__(self, exchange):
        self.steps += 1
        if isinstance(exchange.request, Push | Pull) and exchange.request[:2] in ((3, 2), (3, 3)):
            return self.bridge(exchange)
        self.u2.append(exchange)
        return self._on_u2(exchange)

    def _answer_s4(self, exchange):
        self.s4.append(exchange)
        return self._on_s4(exchange)


class Fvm:
    """A board of one processor; `seen` is what it was asked."""

    def __init__(self, answer=filled):
        self.seen = []
        self._answer = answer

    def __call__(self, exchange):
        self.seen.append(exchange)
        return self._answer(exchange)


def run_turn(turn, line):
    """As a line does it: its answer, or the exception that it ends with."""
    try:
        step = next(turn)
        while True:
            if isinstance(step, Pause):
                step = next(turn)
                continue
            assert isinstance(step, Exchange)
            try:
                answer = line(step)
            except ConnectionError as error:
                step = turn.throw(error)
            else:
                step = turn.send(answer)
    except StopIteration as done:
        return done.value


def run_job(job, line):
    """All turns of a job, and what it returns."""
    try:
        turn = next(job.turns)
        while True:
            try:
                answer = run_turn(turn, line)
            except Exception as error:
                turn = job.turns.throw(error)
            else:
                turn = job.turns.send(answer)
    except StopIteration as done:
        return done.value


@dataclass
class Told:
    """What was told of a job."""

    results: list = field(default_factory=list)
    asked: object = None

    def __call__(self, result, error):
        self.results.append((result, error))

    @property
    def is_told(self):
        return bool(self.results)

    @property
    def result(self):
        ((result, error),) = self.results
        if error is not None:
            raise error
        return result

    @property
    def error(self):
        ((result, error),) = self.results
        assert result is None
        return error


class Bench:
    """A board, its line and the time."""

    def __init__(self, line=None, transport=Transport.USB, generation=Generation.G1, limits=None):
        on_usb = transport is Transport.USB
        self.line = line or (Carbon() if on_usb else Fvm())
        self.boards = Boards(limits)
        self.key = "usb:1-2" if on_usb else "udp:localhost:3258"
        self.how = {"transport": transport, "generation": generation}
        self.board = self.boards.attach(self.key, **self.how)
        self.now = 0.0
        self.ran = []  # whose turns
        self.tokens = 0

    @property
    def turns(self):
        return self.board.turns

    def ask(self, owner, job, uid=1000):
        told = Told()
        told.asked = self.turns.ask(owner, uid, job, told)
        return told

    def claim(self, owner, uid=1000, reason="a test", lease=LEASE, service=True):
        self.tokens += 1
        told = Told()
        token = f"token {self.tokens}"
        claim = Claim(self.key, owner, uid, reason, lease, token, service=service)
        told.asked = self.turns.claim(claim, self.now, told)
        return told

    def begin(self):
        """The next turn begins; None: there is none."""
        asked = self.turns.next()
        if asked is not None:
            self.ran.append(asked.owner)
        return asked

    def finish(self, asked):
        """And ends."""
        try:
            answer = run_turn(asked.turn, self.line)
        except Exception as error:
            asked.failed(error, self.now)
        else:
            asked.done(answer, self.now)

    def run(self, count=None):
        """So many turns, or all."""
        while count is None or count > 0:
            asked = self.begin()
            if asked is None:
                return
            self.finish(asked)
            if count is not None:
                count -= 1

    def result(self, job, owner="somebody"):
        told = self.ask(owner, job)
        self.run()
        return told.result

    def shares(self):
        return Counter(self.ran)

    def replug(self):
        self.boards.detach(self.key)
        self.board = self.boards.attach(self.key, **self.how)


def turnless(value):
    """A job that needs no turn."""
    return Job(known(value))
