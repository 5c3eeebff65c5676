"""Services of callers: sockets of ours in the run directories, and the programs that connect.

Rules
* What each client does is told in its order, and what several do in turns, as far as there are
  credits. A client that comes costs one too, for to come and to go costs nothing.
* While there are none, or a message of his waits, a client is not read; nor before it was told
  that he came.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable

from buswork.authority import Lease
from buswork.errors import LimitsExceeded
from buswork.libipc.errors import NoSuchClient
from buswork.libipc.model.credits import Credits
from buswork.libipc.model.hub import ServedEvents
from buswork.libipc.model.terms import Access, ClientFacts, RunDirectory, Who
from buswork.libipc.native.channels import TURN_MESSAGES, Line
from buswork.libipc.wire.forms import Message
from buswork.log import SparingByUid

log = logging.getLogger(__name__)


class Client:
    """One program at a service of ours; the receiver of its connection."""

    def __init__(
        self,
        served: "Served",
        line: Line,
        facts: ClientFacts,
        let_go: Callable[[], object],
    ) -> None:
        self.line = line
        self.facts = facts
        self.untold: Message | None = None
        self.is_told = False  # that it came
        self.has_gone = False
        self._served = served
        self._let_go = let_go
        line.connection.divert(self)
        line.connection.pause()

    @property
    def has_news(self) -> bool:
        return not self.is_told or self.untold is not None or self.has_gone

    def read_or_not(self, may: bool) -> None:
        if may and not self.has_news:
            self.line.connection.resume()
        else:
            self.line.connection.pause()

    def close(self) -> None:
        if not self.has_gone:
            self.has_gone = True
            self.untold = None
            self.line.close()
            self._let_go()

    def end(self) -> None:
        """As if it had left."""
        self.close()
        self._served.left(self)

    # -- for the connection --------------------------------------------------------------------

    def received(self, message: Message) -> None:
        try:
            self.line.keep(message)
        except LimitsExceeded as error:
            self.disconnected(error)
            return
        self.untold = message
        self.line.connection.pause()
        self._served.has_news(self)

    def room(self) -> None:
        self.line.room()

    def disconnected(self, error: Exception | None) -> None:
        if error is not None:
            self._served.complain(self.facts.uid, error)
        self.end()


class Served:
    def __init__(
        self,
        owner: Who,
        directory: RunDirectory,
        path: str,
        access: Access,
        events: ServedEvents,
        lease: Lease,
        most_clients: int,
    ) -> None:
        self.owner = owner
        self.form, self.directory = directory
        self.path = path
        self.name = path.rpartition("/")[2]
        self.access = access
        self.on_room: Callable[[int], None] = lambda client: None
        self.on_close: Callable[[], None] = lambda: None
        self._events = events
        self._lease = lease
        self._most = most_clients
        self._numbers = itertools.count(1)
        self._clients: dict[int, Client] = {}
        self._waiting: dict[Client, None] = {}  # those with news, in the order of their turns
        self._credits = Credits()
        self._is_paused = False
        self._is_reading = True
        self._is_closed = False
        self._loop = asyncio.get_running_loop()
        self._planned: asyncio.Handle | None = None
        self._complaints = SparingByUid(f"complaints about clients of {self.name!r}")

    # -- for its owner -------------------------------------------------------------------------

    @property
    def clients(self) -> list[ClientFacts]:
        return [client.facts for client in self._clients.values() if not client.has_gone]

    @property
    def credits(self) -> int:
        return max(0, self._credits.left)

    def send(self, client: int, user_type: int, payload: bytes) -> None:
        self._client(client).line.send(user_type, payload)

    def disconnect(self, client: int) -> None:
        self._client(client).end()

    def grant(self, number: int) -> None:
        self._credits.grant(number)
        self._go_on()

    def pause(self) -> None:
        self._is_paused = True
        self._go_on()

    def resume(self) -> None:
        self._is_paused = False
        self._go_on()

    def end(self, reason: str) -> None:
        """Its owner learns that it is over."""
        if not self._is_closed:
            self.close()
            self._events.ended(reason)

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self.on_close()
        for client in [*self._clients.values()]:
            client.close()
        self._clients.clear()
        self._waiting.clear()
        self._lease.release()

    def _client(self, number: int) -> Client:
        client = self._clients.get(number)
        if client is None or client.has_gone:
            raise NoSuchClient(f"{self.name!r} has no client {number}")
        return client

    # -- clients -------------------------------------------------------------------------------

    def refusal(self, uid: int) -> str | None:
        """Why a program of this uid is not let in."""
        if self.access is Access.OWN and uid != self.owner.uid:
            return f"it is for uid {self.owner.uid} alone"
        if len(self._clients) >= self._most:
            return f"it has {self._most} clients, and may have no more"
        theirs = sum(client.facts.uid == uid for client in self._clients.values())
        if theirs >= self._most // 2:
            return f"half of the clients that it may have are those of uid {uid}"
        return None

    def complain(self, uid: int, why: object) -> None:
        if self._complaints.allows(log, uid):
            log.info("service %s, a client of uid %d: %s", self.name, uid, why)

    def admit(self, line: Line, uid: int, pid: int, let_go: Callable[[], object]) -> Client:
        """let_go is called when the client has left, or was made to."""
        number = next(self._numbers)
        client = Client(self, line, ClientFacts(number, uid, pid), let_go)
        client.line.on_room = lambda: self.on_room(number)
        self._clients[number] = client
        self.has_news(client)
        return client

    def has_news(self, client: Client) -> None:
        """They are told in the loop's next turn, so that others that have some join the line."""
        self._waiting.setdefault(client)
        self._plan()

    def left(self, client: Client) -> None:
        if client.is_told:
            self.has_news(client)
        else:
            self._forget(client)

    def _forget(self, client: Client) -> None:
        self._clients.pop(client.facts.number, None)
        self._waiting.pop(client, None)

    # -- telling -------------------------------------------------------------------------------

    @property
    def _may_tell(self) -> bool:
        return not (self._is_paused or self._is_closed or self._credits.are_used_up)

    def _plan(self) -> None:
        if self._planned is None:
            self._planned = self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._planned is not None:
            self._planned.cancel()
            self._planned = None
        for _ in range(TURN_MESSAGES):
            if not (self._waiting and self._may_tell):
                break
            self._tell_next()
        else:
            self._plan()
        self._read_or_not(self._may_tell)

    def _tell_next(self) -> None:
        client = next(iter(self._waiting))
        del self._waiting[client]
        self._tell(client)
        if client.has_news and client.facts.number in self._clients:
            self._waiting.setdefault(client)
        else:
            client.read_or_not(self._is_reading)

    def _read_or_not(self, may: bool) -> None:
        if may != self._is_reading:
            self._is_reading = may
            for client in self._clients.values():
                client.read_or_not(may)

    def _tell(self, client: Client) -> None:
        number, message = client.facts.number, client.untold
        if not client.is_told:
            client.is_told = True
            self._credits.take(0)
            self._events.connected(client.facts)
        elif message is not None:
            client.untold = None
            client.line.told()
            self._credits.take(len(message.payload))
            self._events.message(number, message.user_type, message.payload)
        else:
            self._forget(client)
            self._events.disconnected(number)
