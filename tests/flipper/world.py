"""Boards on a scripted bus, whose lines answer what a test says, when it says so."""

import asyncio
import os
from functools import partial
from types import SimpleNamespace

from support.fakebus import DRIVER, ERROR, PATIENCE
from support.reference import DESTINATION
from support.reference import PATH as PATH_FIELD

from buswork.bus.ownership import Holdings
from buswork.flipper.face import DEVICE, HUB, Desk, Faces, HubFace, board_path, told
from buswork.flipper.holders import (
    ROOT,
    ChannelHolders,
    ClaimHolders,
    Subscriptions,
    TransferHolders,
)
from buswork.flipper.model.boards import Boards, Limits, Transport
from buswork.flipper.model.work import Pause
from buswork.flipper.native.jobs import Waiting
from buswork.flipper.native.streams import Streams
from buswork.flipper.wire.exchanges import Answer
from buswork.flipper.wire.packets import Pull
from buswork.flipper.wire.results import Result

PROPERTIES = DRIVER + ".Properties"
MANAGER = DRIVER + ".ObjectManager"
ACTIONS = ("observe", "use", "attach", "load", "reset")


class Clock:
    def __init__(self):
        self.time = 0.0

    def now(self):
        return self.time


class Line:
    """Runs turns as they come, or one by one while it is held."""

    def __init__(self, board, clock):
        self.board = board
        self.clock = clock
        self.is_held = False
        self.exchanges = []
        self.result = Result(0)
        self.error = None
        board.turns.on_work = self._work

    @property
    def requests(self):
        return [exchange.request for exchange in self.exchanges]

    def hold(self):
        self.is_held = True

    def release(self):
        self.is_held = False
        self.run()

    def run(self, most=None):
        while most != 0 and (asked := self.board.turns.next()):
            self._run(asked)
            most = None if most is None else most - 1

    def _work(self):
        if not self.is_held:
            asyncio.get_running_loop().call_soon(self._run_all)

    def _run_all(self):
        if not self.is_held:
            self.run()

    def _run(self, asked):
        try:
            step = next(asked.turn)
            while True:
                self.exchanges.append(step)
                if self.error is not None:
                    raise self.error
                if isinstance(step, Pause):
                    step = next(asked.turn)
                else:
                    step = asked.turn.send(self.answer(step))
        except StopIteration as ended:
            asked.done(ended.value, self.clock.now())
        except Exception as error:
            asked.failed(error, self.clock.now())

    def answer(self, exchange):
        request = exchange.request
        data = bytes(request.length) if isinstance(request, Pull) else b""
        return Answer(self.result, data)


class Network:
    def __init__(self, boards):
        self.boards = boards

    async def attach(self, endpoint):
        return self.boards.attach(f"udp:{endpoint}", transport=Transport.UDP)

    def detach(self, board):
        self.boards.detach(board.key)


class Channels:
    def __init__(self):
        self.opened = []

    def open(self, board, call, on_end):
        channel = SimpleNamespace(board=board, call=call, on_end=on_end)
        self.opened.append(channel)
        return self.make(), lambda: self.end(channel)

    def make(self):
        return os.memfd_create("channel")

    def end(self, channel):
        self.opened.remove(channel)
        channel.on_end()


class World:
    def __init__(self, bus, polkit, stack, *, boards=4):
        self.bus, self.polkit, self.stack = bus, polkit, stack
        self.clock = Clock()
        self.boards = Boards(Limits(boards=boards))
        self.holdings = Holdings(stack.callers)
        self.channels = Channels()
        quotas = stack.authority.quotas
        self.desk = Desk(
            self.boards,
            partial(Waiting, clock=self.clock),
            Streams(),
            ClaimHolders(self.boards, self.holdings, self.clock.now),
            Subscriptions(self.boards, self.holdings, quotas, told(stack.edge)),
            TransferHolders(self.holdings),
            ChannelHolders(self.channels, self.holdings, quotas),
        )
        hub = HubFace(self.boards, Network(self.boards))
        self.faces = Faces(stack.edge, self.boards, hub, self.desk)
        self.allow("observe", "use")

    def allow(self, *names):
        for name in ACTIONS:
            self.polkit.rules[f"org.flipper.device.{name}"] = "yes" if name in names else "no"
        self.polkit.change()

    # -- boards --------------------------------------------------------------------------------

    def plug(self, port="1-2", name=""):
        return Line(self.boards.attach(f"usb:{port}", name=name), self.clock)

    def reach(self, endpoint="10.0.0.1"):
        """A board on the network: each of its turns is one exchange."""
        board = self.boards.attach(f"udp:{endpoint}", transport=Transport.UDP)
        return Line(board, self.clock)

    # -- callers -------------------------------------------------------------------------------

    def begin(self, sender, line, member, signature="", *values, **how):
        path = board_path(line.board)
        return self.bus.call(sender, path, DEVICE, member, signature, values, **how)

    async def answer(self, sender, line, member, signature="", *values, **how):
        return await self.bus.answer_to(self.begin(sender, line, member, signature, *values, **how))

    async def call(self, sender, line, member, signature="", *values, **how):
        return self.value(await self.answer(sender, line, member, signature, *values, **how))

    async def refused(self, sender, line, member, signature="", *values, **how):
        return self.error(await self.answer(sender, line, member, signature, *values, **how))

    async def hub(self, sender, member, signature="", *values, interface=HUB):
        return await self.bus.answer_to(
            self.bus.call(sender, ROOT, interface, member, signature, values)
        )

    async def get_all(self, sender, path, interface=DEVICE):
        call = self.bus.call(sender, path, PROPERTIES, "GetAll", "s", [interface])
        found = self.value(await self.bus.answer_to(call))
        return {name: value.value for name, value in found.items()}

    async def properties(self, sender, line):
        return await self.get_all(sender, board_path(line.board))

    @staticmethod
    def value(answer):
        assert answer.error == "", (answer.error, answer.values)
        return answer.values[0] if len(answer.values) == 1 else answer.values

    @staticmethod
    def error(answer):
        """The error's name (freedesktop's and the wing's are short), and its text."""
        assert answer.error != "", answer.values
        short = answer.error.removeprefix(ERROR).removeprefix("org.flipper.Error.")
        return short, answer.values[0]

    async def until(self, is_so):
        """Returns when what callers have asked for has come so far."""
        async with asyncio.timeout(PATIENCE):
            while not is_so():
                await self.bus.settle()

    async def leave(self, sender):
        self.bus.leave(sender)
        await self.bus.settle()

    # -- what is told --------------------------------------------------------------------------

    async def events(self):
        """Whom Event told what since the last time."""
        await self.bus.settle()
        found = [
            (message.fields.get(DESTINATION), message.values[0], message.values[1].value)
            for message in self.bus.signals("Event")
        ]
        self.bus.received.clear()
        return found

    async def news(self):
        """What PropertiesChanged said since the last time: path, values, names."""
        await self.bus.settle()
        found = [
            (message.fields[PATH_FIELD], *message.values[1:])
            for message in self.bus.signals("PropertiesChanged")
        ]
        self.bus.received.clear()
        return found

    def held(self):
        return [(held.path, held.what, held.client) for held in self.holdings.all()]
