"""buswork store: the commands that are a call or two."""

import argparse
import dataclasses
import sys

from buswork.cli import program
from buswork.cli.clients import user_name
from buswork.cli.exits import Exit
from buswork.cli.output import CommandError, InputError, Output, when
from buswork.client import Client, Description

# More than any value may have (MaxValueBytes): what comes from stdin is not read without end.
MAX_STDIN = 16 * 1024 * 1024


# -- reading -----------------------------------------------------------------------------------


async def get(client: Client, options: argparse.Namespace, out: Output) -> int:
    keys: list[str] = options.keys
    found = await client.store.get_many(keys)
    if out.json:
        out.document({key: found.get(key) for key in keys})
    elif len(keys) == 1:
        out.value(found.get(keys[0], ""), newline=not options.no_newline)
    else:
        for key in keys:
            out.value(found.get(key, ""), newline=False)
            out.raw(b"\n")
    return _all_set(options, out, [key for key in keys if key not in found])


def _all_set(options: argparse.Namespace, out: Output, missing: list[str]) -> int:
    if not options.require or not missing:
        return Exit.OK
    out.error(f"not set: {', '.join(missing)}")
    return Exit.NOT_SET


async def list_(client: Client, options: argparse.Namespace, out: Output) -> int:
    keys = await client.store.list(options.prefix)
    if out.json:
        out.document(keys)
    elif options.null:
        out.raw(b"".join(key.encode() + b"\0" for key in keys))
    else:
        for key in keys:
            out.prose(out.styled(key, "bold"))
    return Exit.OK


async def describe(client: Client, options: argparse.Namespace, out: Output) -> int:
    facts = await client.store.describe(options.key)
    if out.json:
        out.document(None if facts is None else {"key": options.key} | _known(facts))
    elif facts is not None:
        _describe(options.key, facts, out)
    if facts is None:
        out.error(f"not set: {options.key}")
        return Exit.NOT_SET
    return Exit.OK


def _known(facts: Description) -> dict[str, object]:
    values = dataclasses.asdict(facts)
    return {name: value for name, value in values.items() if value is not None}


def _describe(key: str, facts: Description, out: Output) -> None:
    out.prose(f"key       {out.styled(key, 'bold')}")
    out.prose(f"revision  {facts.revision}")
    out.prose(f"changed   {when(facts.time_unix_us)}")
    out.prose(f"by        {out.styled(user_name(facts.uid), 'bold')} (uid {facts.uid})")
    out.prose(f"size      {facts.size} bytes")
    if facts.expires_unix_us is not None:
        out.prose(f"expires   {when(facts.expires_unix_us)}")
    if facts.until_leaves is not None:
        out.prose(f"goes with {out.styled(facts.until_leaves, 'bold')}")


# -- writing -----------------------------------------------------------------------------------


async def set_(client: Client, options: argparse.Namespace, out: Output) -> int:
    if options.program is not None:
        program.check("--while", options.program)
    pairs = _pairs(options.key, options.words)
    single = len(pairs) == 1
    if not single and (options.ttl or options.if_revision is not None or options.program):
        raise CommandError("--ttl, --if-revision and --while go with one key only")
    if options.if_revision is not None and (options.ttl or options.program):
        raise CommandError("--if-revision goes with neither --ttl nor --while")
    if options.program is not None:
        return await _set_while(client, options, out, *pairs[0])
    if options.if_revision is not None:
        return await _set_if(client, options, out, *pairs[0])
    if single:
        revision = await client.store.set(*pairs[0], ttl=options.ttl)
    else:
        revision = await client.store.set_many(dict(pairs))
    if out.json:
        out.document({"revision": revision})
    return Exit.OK


def _pairs(key: str | None, words: list[str]) -> list[tuple[str, str]]:
    """The keys and values that the command line means."""
    if key is None and words and "=" in words[0]:
        if not all("=" in word for word in words):
            raise CommandError("after KEY=VALUE, all have to be so (see --key)")
        pairs = [(name, value) for name, _, value in (word.partition("=") for word in words)]
        if len(dict(pairs)) != len(pairs):
            raise CommandError("a key is there twice")
        return pairs
    if key is not None:
        words = [key, *words]
    if len(words) != 2:
        raise CommandError("set takes KEY VALUE, or KEY=VALUE once or several times")
    return [(words[0], _read_stdin() if words[1] == "-" else words[1])]


def _read_stdin() -> str:
    data = sys.stdin.buffer.read(MAX_STDIN + 1)
    if len(data) > MAX_STDIN:
        raise InputError(f"stdin has more than {MAX_STDIN} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"stdin is no text in UTF-8: {error}") from None


async def _set_if(
    client: Client, options: argparse.Namespace, out: Output, key: str, value: str
) -> int:
    swap = await client.store.compare_and_set(key, options.if_revision, value)
    if out.json:
        out.document(swap._asdict())
    if not swap.changed:
        out.error(f"not set, because the key has revision {swap.revision} now")
        return Exit.LOST
    return Exit.OK


async def _set_while(
    client: Client, options: argparse.Namespace, out: Output, key: str, value: str
) -> int:
    """The key lives as long as the command."""
    await client.store.set(key, value, ttl=options.ttl, until_i_leave=True)
    return await program.run(options.program)


async def delete(client: Client, options: argparse.Namespace, out: Output) -> int:
    existed = {key: await client.store.delete(key) for key in options.keys}
    if out.json:
        out.document(existed)
    return _all_set(options, out, [key for key, did_exist in existed.items() if not did_exist])


async def clear(client: Client, options: argparse.Namespace, out: Output) -> int:
    if not options.yes and sys.stdin.isatty() and not options.no_interaction and not _confirmed():
        out.error("nothing was removed")
        return Exit.FAILED
    revision = await client.store.clear()
    if out.json:
        out.document({"revision": revision})
    return Exit.OK


def _confirmed() -> bool:
    print("Remove every key, those of other users too? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


async def mark(client: Client, options: argparse.Namespace, out: Output) -> int:
    if options.show and options.text:
        raise CommandError("--show takes no TEXT")
    text = await (client.store.last_mark() if options.show else client.store.mark(options.text))
    if out.json:
        out.document({"mark": text})
    elif text:
        out.prose(out.styled(text, "bold"))
    return Exit.OK
