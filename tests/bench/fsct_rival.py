"""Other servers, with a method that answers as the driver does.

    python tests/bench/fsct_rival.py aio-msgpack-rpc|pynvim SOCKET

aio-msgpack-rpc listens at SOCKET and says READY; pynvim, which only answers whom it has called
itself, connects to it. Both serve until they are ended.
"""

import asyncio
import sys
from typing import Any

VERSION = {"major": 1, "minor": 0}


class Handler:
    def get_protocol_version(self) -> dict[str, int]:
        return VERSION


async def aio_msgpack_rpc(path: str) -> None:
    import aio_msgpack_rpc  # type: ignore[import-not-found]

    serve: Any = aio_msgpack_rpc.Server(Handler())
    server = await asyncio.start_unix_server(serve, path)
    print("READY", flush=True)
    await server.serve_forever()


def pynvim(path: str) -> None:
    from pynvim.msgpack_rpc import socket_session

    def answer(method: str, arguments: list[Any]) -> Any:
        return getattr(Handler, method)(None, *arguments)

    socket_session(path).run(answer, lambda method, arguments: None)


if __name__ == "__main__":
    if sys.argv[1] == "pynvim":
        pynvim(sys.argv[2])
    else:
        asyncio.run(aio_msgpack_rpc(sys.argv[2]))
