"""What a key costs when there are a thousand, and when there are a million. A part of store.py.

    PYTHONPATH=src:tests python tests/bench/store_growth.py [--quick]

Time: busworkd on a private bus with its quotas lifted, a thousand keys a call of SetMany, values of
16 bytes; its processor time. Memory: what the store allocates, counted by tracemalloc in a process
of its own. The daemon's resident memory is shown beside it; a thousand keys find room in what is
free there already, and the shared memory is in it. The history is full before the first key counts,
so that what is measured is the keys.
"""

import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

from report import Goal, Result, Table
from store_reader import UNLIMITED
from store_sockets import daemon, private_bus

from buswork.client.blocking import Client
from buswork.store.model.limits import MAX_HISTORY_CHANGES
from buswork.store.model.store import Store
from buswork.store.wire.requests import READER_REQUEST

BATCH = 1000
SIZES = (10**3, 10**4, 10**5, 10**6)
DAEMONS = {10**3: 3, 10**4: 3}  # the others run long enough
LIFTED = [
    f"--limit=store.{name}={1 << 40}" for name in ("keys_per_uid", "bytes_per_uid", "total_bytes")
]
REWRITES = 50  # batches of random keys, at each size
MOST = 1.5


@dataclass(frozen=True)
class Cost:
    """Of a key, or of setting one, while there are so many."""

    resident_each: float
    add_us: float  # the daemon's processor time to add one
    set_us: float  # to set one of those that are there
    sets_per_second: float  # the same as the clock sees it, with the bus and this client


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _cpu(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def _ask_for_memory(place: Path) -> None:
    """From now on the daemon keeps the shared memory up to date."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(place))
        sock.send(READER_REQUEST)
        _, (memory,), _, _ = socket.recv_fds(sock, 4096, 1)
        os.close(memory)


def _batch(numbers: range | list[int], turn: int) -> dict[str, str]:
    return {f"key-{number}": f"{number:08d}{turn:08d}" for number in numbers}


def _fill_history(client: Client) -> None:
    """Changes of keys that are there already, and the buffers that they need."""
    for turn in range(MAX_HISTORY_CHANGES // BATCH + 5):
        client.store.set_many(
            {f"old-{number}": f"{number:08d}{turn:08d}" for number in range(BATCH)}
        )


def cost(size: int, *, with_reader: bool) -> Cost:
    """On a daemon of its own."""
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as name,
        private_bus(Path(name)) as address,
        daemon(Path(name), address, *LIFTED) as pid,
        Client(address) as client,
    ):
        if with_reader:
            _ask_for_memory(Path(name) / "mapipc_get")
        _fill_history(client)
        resident, cpu = _resident(pid), _cpu(pid)
        for start in range(0, size, BATCH):
            client.store.set_many(_batch(range(start, start + BATCH), 0))
        resident_each = (_resident(pid) - resident) / size
        add_us = (_cpu(pid) - cpu) / size * 1e6
        generator = random.Random(1)
        batches = [
            _batch(generator.sample(range(size), BATCH), turn) for turn in range(1, REWRITES + 1)
        ]
        cpu, begin = _cpu(pid), time.perf_counter()
        for batch in batches:
            client.store.set_many(batch)
        taken = time.perf_counter() - begin
        sets = REWRITES * BATCH
        set_us = (_cpu(pid) - cpu) / sets * 1e6
        return Cost(resident_each, add_us, set_us, sets / taken)


def _allocated(size: int) -> float:
    """Bytes a key, counted in a process of its own."""
    command = [sys.executable, __file__, "--allocated", str(size)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def _count_allocated(size: int) -> float:
    store = Store(lambda: 0, UNLIMITED)
    tracemalloc.start()
    for number in range(MAX_HISTORY_CHANGES + 1):
        store.set(0, f"old-{number % BATCH}", b"%016d" % number)
    before, _ = tracemalloc.get_traced_memory()
    for number in range(size):
        store.set(0, f"key-{number}", b"%016d" % number)
    return (tracemalloc.get_traced_memory()[0] - before) / size


def _median(costs: list[Cost]) -> Cost:
    columns = zip(*map(astuple, costs), strict=True)
    return Cost(*map(statistics.median, columns))


def growth(sizes: tuple[int, ...] = SIZES) -> Iterator[Result]:
    allocated = [_allocated(size) for size in sizes]
    ratio = allocated[-1] / allocated[0]
    told = f"{sizes[-1]:,} keys of 16 B to {sizes[0]:,}"
    rows = [[f"{size:,}", f"{each:.0f}"] for size, each in zip(sizes, allocated, strict=True)]
    yield Result(
        [Goal(f"memory per key, {told}", f"<= {MOST} x", f"{ratio:.2f} x", ratio <= MOST)],
        [Table("What the store allocates", ["keys", "bytes per key"], rows)],
    )
    for with_reader in (False, True):
        yield _times(sizes, told, with_reader)


def _times(sizes: tuple[int, ...], told: str, with_reader: bool) -> Result:
    costs = {
        size: _median([cost(size, with_reader=with_reader) for _ in range(DAEMONS.get(size, 1))])
        for size in sizes
    }
    slower = costs[sizes[-1]].set_us / costs[sizes[0]].set_us
    where = "in the shared memory too" if with_reader else "nobody has a reader"
    rows = []
    for size, c in costs.items():
        times = (f"{c.add_us:.1f}", f"{c.set_us:.1f}", f"{c.sets_per_second:,.0f}")
        rows.append([f"{size:,}", f"{c.resident_each:.0f}", *times])
    head = ["keys", "resident bytes per key", "us to add one", "us to set one again", "sets/s"]
    goal = Goal(
        f"time of a set, {told}, {where}", f"<= {MOST} x", f"{slower:.2f} x", slower <= MOST
    )
    return Result(
        [goal], [Table(f"SetMany over D-Bus, {BATCH:,} keys a call, {where}", head, rows)]
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--allocated"]:
        print(_count_allocated(int(sys.argv[2])))
        sys.exit()
    for result in growth(SIZES[:2] if "--quick" in sys.argv[1:] else SIZES):
        for goal in result.goals:
            print(f"{goal.figure}: {goal.measured} ({goal.goal}): {goal.verdict}", flush=True)
        for table in result.tables:
            print(table.title, table.head, *table.rows, sep="\n")
