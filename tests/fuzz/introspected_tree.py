"""What a service shows of itself, from the root on: objects, and all that can be called there."""

import xml.etree.ElementTree as ET
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from random import Random
from typing import NamedTuple

from introspected_values import Words
from support.machine import CallError, Client

PROPERTIES = "org.freedesktop.DBus.Properties"
INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
DOC = "org.gtk.GDBus.DocString"
# Of the calls to an interface; the rest gets and sets properties.
METHODS_SHARE = 0.75
# Of the calls to one interface for a while.
MOODY_SHARE = 0.6


class Member(NamedTuple):
    """Something that can be called."""

    interface: str
    name: str
    takes: str
    gives: str
    # Of the arguments, both ways.
    names: tuple[str, ...] = ()
    given_names: tuple[str, ...] = ()
    # Of a property: what stands before its value.
    before: tuple[str, ...] = ()
    doc: str = ""

    @property
    def owner(self) -> str:
        """The interface that has it."""
        return self.before[0] if self.before else self.interface

    @property
    def title(self) -> str:
        return ".".join((*self.before, self.name) if self.before else self[:2])


class Tree:
    def __init__(self, service: str, words: Words) -> None:
        self._service = service
        self._words = words
        self._methods: dict[str, list[Member]] = {}
        self._properties: dict[str, list[Member]] = {}
        self._paths: dict[str, list[str]] = {}  # of those that have the interface
        self._new: deque[Member] = deque()  # nobody has called them yet

    @property
    def titles(self) -> set[str]:
        """Of all that was ever seen."""
        kinds = (self._methods, self._properties)
        return {each.title for kind in kinds for found in kind.values() for each in found}

    @property
    def methods(self) -> set[str]:
        return {each.title for found in self._methods.values() for each in found}

    def pick(self, random: Random, mood: Random) -> tuple[str, Member]:
        """An object and a member; however many objects there are of a kind, it has its share.

        mood: the same for some calls in a row, so that what one has made another one may use.
        """
        if self._new:
            member = self._new.popleft()
            return random.choice(self._paths.get(member.owner, ["/"])), member
        interface = (mood if random.random() < MOODY_SHARE else random).choice([*self._paths])
        methods, properties = self._methods[interface], self._properties[interface]
        if not properties or (methods and random.random() < METHODS_SHARE):
            properties = methods
        return random.choice(self._paths[interface]), random.choice(properties)

    def walk(self, eyes: Client) -> None:
        self._paths = {}
        waiting = deque(["/"])
        while waiting:
            path = waiting.popleft()
            with suppress(CallError):  # it has just gone
                reply = eyes.call(path, INTROSPECTABLE, "Introspect", destination=self._service)
                root = ET.fromstring(reply.value)
                names = (node.get("name") for node in root.iterfind("node"))
                waiting += [f"{path.rstrip('/')}/{name}" for name in names]
                for interface in root.iterfind("interface"):
                    self._learn(path, interface)
        self._words.paths = sorted({path for paths in self._paths.values() for path in paths})

    def _learn(self, path: str, interface: ET.Element) -> None:
        name = interface.get("name", "")
        if name not in self._methods:
            self._methods[name] = [*_methods(interface)]
            self._properties[name] = [*_properties(interface)]
            self._new += self._methods[name] + self._properties[name]
            self._words.hear([name, *(each.name for each in self._methods[name])])
            for each in self._methods[name]:
                self._words.read(each.doc)
        if self._methods[name] or self._properties[name]:
            self._paths.setdefault(name, []).append(path)


def _methods(interface: ET.Element) -> Iterator[Member]:
    for method in interface.iterfind("method"):
        found: dict[str, list[ET.Element]] = {"in": [], "out": []}
        for argument in method.iterfind("arg"):
            found[argument.get("direction", "in")].append(argument)
        signatures = ("".join(each.get("type", "") for each in found[way]) for way in found)
        names = (tuple(each.get("name", "") for each in found[way]) for way in found)
        title = interface.get("name", ""), method.get("name", "")
        yield Member(*title, *signatures, *names, doc=_doc(method))


def _properties(interface: ET.Element) -> Iterator[Member]:
    for each in interface.iterfind("property"):
        before = interface.get("name", ""), each.get("name", "")
        yield Member(PROPERTIES, "Get", "", "v", (), before[1:], before)
        yield Member(PROPERTIES, "Set", each.get("type", ""), "", before[1:], (), before)


def _doc(element: ET.Element) -> str:
    notes = element.iterfind("annotation")
    return " ".join(note.get("value", "") for note in notes if note.get("name") == DOC)
