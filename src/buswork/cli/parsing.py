"""What the parsers of all commands are made of."""

import argparse
from collections.abc import Sequence
from typing import Final, TypeAlias

SUPPRESS = argparse.SUPPRESS


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of descriptions and epilogs, and short columns."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)


class Parser(argparse.ArgumentParser):
    """Takes the options and words of a command in any order, and tells that command's usage.

    argparse alone would end `set KEY --ttl 60 VALUE` after KEY, and leave it to the parser at
    the top to complain. (Its parse_intermixed_args is not for subparsers.)

    No abbreviated options: a script must not break because an option was added.
    """

    _options_only = False

    def __init__(self, **options: object) -> None:
        settings: dict[str, object] = {"allow_abbrev": False, "formatter_class": Formatter}
        super().__init__(**(settings | options))  # type: ignore[arg-type]

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str], namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """The options first, then the words that were between them, and all behind a `--`."""
        found = argparse.Namespace() if namespace is None else namespace
        if self._subparsers is not None:
            return super().parse_known_args(args, found)
        words = list(args)
        end = words.index("--") if "--" in words else len(words)
        found, left = self._parse_options(words[:end], found)
        found, unknown = super().parse_known_args([*left, *words[end:]], found)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, []

    def _parse_options(
        self, words: list[str], namespace: argparse.Namespace
    ) -> tuple[argparse.Namespace, list[str]]:
        required = [action for action in self._get_positional_actions() if action.required]
        self._options_only = True
        try:
            for action in required:
                action.required = False
            return super().parse_known_args(words, namespace)
        finally:
            self._options_only = False
            for action in required:
                action.required = True

    def _get_positional_actions(self) -> list[argparse.Action]:
        return [] if self._options_only else super()._get_positional_actions()


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"  # it has no public name


def seconds(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds above 0")
    return number


# What --timeout is, but for a few commands.
CALLS: Final = "how long a call may take (default: 25, 150 with a password prompt)"


def add_common(
    parser: argparse.ArgumentParser, *, defaults: bool, timeout: str | None = CALLS
) -> None:
    """The options that every command has, before or after its name.

    timeout: what that option is, if the command has it.

    Only the parser at the top gives them defaults; a subparser's would overrule what was given.
    """

    def default(value: object) -> object:
        return value if defaults else SUPPRESS

    group = parser.add_argument_group("common options")
    group.add_argument(
        "--bus",
        default=default("system"),
        metavar="BUS",
        help="system (default), session, or the address of a bus",
    )
    group.add_argument(
        "--json",
        action="store_true",
        default=default(False),
        help="JSON, and nothing else, on stdout",
    )
    group.add_argument(
        "--no-color",
        action="store_true",
        default=default(False),
        help="no colours on a terminal either (as NO_COLOR in the environment)",
    )
    group.add_argument(
        "--no-interaction",
        action="store_true",
        default=default(False),
        help="never ask for a password or a confirmation",
    )
    if timeout:
        group.add_argument(
            "--timeout",
            type=seconds,
            default=default(None),
            metavar="SECONDS",
            help=timeout,
        )


def add_command(
    commands: Commands,
    name: str,
    run: str,
    summary: str,
    description: str = "",
    *,
    timeout: str | None = CALLS,
) -> argparse.ArgumentParser:
    text = description or f"{summary[0].upper()}{summary[1:]}."
    parser = commands.add_parser(name, help=summary, description=text)
    parser.set_defaults(run=run, usage=parser.format_usage)
    add_common(parser, defaults=False, timeout=timeout)
    return parser


def add_optional(
    parser: argparse.ArgumentParser, name: str, text: str, *, default: str | None = None
) -> None:
    """A word that may be left out."""
    parser.add_argument(name, nargs="?", default=default, metavar=name.upper(), help=text)


def add_group(commands: Commands, name: str, summary: str, description: str) -> Commands:
    """Commands of a wing."""
    group = commands.add_parser(name, help=summary, description=description)
    return group.add_subparsers(
        title="commands", dest="action", metavar="COMMAND", required=True, parser_class=Parser
    )
