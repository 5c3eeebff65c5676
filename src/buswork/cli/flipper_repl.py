"""buswork flipper repl: functions of a board, at a prompt."""

import argparse
import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from buswork.cli.exits import Exit
from buswork.cli.flipper import chosen, described, module_of, returned, shown
from buswork.cli.flipper_claim import claimed
from buswork.cli.flipper_parser import number
from buswork.cli.output import InputError, Output
from buswork.client import Board, BoardFacts, BusworkError, Client, Disconnected, NotRunning
from buswork.flipper.wire.modules import Function, Kind

PROMPT = "flipper> "
HELP = """\
MODULE FUNCTION ARG ...   calls a function; of one that takes data, ARG is a text, and of one that
                          brings data, how many bytes
help                      this, and the modules
help MODULE               its functions
quit                      ends this, as Ctrl-D does"""
HISTORY_LINES = 1000


async def repl(client: Client, options: argparse.Namespace, out: Output) -> int:
    board = await chosen(client, options)
    facts = await board.facts()
    async with contextlib.AsyncExitStack() as stack:
        if options.claim or options.service:
            claim = claimed(board, "buswork flipper repl", out, service=options.service)
            await stack.enter_async_context(claim)
        if sys.stdin.isatty():
            stack.enter_context(_readline(facts))
            return await _talk(board, facts, out)
        for line in sys.stdin:
            if not await _obey(board, facts, line, out):
                break
    return Exit.OK


async def _talk(board: Board, facts: BoardFacts, out: Output) -> int:
    """What fails is told, and the next line is read; but not without a daemon."""
    while (line := _typed()) is not None:
        try:
            if not await _obey(board, facts, line, out):
                break
        except (Disconnected, NotRunning):
            raise
        except BusworkError as error:
            out.error(str(error), error.name)
        except InputError as error:
            out.error(str(error))
    return Exit.OK


def _typed() -> str | None:
    """A line, or None for the end; Ctrl-C drops what was typed.

    Nothing else goes on meanwhile: nobody but us waits for this connection.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return input(PROMPT)
    except KeyboardInterrupt:
        print()
        return ""
    except EOFError:
        print()
        return None
    finally:
        signal.signal(signal.SIGINT, before)


async def _obey(board: Board, facts: BoardFacts, line: str, out: Output) -> bool:
    """False: it is the end."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:
        raise InputError(f"{error}") from None
    match words:
        case []:
            return True
        case ["quit" | "exit"]:
            return False
        case ["help"]:
            out.prose(HELP)
            out.prose(f"modules: {', '.join(facts.modules)}")
        case ["help", module]:
            for text in described(module_of(facts, module)):
                out.prose(text)
        case [module]:
            raise InputError(f"{module} alone is nothing to call; help {module} says what there is")
        case [module, function, *words]:
            await _call(board, _function(facts, module, function), module, words, out)
    return True


def _function(facts: BoardFacts, module: str, name: str) -> Function:
    functions = module_of(facts, module).functions
    if name not in functions:
        have = ", ".join(function.usage for function in functions.values())
        raise InputError(f"{module} has no function {name}; it has {have}")
    return functions[name]


async def _call(
    board: Board, function: Function, module: str, words: list[str], out: Output
) -> None:
    if function.kind is Kind.PUSH:
        taken = await board.push(module, function.name, " ".join(words).encode())
        shown(out, {"taken": taken})
        return
    values = [_number(word) for word in words]
    if function.kind is Kind.CALL:
        value = await board.invoke(module, function.name, *values)
        shown(out, {"value": value}, *returned(value))
    elif len(values) != 1:
        raise InputError(f"{function.name} takes one number, how many bytes")
    else:
        data = await board.pull(module, function.name, values[0])
        shown(out, {"data": data}, ascii(data)[1:])


def _number(word: str) -> int:
    try:
        return number(word)
    except argparse.ArgumentTypeError as error:
        raise InputError(str(error)) from None


# -- typing ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _readline(facts: BoardFacts) -> Iterator[None]:
    """Tab completes, and what was typed is remembered."""
    import readline

    readline.set_completer(_Completer(facts).complete)
    readline.set_completer_delims(" ")
    readline.parse_and_bind("tab: complete")
    readline.set_history_length(HISTORY_LINES)
    history = history_file()
    with contextlib.suppress(OSError):
        readline.read_history_file(history)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            history.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            readline.write_history_file(history)


def history_file() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(state) / "buswork/flipper-history"


class _Completer:
    """First a module, or a word for the prompt; then a function of the module."""

    def __init__(self, facts: BoardFacts) -> None:
        self._modules = {
            name: [usage.partition("(")[0] for usage in usages]
            for name, usages in facts.modules.items()
        }

    def complete(self, text: str, state: int) -> str | None:
        import readline

        before = readline.get_line_buffer()[: readline.get_begidx()].split()
        found = [f"{word} " for word in self.candidates(before) if word.startswith(text)]
        return found[state] if state < len(found) else None

    def candidates(self, before: list[str]) -> list[str]:
        match before:
            case []:
                return [*self._modules, "help", "quit"]
            case ["help"]:
                return [*self._modules]
            case [module]:
                return self._modules.get(module, [])
        return []
