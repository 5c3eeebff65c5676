"""Word of changes, no faster than listeners and the bus can bear.

What exceeds the rate is not lost: of each thing it is kept what changed, and its newest state is
told when it is its turn. Each user has a line of his own, so that who floods his own waits for
nobody else's, and nobody else for his. Lines that wait have their turn one after the other.
"""

import asyncio
from collections.abc import Callable, Iterable

# What one uid's things may tell at once, and then a second: a desktop has a handful of things
# that change a few times a second, and eyes follow no more than these.
AT_ONCE = 50
A_SECOND = 50
# What all may: ten users who flood. To tell ten listeners takes a hundredth of the bus's time.
AT_ONCE_IN_ALL = 500
A_SECOND_IN_ALL = 500
# Users of whom it is remembered what they told lately.
MAX_LINES = 1024

# Tells what changed of an interface at a path; False: not now.
Tell = Callable[[str, str, Iterable[str]], bool]


class Rate:
    """So many at once, and so many a second when those are used up."""

    __slots__ = ("_at_once_seconds", "_paid_until", "_seconds")

    def __init__(self, at_once: int, a_second: int) -> None:
        self._seconds = 1 / a_second
        self._at_once_seconds = at_once / a_second
        self._paid_until = 0.0

    def next(self, now: float) -> float:
        """From when on the next one may be, which counts as used with that."""
        self._paid_until = max(self._paid_until, now) + self._seconds
        return self._paid_until - self._at_once_seconds


class _Line:
    """What one user's things have to tell, in the order in which they began to."""

    __slots__ = ("rate", "timer", "waiting")

    def __init__(self) -> None:
        self.rate = Rate(AT_ONCE, A_SECOND)
        self.waiting: dict[tuple[str, str], dict[str, None]] = {}
        # Runs while anything waits.
        self.timer: asyncio.TimerHandle | None = None


class News:
    """Tells at once, or as soon as the rates allow."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._rate = Rate(AT_ONCE_IN_ALL, A_SECOND_IN_ALL)
        self._lines: dict[int | None, _Line] = {}

    def changed(self, uid: int | None, path: str, interface: str, names: Iterable[str]) -> None:
        """uid: whose the thing is; what is nobody's has one line together."""
        line = self._line(uid)
        line.waiting.setdefault((path, interface), {}).update(dict.fromkeys(names))
        if line.timer is None:
            self._go_on(line)

    def _line(self, uid: int | None) -> _Line:
        line = self._lines.get(uid)
        if line is None:
            if len(self._lines) >= MAX_LINES:
                self._lines = {uid: line for uid, line in self._lines.items() if line.timer}
            line = self._lines[uid] = _Line()
        return line

    def _go_on(self, line: _Line) -> None:
        line.timer = None
        loop = asyncio.get_running_loop()
        while line.waiting:
            now = loop.time()
            # Each line takes one place in the order of all, and the next only after that.
            at = max(line.rate.next(now), self._rate.next(now))
            if at > now:
                line.timer = loop.call_at(at, self._due, line)
                return
            self._tell_first(line)

    def _due(self, line: _Line) -> None:
        self._tell_first(line)
        self._go_on(line)

    def _tell_first(self, line: _Line) -> None:
        thing = next(iter(line.waiting))
        names = line.waiting.pop(thing)
        if not self._tell(*thing, names):
            line.waiting[thing] = names
