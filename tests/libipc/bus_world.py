"""The objects of the wing on a scripted bus, over a hub that does what a test says."""

import asyncio
import os
import socket

from support.fakebus import DRIVER, ERROR, PATIENCE
from support.reference import DESTINATION, INTERFACE
from support.reference import PATH as PATH_FIELD

from buswork.bus.library import variant
from buswork.bus.ownership import Holdings
from buswork.libipc.errors import NoSuchClient
from buswork.libipc.face import HUB, Faces
from buswork.libipc.holders import CHANNEL, ROOT, SERVICE, Holders
from buswork.libipc.model.credits import Credits
from buswork.libipc.model.terms import ClientFacts, RunDirectory, Who
from buswork.libipc.outboxes import Outboxes
from buswork.libipc.wire.forms import Form

PROPERTIES = DRIVER + ".Properties"
ACTIONS = ("list", "connect", "serve", "dial")
DIRECTORIES = [RunDirectory(Form.C, "/run/ipc"), RunDirectory(Form.ZIG, "/tmp/.libipc-run")]


class Thing:
    """What a hub's channels and services have in common here."""

    def __init__(self, form):
        self.form = form or Form.C
        self.directory = next(path for kind, path in DIRECTORIES if kind is self.form)
        self.is_paused = self.is_closed = False
        self.sent = []
        self.error = None
        self._credits = Credits()

    @property
    def credits(self):
        return self._credits.left

    def grant(self, number):
        self._credits.grant(number)

    def pause(self):
        self.is_paused = True

    def resume(self):
        self.is_paused = False

    def close(self):
        self.is_closed = True

    def _send(self, *values):
        if self.error is not None:
            raise self.error
        self.sent.append(values)


class Channel(Thing):
    def __init__(self, who, service, form, on_message, on_end):
        super().__init__(form)
        self.who = who
        self.service = service
        self.says = on_message
        self.ends = on_end
        self.on_room = lambda: None

    def send(self, user_type, payload):
        self._send(user_type, payload)


class Served(Thing):
    def __init__(self, who, name, form, access, events):
        super().__init__(form)
        self.who = who
        self.name = name
        self.access = access
        self.path = f"{self.directory}/{name}"
        self.events = events
        self.clients = []
        self.on_room = lambda client: None

    def come(self, uid=1001, pid=77):
        client = ClientFacts(len(self.clients) + 1, uid, pid)
        self.clients.append(client)
        self.events.connected(client)
        return client.number

    def send(self, client, user_type, payload):
        self._send(client, user_type, payload)

    def disconnect(self, client):
        if all(client != known.number for known in self.clients):
            raise NoSuchClient(f"there is no client {client}")
        self.clients = [known for known in self.clients if known.number != client]
        self.events.disconnected(client)


class FakeHub:
    def __init__(self):
        self.directories = DIRECTORIES
        self.on_services_changed = []
        self.facts = []
        self.asked = []
        self.channels = []
        self.services_ = []
        self.error = None
        self.gate = None  # what a call waits for, if anything

    async def services(self, who):
        return self.facts

    async def _ask(self, *values):
        self.asked.append(values)
        if self.gate is not None:
            await self.gate
        if self.error is not None:
            raise self.error

    async def connect(self, who, name, form, directory):
        await self._ask("connect", who, name, form, directory)
        ours, theirs = socket.socketpair()
        self.other_end = ours
        return theirs

    async def dial(self, who, uri, form):
        await self._ask("dial", who, uri, form)
        return await self.connect(who, uri, form, None)

    async def open_channel(self, who, name, form, directory, on_message, on_end):
        await self._ask("open_channel", who, name, form, directory)
        self.channels.append(Channel(who, name, form, on_message, on_end))
        return self.channels[-1]

    async def serve(self, who, name, form, directory, access, events):
        await self._ask("serve", who, name, form, directory, access)
        self.services_.append(Served(who, name, form, access, events))
        return self.services_[-1]


class World:
    def __init__(self, bus, polkit, stack):
        self.bus, self.polkit, self.stack = bus, polkit, stack
        self.unread = {}  # what the bus says of each caller
        self.looks = []
        bus.answers[DRIVER, "GetConnectionStats"] = self._stats
        self.hub = FakeHub()
        self.holdings = Holdings(stack.callers)
        self.outboxes = Outboxes(stack.edge)
        self.quotas = stack.authority.quotas
        self.holders = Holders(self.hub, self.holdings, self.quotas, self.outboxes)
        self.faces = Faces(stack.edge, self.hub, self.holders, self._whose)
        for name in ACTIONS:
            polkit.rules[f"org.libipc.{name}"] = "yes"

    async def _whose(self, call):
        return Who(call.uid, frozenset({call.uid}), call.sender)

    def _stats(self, call):
        (name,) = call.values
        self.looks.append(name)
        unread = self.unread.get(name, 0)
        return "a{sv}", [{"IncomingBytes": variant("u", 0), "OutgoingBytes": variant("u", unread)}]

    # -- callers -------------------------------------------------------------------------------

    async def answer(self, sender, path, interface, member, signature="", *values):
        return await self.bus.answer_to(
            self.bus.call(sender, path, interface, member, signature, values)
        )

    async def call(self, *words):
        answer = await self.answer(*words)
        assert answer.error == "", (answer.error, answer.values)
        return answer.values[0] if len(answer.values) == 1 else answer.values

    async def refused(self, *words):
        """The error's name (freedesktop's and the wing's are short), and its text."""
        answer = await self.answer(*words)
        assert answer.error != "", answer.values
        short = answer.error.removeprefix(ERROR).removeprefix("org.libipc.Error.")
        return short, answer.values[0]

    async def ask(self, sender, member, name, **options):
        """One of the hub's methods that take a name and options; they are texts."""
        given = {key: variant("s", value) for key, value in options.items()}
        return await self.call(sender, ROOT, HUB, member, "sa{sv}", name, given)

    async def open(self, sender, name="pong", **options):
        """The path of a new channel, and what the hub has of it."""
        path = await self.ask(sender, "OpenChannel", name, **options)
        return path, self.hub.channels[-1]

    async def serve(self, sender, name="pong", **options):
        path = await self.ask(sender, "Serve", name, **options)
        return path, self.hub.services_[-1]

    async def get_all(self, sender, path, interface):
        found = await self.call(sender, path, PROPERTIES, "GetAll", "s", interface)
        return {name: value.value for name, value in found.items()}

    async def leave(self, sender):
        self.bus.leave(sender)
        await self.bus.settle()

    async def until(self, is_so):
        async with asyncio.timeout(PATIENCE):
            while not is_so():
                await self.bus.settle()

    # -- what is told --------------------------------------------------------------------------

    async def told(self):
        """What signals said since the last time: to whom, of what, the member and its values."""
        await self.bus.settle()
        found = [
            (message.fields.get(DESTINATION), message.fields[PATH_FIELD], name, *message.values)
            for message in self.bus.received
            for name in (message.member,)
            if message.fields.get(INTERFACE) in (HUB, CHANNEL, SERVICE)
        ]
        self.bus.received.clear()
        return found

    def held(self):
        return [(held.path, held.what, held.client) for held in self.holdings.all()]


def close_all(fds):
    while fds:
        os.close(fds.pop())
