"""The road of a call: header fields -> route (signature, guard, handler) -> arguments ->
uid -> authorise -> handler -> reply.

The bytes of the header fields say all of that but the arguments, and the sender too; so they
are the key of a cache, and a call whose fields are known and whose sender's permission is
fresh needs one look-up (`_Known`). That short road is what a call costs; it is written for
speed. Everything else takes the long road, and what was learnt there is remembered.

Calls of one sender on one wing take effect in order. While one of them waits for its uid or
for polkit, later ones of the same sender on the same wing wait behind it (`_Lane`); nobody
else does.

All callers come over one connection, one behind the other, so a caller of expensive calls
would make everybody wait. The time that each uid takes is counted (`_Account`), and who takes
too large a share is served in the background: one call, then a look at what else has come. The
more uids have calls that wait, the smaller the share of each. While more comes than is read,
reading goes first: who has done nothing stands somewhere in what has not been read.
"""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from types import CoroutineType
from typing import Any, Protocol

from buswork.bus.backlog import Backlog
from buswork.bus.caller import Call, Callers
from buswork.bus.codec import Body, CodecError, Parts, body_decoder
from buswork.bus.contract import OPEN_TO_ALL, Guard
from buswork.bus.message import Flag, Frame, Header, RawFrame, ReplyTemplate, encode_error
from buswork.bus.objects import ObjectTree, Route, Values
from buswork.bus.readable import PropertyJudge
from buswork.bus.standard import StandardInterfaces
from buswork.bus.transport import Connection
from buswork.bus.writer import close_all
from buswork.errors import (
    AccessDenied,
    BusworkError,
    Disconnected,
    Gone,
    InvalidArgs,
    LimitsExceeded,
    UnknownInterface,
    UnknownMethod,
    UnknownObject,
)

log = logging.getLogger(__name__)

# Header fields remembered. Every caller adds one for each method that it uses; when the cache
# is full it is emptied, and the next call of each pays for its parsing once more.
MAX_KNOWN_HEADERS = 4096
# Fields longer than this are not remembered: a path may be megabytes long.
MAX_KNOWN_LENGTH = 1024
# A reply larger than this is refused: the system bus cuts off who sends more than 32 MiB.
MAX_REPLY = 16 * 1024 * 1024
# From this size on a reply is refused while more than QUEUE_MAX waits to be sent.
LARGE_REPLY = 64 * 1024
# Calls of one sender that may wait behind one another. The system bus gives a connection 128
# unanswered calls; buses without that limit see programs that send a thousand at once.
MAX_LANE = 1024
# Stands before the header fields of big-endian calls in the cache, whose key they are.
_BIG = b">"
# Whom the quotas charge for callers whose uid is not known yet: all of them together.
STRANGERS = -1
_NO_DESCRIPTORS = LimitsExceeded(
    "too many descriptors are handed out that nobody has received yet; try again"
)
_LANE_FULL = f"{MAX_LANE} calls of yours wait already"
ALWAYS = float("inf")

# A uid that has taken more than this much of the loop in one window goes to the background
# for the rest of it. A flood of the cheapest calls takes half as much: the bus carries no
# more. An innocent caller waits for no more than this, and for one call of the background.
SHARE_WINDOW = 0.05
SHARE_SECONDS = 0.02
# So many uids divide that among them; beyond, a share would be less than a handful of calls.
MAX_SHARERS = 10
# How often it is read before one call of the background, as long as more has come: a call is
# served after a quarter of a MiB of others' at the latest.
MAX_LOOKS = 4
# How long a lane goes on without a look at what else has come.
LANE_SECONDS = 0.002
MAX_ACCOUNTS = 4096
# What a cancelled call may still take to clean up after itself.
CANCEL_SECONDS = 1.0

LaneKey = tuple[str, str]


class Lease(Protocol):
    def release(self) -> None: ...


class Quotas(Protocol):
    def take(self, uid: int, kind: str, amount: int = 1) -> Lease: ...


class Judge(PropertyJudge, Protocol):
    """What dispatch must be told about callers; `buswork.authority` knows it."""

    @property
    def quotas(self) -> Quotas: ...

    async def require(self, sender: str, uid: int, action: str, *, interactive: bool) -> None: ...

    def on_change(self, callback: Callable[[], None]) -> None: ...


class _Account:
    """How much of the loop's time one uid has taken lately."""

    __slots__ = ("_window_end", "spent")

    def __init__(self) -> None:
        self.spent = 0.0
        self._window_end = 0.0

    def is_over(self, now: float, sharers: int = 1) -> bool:
        """Whether the uid took more than its share in a window that has not ended yet."""
        if now > self._window_end:
            self.spent = 0.0
            self._window_end = now + SHARE_WINDOW
        return self.spent > SHARE_SECONDS / min(sharers, MAX_SHARERS)


_NOBODY = Call("", -1, -1, "")
_NO_ACCOUNT = _Account()


class _Known:
    """What is remembered of header fields: what they ask for, and once granted, until when."""

    __slots__ = (
        "account",
        "call",
        "decode",
        "handler",
        "header",
        "lane",
        "may_be_granted",
        "route",
        "sender",
        "target",
        "template",
        "until",
    )

    def __init__(self, header: Header, sender: str, route: Route) -> None:
        self.header = header
        self.sender = sender
        self.route = route
        self.target = route.target
        self.handler = route.handler
        self.decode = body_decoder(route.signature_in)
        self.template = ReplyTemplate(sender, route.signature_out, route.outputs)
        self.lane: LaneKey = (sender, route.wing)
        # The action must not depend on the arguments, nor on whose thing it is.
        self.may_be_granted = (
            isinstance(route.guard, Guard)
            and route.guard.action == route.guard.others
            and not route.in_order
        )
        self.until = 0.0
        self.call = _NOBODY
        self.account = _NO_ACCOUNT

    @property
    def is_current(self) -> bool:
        return self.target is None or self.target.alive


@dataclass(slots=True)
class _Request:
    """A call on the long road. Body and target are frozen before anybody is asked; what the body
    says is only found out when it is the call's turn, for decoding may take long."""

    frame: Frame
    known: _Known
    leases: list[Lease] = field(default_factory=list)
    decoded: Values | None = None

    @property
    def values(self) -> Values:
        if self.decoded is None:
            try:
                self.decoded = self.frame.values()
            except CodecError as error:
                raise InvalidArgs(f"{self.known.header.member}: {error}") from error
        return self.decoded

    @property
    def sender(self) -> str:
        return self.known.sender

    @property
    def route(self) -> Route:
        return self.known.route

    @property
    def path(self) -> str:
        return self.known.header.path or ""

    def action(self, uid: int) -> str:
        """The action to ask for: things of other users may have one of their own."""
        route = self.route
        guard = route.guard if isinstance(route.guard, Guard) else route.guard(self.values)
        if guard.action == guard.others or route.owner_uid is None:
            return guard.action
        owner = route.owner_uid(self.path, self.values)
        return guard.action if owner is None or owner == uid else guard.others

    def release(self) -> None:
        for lease in self.leases:
            lease.release()
        self.leases.clear()


class _Lane:
    """The calls of one sender on one wing that wait for their turn."""

    __slots__ = ("prompting", "turn_ends", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[_Request] = deque()
        self.prompting = False
        self.turn_ends = time.monotonic() + LANE_SECONDS


class Dispatcher:
    """Answers the calls that come in over one connection."""

    def __init__(
        self, connection: Connection, callers: Callers, judge: Judge, tree: ObjectTree
    ) -> None:
        self.calls = 0
        self.errors = 0
        self._connection = connection
        self._callers = callers
        self._judge = judge
        self._tree = tree
        self._standard = StandardInterfaces(tree, judge)
        self._known: dict[bytes, _Known] = {}
        self._lanes: dict[LaneKey, _Lane] = {}
        self._accounts: dict[int | str, _Account] = {}
        self._sharers: Counter[_Account] = Counter()  # how many lanes each of them has
        self._background = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._looking: set[str] = set()
        self._closing = False
        self.backlog = Backlog(connection)
        self.backlog.on_careful(self._known.clear)
        judge.on_change(self._known.clear)
        connection.on_call = self._on_call

    # -- the short road ------------------------------------------------------------------------

    def _on_call(self, raw: RawFrame, now: float) -> _Account | None:
        _, flags, serial, _, fields, body = raw
        known = self._known.get(fields)
        if (
            known is None
            or known.until < now
            or known.call.flags != flags
            or (known.target is not None and not known.target.alive)
            or (self._lanes and known.lane in self._lanes)
            or known.account.spent > SHARE_SECONDS
        ):
            return self._take_long_road(raw, known, now)
        try:
            values = known.decode(body, ())
        except Exception:
            return self._take_long_road(raw, known, now)  # it says what is wrong with them
        self.calls += 1
        call, template = known.call, known.template
        try:
            result = known.handler(call, *values)
            if type(result) is CoroutineType:
                self._run(result, call, serial, template)
                return known.account
            reply = template.encode((result,)) if template.outputs == 1 else template.body(result)
            if len(reply) > LARGE_REPLY or type(reply) is not bytes:
                self._send_reply(call, serial, template, reply)
            elif not flags & 1:  # Flag.NO_REPLY_EXPECTED
                connection = self._connection
                connection.send(template.message(connection.next_serial(), serial, reply))
        except Exception as error:
            self._reply_error(call.sender, flags, serial, error)
        return known.account

    # -- the long road -------------------------------------------------------------------------

    def _take_long_road(self, raw: RawFrame, known: _Known | None, now: float) -> _Account:
        kind, flags, serial, order, fields, body = raw
        self.calls += 1
        if known is None and order != "<":
            known = self._known.get(_BIG + fields)
        if known is not None and self._is_full(known.lane):
            # The cheapest end of all: a flood must not come in faster than it is refused.
            self._reply_error(known.sender, flags, serial, LimitsExceeded(_LANE_FULL))
            return self._account(known.sender)
        if known is not None and known.is_current:
            frame = Frame(kind, flags, serial, order, known.header, body)
        else:
            frame = self._connection.frame(raw)
            known = None
        try:
            request = _Request(frame, known or self._learn(frame, fields))
        except Exception as error:
            close_all(frame.fds)
            self._reply_error(frame.header.sender, flags, serial, error)
            return self._account(frame.header.sender or "")
        lane = self._lanes.get(request.known.lane)
        account = self._account(request.sender)
        if lane is None and self._may_go_on(request, account, now):
            self._answer(request)
        else:
            self._wait_in_lane(lane, request)
        return account

    def _learn(self, frame: Frame, fields: bytes) -> _Known:
        """Finds out what header fields ask for, and remembers it."""
        header = frame.header
        if self._closing:
            raise Disconnected("the daemon is going down")
        if header.sender is None:
            raise AccessDenied("a call without a sender")
        route = self._route(header)
        member, takes = header.member, route.signature_in
        if header.signature != takes:
            raise InvalidArgs(f"{member} takes {takes!r}, not {header.signature!r}")
        if header.unix_fds and "h" not in takes:
            raise InvalidArgs(f"{member} takes no descriptors")
        known = _Known(header, header.sender, route)
        if len(fields) <= MAX_KNOWN_LENGTH and not header.unix_fds and route.target is not None:
            if len(self._known) >= MAX_KNOWN_HEADERS:
                self._known.clear()
            self._known[fields if frame.order == "<" else _BIG + fields] = known
        return known

    def _may_go_on(self, request: _Request, account: _Account, now: float) -> bool:
        """Whether a call that nobody is before may be answered at once."""
        if self._closing or self._is_over(account, now) or request.route.in_order:
            return False
        if self.backlog.must_look(request.sender, now):
            return False
        return self._admitted_at_once(request)

    def _account(self, sender: str) -> _Account:
        """The account of a sender's uid; of the sender alone while that is not known."""
        uid = self._callers.known_uid(sender)
        key: int | str = sender if uid is None else uid
        account = self._accounts.get(key)
        if account is None:
            if len(self._accounts) >= MAX_ACCOUNTS:
                self._accounts.clear()
            account = self._accounts[key] = _Account()
        return account

    def _is_over(self, account: _Account, now: float) -> bool:
        return account.is_over(now, max(len(self._sharers), 1))

    def _is_full(self, key: LaneKey) -> bool:
        lane = self._lanes.get(key)
        return lane is not None and len(lane.waiting) >= MAX_LANE

    def _route(self, header: Header) -> Route:
        path, member = header.path or "", header.member or ""
        interface = header.interface or self._interface_with(path, member)
        exported = self._tree.get(path)
        bound = exported.faces.get(interface) if exported is not None else None
        if bound is not None:
            method = bound.contract.methods.get(member)
            if method is not None:
                return Route(
                    method.signature_in,
                    method.signature_out,
                    method.outputs,
                    getattr(bound.face, method.attribute),
                    method.guard,
                    exported,
                    bound.face.owner_uid,
                )
            raise UnknownMethod(f"{interface} has no method {member}")
        for contract in self._standard.contracts(path):
            if contract.name == interface:
                if member in contract.methods:
                    return self._standard.route(path, interface, member)
                raise UnknownMethod(f"{interface} has no method {member}")
        if not self._tree.is_node(path):
            raise UnknownObject(f"there is no object {path}")
        raise UnknownInterface(f"{path} has no interface {interface}")

    def _interface_with(self, path: str, member: str) -> str:
        """The interface that a call means which names none; refused when two could be meant."""
        exported = self._tree.get(path)
        contracts = [bound.contract for bound in exported.faces.values()] if exported else []
        contracts += self._standard.contracts(path)
        names = [contract.name for contract in contracts if member in contract.methods]
        if not names:
            raise UnknownMethod(f"{path} has no method {member}")
        if len(names) > 1:
            raise UnknownMethod(f"{member} is ambiguous: name one of {', '.join(names)}")
        return names[0]

    def _admitted_at_once(self, request: _Request) -> bool:
        """Whether nothing needs to be asked: uid known, and the action open or granted."""
        uid = self._callers.known_uid(request.sender)
        if uid is None:
            return False
        try:
            action = request.action(uid)
        except Exception:
            return False  # the lane answers with the error
        return self._is_granted(request, uid, action)

    def _is_granted(self, request: _Request, uid: int, action: str) -> bool:
        is_open = action == OPEN_TO_ALL
        until = ALWAYS if is_open else self._judge.allowed_until(request.sender, action)
        known = request.known
        if until and known.may_be_granted and not self.backlog.careful:
            # From now on calls with these very header fields take the short road.
            if known.call.flags != request.frame.flags:
                known.call = self._call(request, uid)
            known.account = self._account(request.sender)
            known.until = until
        return bool(until)

    def _call(self, request: _Request, uid: int) -> Call:
        return Call(request.sender, uid, request.frame.flags, request.path)

    # -- lanes ---------------------------------------------------------------------------------

    def _wait_in_lane(self, lane: _Lane | None, request: _Request) -> None:
        key = request.known.lane
        try:
            self._charge_waiting(lane, request)
        except BusworkError as error:
            self._refuse(request, error)
            return
        if lane is None:
            lane = self._lanes[key] = _Lane()
            self._start(self._serve_lane(key, lane))
        lane.waiting.append(request)

    def _charge_waiting(self, lane: _Lane | None, request: _Request) -> None:
        """Who waits behind a prompt counts as a call in flight; bytes and descriptors that wait
        always count."""
        if lane is not None and len(lane.waiting) >= MAX_LANE:
            raise LimitsExceeded(_LANE_FULL)
        uid, fds = self._callers.known_uid(request.sender), request.frame.fds
        charged = STRANGERS if uid is None else uid
        quotas, leases = self._judge.quotas, request.leases
        leases.append(quotas.take(charged, "waiting_bytes", len(request.frame.body)))
        if fds:
            leases.append(quotas.take(charged, "descriptors", len(fds)))
        if lane is not None and lane.prompting and uid is not None:
            leases.append(quotas.take(uid, "calls"))

    async def _serve_lane(self, key: LaneKey, lane: _Lane) -> None:
        account = self._account(key[0])
        self._sharers[account] += 1
        try:
            while lane.waiting:
                request = lane.waiting[0]
                try:
                    if await self._is_heard(request):
                        await self._await_turn(lane, request)
                        await self._admit(lane, request)
                        await self._answer_in_lane(request)
                except Gone:
                    return
                except Exception as error:
                    self._refuse(request, error)
                lane.waiting.popleft()
        finally:
            self._lanes.pop(key, None)
            self._sharers[account] -= 1
            if not self._sharers[account]:
                del self._sharers[account]
            for request in lane.waiting:  # their sender has left, or we are going down
                close_all(request.frame.fds)
                request.release()

    async def _is_heard(self, request: _Request) -> bool:
        """Whether its caller reads answers; if not, the call is dropped."""
        backlog, sender = self.backlog, request.sender
        if not backlog.must_look(sender, time.monotonic()) or await backlog.look_at(sender):
            return True
        self._drop(request)
        return False

    async def _await_turn(self, lane: _Lane, request: _Request) -> None:
        """Returns when it is the call's turn: in the background if its uid has had its share."""
        now = time.monotonic()
        if self._is_over(self._account(request.sender), now):
            async with self._background:
                for _ in range(MAX_LOOKS):
                    await asyncio.sleep(0)  # one look at what else has come
                    if not self._connection.is_behind:
                        break
        elif now > lane.turn_ends or self._connection.is_behind:
            await asyncio.sleep(0)
        else:
            return
        lane.turn_ends = time.monotonic() + LANE_SECONDS

    async def _answer_in_lane(self, request: _Request) -> None:
        begin = time.monotonic()
        task = self._answer(request)
        self._charge(request, begin)
        if task is not None and request.route.in_order:
            await asyncio.wait((task,))

    def _charge(self, request: _Request, begin: float) -> None:
        self._account(request.sender).spent += time.monotonic() - begin

    async def _admit(self, lane: _Lane, request: _Request) -> None:
        """Returns when the call may go on; raises what its caller is to get instead."""
        if self._closing:
            raise Disconnected("the daemon is going down")
        uid = await self._callers.uid(request.sender)
        begin = time.monotonic()
        try:
            action = request.action(uid)  # this may decode it, which is most of the work
        finally:
            self._charge(request, begin)
        if self._is_granted(request, uid, action):
            return
        await self._require(lane, request, uid, action)
        target = request.route.target
        if target is not None and not target.alive:
            raise UnknownObject(f"{request.path} went while its action was asked for")
        if request.action(uid) != action:
            raise AccessDenied(f"{request.path} changed hands while its action was asked for")
        self._is_granted(request, uid, action)

    async def _require(self, lane: _Lane, request: _Request, uid: int, action: str) -> None:
        interactive = bool(request.frame.flags & Flag.ALLOW_INTERACTIVE_AUTHORIZATION)
        if interactive:
            request.leases.append(self._judge.quotas.take(uid, "calls"))
        lane.prompting = interactive
        try:
            await self._judge.require(request.sender, uid, action, interactive=interactive)
        finally:
            lane.prompting = False

    # -- answering -----------------------------------------------------------------------------

    def _answer(self, request: _Request) -> asyncio.Task[None] | None:
        """Calls the handler of an admitted call; returns its task if it has to wait."""
        request.release()
        frame = request.frame
        uid = self._callers.known_uid(request.sender)
        fds: Sequence[int] = frame.fds
        try:
            if uid is None:  # left between two steps
                raise Gone(request.sender)
            values = request.values
            frame.fds = ()  # from here on they are the handler's
            call, template = self._call(request, uid), request.known.template
            result = request.route.handler(call, *values)
            if type(result) is CoroutineType:
                return self._run(result, call, frame.serial, template, fds)
            self._send_reply(call, frame.serial, template, template.body(result))
        except Exception as error:
            self._reply_error(request.sender, frame.flags, frame.serial, error)
        frame.fds = ()
        close_all(fds)
        return None

    def _run(
        self,
        handler: Coroutine[Any, Any, Any],
        call: Call,
        serial: int,
        template: ReplyTemplate,
        fds: Sequence[int] = (),
    ) -> asyncio.Task[None]:
        """A handler that waits: a task of its own, counted until it ends."""
        try:
            lease = self._judge.quotas.take(call.uid, "calls")
        except BusworkError:
            handler.close()
            raise

        async def run() -> None:
            try:
                body = template.body(await handler)
                self._send_reply(call, serial, template, body)
            except Exception as error:
                self._reply_error(call.sender, call.flags, serial, error)
            finally:
                lease.release()
                close_all(fds)

        return self._start(run())

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _send_reply(
        self, call: Call, serial: int, template: ReplyTemplate, body: bytes | Body | Parts
    ) -> None:
        """Descriptors that a handler returns are ours to close, once they are queued."""
        connection = self._connection
        fds = body.fds if isinstance(body, Body) else ()
        try:
            if call.flags & Flag.NO_REPLY_EXPECTED:
                return
            if len(body) > LARGE_REPLY:
                self._check_large(len(body))
            number = connection.next_serial()
            if isinstance(body, Parts):
                for piece in template.pieces(number, serial, body):
                    connection.send(piece)
            elif isinstance(body, Body) and fds:
                message = template.message_with_fds(number, serial, body)
                no = encode_error(number, serial, call.sender, _NO_DESCRIPTORS)
                connection.send(message, fds, no)
            else:
                connection.send(template.message(number, serial, body))
            if len(body) > LARGE_REPLY:
                self.backlog.look()
        finally:
            close_all(fds)

    def _check_large(self, size: int) -> None:
        if size > MAX_REPLY:
            raise LimitsExceeded(
                f"the answer has {size} bytes, and {MAX_REPLY} is the most; ask for less"
            )
        if self._connection.writer.is_overfull:
            raise LimitsExceeded("more answers are asked for than the bus carries off; try again")

    def _drop(self, request: _Request) -> None:
        """Answers nothing: the one caller who gets no error is who would not read it."""
        self.errors += 1
        request.release()
        close_all(request.frame.fds)

    def _refuse(self, request: _Request, error: Exception) -> None:
        request.release()
        frame = request.frame
        close_all(frame.fds)
        self._reply_error(request.sender, frame.flags, frame.serial, error)

    def _reply_error(self, sender: str | None, flags: int, serial: int, error: Exception) -> None:
        self.errors += 1
        if isinstance(error, Gone):
            return
        if not isinstance(error, BusworkError):
            close_all(getattr(error, "fds", ()))
            log.error("a defect in a handler", exc_info=error)
            error = BusworkError("the daemon failed to answer; its log says why")
        if flags & Flag.NO_REPLY_EXPECTED or self.backlog.is_deaf(sender):
            return
        number = self._connection.next_serial()
        message = encode_error(number, serial, sender, error)
        if sender is not None and self.backlog.must_look(sender, time.monotonic()):
            self._send_after_look(sender, message)
        else:
            self._connection.send(message)

    def _send_after_look(self, sender: str, message: bytes) -> None:
        """Sends it to a caller that reads; while one is looked at, it gets nothing else."""

        async def look_and_send() -> None:
            try:
                if await self.backlog.look_at(sender):
                    self._connection.send(message)
            finally:
                self._looking.discard(sender)

        if sender not in self._looking:
            self._looking.add(sender)
            self._start(look_and_send())

    # -- going down ----------------------------------------------------------------------------

    async def drain(self, seconds: float) -> None:
        """No new calls; those in flight may end until the deadline, then they are cancelled."""
        self._closing = True
        self._known.clear()
        deadline = time.monotonic() + seconds
        while self._tasks and (left := deadline - time.monotonic()) > 0:
            await asyncio.wait(self._tasks, timeout=left)  # one that ends may start another
        # One that does not heed even this must not keep the daemon alive.
        deadline = time.monotonic() + CANCEL_SECONDS
        while self._tasks and (left := deadline - time.monotonic()) > 0:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks, timeout=left)
