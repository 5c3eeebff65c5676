"""The whole command line. Nothing of the client is imported here, so that --help is fast.

Each command names the function that runs it, as "module.function" below buswork.cli.
"""

import argparse
import sys
from collections.abc import Sequence

from buswork import __version__
from buswork.cli import flipper_parser, ipc_parser, system_parser, view_parser
from buswork.cli.exits import epilog
from buswork.cli.parsing import (
    Commands,
    Parser,
    add_command,
    add_common,
    add_group,
    add_optional,
    seconds,
)

DESCRIPTION = "Talks to the daemons that put five small IPC worlds on the D-Bus system bus."

# The first line is for scripts; the last two have the words that the technology's owner wants.
VERSION = f"""\
buswork {__version__}
Copyright 2026 The buswork authors. Licensed under the Apache License, Version 2.0.

Supports Ferrum Streaming Control Technology™.
Ferrum Streaming Control Technology™ is a trademark of HEM Sp. z o.o.
"""

# A hundred years of music; what a display shows ends before.
MAX_TRACK_SECONDS = 100 * 366 * 24 * 3600.0
STATUSES = ("stopped", "playing", "paused", "seeking", "buffering", "error", "unknown")

# What follows one of these is a command of the user's, untouched.
PROGRAM_OPTIONS = ("--exec", "--while")


def track_seconds(text: str) -> float:
    number = float(text)
    if not 0 <= number <= MAX_TRACK_SECONDS:
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds from 0 on")
    return number


def revision(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**64:
        raise argparse.ArgumentTypeError(f"{text} is no revision")
    return number


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """As make_parser does; but argparse would keep a command from having a -- in it.

    One -- right before the command is no part of it: many are used to writing one there.
    """
    words = list(arguments)
    ours = words[: words.index("--")] if "--" in words else words
    at = min((ours.index(option) for option in PROGRAM_OPTIONS if option in ours), default=None)
    options = make_parser().parse_args(words if at is None else words[: at + 1])
    if at is not None:
        program = words[at + 1 :]
        options.program = program[1:] if program[:1] == ["--"] else program
    return options


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="buswork", description=DESCRIPTION, epilog=epilog())
    add_common(parser, defaults=True)
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", required=True, parser_class=Parser
    )
    add_command(commands, "status", "status.show", "what runs: version, wings, statistics")
    _add_store(commands)
    _add_fsct(commands)
    flipper_parser.add(commands)
    ipc_parser.add(commands)
    view_parser.add(commands)
    system_parser.add(commands)
    _add_clients(commands)
    add_command(
        commands,
        "monitor",
        "monitor.show",
        "the signals of all wings as they come",
        "Shows every signal of the daemon, one a line, until Ctrl-C. With --json, each line is "
        "an object with path, interface, member, values and time_unix_us.",
    )
    return parser


def _version() -> str:
    try:
        VERSION.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return VERSION.replace("™", "(TM)")
    return VERSION


def _add_clients(commands: Commands) -> None:
    parser = add_command(
        commands,
        "clients",
        "clients.show",
        "who holds what, and taking it away",
        "Shows what clients hold: watches, keys that go with them, and so on.",
    )
    parser.add_argument(
        "--release",
        metavar="PATH",
        help="take the thing with this path away from whoever holds it",
    )


def _add_while(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--while", dest="program", nargs=argparse.REMAINDER, metavar="CMD",
        help=f"all that follows is a command: {what} while it runs; exit with its status",
    )  # fmt: skip


# -- the store ---------------------------------------------------------------------------------


def _add_store(commands: Commands) -> None:
    actions = add_group(
        commands,
        "store",
        "named values, shared by every process",
        "Named values in memory, shared by every process of this machine.",
    )
    for add_one in (
        _add_get, _add_set, _add_delete, _add_list, _add_watch, _add_wait, _add_clear,
        _add_describe, _add_export, _add_import, _add_mark,
    ):  # fmt: skip
        add_one(actions)


def _add_get(actions: Commands) -> None:
    parser = add_command(
        actions,
        "get",
        "store.get",
        "print values",
        "Prints the value of KEY exactly as it is, without a newline; on a terminal with one, and "
        "with control characters escaped. Of several keys, each value is a line. A key that is "
        "not set prints nothing. With --json: an object, null for what is not set.",
    )
    parser.add_argument("keys", nargs="+", metavar="KEY", help="what to print")
    parser.add_argument(
        "-n", "--no-newline", action="store_true", help="no newline on a terminal either"
    )
    parser.add_argument(
        "-r", "--require", action="store_true", help="exit with 6 when a key is not set"
    )


def _add_set(actions: Commands) -> None:
    parser = add_command(
        actions,
        "set",
        "store.set_",
        "set values",
        "Sets KEY to VALUE, or to stdin when VALUE is -. With KEY=VALUE (the first argument has a "
        "= in it), one or several, which are set all or not at all. An empty value clears the "
        "key. What begins with - goes behind --.",
    )
    parser.add_argument("words", nargs="*", metavar="KEY VALUE", help="or KEY=VALUE ...")
    parser.add_argument(
        "-k", "--key", help="the key, when it has a = in it; the only word then is the value"
    )
    parser.add_argument("--ttl", type=seconds, metavar="SECONDS", help="the key goes after so long")
    parser.add_argument(
        "--if-revision",
        type=revision,
        metavar="N",
        help="only if the key's own revision still is N (0: not set); else exit with 7",
    )
    _add_while(parser, "the key lives")


def _add_delete(actions: Commands) -> None:
    parser = add_command(actions, "delete", "store.delete", "remove keys")
    parser.add_argument("keys", nargs="+", metavar="KEY", help="what to remove")
    parser.add_argument(
        "-r", "--require", action="store_true", help="exit with 6 when a key was not set"
    )


def _add_list(actions: Commands) -> None:
    parser = add_command(
        actions,
        "list",
        "store.list_",
        "print the keys",
        "Prints the keys, one a line, with control characters escaped.",
    )
    add_optional(parser, "prefix", "only keys that begin so", default="")
    parser.add_argument(
        "-0", "--null", action="store_true", help="exact keys, each ended by NUL (as for xargs -0)"
    )


def _add_watch(actions: Commands) -> None:
    parser = add_command(
        actions,
        "watch",
        "watch.watch",
        "print every change",
        "Prints every change from now on, one a line, with no gap and no repeat. With --json each "
        "line is an object with revision, key and value; value is left out when the key went, and "
        "instead of both there is kind (clear) when all keys went at once. --exec runs a command "
        "for each change, one after the other, with the value on its stdin and BUSWORK_REVISION, "
        "BUSWORK_KIND (set, gone, clear), BUSWORK_KEY and BUSWORK_VALUE in its environment. A "
        "value of more than 100,000 bytes, which the system does not let pass there, is on stdin "
        "only.",
    )
    add_optional(parser, "prefix", "only keys that begin so", default="")
    parser.add_argument(
        "--from",
        dest="from_",
        type=revision,
        metavar="REV",
        help="also what changed since this revision",
    )
    parser.add_argument("-c", "--count", type=int, metavar="N", help="end after so many changes")
    parser.add_argument(
        "--exec",
        dest="program",
        nargs=argparse.REMAINDER,
        metavar="CMD",
        help="all that follows is a command to run for each change, instead of printing it",
    )


def _add_wait(actions: Commands) -> None:
    parser = add_command(
        actions,
        "wait",
        "watch.wait",
        "wait for a value",
        "Waits until KEY is set, or until it is VALUE (an empty VALUE: until it is not set), and "
        "prints the value as get does. Returns at once when that is so already.",
        timeout=None,
    )
    parser.add_argument("key", metavar="KEY", help="what to wait for")
    add_optional(parser, "value", "what it has to be")
    parser.add_argument(
        "--timeout",
        dest="wait_timeout",
        type=seconds,
        metavar="SECONDS",
        help="give up after so long, with exit status 5 (default: never)",
    )
    parser.add_argument(
        "-n", "--no-newline", action="store_true", help="no newline on a terminal either"
    )


def _add_clear(actions: Commands) -> None:
    parser = add_command(
        actions,
        "clear",
        "store.clear",
        "remove every key, those of others too",
        "Removes every key, those of other users too. Asks before on a terminal.",
    )
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


def _add_describe(actions: Commands) -> None:
    parser = add_command(
        actions,
        "describe",
        "store.describe",
        "what is known of a key",
        "Shows who set KEY, when, and how long it lives; exits with 6 when it is not set.",
    )
    parser.add_argument("key", metavar="KEY", help="what to describe")


def _add_export(actions: Commands) -> None:
    parser = add_command(
        actions,
        "export",
        "transfer.export",
        "print keys and values as JSON",
        "Prints an object with the keys and their values, for import. How long a key lives is "
        "left out.",
    )
    parser.add_argument("--prefix", default="", metavar="PREFIX", help="only keys that begin so")


def _add_import(actions: Commands) -> None:
    parser = add_command(
        actions,
        "import",
        "transfer.import_",
        "set keys from JSON",
        "Sets what an object of keys and values says; null clears a key. Nothing is set when the "
        "JSON is wrong. Large ones are set in parts, each of which is set all or not at all.",
    )
    add_optional(parser, "file", "where it is (default: -, stdin)", default="-")


def _add_mark(actions: Commands) -> None:
    parser = add_command(
        actions,
        "mark",
        "store.mark",
        "write a mark to the daemon's log",
        "Writes TEXT, or a constant, to the daemon's log, and keeps it. Prints it.",
    )
    add_optional(parser, "text", "the mark", default="")
    parser.add_argument(
        "--show", action="store_true", help="print the last mark instead of writing one"
    )


# -- players and displays ----------------------------------------------------------------------


def _add_fsct(commands: Commands) -> None:
    actions = add_group(
        commands,
        "fsct",
        "players, and the USB audio displays that show what they play",
        "Players, and the USB audio displays that show what they play, by Ferrum "
        "Streaming Control Technology(TM), FSCT. A PLAYER is its number, or what it calls itself. "
        "A DEVICE is its id, or what only its id begins with.",
    )
    add_command(
        actions,
        "players",
        "fsct.players",
        "print the players",
        "Prints the players and what they play, the preferred one with a *. What players of other "
        "users play is shown to those who may see it, a ? to others.",
    )
    add_command(actions, "devices", "fsct.devices", "print the displays that are connected")
    add_command(actions, "status", "fsct.status", "what each display shows, and why")
    for add_one in (_add_assign, _add_unassign, _add_prefer, _add_play, _add_display):
        add_one(actions)


def _add_assign(actions: Commands) -> None:
    parser = add_command(
        actions,
        "assign",
        "fsct.assign",
        "give a player a device of its own",
        "Assigns PLAYER to DEVICE, which shows it before all others when it plays. A device that "
        "is not connected is named by its whole id.",
    )
    parser.add_argument("player", metavar="PLAYER", help="its number, or what it calls itself")
    parser.add_argument("device", metavar="DEVICE", help="its id, or what only that begins with")


def _add_unassign(actions: Commands) -> None:
    parser = add_command(actions, "unassign", "fsct.unassign", "take a player from its device")
    parser.add_argument("player", metavar="PLAYER", help="its number, or what it calls itself")


def _add_prefer(actions: Commands) -> None:
    parser = add_command(
        actions,
        "prefer",
        "fsct.prefer",
        "choose the player that is shown before others",
        "Prefers PLAYER. It is remembered by what it calls itself, and preferred again when it "
        "comes back. Without PLAYER, prints the number of the preferred one.",
    )
    add_optional(parser, "player", "its number, or what it calls itself")
    parser.add_argument("--none", action="store_true", help="prefer none any more")


def _add_play(actions: Commands) -> None:
    parser = add_command(
        actions,
        "play",
        "fsct.play",
        "be a player, to try the displays",
        "Registers a player that says what the options say, and goes on playing it (without a "
        "sound) until Ctrl-C.",
    )
    parser.add_argument("--title", metavar="TEXT", help="the title of the track")
    parser.add_argument("--artist", metavar="TEXT", help="who made it")
    parser.add_argument("--album", metavar="TEXT", help="the album")
    parser.add_argument("--genre", metavar="TEXT", help="the genre")
    parser.add_argument(
        "--status",
        choices=STATUSES,
        default="playing",
        metavar="STATUS",
        help=f"{', '.join(STATUSES)} (default: playing)",
    )
    parser.add_argument(
        "--duration", type=track_seconds, metavar="SECONDS", help="how long the track is"
    )
    parser.add_argument(
        "--position", type=track_seconds, metavar="SECONDS", help="where it begins (default: 0)"
    )
    parser.add_argument(
        "--rate",
        type=float,
        metavar="RATE",
        help="seconds of the track per second (default: 1 when playing, else 0)",
    )
    parser.add_argument(
        "--self-id",
        default="buswork fsct play",
        metavar="ID",
        help="what the player calls itself (default: buswork fsct play)",
    )
    _add_while(parser, "the player is there")


def _add_display(actions: Commands) -> None:
    parser = add_command(
        actions,
        "display",
        "fsct.display",
        "what the simulated displays show",
        "Draws the displays of a daemon that was started with --simulate.",
    )
    add_optional(parser, "port", "only the display at this port")
    parser.add_argument("-w", "--watch", action="store_true", help="again whenever it changes")
    parser.add_argument("--plug", metavar="PORT", help="plug the display of this port in")
    parser.add_argument("--unplug", metavar="PORT", help="unplug it")
