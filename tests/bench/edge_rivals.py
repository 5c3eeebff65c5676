"""The high-level service that a user of dbus-next or of dbus-fast would write.

    python edge_rivals.py dbus_next|dbus_fast ADDRESS NAME OBJECTS

Both libraries run the same code; only the package they come from differs. Prints READY once it owns
NAME, and ends when the library loses its connection.
"""

import asyncio
import importlib
import sys
import typing
from collections.abc import Callable
from typing import Any

THING_PROPERTIES: tuple[tuple[str, str, object], ...] = (
    ("Name", "s", "thing"),
    ("Vendor", "s", "Vendor Inc."),
    ("Product", "s", "Product 3000"),
    ("Serial", "s", "0123456789abcdef"),
    ("State", "s", "running"),
    ("Number", "u", 1),
    ("Size", "t", 1 << 20),
    ("Offset", "x", -5),
    ("Level", "d", 0.5),
    ("Ready", "b", True),
)
TICK_TEXT = "value-0123456789"

if not hasattr(typing, "no_type_check_decorator"):  # dbus-next 0.2.3 wants what Python 3.15 dropped
    typing.no_type_check_decorator = lambda function: function  # type: ignore[assignment]


def signed(decorate: Callable[..., Any], **signatures: str) -> Callable[..., Any]:
    """Gives a function the D-Bus signatures as annotations, which is where both libraries look."""

    def sign(function: Callable[..., Any]) -> Any:
        returns = {"return": signatures.pop("returns")} if "returns" in signatures else {}
        function.__annotations__ = {**signatures, **returns}
        return decorate(function)

    return sign


def store_class(service: Any) -> Any:
    class Store(service.ServiceInterface):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__("org.mapipc.Store")
            self.values: dict[str, str] = {}
            self.revision = 0

        @signed(service.method(name="Set"), key="s", value="s", returns="t")
        def set(self, key: str, value: str) -> int:
            self.values[key] = value
            self.revision += 1
            return self.revision

        @signed(service.method(name="Get"), key="s", returns="s")
        def get(self, key: str) -> str:
            return self.values.get(key, "")

    return Store


def bench_class(service: Any) -> Any:
    class Bench(service.ServiceInterface):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__("org.buswork.Bench")

        @signed(service.signal(name="Tick"), number="u", text="s", returns="us")
        def tick(self, number: int, text: str) -> list[object]:
            return [number, text]

        @signed(service.method(name="Emit"), count="u")
        def emit(self, count: int) -> None:
            for number in range(count):
                self.tick(number, TICK_TEXT)

        @signed(service.method(name="Blob"), size="u", returns="s")
        def blob(self, size: int) -> str:
            return blob(size)

    return Bench


def thing_class(service: Any) -> Any:
    def reader(name: str, signature: str, value: object) -> Any:
        def read(self: object) -> object:
            return value

        read.__name__ = name
        return signed(service.dbus_property(access=service.PropertyAccess.READ), returns=signature)(
            read
        )

    members = {name: reader(name, signature, value) for name, signature, value in THING_PROPERTIES}
    return type("Thing", (service.ServiceInterface,), members)


def blob(size: int) -> str:
    """The text that the C client expects: the alphabet over and over, its first letter large."""
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    return "A" + (alphabet * (size // len(alphabet) + 1))[1:size]


async def serve(library: str, address: str, name: str, objects: int) -> None:
    service = importlib.import_module(f"{library}.service")
    bus = importlib.import_module(f"{library}.aio").MessageBus(bus_address=address)
    await bus.connect()
    bus.export("/org/mapipc/Store", store_class(service)())
    bus.export("/org/buswork/bench", bench_class(service)())
    make_thing = thing_class(service)
    for number in range(objects):
        bus.export(f"/org/buswork/bench/things/{number}", make_thing("org.buswork.Bench.Thing"))
        await asyncio.sleep(0.001)  # each sends a signal, and a full socket is the end
    await bus.request_name(name)
    print("READY", flush=True)
    await bus.wait_for_disconnect()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
