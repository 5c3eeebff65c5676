"""buswork view: processes under AppView, as the command `appview` shows them."""

import argparse
import asyncio
import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from buswork.cli.clients import user_name
from buswork.cli.exits import Exit
from buswork.cli.output import CommandError, Output
from buswork.client import BusworkError, Client, ProcessFacts, ViewedProcess
from buswork.client.appview import NO_SUCH_PROCESS

ACTIVE, LATENT = "Active", "Latent"
# Those that answer.
ANSWERING: Final = (ACTIVE, LATENT)
HEAD = ("ID", "PID", "USER", "COMMAND")
# Of those among which somebody has to choose.
MOST_LISTED = 20


# -- which one ---------------------------------------------------------------------------------


async def found(client: Client, options: argparse.Namespace) -> list[ProcessFacts]:
    """Those that are there, by their pids."""
    facts = await client.appview.scan(others=options.others)
    return sorted(facts, key=lambda each: each.pid)


async def chosen(client: Client, options: argparse.Namespace) -> ViewedProcess:
    """The process that was named: by its pid, whosever it is; by its name, among those that
    answer."""
    return _one(client, await found(client, options), options.process, ANSWERING)


def _one(
    client: Client, there: Sequence[ProcessFacts], word: str | None, states: Collection[str]
) -> ViewedProcess:
    if word is not None and word.isdecimal():
        return client.appview.process(int(word))
    fitting = [each for each in there if each.state in states]
    matching = fitting if word is None else _named(fitting, word)
    if not matching:
        raise BusworkError(_missing(there, word, states), NO_SUCH_PROCESS)
    if len(matching) > 1:
        listed = "".join(f"; {_line(each)}" for each in matching[:MOST_LISTED])
        raise CommandError(f"there are {len(matching)}, and PROCESS must say which{listed}")
    return client.appview.process(matching[0].pid)


def _named(there: Sequence[ProcessFacts], word: str) -> list[ProcessFacts]:
    """Programs of this name; if there is none, whose command has it somewhere."""
    exact = [each for each in there if each.name == word]
    return exact or [each for each in there if word in each.command]


def _missing(there: Sequence[ProcessFacts], word: str | None, states: Collection[str]) -> str:
    wanted = " or ".join(states)
    if word is None:
        return f"there is no process that is {wanted}"
    others = "".join(f"; {_line(each)} is {each.state}" for each in _named(there, word))
    return f"there is no process {word} that is {wanted}{others}"


def _line(facts: ProcessFacts) -> str:
    return f"{facts.pid} ({user_name(facts.uid)}) {facts.command}"


# -- looking -----------------------------------------------------------------------------------


async def ps(client: Client, options: argparse.Namespace, out: Output) -> int:
    there = await found(client, options)
    if not options.all:
        there = [each for each in there if each.state == ACTIVE]
    rows = [_row(number, each) for number, each in enumerate(there, 1)]
    if out.json:
        for row, facts in zip(rows, there, strict=True):
            out.document(row | ({"state": facts.state} if options.all else {}))
    elif not there:
        out.note(f"there is no process that {'has the library' if options.all else 'is viewed'}")
    elif options.all:
        states = (facts.state for facts in there)
        cells = ([*map(str, row.values()), state] for row, state in zip(rows, states, strict=True))
        out.table((*HEAD[:3], "STATE", HEAD[3]), ([*each[:3], each[4], each[3]] for each in cells))
    else:
        out.table(HEAD, ([*map(str, row.values())] for row in rows))
    return Exit.OK


def _row(number: int, facts: ProcessFacts) -> dict[str, Any]:
    """With the names that the original has."""
    user = user_name(facts.uid)
    return {"id": number, "pid": facts.pid, "user": user, "command": facts.command}


async def inspect(client: Client, options: argparse.Namespace, out: Output) -> int:
    if options.all and options.process is not None:
        raise CommandError("--all or PROCESS, but not both")
    there = await found(client, options)
    if options.all:
        processes = _active(client, there)
    else:
        states = ANSWERING if options.process else (ACTIVE,)
        processes = [_one(client, there, options.process, states)]
    ends = await asyncio.gather(*map(_inspected, processes), return_exceptions=True)
    said = [each for each in ends if not isinstance(each, BaseException)]
    if out.json:
        for each in said:
            out.document(each)
    elif options.all:
        out.prose(json.dumps(said, indent=2))
    elif said:
        out.prose(json.dumps(said[0], indent=2))
    _raise_failures(out, ends)
    return Exit.OK


async def _inspected(process: ViewedProcess) -> dict[str, Any]:
    """As the original prints it."""
    configuration = await process.configuration()
    interfaces = await process.transport_status()
    details = await process.details()
    names = {"pid": details["pid"]}
    if details["pid"] != process.pid:
        names["hostPid"] = process.pid
    names |= {name: details[name] for name in ("uuid", "id", "machine_id")}
    return {"cfg": {"current": configuration}, "interfaces": interfaces, "process": names}


async def transport(client: Client, options: argparse.Namespace, out: Output) -> int:
    interfaces = await (await chosen(client, options)).transport_status()
    if out.json:
        out.document(interfaces)
    else:
        out.table(("NAME", "WHERE", "CONNECTED", "WHY NOT"), map(_interface, interfaces))
    return Exit.OK


def _interface(interface: dict[str, Any]) -> tuple[str, ...]:
    why = [interface["failure_details"]] if "failure_details" in interface else []
    if "attempts" in interface:
        why.append(f"attempt {interface['attempts']}")
    connected = "yes" if interface["connected"] else "no"
    return interface["name"], interface["config"], connected, ", ".join(why)


# -- attaching and detaching -------------------------------------------------------------------


async def attach(client: Client, options: argparse.Namespace, out: Output) -> int:
    process = await chosen(client, options)
    await process.attach(dict(options.settings))
    return _done(out, "attached", [process.pid])


async def detach(client: Client, options: argparse.Namespace, out: Output) -> int:
    if options.all == (options.process is not None):
        raise CommandError("it takes a PROCESS, or --all")
    there = await found(client, options)
    if options.all:
        processes = _active(client, there)
    else:
        processes = [_one(client, there, options.process, (ACTIVE,))]
    ends = await asyncio.gather(*(each.detach() for each in processes), return_exceptions=True)
    told = [each.pid for each, end in zip(processes, ends, strict=True) if end is None]
    if told or not processes:
        _done(out, "detached", told)
    _raise_failures(out, ends)
    return Exit.OK


def _raise_failures(out: Output, ends: Iterable[object]) -> None:
    """All of them are told: the last one where every command's is."""
    failures = [end for end in ends if isinstance(end, BaseException)]
    for error in failures[:-1]:
        if not isinstance(error, BusworkError):
            raise error
        out.error(str(error), error.name)
    if failures:
        raise failures[-1]


def _active(client: Client, there: Sequence[ProcessFacts]) -> list[ViewedProcess]:
    return [client.appview.process(each.pid) for each in there if each.state == ACTIVE]


def _done(out: Output, what: str, pids: list[int]) -> int:
    if out.json:
        out.document({what: pids})
    return Exit.OK
