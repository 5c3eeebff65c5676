"""Two ends tied together: what comes from the one goes to the other (section 9).

Protocol daemons are made of this: one end is a libipc connection, the other one speaks something
else, and callbacks turn its bytes into messages and back. Without callbacks both ends speak the
plain format, each in its own form.

- A full end stops the reading of the other, so that no more is held than the ends' own bounds and
  what one read brings.
- Whichever end goes first: what came from it before still reaches the other one, within
  LINGER_SECONDS. Then both are closed, each once, and one Unswitched tells so.
- A callback is chosen by its own presence; the originals looked at the other one's.
"""

import asyncio
import enum
import logging
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from buswork.libipc.errors import QueueFull
from buswork.libipc.wire.forms import BadMessage, Form, Message, most_payload

log = logging.getLogger(__name__)

# How long an end may take to accept what came before the other one went; an ordinary program
# takes it at once, and one that hangs shall not keep two descriptors.
LINGER_SECONDS: Final = 10.0


class Code(enum.IntEnum):
    """What callbacks say, in the numbers of form C."""

    OK = 0
    CLOSING = 1  # this end is done
    ERROR = 2
    PARSING = 3  # what came is no message
    IGNORE = 4  # nothing of it is for the other end


class Taken(NamedTuple):
    """What came in: OK without a message says that none is whole yet."""

    code: Code
    message: Message | None = None
    more: bool = False  # call again at once, there may be another one already


class Switched(NamedTuple):
    """A message went on from one end to the other; None: there was nothing for that one."""

    source: object
    target: object
    message: Message | None


class Unswitched(NamedTuple):
    """Both ends are closed, because of this one (None: it was closed on this side)."""

    switch: "Switch"
    source: object
    code: Code
    error: Exception | None


class Side(Protocol):
    """What an end tells, and only while it is not closed. It may be told from within `push`."""

    def took(self, message: Message) -> None: ...

    def ignored(self) -> None: ...

    def room(self) -> None:
        """The end was full and is no more, or has become empty."""

    def ended(self, code: Code, error: Exception | None = None) -> None: ...


class End(Protocol):
    """What a switch needs of an end; anything that can do this may be one."""

    @property
    def subject(self) -> object:
        """What events call this end."""

    @property
    def form(self) -> Form | None:
        """None: it carries types, user types and payloads in a way of its own."""

    @property
    def full(self) -> bool:
        """It holds as much as it should."""

    @property
    def empty(self) -> bool:
        """All that was pushed has left it."""

    def start(self, side: Side) -> None:
        """Reads from now on."""

    def push(self, message: Message) -> None:
        """Queues; never waits. BadMessage: it can't carry that; QueueFull: not before `room`."""

    def pause(self) -> None:
        """Reads no more, until resumed; what was read already may still be told."""

    def resume(self) -> None: ...

    def close(self) -> None:
        """At once and with all it holds; may be said twice."""


class Switch:
    """Both ends are the switch's from now on, to read, to write and to close."""

    def __init__(
        self,
        first: End,
        second: End,
        *,
        typed: bool = False,
        on_event: Callable[[Switched | Unswitched], None] | None = None,
    ) -> None:
        self._on_event = on_event
        self._closed: asyncio.Future[Unswitched] = asyncio.get_running_loop().create_future()
        self._linger: asyncio.TimerHandle | None = None
        self._last: tuple[_Way, Unswitched] | None = None
        ways = _Way(self, first, second, typed), _Way(self, second, first, typed)
        for way, back in (ways, ways[::-1]):
            way.back = back
        self._ways = ways
        for way in ways:
            if self._last is None:
                way.source.start(way)

    @property
    def ends(self) -> tuple[object, object]:
        return self._ways[0].source.subject, self._ways[1].source.subject

    @property
    def is_closed(self) -> bool:
        return self._closed.done()

    async def wait_closed(self) -> Unswitched:
        return await asyncio.shield(self._closed)

    def close(self) -> None:
        """Both ends, at once."""
        way, told = self._last or (self._ways[0], Unswitched(self, None, Code.CLOSING, None))
        self._finish(way, told)

    # -- for its two ways ----------------------------------------------------------------------

    def tell(self, event: Switched) -> None:
        if self._on_event is not None:
            self._on_event(event)

    def end(self, way: "_Way", code: Code, error: Exception | None) -> None:
        """The way's source has ended."""
        if self._last is not None:
            self._finish(*self._last)
            return
        way.source.close()
        self._last = way, Unswitched(self, way.source.subject, code, error)
        if way.is_done:
            self._finish(*self._last)
            return
        # What the other end says from now on is for nobody; read it must be all the same, or its
        # peer would wait for us, while we wait for the peer.
        way.target.resume()
        loop = asyncio.get_running_loop()
        self._linger = loop.call_later(LINGER_SECONDS, self._finish, *self._last)

    def has_ended(self) -> bool:
        """One end has; the other one may still be given what is left for it."""
        return self._last is not None

    def finish_if_done(self) -> None:
        if self._last is not None and self._last[0].is_done:
            self._finish(*self._last)

    def _finish(self, way: "_Way", told: Unswitched) -> None:
        if self._closed.done():
            return
        self._last = way, told
        self._closed.set_result(told)
        if self._linger is not None:
            self._linger.cancel()
        for each in self._ways:
            each.close()
        if self._on_event is not None:
            self._on_event(told)


class _Way:
    """From one end to the other; the side that the source tells."""

    __slots__ = ("_switch", "_typed", "_waiting", "back", "is_paused", "source", "target")

    back: "_Way"

    def __init__(self, switch: Switch, source: End, target: End, typed: bool) -> None:
        self.source = source
        self.target = target
        self.is_paused = False
        self._switch = switch
        self._typed = typed
        self._waiting: deque[Message] = deque()  # what one read brought beyond the target's bound

    @property
    def is_done(self) -> bool:
        return not self._waiting and self.target.empty

    def close(self) -> None:
        self._waiting.clear()
        self.source.close()

    # -- the source tells ----------------------------------------------------------------------

    def took(self, message: Message) -> None:
        if self._switch.has_ended():
            return
        if self.source.form is Form.ZIG and not message.payload:
            # A disconnection in this form (section 2), and of the same meaning to all forms here.
            self.ended(Code.CLOSING)
            return
        try:
            carried = carry(message, self.source.form, self.target.form, self._typed)
        except BadMessage as error:
            self.ended(Code.PARSING, error)
            return
        if carried is None:
            self.ignored()
            return
        if self._waiting or self.target.full or not self._push(carried):
            self._waiting.append(carried)
        if self._switch.has_ended():
            return
        self._switch.tell(Switched(self.source.subject, self.target.subject, carried))
        if (self._waiting or self.target.full) and not self._switch.has_ended():
            self.is_paused = True
            self.source.pause()

    def ignored(self) -> None:
        if not self._switch.has_ended():
            self._switch.tell(Switched(self.source.subject, self.target.subject, None))

    def room(self) -> None:
        self.back.go_on()

    def ended(self, code: Code, error: Exception | None = None) -> None:
        self._switch.end(self, code, error)

    # -- towards the target --------------------------------------------------------------------

    def go_on(self) -> None:
        """The target has room."""
        while self._waiting and not self.target.full:
            message = self._waiting.popleft()
            if not self._push(message):
                self._waiting.appendleft(message)
                break
        if self._switch.has_ended():
            self._switch.finish_if_done()
        elif self.is_paused and not self._waiting and not self.target.full:
            self.is_paused = False
            self.source.resume()

    def _push(self, message: Message) -> bool:
        """False: the target has no room for this one."""
        try:
            self.target.push(message)
        except QueueFull:
            return False
        except BadMessage as error:
            self.ended(Code.PARSING, error)
        return True


def carry(
    message: Message, source: Form | None, target: Form | None, typed: bool
) -> Message | None:
    """The message as the target's form has it; None: there is nothing that this form could say.

    The form ZIG has no user types. With `typed` the first byte of its payload stands for it, as
    in section 2; without, the payload travels alone.
    """
    if target is Form.ZIG and source is not Form.ZIG:
        payload = message.payload
        if typed:
            payload = bytes((message.user_type,)) + payload
        if not payload:
            return None  # a message in the form C, a disconnection in this one
        message = Message(payload)
    elif source is Form.ZIG and target is not Form.ZIG and typed:
        message = Message(message.payload[1:], message.payload[0])
    if target is not None and len(message.payload) > most_payload(target):
        text = f"a message of {len(message.payload)} bytes does not fit the form {target}"
        raise BadMessage(text)
    return message
