"""The XML in dbus/ is the contract: what is exported is built from it and can't differ.

Each file is parsed once, annotations included. Introspection answers are made from the very
elements of the file, so documentation reaches `gdbus introspect` unchanged.
"""

import functools
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path

from buswork.bus.library import is_interface_name_valid, is_member_name_valid, parse_signature

ACTION = "org.buswork.Action"
ACTION_FOR_OTHERS = "org.buswork.ActionForOthers"
WRITE_ACTION = "org.buswork.WriteAction"
EMITS_CHANGED = "org.freedesktop.DBus.Property.EmitsChangedSignal"
DOC = "org.gtk.GDBus.DocString"
OPEN_TO_ALL = "none"


class ContractError(Exception):
    """The XML, or the code that claims to implement it, is not as it must be."""


@dataclass(frozen=True, slots=True)
class Guard:
    """Which polkit action opens a member; `others` where the thing belongs to another uid."""

    action: str
    others: str

    @property
    def is_open(self) -> bool:
        return self.action == OPEN_TO_ALL and self.others == OPEN_TO_ALL


@dataclass(frozen=True, slots=True)
class Method:
    name: str
    attribute: str
    signature_in: str
    signature_out: str
    outputs: int
    guard: Guard


@dataclass(frozen=True, slots=True)
class Property:
    name: str
    attribute: str
    signature: str
    readable: bool
    writable: bool
    read: Guard
    write: Guard
    emits_changed: str

    @property
    def readable_by_all(self) -> bool:
        return self.readable and self.read.is_open

    @property
    def is_told(self) -> bool:
        """Whether its changes are signalled."""
        return self.emits_changed in ("true", "invalidates")

    @property
    def is_told_with_value(self) -> bool:
        return self.emits_changed == "true" and self.readable_by_all


@dataclass(frozen=True, slots=True)
class Signal:
    name: str
    signature: str


@dataclass(frozen=True, slots=True)
class Interface:
    name: str
    methods: dict[str, Method]
    properties: dict[str, Property]
    signals: dict[str, Signal]
    read_guards: frozenset[Guard]
    element: ET.Element = field(compare=False, repr=False)


@functools.cache
def xml_folder() -> Path:
    """Where the XML is: inside the installed package, or at the top of the source tree."""
    package = Path(__file__).parents[1]
    installed = package / "data" / "dbus"
    return installed if installed.is_dir() else package.parents[1] / "dbus"


@functools.cache
def load(name: str) -> Interface:
    """The shipped contract of one interface."""
    interfaces = parse((xml_folder() / f"{name}.xml").read_text())
    if name not in interfaces:
        raise ContractError(f"{name}.xml does not describe {name}")
    return interfaces[name]


def parse(text: str) -> dict[str, Interface]:
    """All interfaces of one introspection document."""
    root = ET.fromstring(text)
    return {element.get("name", ""): _interface(element) for element in root.iter("interface")}


def _interface(element: ET.Element) -> Interface:
    name = element.get("name", "")
    if not is_interface_name_valid(name):
        raise ContractError(f"{name!r} is no interface name")
    _doc(element, name)
    properties = {member.name: member for member in map(_property, element.iter("property"))}
    return Interface(
        name,
        {member.name: member for member in map(_method, element.iter("method"))},
        properties,
        {member.name: member for member in map(_signal, element.iter("signal"))},
        frozenset(member.read for member in properties.values() if member.readable),
        element,
    )


def _method(element: ET.Element) -> Method:
    name = _member_name(element)
    outputs = [arg for arg in element.iter("arg") if arg.get("direction") == "out"]
    inputs = [arg for arg in element.iter("arg") if arg.get("direction", "in") == "in"]
    return Method(
        name,
        snake_case(name),
        _signature(inputs, name),
        _signature(outputs, name),
        len(outputs),
        _guard(element, ACTION, name),
    )


def _property(element: ET.Element) -> Property:
    name = _member_name(element)
    access = element.get("access", "")
    if access not in ("read", "write", "readwrite"):
        raise ContractError(f"{name}: access {access!r}")
    readable, writable = "read" in access, "write" in access
    emits_changed = _annotation(element, EMITS_CHANGED)
    if emits_changed not in ("true", "invalidates", "const", "false"):
        raise ContractError(f"{name}: {EMITS_CHANGED} must be written out")
    return Property(
        name,
        snake_case(name),
        _signature([element], name),
        readable,
        writable,
        _guard(element, ACTION, name),
        _guard(element, WRITE_ACTION if readable else ACTION, name) if writable else _NOBODY,
        emits_changed,
    )


def _signal(element: ET.Element) -> Signal:
    name = _member_name(element)
    return Signal(name, _signature(list(element.iter("arg")), name))


# Stands for "can't be written": no action has this name, and nothing asks for it.
_NOBODY = Guard("", "")


def _guard(element: ET.Element, annotation: str, name: str) -> Guard:
    action = _annotation(element, annotation)
    if action is None:
        raise ContractError(f"{name}: no {annotation}; one that is open to all says 'none'")
    return Guard(action, _annotation(element, ACTION_FOR_OTHERS) or action)


def _member_name(element: ET.Element) -> str:
    name = element.get("name", "")
    if not is_member_name_valid(name):
        raise ContractError(f"{name!r} is no member name")
    _doc(element, name)
    return name


def _doc(element: ET.Element, name: str) -> None:
    if not _annotation(element, DOC):
        raise ContractError(f"{name}: no {DOC}")


def _annotation(element: ET.Element, name: str) -> str | None:
    for annotation in element.findall("annotation"):
        if annotation.get("name") == name:
            return annotation.get("value")
    return None


def _signature(elements: list[ET.Element], name: str) -> str:
    for element in elements:
        if len(parse_signature(element.get("type", ""))) != 1:
            raise ContractError(f"{name}: one complete type an argument")
    return "".join(element.get("type", "") for element in elements)


def snake_case(name: str) -> str:
    """GetMany -> get_many; the name of the handler in a face."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


# -- introspection -----------------------------------------------------------------------------

DOCTYPE = (
    '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"\n'
    '"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">\n'
)


def introspection(interfaces: list[Interface], children: list[str]) -> str:
    """The answer to Introspect for an object with these interfaces and child nodes."""
    described = (ET.tostring(interface.element, encoding="unicode") for interface in interfaces)
    # Elements of a path need no escaping, and there may be thousands.
    nodes = (f'<node name="{child}" />' for child in sorted(children))
    return f"{DOCTYPE}<node>{''.join((*described, *nodes))}</node>\n"
