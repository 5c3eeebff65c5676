"""An echo service, and a client of one, by buswork's library.

python pong.py serve [NAME]         sends everything back
python pong.py send TEXT [NAME]     prints what comes back
"""

import asyncio
import sys

from buswork.libipc import QueueFull, Received, connect, serve

USER_TYPE = 42


async def serve_pong(name: str) -> None:
    async with serve(name) as service:
        print(f"serving {name}", flush=True)
        async for event in service:
            if not isinstance(event, Received):
                continue
            try:
                event.connection.send(event.message.payload, event.message.user_type)
            except QueueFull:  # it sends and sends, and reads nothing
                event.connection.close()


async def send(text: str, name: str) -> None:
    async with connect(name) as pong, asyncio.timeout(5):
        pong.send(text.encode(), USER_TYPE)
        print((await pong.receive()).payload.decode())


def main() -> None:
    match sys.argv[1:]:
        case ["serve", *names]:
            asyncio.run(serve_pong(*names or ["pong"]))
        case ["send", text, *names]:
            asyncio.run(send(text, *names or ["pong"]))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
