"""Writes docs/dbus-reference.md from dbus/*.xml, the same contract that the daemon exports.

    python -m buswork.docs [--check]

With --check nothing is written; exit status 1 says that the reference is out of date.
"""

import argparse
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
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

REFERENCE = Path("docs/dbus-reference.md")

INTRODUCTION = """\
# D-Bus reference

Made from `dbus/*.xml` by `python -m buswork.docs`; edit those, not this.

All objects belong to the bus name `org.buswork`. Every method and property says which polkit
action it needs; *open* means none. Within a major version (`ApiVersion` of
`org.buswork.Daemon`) things are only added.
"""


def reference() -> str:
    names = sorted(path.stem for path in xml_folder().glob("*.xml"))
    sections = [_interface(load(name).element) for name in names]
    return "\n".join([INTRODUCTION, *sections])


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


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m buswork.docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    options = parser.parse_args(arguments)
    text = reference()
    if not options.check:
        REFERENCE.write_text(text)
        return 0
    if REFERENCE.is_file() and REFERENCE.read_text() == text:
        return 0
    sys.stderr.write(f"{REFERENCE} is out of date; run: python -m buswork.docs\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
