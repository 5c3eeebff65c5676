from dataclasses import dataclass

import pytest

from buswork.libipc.library.typed import BlockingTyped, Typed, load, send
from buswork.libipc.wire.forms import Form, Message, frame
from buswork.libipc.wire.typed import BadTyped, Registry


@dataclass
class Greeting:
    name: str


class Echo:
    """A connection whose peer sends back what it gets."""

    def __init__(self, form):
        self.form = form
        self.messages = []

    def send(self, payload, user_type=0):
        assert frame(self.form, payload, user_type)
        self.messages.append(Message(payload, user_type))

    async def receive(self):
        return self.messages.pop(0)


class BlockingEcho(Echo):
    def receive(self, timeout=None):
        return self.messages.pop(0)


@pytest.fixture(params=["json", "cbor"])
def registry(request):
    registry = Registry(request.param)
    registry.register(9, Greeting)
    return registry


@pytest.fixture(params=list(Form))
def form(request):
    return request.param


async def test_there_and_back(registry, form):
    typed = Typed(registry, Echo(form))
    typed.send(Greeting("world"))
    assert await typed.receive() == Greeting("world")


def test_there_and_back_blocking(registry, form):
    typed = BlockingTyped(registry, BlockingEcho(form))
    typed.send(Greeting("world"))
    assert typed.receive(timeout=1) == Greeting("world")


def test_the_number_of_the_class(registry, form):
    """A user type, or the first byte where there is none (section 2)."""
    echo = Echo(form)
    send(registry, echo, Greeting("x"))
    (message,) = echo.messages
    assert (message.user_type or message.payload[0]) == 9
    assert load(registry, echo, message) == Greeting("x")


async def test_what_is_not_registered(registry, form):
    typed = Typed(registry, Echo(form))
    with pytest.raises(BadTyped):
        typed.send(object())
    typed.connection.messages += [Message(b"\x01{}", 1), Message(b"", 0)]
    for _ in range(2):
        with pytest.raises(BadTyped):
            await typed.receive()
