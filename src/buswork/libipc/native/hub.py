"""The hub: finds services, and connects to them for others, with no more rights than those have.

Whatever it connects shows the daemon's uid to the service. So who is connected is held to what
the files would let him do (opening.py), and is never brought to where the daemon's own word
counts: its look-ups. A service of a caller of ours is told the truth, by a pair of sockets.
"""

import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from buswork.authority import Authority
from buswork.errors import InvalidArgs
from buswork.libipc.errors import NoSuchService, NotAllowed, named
from buswork.libipc.library.connections import Connection
from buswork.libipc.library.contexts import Context
from buswork.libipc.library.contexts import Limits as LineLimits
from buswork.libipc.model.access import SEARCH, WRITE
from buswork.libipc.model.hub import OnEnd, OnMessage, ServedEvents
from buswork.libipc.model.terms import Access, Limits, RunDirectory, ServiceFacts, Who
from buswork.libipc.native.changes import Changes
from buswork.libipc.native.channels import FREE_BYTES, READ_BYTES, Channel, Line
from buswork.libipc.native.dialling import Dialler
from buswork.libipc.native.lookups import Lookups
from buswork.libipc.native.opening import OpenService, Unsafe, open_directory, open_service
from buswork.libipc.native.passage import Passage
from buswork.libipc.native.porter import Porter
from buswork.libipc.native.services import Served
from buswork.libipc.native.survey import Survey
from buswork.libipc.native.taking import Taken
from buswork.libipc.native.unix_sockets import File, all_sockets
from buswork.libipc.wire import names
from buswork.libipc.wire.forms import Form
from buswork.libipc.wire.lookups import DAEMONS, BadRequest, Uri
from buswork.native.commons import Commons
from buswork.native.places import SocketFile, make_sockets
from buswork.native.room import Charges

log = logging.getLogger(__name__)

# The scheme of what the doors dial.
TCP = "tcp"


class _Ours(NamedTuple):
    """A service of a caller, and its socket."""

    served: Served
    taken: Taken


class Hub:
    """See model.hub."""

    def __init__(
        self,
        directories: Sequence[RunDirectory],
        authority: Authority,
        commons: Commons,
        doors: Path,
        limits: Limits | None = None,
    ) -> None:
        """doors: where the doors process is asked."""
        self.directories: Sequence[RunDirectory] = _each_once(directories)
        self.on_services_changed: list[Callable[[], None]] = []
        self._authority = authority
        self._commons = commons
        self._limits = limits or Limits()
        self._own_uid = os.geteuid()
        self._context = Context(limits=LineLimits(read_bytes=READ_BYTES))
        self._porter = Porter(self._context, self._charges)
        self._survey = Survey(self.directories, self._own_uid, self._clients_of)
        self._changes = Changes(self._changed)
        self._changes.watch(self._paths)
        self._dialler = Dialler(doors)
        self._lookups = Lookups(self, authority, commons)
        self._passage = Passage(self, authority)
        self._asked: set[RunDirectory] = set()  # where look-ups are answered
        self._files: list[SocketFile] = []
        self._channels: set[Channel] = set()
        self._served: dict[tuple[RunDirectory, str], _Ours] = {}

    # -- sockets of our own --------------------------------------------------------------------

    def open_lookups(self, listener: socket.socket) -> None:
        """Serves `network` or `ipc`, at the path that it is bound to; it is ours from now on."""
        path = os.path.realpath(os.path.dirname(listener.getsockname()))
        for directory in self.directories:
            if os.path.realpath(directory.path) == path:
                self._answer_lookups(directory, listener)
                return
        log.error("look-ups were to be answered at %s, which is no run directory", path)
        listener.close()

    def make_lookups(self, tell: Callable[[str], None] = log.error) -> None:
        """Makes those sockets where there are none yet; where that can't be is told."""
        for directory in self.directories:
            if directory not in self._asked:
                for made in make_sockets(
                    Path(directory.path), [DAEMONS[directory.form]], tell=tell
                ):
                    self._files.append(made)
                    self._answer_lookups(directory, made.listener)

    def _answer_lookups(self, directory: RunDirectory, listener: socket.socket) -> None:
        self._lookups.open(directory, listener)
        self._asked.add(directory)

    def open_passage(self, listener: socket.socket) -> None:
        """Serves the doors process; the listening socket is ours from now on."""
        self._passage.open(listener)

    async def stop(self) -> None:
        for made in self._files:
            made.remove()
        for ours in [*self._served.values()]:
            ours.served.close()
        for channel in [*self._channels]:
            channel.close()
        await self._lookups.stop()
        await self._passage.stop()
        await self._survey.stop()
        self._dialler.close()
        self._changes.close()
        self._context.close()

    # -- what there is -------------------------------------------------------------------------

    async def services(self, who: Who) -> list[ServiceFacts]:
        self._changes.watch(self._paths)
        return await self._survey.services(who)

    @property
    def _paths(self) -> list[str]:
        return [directory.path for directory in self.directories]

    def _clients_of(self, directory: RunDirectory, name: str) -> int | None:
        ours = self._served.get((directory, name))
        return None if ours is None else len(ours.served.clients)

    def _changed(self) -> None:
        for served, taken in [*self._served.values()]:
            if not taken.is_there:
                served.end("its socket was taken away")
        for tell in [*self.on_services_changed]:
            tell()

    # -- connecting ----------------------------------------------------------------------------

    async def connect(
        self, who: Who, name: str, form: Form | None = None, directory: str | None = None
    ) -> socket.socket:
        place = await self._place_of(who, name, form, directory)
        sock = await self.connect_in(place, name, who)
        sock.setblocking(True)
        return sock

    async def dial(self, who: Who, uri: str, form: Form | None = None) -> socket.socket:
        try:
            parsed = Uri.parse(uri)
            if parsed.scheme != TCP:
                raise BadRequest(f"what is dialled begins with {TCP}://")
        except BadRequest as error:
            raise named(error) from error
        sock = await self.dial_to(form or Form.C, parsed, who)
        sock.setblocking(True)
        return sock

    async def connect_in(self, directory: RunDirectory, name: str, who: Who) -> socket.socket:
        """A socket that does not block."""
        with self._opened(directory, name, who) as service:
            return await self._connected(service, who)

    async def connect_to_trusted(
        self, directory: RunDirectory, name: str, who: Who
    ) -> socket.socket:
        with self._opened(directory, name, who) as service:
            if service.facts.uid not in (0, who.uid) or (directory, name) in self._served:
                raise NoSuchService(f"{name!r} belongs to another user, who might be anybody")
            return await self._connected(service, who)

    async def dial_to(self, form: Form, uri: Uri, who: Who) -> socket.socket:
        lease = self._authority.quotas.take(who.uid, "descriptors")
        return await self._dialler.dial(form, uri, lease)

    @contextmanager
    def _opened(self, directory: RunDirectory, name: str, who: Who) -> Iterator[OpenService]:
        if directory in self._asked and name == DAEMONS[directory.form]:
            raise NotAllowed(f"{name!r} believes what the daemon says, and is not for others")
        with open_service(directory, name, who, self._own_uid) as service:
            yield service

    async def _connected(self, service: OpenService, who: Who) -> socket.socket:
        log.debug("uid %d (%s) is connected to %r", who.uid, who.label, service.name)
        service.check(who)
        ours = self._served.get((service.directory, service.name))
        if ours is not None and ours.taken.is_there:
            return self._porter.introduce(ours.served, who)
        return await service.connect()

    async def _place_of(
        self, who: Who, name: str, form: Form | None, directory: str | None
    ) -> RunDirectory:
        """Where the service is that is meant; its name is one."""
        try:
            names.check(name)
        except names.BadName as error:
            raise named(error) from error
        places = self._places(form, directory)
        if len(places) == 1:
            return places[0]
        found = self._found(places, name, who)
        if len(found) > 1:
            sockets = await all_sockets()
            alive = [place for place, file in found.items() if sockets.of(file).listens]
            if len(alive) != 1:
                paths = ", ".join(place.path for place in found)
                raise InvalidArgs(f"{name!r} is in {paths}: say which directory is meant")
            return alive[0]
        return next(iter(found))

    def _found(
        self, places: Sequence[RunDirectory], name: str, who: Who
    ) -> dict[RunDirectory, File]:
        """Where there is one, at least; else why there is none."""
        found: dict[RunDirectory, File] = {}
        refusal = None
        for place in places:
            try:
                with self._opened(place, name, who) as service:
                    found[place] = service.file
            except (NoSuchService, Unsafe):
                pass
            except NotAllowed as error:
                refusal = error
        if not found:
            raise refusal or NoSuchService(f"there is no service {name!r}")
        return found

    def _places(self, form: Form | None, directory: str | None) -> list[RunDirectory]:
        places = [
            place
            for place in self.directories
            if form in (None, place.form) and directory in (None, place.path)
        ]
        if not places:
            known = ", ".join(f"{place.path} ({place.form})" for place in self.directories)
            raise InvalidArgs(f"there is no such run directory; there are {known}")
        return places

    # -- for callers on the bus ----------------------------------------------------------------

    async def open_channel(
        self,
        who: Who,
        name: str,
        form: Form | None,
        directory: str | None,
        on_message: OnMessage,
        on_end: OnEnd,
    ) -> Channel:
        lease = self._authority.quotas.take(who.uid, "descriptors")
        try:
            place = await self._place_of(who, name, form, directory)
            sock = await self.connect_in(place, name, who)
            connection = self._adopted(sock, place.form)
        except BaseException:
            lease.release()
            raise
        line = Line(connection, self._charges(who.uid))
        channel = Channel(line, name, place, lease, on_message, on_end)
        self._channels.add(channel)
        channel.on_close = partial(self._channels.discard, channel)
        return channel

    def _charges(self, uid: int) -> Charges:
        return Charges(self._authority.quotas, self._commons.buffers, uid, FREE_BYTES)

    def _adopted(self, sock: socket.socket, form: Form) -> Connection:
        try:
            return self._context.adopt(sock, form=form)
        except BaseException:
            sock.close()
            raise

    async def serve(
        self,
        who: Who,
        name: str,
        form: Form | None,
        directory: str | None,
        access: Access,
        events: ServedEvents,
    ) -> Served:
        place = self._places(form, directory)[0]
        self._check_may_serve(place, name, who)
        lease = self._authority.quotas.take(who.uid, "descriptors")
        try:
            taken = Taken(place, name)
        except BaseException:
            lease.release()
            raise
        most = self._limits.clients
        served = Served(who, place, str(taken.path), access, events, lease, most)
        self._served[place, name] = _Ours(served, taken)
        end_serving = self._porter.open(served, taken.listener)

        def close() -> None:
            del self._served[place, name]
            end_serving()
            taken.close()

        served.on_close = close
        return served

    def _check_may_serve(self, place: RunDirectory, name: str, who: Who) -> None:
        """It must be where `who` might make a socket by himself."""
        try:
            names.check_served(name)
        except names.BadName as error:
            raise named(error) from error
        if name in names.RESERVED:
            raise InvalidArgs(f"{name!r} answers for others, and is not for callers to serve")
        if not names.fits(place.path, name):
            raise InvalidArgs(f"{place.path}/{name} is too long for the path of a socket")
        with open_directory(place, self._own_uid) as opened:
            if not opened.may(who, SEARCH | WRITE):
                raise NotAllowed(f"uid {who.uid} may not make services in {place.path}")


def _each_once(directories: Sequence[RunDirectory]) -> list[RunDirectory]:
    """By another way to it a service of ours, or a look-up, would pass for somebody else's."""
    known: dict[str, RunDirectory] = {}
    for directory in directories:
        first = known.setdefault(os.path.realpath(directory.path), directory)
        if first is not directory:
            log.error("%s is %s already, and is left out", directory.path, first.path)
    return list(known.values())
