"""aio-msgpack-rpc as a client: SOCKET and the calls in JSON; prints the answers in JSON."""

import asyncio
import json
import sys

import aio_msgpack_rpc
from aio_msgpack_rpc.error import RPCResponseError


def binary(value):
    return bytes.fromhex(value["$bin"]) if isinstance(value, dict) and "$bin" in value else value


def plain(value):
    return {"$bin": value.hex()} if isinstance(value, bytes) else value


async def main():
    client = aio_msgpack_rpc.Client(*await asyncio.open_unix_connection(sys.argv[1]))
    answers = []
    for method, *params in json.loads(sys.argv[2]):
        try:
            answers.append(plain(await client.call(method, *map(binary, params))))
        except RPCResponseError as error:
            answers.append({"error": str(error)})
    print(json.dumps(answers))
    client.close()


asyncio.run(main())
