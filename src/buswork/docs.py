"""Writes what of the documents is data: the contracts of dbus/*.xml, and tables of the wings.

    python -m buswork.docs [--check]

docs/dbus-reference.md and docs/flipper-modules.md are made of them; docs/guide-fsct.md has tables
between marks. With --check nothing is written; exit status 1 says that something is out of date.
"""

import argparse
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from buswork.bus.contract import (
    ACTION,
    ACTION_FOR_OTHERS,
    DOC,
    EMITS_CHANGED,
    OPEN_TO_ALL,
    WRITE_ACTION,
    load,
    xml_folder,
)
from buswork.flipper.wire import modules
from buswork.flipper.wire.modules import Function, Module, Parameter
from buswork.flipper.wire.terms import Processor, Type
from buswork.fsct.wire.terms import FIELDS, JSON_FIELDS, PROGRESS_FIELDS, Field

REFERENCE = Path("docs/dbus-reference.md")
GUIDE = Path("docs/guide-fsct.md")
BOARDS = Path("docs/flipper-modules.md")
# What the members of an interface take and give.
VALUES = {"org.fsct.Driver": FIELDS}
TABLES = {"fields": FIELDS, "json-fields": JSON_FIELDS, "progress": PROGRESS_FIELDS}

INTRODUCTION = """\
# D-Bus reference

Made by `python -m buswork.docs` from `dbus/*.xml` and, for values, from the tables that the checks
of the daemon use too; edit those, not this.

All objects belong to the bus name `org.buswork`, but for those of `org.appview.Inspector` and
`org.appview.Process`: they belong to `org.buswork.AppView`, a process of its own, which has its
own `org.buswork.Daemon` and `org.freedesktop.LogControl1` too. Every method and property says which
polkit action it needs; *open* means none. Within a major version (`ApiVersion` of
`org.buswork.Daemon`) things are only added.

Every object has `org.freedesktop.DBus.Peer`, `.Introspectable` and `.Properties`, too;
`/org/mapipc/Store`, `/org/fsct`, `/org/flipper` and `/org/appview` have `.ObjectManager`, which
tells of objects that come and go. What goes wrong is an error of the specification's where it has
one (`org.freedesktop.DBus.Error.AccessDenied`, `InvalidArgs`, `LimitsExceeded` ...),
`org.buswork.Error.Busy` (another program has the device, or too much waits),
`org.buswork.Error.NotOwner`, or one of a wing's own, which its guide lists. Its text says what
helps.
"""
# Where the objects are that have an interface.
PLACES = {
    "org.appview.Inspector": "/org/appview",
    "org.appview.Process": "/org/appview/processes/PID",
    "org.buswork.Daemon": "/org/buswork",
    "org.buswork.Simulator": "/org/buswork/simulator",
    "org.buswork.Simulator.Boards": "/org/buswork/simulator/boards",
    "org.flipper.Device": "/org/flipper/devices/NAME",
    "org.flipper.Hub": "/org/flipper",
    "org.freedesktop.LogControl1": "/org/freedesktop/LogControl1",
    "org.fsct.Device": "/org/fsct/devices/ID",
    "org.fsct.Driver": "/org/fsct/Driver",
    "org.fsct.Player": "/org/fsct/players/NUMBER",
    "org.libipc.Channel": "/org/libipc/channels/NUMBER",
    "org.libipc.Hub": "/org/libipc",
    "org.libipc.Service": "/org/libipc/services/NUMBER",
    "org.mapipc.Store": "/org/mapipc/Store",
}


OF_BOARDS = """\
# What Flipper boards can be called for

Made by `python -m buswork.docs` from the tables by which calls are checked, completed and sent;
edit those, not this. [guide-flipper.md](guide-flipper.md) says how to call them.

Of a board on USB, `led`, `button`, `uart0` and `wdt` are those of the U2, all others those of the
4S; `u2.` or `4s.` before a name says which one is meant. Numbers are those of packets: of the
module, and of the function.
"""
PROCESSORS = {Processor.U2: "The U2", Processor.S4: "The 4S", Processor.FVM: "The virtual machine"}


def reference() -> str:
    names = sorted(path.stem for path in xml_folder().glob("*.xml"))
    elements = [load(name).element for name in names]
    rows = "\n".join(_row(element) for element in elements)
    index = f"| interface | object | |\n|---|---|---|\n{rows}\n"
    return "\n".join([INTRODUCTION, index, *map(_interface, elements)])


def _row(element: ET.Element) -> str:
    """An interface in the index: its link, its object, its first sentence."""
    name = element.get("name", "")
    what = re.match(r".*?[.:](?= |$)", _annotation(element, DOC))
    anchor = name.lower().replace(".", "")
    said = what[0].rstrip(".:") if what else ""
    return f"| [{name}](#{anchor}) | `{PLACES[name]}` | {said} |"


def _interface(element: ET.Element) -> str:
    lines = [f"## {element.get('name')}", "", _annotation(element, DOC), ""]
    for heading, tag, describe in (
        ("Methods", "method", _method),
        ("Properties", "property", _property),
        ("Signals", "signal", _signal),
    ):
        members = element.findall(tag)
        if members:
            lines += [f"### {heading}", ""]
        for member in members:
            lines += describe(member)
    if fields := VALUES.get(element.get("name", "")):
        lines += ["### Values", "", table(fields), ""]
    return "\n".join(lines)


def _method(element: ET.Element) -> Iterator[str]:
    inputs = _arguments(element, "in")
    outputs = _arguments(element, "out")
    yield f"**`{element.get('name')}({inputs})`**" + (f" → `{outputs}`" if outputs else "")
    yield f"({_action(element, ACTION)})  "
    yield from (_annotation(element, DOC), "")


def _property(element: ET.Element) -> Iterator[str]:
    signals = _change_signal(_annotation(element, EMITS_CHANGED))
    facts = f"{element.get('access')}; {_action(element, ACTION)}; {signals}"
    yield f"**`{element.get('name')}`** `{element.get('type')}`"
    yield f"({facts})  "
    yield from (_annotation(element, DOC), "")


def _signal(element: ET.Element) -> Iterator[str]:
    yield f"**`{element.get('name')}({_arguments(element, None)})`**  "
    yield from (_annotation(element, DOC), "")


def _change_signal(value: str) -> str:
    return {
        "true": "its changes are signalled",
        "invalidates": "its changes are signalled without the value",
        "const": "never changes",
        "false": "its changes are not signalled",
    }[value]


def _action(element: ET.Element, name: str) -> str:
    action = _annotation(element, name)
    text = "open" if action == OPEN_TO_ALL else f"action `{action}`"
    for annotation, meaning in (
        (ACTION_FOR_OTHERS, "for things of others"),
        (WRITE_ACTION, "to write it"),
    ):
        if other := _annotation(element, annotation):
            text += f", {meaning} `{other}`"
    return text


def _arguments(element: ET.Element, direction: str | None) -> str:
    return ", ".join(
        f"{arg.get('type')} {arg.get('name')}"
        for arg in element.findall("arg")
        if direction is None or arg.get("direction") == direction
    )


def _annotation(element: ET.Element, name: str) -> str:
    for annotation in element.findall("annotation"):
        if annotation.get("name") == name:
            return annotation.get("value", "")
    return ""


# -- fields ------------------------------------------------------------------------------------


def table(fields: Mapping[str, Field]) -> str:
    rows = (
        f"| `{name}` | {field.unit} | {_range(field)} | {field.meaning} |"
        for name, field in fields.items()
    )
    return "\n".join(("| value | unit | range | what it is |", "|---|---|---|---|", *rows))


def _range(field: Field) -> str:
    if field.codes:
        return ", ".join(f"{code} {word}" for code, word in field.codes.items())
    bounds = dict.fromkeys((_bound(field.lowest), _bound(field.highest)))
    return " to ".join(bounds)


def _bound(number: int | float) -> str:
    """Long numbers as people read them: those of 32 bits and more are powers of two."""
    if isinstance(number, float):
        return f"{number:.8g}"
    power = abs(number).bit_length()
    if power < 31:
        return str(number)
    return f"-2^{power - 1}" if number < 0 else f"2^{power} - 1"


def with_tables(text: str) -> str:
    """A document with its tables as the fields are now; each stands between two marks."""
    for name, fields in TABLES.items():
        start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
        begin, rest = text.index(start) + len(start), text.index(end)
        text = f"{text[:begin]}\n{table(fields)}\n\n{text[rest:]}"
    return text


# -- boards ------------------------------------------------------------------------------------


def boards() -> str:
    """What boards have; those that have the same share a table."""
    headings: dict[str, list[str]] = {}
    for (generation, processor), found in modules.TABLES.items():
        rows = "\n".join(_function(module, function) for module, function in found)
        headings.setdefault(rows, []).append(f"{PROCESSORS[processor]}, generation {generation}")
    head = "| function | number | what it does | takes | returns |\n|---|---|---|---|---|"
    sections = [f"## {'; '.join(names)}\n\n{head}\n{rows}\n" for rows, names in headings.items()]
    return "\n".join([OF_BOARDS, *sections])


def _function(module: Module, function: Function) -> str:
    usage = f"`{module.name}.{function.usage}`"
    meaning = f"{function.meaning} ({function.caution})" if function.caution else function.meaning
    takes = "; ".join(_parameter(each) for each in function.parameters)
    returns = "" if function.returns is Type.VOID else f"{_type(function.returns)}: "
    number = f"{module.index}, {function.number}"
    return f"| {usage} | {number} | {meaning} | {takes} | {returns}{function.result} |"


def _parameter(parameter: Parameter) -> str:
    return f"{parameter.name}, {_type(parameter.type)}: {parameter.meaning}, {parameter.range}"


def _type(of: Type) -> str:
    return of.name.lower()


# -- the command -------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m buswork.docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    options = parser.parse_args(arguments)
    made = {REFERENCE: reference(), GUIDE: with_tables(GUIDE.read_text()), BOARDS: boards()}
    if options.check:
        return _complain(page for page, text in made.items() if not _has(page, text))
    for page, text in made.items():
        page.write_text(text)
    return 0


def _has(page: Path, text: str) -> bool:
    return page.is_file() and page.read_text() == text


def _complain(pages: Iterable[Path]) -> int:
    status = 0
    for page in pages:
        sys.stderr.write(f"{page} is out of date; run: python -m buswork.docs\n")
        status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
