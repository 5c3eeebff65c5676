"""What is exported: faces bound to their contracts, and the tree of object paths."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from buswork.bus.codec import body_encoder
from buswork.bus.contract import ContractError, Guard, Interface, Property, load
from buswork.bus.library import Variant, variant

log = logging.getLogger(__name__)

PEER = "org.freedesktop.DBus.Peer"
INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
PROPERTIES = "org.freedesktop.DBus.Properties"
OBJECT_MANAGER = "org.freedesktop.DBus.ObjectManager"

Values = Sequence[Any]
# Types whose values are numbers, which a face has no way to get wrong by what it was told.
FIXED_TYPES = "ybnqiuxtd"


Handler = TypeVar("Handler", bound=Callable[..., Any])


def in_order(handler: Handler) -> Handler:
    """Marks an `async` handler that later calls of the same sender must not overtake."""
    handler.in_order = True  # type: ignore[attr-defined]
    return handler


class Face:
    """One interface of an object; handlers have the snake_case name of their member.

    Methods take a Call first. One that can answer at once is a plain function; one that must
    wait is `async`. A readable property is an attribute (usually a @property); a writable one
    has a method `set_NAME(call, value)`.
    """

    interface: str

    def owner_uid(self, path: str, values: Values) -> int | None:
        """Whose the thing is that a call is about; None: nobody's. Asked before the action is
        chosen (Action or ActionForOthers), on the very arguments that the handler gets."""
        return None

    def contract(self) -> Interface:
        return load(self.interface)


@dataclass(frozen=True, slots=True)
class BoundFace:
    """A face that was found to keep its contract."""

    face: Face
    contract: Interface

    def read(self, property_: Property) -> Variant:
        """The value of a property; refuses one that no message can carry.

        Whole answers are made of many, and a device's odd string must not spoil them all.
        """
        value = getattr(self.face, property_.attribute)
        if property_.signature not in FIXED_TYPES:
            body_encoder(property_.signature)((value,))
        return variant(property_.signature, value)

    def readable(self, path: str, properties: Iterable[Property]) -> dict[str, Variant]:
        """The values of properties; one that can't be read must not hide all the others."""
        values = {}
        for property_ in properties:
            try:
                values[property_.name] = self.read(property_)
            except Exception:
                log.exception("%s of %s can't be read", property_.name, path)
        return values

    def unchecked(self, properties: Iterable[Property]) -> dict[str, Variant]:
        """The same, where all goes well."""
        face = self.face
        return {
            property_.name: variant(property_.signature, getattr(face, property_.attribute))
            for property_ in properties
        }

    def public_properties(self, path: str) -> dict[str, Variant]:
        """The properties that everybody may read."""
        properties = self.contract.properties.values()
        return self.readable(path, (each for each in properties if each.readable_by_all))


@dataclass(slots=True)
class Exported:
    """An object at a path: its interfaces by name, and the wing whose calls keep order."""

    path: str
    wing: str
    faces: dict[str, BoundFace]
    alive: bool = True


@dataclass(slots=True)
class Route:
    """What a header says: what to call, with what, and what must be asked before."""

    signature_in: str
    signature_out: str
    outputs: int
    handler: Callable[..., Any]
    # The guard for these arguments; a plain Guard when they do not matter.
    guard: Guard | Callable[[Values], Guard]
    target: Exported | None = None
    owner_uid: Callable[[str, Values], int | None] | None = None

    @property
    def in_order(self) -> bool:
        return getattr(self.handler, "in_order", False)

    @property
    def wing(self) -> str:
        return self.target.wing if self.target is not None else ""


def bind(face: Face) -> BoundFace:
    """The face with its contract; refuses a face that does not keep it, member by member."""
    contract = face.contract()
    for method in contract.methods.values():
        if not callable(getattr(face, method.attribute, None)):
            raise ContractError(f"{contract.name}: nothing implements {method.name}")
    for property_ in contract.properties.values():
        if property_.readable and not hasattr(face, property_.attribute):
            raise ContractError(f"{contract.name}: nothing reads {property_.name}")
        if property_.writable and not hasattr(face, "set_" + property_.attribute):
            raise ContractError(f"{contract.name}: nothing writes {property_.name}")
    return BoundFace(face, contract)


class ObjectTree:
    """The exported objects by path; parents are there for the sake of introspection.

    Each node keeps its children, so that neither adding an object nor asking for one costs
    more when there are many.
    """

    def __init__(self) -> None:
        self._objects: dict[str, Exported] = {}
        self._children: dict[str, dict[str, int]] = {}
        self._managers: set[str] = set()
        self._notes: list[tuple[str, dict[str, None]]] = []

    def get(self, path: str) -> Exported | None:
        return self._objects.get(path)

    def add(self, exported: Exported, *, manager: bool) -> None:
        if exported.path in self._objects:
            raise ContractError(f"{exported.path} is exported already")
        self._objects[exported.path] = exported
        if manager:
            self._managers.add(exported.path)
        for parent, child in _steps(exported.path):
            children = self._children.setdefault(parent, {})
            children[child] = children.get(child, 0) + 1
        self.note(exported.path)

    def remove(self, path: str) -> Exported:
        exported = self._objects.pop(path)
        exported.alive = False
        self._managers.discard(path)
        for parent, child in _steps(path):
            children = self._children[parent]
            children[child] -= 1
            if not children[child]:
                del children[child]
            if not children:
                del self._children[parent]
        self.note(path)
        return exported

    @contextmanager
    def noting(self, path: str, noted: dict[str, None]) -> Iterator[None]:
        """Meanwhile the objects below path that come, go, or are told to have changed are noted."""
        note = (path.rstrip("/") + "/", noted)
        self._notes.append(note)
        try:
            yield
        finally:
            self._notes = [other for other in self._notes if other is not note]

    def note(self, path: str) -> None:
        for prefix, noted in self._notes:
            if path.startswith(prefix) and path != prefix:
                noted[path] = None

    def is_node(self, path: str) -> bool:
        """Whether path is an object or lies above one."""
        return path in self._objects or path in self._children

    def is_manager(self, path: str) -> bool:
        return path in self._managers

    def children(self, path: str) -> list[str]:
        return list(self._children.get(path, ()))

    def below(self, path: str) -> Iterator[Exported]:
        """The objects below path, without the one at it."""
        prefix = path.rstrip("/") + "/"
        for child in self.children(path):
            exported = self._objects.get(prefix + child)
            if exported is not None:
                yield exported
            if prefix + child in self._children:
                yield from self.below(prefix + child)

    def manager_of(self, path: str) -> str | None:
        """The nearest manager above path: an object manager is not in its own answer."""
        for parent, _ in reversed(_steps(path)):
            if parent in self._managers:
                return parent
        return None


def _steps(path: str) -> list[tuple[str, str]]:
    """(parent, name of the child) for every step from the root to path."""
    steps = []
    parent = "/"
    for name in path.split("/")[1:]:
        if name:
            steps.append((parent, name))
            parent = f"{parent.rstrip('/')}/{name}"
    return steps


def escape_name(name: bytes | str) -> str:
    """Foreign bytes as one element of an object path: all but [A-Za-z0-9] becomes _hh."""
    raw = name.encode() if isinstance(name, str) else name
    if not raw:
        return "_"
    return "".join(chr(b) if chr(b).isalnum() and b < 0x80 else f"_{b:02x}" for b in raw)
