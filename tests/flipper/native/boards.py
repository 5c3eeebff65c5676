"""Boards that answer as a test says, for what no honest one does."""

from collections import deque

from buswork.flipper.wire import carbon
from buswork.flipper.wire.exchanges import Answer, Refused, RequestReader, answering
from buswork.flipper.wire.packets import Unknown
from buswork.flipper.wire.results import Result
from buswork.flipper.wire.terms import Framing, Generation
from buswork.sim.device import SimDevice, SimEndpoint, SimInterface


def counting():
    """Answers with 1, 2, 3, ... and data of that many, so that each answer tells whose it is."""
    count = 0

    def answer(asked):
        nonlocal count
        if isinstance(asked, Refused):
            return asked
        if isinstance(asked.request, Unknown):
            return Answer(Result(0))
        count += 1
        length = getattr(asked.request, "length", 0) - len(asked.data)
        return Answer(Result(count), bytes([count % 256]) * length)

    return answer


class ScriptedBoard(SimDevice):
    """`answer` is asked what to say; `replies` is what the host will read, which tests change."""

    vendor, product = carbon.VENDOR_ID, carbon.PRODUCT_ID
    manufacturer, product_name = carbon.MANUFACTURER, carbon.PRODUCT

    def __init__(self, generation=Generation.G1):
        ends = SimEndpoint(carbon.ENDPOINT_IN), SimEndpoint(carbon.ENDPOINT_OUT)
        super().__init__([SimInterface(carbon.INTERFACE, 0xFF, 1, 1, ends)])
        self.generation = generation
        self.answer = counting()
        self.reader = RequestReader(Framing.USB, generation)
        self.packets = []
        self.replies = deque()

    def receive(self, endpoint, data):
        self.packets += [data[at : at + 64] for at in range(0, len(data), 64)]
        for asked in self.reader.feed(data):
            said = self.answer(asked)
            if isinstance(said, Answer | Refused):
                said = answering(said, Framing.USB, self.generation)
            self.replies += said
        return True

    def send(self, endpoint, length):
        return self.replies.popleft() if self.replies else None

    @property
    def configured(self):
        """How often it was told its configuration."""
        return sum(entry["bRequest"] == "0x09" for entry in self.record)
