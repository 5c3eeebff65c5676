"""Which properties one caller may read."""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from buswork.bus.caller import Call
from buswork.bus.contract import OPEN_TO_ALL, Interface, Property
from buswork.bus.objects import BoundFace

T = TypeVar("T")


class PropertyJudge(Protocol):
    """What must be known of a caller to leave out what it may not read."""

    def allowed_until(self, sender: str, action: str) -> float: ...

    async def may(self, sender: str, uid: int, action: str) -> bool: ...


class Readable:
    """What one call may read; an action that is not known is asked for once."""

    def __init__(self, call: Call, judge: PropertyJudge) -> None:
        self.unknown: set[str] = set()
        self._call = call
        self._judge = judge
        self._allowed: dict[str, bool] = {OPEN_TO_ALL: True}
        self._found: dict[tuple[str, bool], Sequence[Property]] = {}

    def of(self, path: str, bound: BoundFace) -> Sequence[Property]:
        """The properties of one face at path; none if something is `unknown` of it."""
        owner = bound.face.owner_uid(path, ())
        mine = owner is None or owner == self._call.uid
        key = bound.contract.name, mine
        if key not in self._found:
            if not self._knows(bound.contract, mine=mine):
                return ()
            self._found[key] = self._choose(bound.contract, mine=mine)
        return self._found[key]

    def knows_of(self, path: str, bounds: Iterable[BoundFace]) -> bool:
        """Whether nothing has to be asked for to read these faces."""
        for bound in bounds:
            self.of(path, bound)
        return not self.unknown

    async def ask(self) -> None:
        for action in self.unknown:
            self._allowed[action] = await self._judge.may(self._call.sender, self._call.uid, action)
        self.unknown.clear()

    async def asked_then(self, answer: Callable[[], T]) -> T:
        await self.ask()
        return answer()

    def _knows(self, contract: Interface, *, mine: bool) -> bool:
        actions = {guard.action if mine else guard.others for guard in contract.read_guards}
        for action in actions - self._allowed.keys():
            if self._judge.allowed_until(self._call.sender, action):
                self._allowed[action] = True
            else:
                self.unknown.add(action)
        return self.unknown.isdisjoint(actions)

    def _choose(self, contract: Interface, *, mine: bool) -> Sequence[Property]:
        return [
            property_
            for property_ in contract.properties.values()
            if property_.readable
            and self._allowed[property_.read.action if mine else property_.read.others]
        ]
