"""buswork flipper: boards, their lights and pins, and whatever else they can be called for."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from buswork.cli import flipper_pins
from buswork.cli.clients import user_name
from buswork.cli.exits import Exit
from buswork.cli.output import CommandError, InputError, Output
from buswork.client import Board, BoardFacts, Client
from buswork.flipper.wire.modules import TABLES, Function, Module, processor_of
from buswork.flipper.wire.terms import Generation, Processor, Type
from buswork.log import escaped

HEAD = ("BOARD", "STATE", "PLACE", "USED BY", "ERROR")
# An image that is longer no board has room for; the daemon says how much that is.
MAX_FILE_BYTES = 16 * 1024 * 1024


def shown(out: Output, document: Any, *lines: str) -> int:
    """As JSON, or in words."""
    if out.json:
        out.document(document)
    else:
        for line in lines:
            out.prose(line)
    return Exit.OK


async def chosen(client: Client, options: argparse.Namespace) -> Board:
    """The board that --board names, or the current one."""
    return await client.flipper.find(options.board or "")


def read_file(path: str) -> bytes:
    with Path(path).open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise InputError(f"{path} has more than {MAX_FILE_BYTES} bytes")
    return data


# -- what there is -----------------------------------------------------------------------------


async def list_(client: Client, options: argparse.Namespace, out: Output) -> int:
    found = await client.flipper.boards()
    current = await client.flipper.current()
    if out.json:
        out.document([_plain(facts) | {"current": facts.name == current} for facts in found])
    elif not found:
        out.note("there is no board")
    else:
        out.table(HEAD, (_row(facts, current) for facts in found))
    return Exit.OK


def _plain(facts: BoardFacts) -> dict[str, Any]:
    return {
        "name": facts.name,
        "state": facts.state,
        "error": facts.last_error,
        "transport": facts.transport,
        "place": facts.place,
        "generation": facts.generation,
        "incarnation": facts.incarnation,
        "claim_reason": facts.claim_reason,
        "holders": [holder._asdict() for holder in facts.holders],
    }


def _row(facts: BoardFacts, current: str | None) -> tuple[str, ...]:
    return (
        f"{facts.name}{'*' if facts.name == current else ''}",
        facts.state,
        f"{facts.transport} {facts.place}",
        ", ".join(sorted({user_name(holder.uid) for holder in facts.holders})),
        facts.last_error,
    )


async def info(client: Client, options: argparse.Namespace, out: Output) -> int:
    facts = await (await chosen(client, options)).facts()
    if options.module is not None:
        return _show_module(facts, options.module, out)
    if out.json:
        out.document(_plain(facts) | {"modules": facts.modules})
        return Exit.OK
    for name, text in (
        ("name", facts.name),
        ("place", f"{facts.transport} {facts.place}"),
        ("state", facts.state),
        ("error", facts.last_error),
        ("claimed", facts.claim_reason),
        ("plugged in", f"{facts.incarnation} times" if facts.incarnation != 1 else "once"),
    ):
        if text:
            out.prose(f"{name:<12} {escaped(text)}")
    for holder in facts.holders:
        what = f"{user_name(holder.uid)} ({holder.client}) {holder.what}"
        out.prose(f"{'used by':<12} {escaped(what)}")
    out.prose("")
    out.table(
        ("MODULE", "FUNCTIONS"),
        ((name, ", ".join(usages)) for name, usages in facts.modules.items()),
    )
    return Exit.OK


def module_of(facts: BoardFacts, name: str) -> Module:
    """What the tables know of a module; u2.gpio is that of one processor."""
    prefix, _, word = name.rpartition(".")
    for processor in _processors(facts, prefix, word):
        table = TABLES[Generation(facts.generation), processor]
        if word in table.modules and (prefix or word in facts.modules):
            return table.modules[word]
    raise InputError(f"there is no module {name}; there are {', '.join(facts.modules)}")


def _processors(facts: BoardFacts, prefix: str, module: str) -> list[Processor]:
    """Which may be meant."""
    have = [Processor.U2, Processor.S4] if facts.transport == "usb" else [Processor.FVM]
    if prefix:
        return [processor for processor in have if processor == prefix]
    return [processor_of(module)] if facts.transport == "usb" else have


def _show_module(facts: BoardFacts, name: str, out: Output) -> int:
    module = module_of(facts, name)
    if out.json:
        functions = {each.name: _plain_function(each) for each in module.functions.values()}
        out.document({"name": name, "meaning": module.meaning, "functions": functions})
        return Exit.OK
    for line in described(module):
        out.prose(line)
    return Exit.OK


def described(module: Module) -> Iterable[str]:
    """The functions of a module, for people."""
    yield f"{module.name}: {module.meaning}"
    for function in module.functions.values():
        yield f"  {function.usage:<24} {function.meaning}"
        for parameter in function.parameters:
            yield f"      {parameter.name:<20} {parameter.meaning}, {parameter.range}"
        if function.result:
            yield f"      returns              {function.result}"
        if function.caution:
            yield f"      take care            {function.caution}"


def _plain_function(function: Function) -> dict[str, Any]:
    return {
        "usage": function.usage,
        "meaning": function.meaning,
        "kind": function.kind.value,
        "parameters": [
            {"name": each.name, "meaning": each.meaning, "range": [each.lowest, each.highest]}
            for each in function.parameters
        ],
        "returns": None if function.returns is Type.VOID else function.returns.name.lower(),
        "result": function.result,
        "caution": function.caution,
    }


# -- lights, pins and calls --------------------------------------------------------------------


async def led(client: Client, options: argparse.Namespace, out: Output) -> int:
    colour = options.red, options.green, options.blue
    await (await chosen(client, options)).invoke("led", "rgb", *colour)
    return shown(out, {"red": colour[0], "green": colour[1], "blue": colour[2]})


async def button(client: Client, options: argparse.Namespace, out: Output) -> int:
    is_pressed = bool(await (await chosen(client, options)).invoke("button", "read"))
    return shown(out, {"pressed": is_pressed}, "pressed" if is_pressed else "released")


async def gpio(client: Client, options: argparse.Namespace, out: Output) -> int:
    if options.what != "read" and not options.pins:
        raise CommandError(f"{options.what} takes a PIN")
    if options.what == "read":
        return await _read_pins(client, options, out)
    if options.what == "write":
        high, low = flipper_pins.settings(options.pins)
    else:
        mask = flipper_pins.mask_of(options.pins)
        high, low = (mask, 0) if options.what == "enable" else (0, mask)
    function = "write" if options.what == "write" else "enable"
    await (await chosen(client, options)).invoke("gpio", function, high, low)
    names = ("high", "low") if function == "write" else ("enabled", "disabled")
    return shown(out, dict(zip(names, (high, low), strict=True)))


async def _read_pins(client: Client, options: argparse.Namespace, out: Output) -> int:
    pins = [flipper_pins.parse(word) for word in options.pins] or flipper_pins.reachable()
    mask = 0
    for each in pins:
        mask |= each.mask
    levels = await (await chosen(client, options)).invoke("gpio", "read", mask) or 0
    lines = [f"{each.name:<6} {each.level(levels)}" for each in pins]
    if len(options.pins) == 1:
        lines = [pins[0].level(levels)]
    return shown(out, {each.name: levels & each.mask for each in pins}, *lines)


async def call(client: Client, options: argparse.Namespace, out: Output) -> int:
    board = await chosen(client, options)
    value = await board.invoke(options.module, options.function, *options.values)
    return shown(out, {"value": value}, *returned(value))


def returned(value: int | None) -> Sequence[str]:
    return () if value is None else (str(value),)


# -- user modules ------------------------------------------------------------------------------


async def bind(client: Client, options: argparse.Namespace, out: Output) -> int:
    image = b"" if options.image is None else read_file(options.image)
    index = await (await chosen(client, options)).bind(options.name, image)
    return shown(out, {"index": index}, str(index))


async def user(client: Client, options: argparse.Namespace, out: Output) -> int:
    board = await chosen(client, options)
    index = await board.bind(options.name)
    value = await board.invoke_user(index, options.function, *options.values)
    return shown(out, {"value": value}, *returned(value))


async def load(client: Client, options: argparse.Namespace, out: Output) -> int:
    image = read_file(options.image)
    await (await chosen(client, options)).load(image)
    return shown(out, {"loaded": len(image)})


async def reset(client: Client, options: argparse.Namespace, out: Output) -> int:
    board = await chosen(client, options)
    await board.reset()
    return shown(out, {"reset": board.name})


# -- boards on the network ---------------------------------------------------------------------


async def attach(client: Client, options: argparse.Namespace, out: Output) -> int:
    board = await client.flipper.attach(options.endpoint)
    return shown(out, {"name": board.name}, escaped(board.name))


async def detach(client: Client, options: argparse.Namespace, out: Output) -> int:
    board = await client.flipper.find(options.board)
    await client.flipper.detach(board)
    return shown(out, {"detached": board.name})
