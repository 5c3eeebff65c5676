"""The echo service that is measured: python libipc_service.py DIRECTORY FORM NAME

READY on stdout when it serves; ends with its stdin.
"""

import asyncio
import sys
from pathlib import Path

from buswork.libipc import Event, Form, Received, RunDir, serve


def echo(event: Event) -> None:
    if isinstance(event, Received):
        event.connection.send(*event.message)


async def main(directory: str, form: str, name: str) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, ended.set)
    rundir = RunDir(Path(directory), Form(form))
    async with serve(name, rundir=rundir, mode=0o777, on_event=echo):
        print("READY", flush=True)
        await ended.wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
