"""buswork ipc bridge: two services, or stdin and stdout and a service, tied together."""

import argparse
import asyncio

from buswork.cli.exits import Exit
from buswork.cli.ipc_parser import STDIO
from buswork.cli.ipc_reach import Reach
from buswork.cli.ipc_stdio import FRAMINGS, Stdio
from buswork.cli.output import CommandError, Output
from buswork.cli.run import while_somebody_reads
from buswork.client import BusworkError, Client
from buswork.libipc import Connected, Connection, End, Event
from buswork.libipc.errors import named

SwitchEnd = Connection | End


async def bridge(client: Client, options: argparse.Namespace, out: Output) -> int:
    ends = [options.a, options.b]
    if ends.count(STDIO) == 2 or (options.serve and STDIO in ends):
        raise CommandError("- is one of the two, and not with --serve")
    async with Reach(client, options) as reach:
        if options.serve:
            await _serve(reach, options, out)
        elif STDIO in ends:
            ends.remove(STDIO)
            await _tie_stdio(await _connected(reach, *ends), options)
        else:
            first, second = [await _connected(reach, end) for end in ends]
            await _switch(first, first, second, typed=options.typed)
    return Exit.OK


async def _connected(reach: Reach, word: str) -> Connection:
    connection = await reach.connect(word, pull=False)
    connection.pause()  # what it says is for the other end alone
    return connection


async def _switch(of: Connection, first: SwitchEnd, second: SwitchEnd, *, typed: bool) -> None:
    of.context.on_event = lambda event: None
    switch = of.context.switch(first, second, typed=typed)
    error = (await switch.wait_closed()).error
    if error is not None:
        raise named(error)


async def _tie_stdio(connection: Connection, options: argparse.Namespace) -> None:
    framing = FRAMINGS[options.framing](connection.form, options.user_type)
    stdio = Stdio(
        framing,
        count=options.count,
        linger=options.linger,
        is_sent=lambda: connection.queued == (0, 0),
    )
    with while_somebody_reads():
        await _switch(connection, stdio, connection, typed=options.typed)


async def _serve(reach: Reach, options: argparse.Namespace, out: Output) -> None:
    """A connection to B for each client of A."""
    service = await reach.serve_directly(options.a)
    context = service.context

    async def tie(connection: Connection) -> None:
        try:
            target = await _connected(reach, options.b)
        except BusworkError as error:
            out.error(str(error), error.name)
            connection.close()
        else:
            context.switch(connection, target, typed=options.typed)

    def happened(event: Event) -> None:
        if isinstance(event, Connected):
            event.connection.pause()  # what it sends is for the other end alone
            tasks.create_task(tie(event.connection))

    async with asyncio.TaskGroup() as tasks:
        context.on_event = happened
        out.note(f"serving {service.name} (form {context.form})")
        await asyncio.get_running_loop().create_future()
