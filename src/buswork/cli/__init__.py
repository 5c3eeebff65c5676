"""The `buswork` command."""

from collections.abc import Sequence

from buswork.cli.parser import make_parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    # Only now: a command needs asyncio and the client, --help and completions do not.
    from buswork.cli.run import run

    return run(options)
