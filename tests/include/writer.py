"""A daemon's shared memory without the daemon: `python writer.py KEYS SIZE SECONDS [RATE]`.

Passes one descriptor to its standard input, a socket, and then changes values as fast as it can,
or RATE times a second. Every eight bytes of a value are the same.
"""

import array
import asyncio
import itertools
import socket
import sys
import time

from buswork.store.model.limits import Limits
from buswork.store.model.store import Store
from buswork.store.native.memory import SharedMemory

UNLIMITED = Limits(bytes_per_uid=1 << 40, keys_per_uid=1 << 30, total_bytes=1 << 40)


def value(number: int, size: int) -> bytes:
    return b"%08d" % (number % 10**8) * (size // 8)


async def main(keys: int, size: int, seconds: float, rate: float = 0) -> None:
    store = Store(lambda: 0, UNLIMITED)
    names = [f"bench-{n}" for n in range(keys)]
    for number, name in enumerate(names):
        store.set(0, name, value(number, size))
    memory = SharedMemory(store, b"e" * 16, largest=1 << 28)
    fd = await memory.open_reader()
    with socket.socket(fileno=0) as link:
        rights = array.array("i", [fd])
        link.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        change_all(store, names, size, time.monotonic() + seconds, rate)


def change_all(store: Store, names: list[str], size: int, end: float, rate: float) -> None:
    start = time.monotonic()
    for number in itertools.count(1):
        store.set(0, names[number * 7919 % len(names)], value(number, size))
        if number % 64 == 0:
            now = time.monotonic()
            if now > end:
                return
            if rate and (ahead := number / rate - (now - start)) > 0:
                time.sleep(ahead)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), *map(float, sys.argv[3:])))
