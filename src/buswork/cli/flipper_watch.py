"""buswork flipper watch."""

import argparse

from buswork.cli import flipper_pins
from buswork.cli.exits import Exit
from buswork.cli.flipper import chosen
from buswork.cli.output import Output, escaped_text
from buswork.cli.run import while_somebody_reads
from buswork.client import BusworkError, Client, Disconnected

GONE = "org.flipper.Error.Disconnected"


async def watch(client: Client, options: argparse.Namespace, out: Output) -> int:
    words = {flipper_pins.source(word): word for word in options.sources}
    board = await chosen(client, options)
    left = options.count
    try:
        async with board.events(*words, interval_ms=options.interval) as events:
            with while_somebody_reads():
                async for event in events:
                    _show(words.get(event.source, event.source), event.value, out)
                    left = None if left is None else left - 1
                    if left == 0:
                        break
    except Disconnected as error:
        if client.connection.closed.done():
            raise
        raise BusworkError(str(error), GONE) from None  # the board alone, and not the daemon
    return Exit.OK


def _show(word: str, value: int | str, out: Output) -> None:
    if out.json:
        out.document({"source": word, "value": value})
    elif isinstance(value, str):
        out.prose(escaped_text(value.rstrip("\n")))
    else:
        out.prose(f"{out.styled(word, 'bold')} {out.styled(_meaning(word, value), 'green')}")


def _meaning(word: str, value: int) -> str:
    if word == "button":
        return "pressed" if value else "released"
    if word.startswith("gpio:") and "," not in word:
        return flipper_pins.parse(word.removeprefix("gpio:")).level(value)
    return f"{value:#x}" if word.startswith("gpio:") else str(value)
