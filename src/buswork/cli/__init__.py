"""The `buswork` command."""

import sys
from collections.abc import Sequence

from buswork.cli.parser import parse


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(sys.argv[1:] if arguments is None else arguments)
    # Only now: a command needs asyncio and the client, --help and completions do not.
    from buswork.cli.run import run

    return run(options)
