"""A D-Bus caller in a process of its own, so that it can have another uid than the tests.

`support.machine` starts it with one argument, the number of a socket; over that it takes requests
and gives answers, each a length and JSON, descriptors attached. Uses dbus-fast, which the daemon
does not, so that a fault in the daemon's own road is not answered by the same fault here.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import os
import socket
import struct
import sys
from typing import Any

LENGTH = struct.Struct("<II")  # bytes of JSON, number of descriptors
MAX_DESCRIPTORS = 64


def plain(value: Any) -> Any:
    """What JSON can't say: bytes become {"$b": hex}, variants {"$v": [signature, value]}."""
    if isinstance(value, bytes | bytearray):
        return {"$b": bytes(value).hex()}
    if isinstance(value, dict):
        return {"$d": [[plain(key), plain(item)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "signature") and hasattr(value, "value"):
        return {"$v": [value.signature, plain(value.value)]}
    return value


def rich(value: Any, variant: Any) -> Any:
    """The reverse of plain; `variant` makes a variant out of a signature and a value."""
    if isinstance(value, list):
        return [rich(item, variant) for item in value]
    if isinstance(value, dict):
        if "$b" in value:
            return bytes.fromhex(value["$b"])
        if "$v" in value:
            return variant(value["$v"][0], rich(value["$v"][1], variant))
        return {rich(key, variant): rich(item, variant) for key, item in value["$d"]}
    return value


def send(sock: socket.socket, what: dict[str, Any], descriptors: list[int]) -> None:
    body = json.dumps(what).encode()
    head = LENGTH.pack(len(body), len(descriptors))
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    sock.sendmsg([head], rights if descriptors else [])
    sock.sendall(body)


def receive(sock: socket.socket) -> tuple[dict[str, Any], list[int]]:
    head, descriptors, _, _ = socket.recv_fds(sock, LENGTH.size, MAX_DESCRIPTORS)
    while 0 < len(head) < LENGTH.size:
        more = sock.recv(LENGTH.size - len(head))
        if not more:
            break
        head += more
    if len(head) < LENGTH.size:
        raise EOFError("the other side is gone")
    size, _count = LENGTH.unpack(head)
    body = bytearray()
    while len(body) < size:
        piece = sock.recv(min(size - len(body), 1 << 20))
        if not piece:
            raise EOFError("the other side is gone")
        body += piece
    return json.loads(body), list(descriptors)


async def serve(sock: socket.socket) -> None:
    from dbus_fast import BusType, Message, MessageFlag, MessageType, Variant
    from dbus_fast.aio import MessageBus

    loop = asyncio.get_running_loop()
    bus = await MessageBus(bus_type=BusType.SYSTEM, negotiate_unix_fd=True).connect()

    def on_message(message: Message) -> None:
        if message.message_type is MessageType.SIGNAL:
            descriptors = list(message.unix_fds or [])
            send(sock, {"signal": describe(message)}, descriptors)
            for descriptor in descriptors:
                os.close(descriptor)

    def describe(message: Message) -> dict[str, Any]:
        return {
            "sender": message.sender,
            "destination": message.destination,
            "path": message.path,
            "interface": message.interface,
            "member": message.member,
            "error": message.error_name,
            "signature": message.signature,
            "body": plain(message.body),
        }

    bus.add_message_handler(on_message)

    async def call(number: int, message: Message) -> None:
        given = list(message.unix_fds or [])
        try:
            reply = await bus.call(message)
        except Exception as error:
            send(sock, {"answer": number, "broken": repr(error)}, [])
        else:
            descriptors = list(reply.unix_fds or [])
            send(sock, {"answer": number, **describe(reply)}, descriptors)
            given += descriptors
        for descriptor in given:
            os.close(descriptor)

    async def leave() -> None:
        with contextlib.suppress(Exception):
            await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
        os._exit(0)  # a thread still reads requests, and the harness sees the socket end

    send(sock, {"name": bus.unique_name}, [])
    tasks: set[asyncio.Task[None]] = {asyncio.create_task(leave())}
    while True:
        try:
            request, descriptors = await loop.run_in_executor(None, receive, sock)
        except (EOFError, ConnectionError):
            break
        message = Message(
            message_type=MessageType[request["type"]],
            flags=MessageFlag(request["flags"]),
            destination=request["destination"],
            path=request["path"],
            interface=request["interface"],
            member=request["member"],
            signature=request["signature"],
            body=rich(request["body"], Variant),
            unix_fds=descriptors,
        )
        no_reply = MessageFlag.NO_REPLY_EXPECTED in message.flags
        if message.message_type is MessageType.METHOD_CALL and not no_reply:
            task = asyncio.create_task(call(request["number"], message))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        else:
            await bus.send(message)
            for descriptor in descriptors:
                os.close(descriptor)
    bus.disconnect()


if __name__ == "__main__":
    asyncio.run(serve(socket.socket(fileno=int(sys.argv[1]))))
