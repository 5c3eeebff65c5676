"""buswork view config: how a viewed process is configured."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from buswork.appview.wire import configuration
from buswork.appview.wire.configuration import Unusable
from buswork.appview.wire.frames import MOST_REQUEST_BYTES
from buswork.cli.exits import Exit
from buswork.cli.output import InputError, Output
from buswork.cli.view import chosen
from buswork.client import BusworkError, Client, ViewedProcess

# As the daemon has it.
BAD_CONFIGURATION = "org.appview.Error.BadConfiguration"
# YAML may have many words more; of JSON, the daemon says what is too long.
MOST_BYTES = 4 * MOST_REQUEST_BYTES


async def get(client: Client, options: argparse.Namespace, out: Output) -> int:
    return _show(await (await chosen(client, options)).configuration(), out)


async def set(client: Client, options: argparse.Namespace, out: Output) -> int:  # noqa: A001
    text = _text(options.file)
    process = await chosen(client, options)
    if options.dry_run:
        return _show(await _replacement(process, text, is_merged=False), out)
    await process.set_configuration(text)
    return Exit.OK


async def merge(client: Client, options: argparse.Namespace, out: Output) -> int:
    text = _text(options.file)
    process = await chosen(client, options)
    if options.dry_run:
        return _show(await _replacement(process, text, is_merged=True), out)
    result = await process.merge_configuration(text)
    return _show(result, out) if out.json else Exit.OK


def _show(value: Any, out: Output) -> int:
    if out.json:
        out.document(value)
    else:
        out.prose(json.dumps(value, indent=2))  # ASCII, so that no terminal obeys it
    return Exit.OK


async def _replacement(process: ViewedProcess, text: str, *, is_merged: bool) -> dict[str, Any]:
    """What the daemon would send, if the process has until then what it has now."""
    current = await process.configuration()
    try:
        wanted = configuration.parsed(text)
        if is_merged:
            wanted = configuration.merged(current | {"protocol": []}, wanted)
        return configuration.replacement(wanted, current)
    except Unusable as error:
        raise BusworkError(str(error), BAD_CONFIGURATION) from None


# -- what is given ---------------------------------------------------------------------------------


def _text(path: str) -> str:
    """The JSON of a file, or what is the same in JSON."""
    name = "stdin" if path == "-" else path
    with sys.stdin.buffer if path == "-" else Path(path).open("rb") as file:
        text = _decoded(name, file.read(MOST_BYTES + 1))
    try:
        json.loads(text)
    except RecursionError:
        raise InputError(f"{name} has too many objects in one another") from None
    except ValueError as error:
        return _from_yaml(name, text, error)
    return text  # as it is: the daemon may have something to say of it


def _decoded(name: str, data: bytes) -> str:
    if len(data) > MOST_BYTES:
        raise InputError(f"{name} has more than {MOST_BYTES} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is no text: {error}") from None


def _from_yaml(name: str, text: str, error: ValueError) -> str:
    try:
        import yaml  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ImportError:
        raise InputError(
            f"{name} is no JSON: {error} (for YAML, PyYAML is needed, which is not installed)"
        ) from None
    try:
        return json.dumps(yaml.safe_load(text))
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as wrong:
        raise InputError(
            f"{name} is neither JSON nor YAML that can be said in it: {wrong}"
        ) from None
