"""pynvim's session as a client: SOCKET and the calls in JSON; prints the answers in JSON."""

import json
import sys

from pynvim.msgpack_rpc import socket_session


def binary(value):
    return bytes.fromhex(value["$bin"]) if isinstance(value, dict) and "$bin" in value else value


def plain(value):
    return {"$bin": value.hex()} if isinstance(value, bytes) else value


session = socket_session(sys.argv[1])
answers = []
for method, *params in json.loads(sys.argv[2]):
    try:
        answers.append(plain(session.request(method, *map(binary, params))))
    except Exception as error:
        answers.append({"error": str(error)})
print(json.dumps(answers))
