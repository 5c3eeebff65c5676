"""Objects of registered classes over a connection, instead of payloads.

    registry = Registry("json")

    @registry.typed(1)
    @dataclass
    class Greeting:
        name: str

    async with connect("greeter") as connection:
        typed = Typed(registry, connection)
        typed.send(Greeting("world"))
        answer = await typed.receive()

What comes is an object of a registered class, or BadTyped; the connection goes on after that.
"""

from typing import Protocol

from buswork.libipc.wire.forms import Form, Message
from buswork.libipc.wire.typed import Registry


class Sender(Protocol):
    """A connection, of the asyncio library or the blocking one."""

    @property
    def form(self) -> Form: ...

    def send(self, payload: bytes, user_type: int = 0) -> None: ...


class Receiver(Sender, Protocol):
    async def receive(self) -> Message: ...


class BlockingReceiver(Sender, Protocol):
    def receive(self, timeout: float | None = None) -> Message: ...


def send(registry: Registry, connection: Sender, value: object) -> None:
    """BadTyped if its class is not registered; else what the connection's `send` says."""
    payload, user_type = registry.dump(connection.form, value)
    connection.send(payload, user_type)


def load(registry: Registry, connection: Sender, message: Message) -> object:
    """The object in a message that came on this connection."""
    return registry.load(connection.form, message)


class Typed:
    def __init__(self, registry: Registry, connection: Receiver) -> None:
        self.registry = registry
        self.connection = connection

    def send(self, value: object) -> None:
        send(self.registry, self.connection, value)

    async def receive(self) -> object:
        return load(self.registry, self.connection, await self.connection.receive())


class BlockingTyped:
    """The same over a connection of the blocking library."""

    def __init__(self, registry: Registry, connection: BlockingReceiver) -> None:
        self.registry = registry
        self.connection = connection

    def send(self, value: object) -> None:
        send(self.registry, self.connection, value)

    def receive(self, timeout: float | None = None) -> object:
        return load(self.registry, self.connection, self.connection.receive(timeout))
