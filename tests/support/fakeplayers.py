"""Media players on a FakeBus, a clock that only the test moves, and a sink that remembers."""

import asyncio
from collections.abc import Callable
from typing import Any

from buswork.bus.library import Variant, variant
from buswork.fsct.mpris import PATH, PLAYER, PREFIX, PROPERTIES
from buswork.fsct.mpris_values import Shown
from support.fakebus import DRIVER, ERROR, PATIENCE, FakeBus, Refused
from support.reference import Message

SECOND = 1_000_000_000


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = 5000 * SECOND
        self.wall = 1_700_000_000 * SECOND  # at 5000 s

    def monotonic_ns(self) -> int:
        return self.now

    def monotonic(self) -> float:
        return self.now / SECOND

    def time_ns(self) -> int:
        return self.wall + self.now - 5000 * SECOND

    def advance(self, seconds: float) -> None:
        self.now += int(seconds * SECOND)


class FakePlayer:
    """A player that says what its properties are; a function among them is called for its value."""

    def __init__(self, bus: FakeBus, name: str, owner: str, **properties: Any) -> None:
        self.bus = bus
        self.name = PREFIX + name
        self.owner = owner
        self.properties: dict[str, Any] = {
            "PlaybackStatus": variant("s", "Stopped"),
            "Rate": variant("d", 1.0),
            "Metadata": variant("a{sv}", {}),
            "Position": variant("x", 0),
        }
        self.properties |= properties
        bus.names[self.name] = owner
        bus.answers[owner, "GetAll"] = self._get_all
        bus.answers[owner, "Get"] = self._get
        bus.answers[DRIVER, "ListNames"] = lambda call: ("as", [[DRIVER, ":1.1", *bus.names]])

    def _value(self, name: str) -> Any:
        value = self.properties.get(name)
        if value is None:
            raise Refused(ERROR + "UnknownProperty")
        return value() if callable(value) else value

    def _get_all(self, call: Message) -> tuple[str, list[Any]]:
        if self.properties.get("GetAll") is not None:
            return self._value("GetAll")  # type: ignore[no-any-return]
        told = {name: value for name, value in self.properties.items() if not callable(value)}
        return "a{sv}", [{name: value for name, value in told.items() if value is not None}]

    def _get(self, call: Message) -> tuple[str, list[Any]] | None:
        assert call.values[0] == PLAYER
        value = self._value(call.values[1])
        return None if value == "hang" else ("v", [value])

    def appear(self) -> None:
        self.bus.owner_changed(self.name, "", self.owner)

    def vanish(self) -> None:
        del self.bus.names[self.name]
        self.bus.owner_changed(self.name, self.owner, "")

    def change(self, *invalidated: str, **changed: Any) -> None:
        self.properties |= changed
        self.announce(changed, *invalidated)

    def announce(self, changed: dict[str, Any], *invalidated: str) -> None:
        values = [PLAYER, changed, list(invalidated)]
        self.bus.signal(self.owner, PATH, PROPERTIES, "PropertiesChanged", "sa{sv}as", values)

    def seek(self, us: int) -> None:
        self.properties["Position"] = variant("x", us)
        self.bus.signal(self.owner, PATH, PLAYER, "Seeked", "x", [us])


def metadata(**fields: tuple[str, Any]) -> Variant:
    """metadata(xesam_title=("s", "Clocks"))"""
    named = {name.replace("_", ":", 1): variant(*value) for name, value in fields.items()}
    return variant("a{sv}", named)


def track(title: str, seconds: float = 240, track_id: str | None = "/1") -> Variant:
    fields: dict[str, tuple[str, Any]] = {"xesam_title": ("s", title)}
    fields["mpris_length"] = ("x", int(seconds * 1_000_000))
    if track_id is not None:
        fields["mpris_trackid"] = ("o", track_id)
    return metadata(**fields)


class Recorder:
    """A sink that keeps all it was told."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str]] = []
        self.shown: dict[str, list[Shown]] = {}
        self._changed = asyncio.Event()

    def appeared(self, name: str) -> None:
        self.log.append(("appeared", name.removeprefix(PREFIX)))
        self._changed.set()

    def changed(self, name: str, shown: Shown) -> None:
        self.shown.setdefault(name.removeprefix(PREFIX), []).append(shown)
        self._changed.set()

    def vanished(self, name: str) -> None:
        self.log.append(("vanished", name.removeprefix(PREFIX)))
        self._changed.set()

    def last(self, name: str) -> Shown:
        return self.shown.get(name, [Shown()])[-1]

    async def until(self, predicate: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not predicate():
                self._changed.clear()
                await self._changed.wait()
