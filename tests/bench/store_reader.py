"""Shared memory against Redis, and its writer against its readers. A part of store.py.

PYTHONPATH=src:tests python tests/bench/store_reader.py [--quick]
"""

import asyncio
import contextlib
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from buswork.client.reader import Reader
from buswork.store.model.limits import Limits
from buswork.store.model.store import Store
from buswork.store.native.memory import SharedMemory

ROOT = Path(__file__).parents[2]
KEYS = 1000
UNLIMITED = Limits(bytes_per_uid=1 << 40, keys_per_uid=1 << 30, total_bytes=1 << 40)
RATE = 10_000
RUNS = 3


@dataclass(frozen=True)
class Figure:
    what: str
    value: float
    unit: str
    goal: str = ""
    met: bool | None = None

    def __str__(self) -> str:
        said = "" if self.met is None else "  yes" if self.met else "  NO"
        return f"{self.what:58} {self.value:14,.2f} {self.unit:10} {self.goal:18}{said}"


def not_measured(what: str, missing: str, goal: str) -> Figure:
    """A goal that is not met as long as nobody knows."""
    return Figure(what, math.nan, f"(not measured: no {missing})", goal, False)


def build(folder: Path, name: str) -> Path:
    program = folder / name
    source = ROOT / f"tests/bench/c/{name}.c"
    include = f"-I{ROOT / 'src/include'}"
    command = ["gcc", "-O2", "-Wall", "-Wextra", include, source, "-o", program, "-pthread"]
    subprocess.run(command, check=True)
    return program


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[Path]:
    path = folder / "redis.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", str(path), "--save", ""]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=folder)
    try:
        while not path.exists():
            time.sleep(0.01)
        yield path
    finally:
        server.terminate()
        server.wait()


@contextlib.contextmanager
def one_cpu() -> Iterator[None]:
    """For whoever asks and waits: what is measured is the work, not the interrupts by which
    virtual processors wake each other, which cost a contender up to nine tenths of its rate."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cpus)


def value(number: int) -> bytes:
    return b"%08d" % (number % 10**8) * 2


async def filled() -> tuple[Store, SharedMemory, int]:
    store = Store(lambda: 0, UNLIMITED)
    for number in range(KEYS):
        store.set(0, f"bench-{number}", value(number))
    memory = SharedMemory(store, os.urandom(16))
    return store, memory, await memory.open_reader()


@dataclass(frozen=True)
class Reads:
    reads: int
    seconds: float
    torn: int
    again: int
    missing: int

    @property
    def per_second(self) -> float:
        return self.reads / self.seconds


def start_readers(program: Path, fd: int, threads: int, reads: int) -> "subprocess.Popen[str]":
    command = [str(program), str(fd), str(KEYS), str(threads), str(reads)]
    return subprocess.Popen(command, pass_fds=[fd], stdout=subprocess.PIPE, text=True)


def finish(process: "subprocess.Popen[str]") -> Reads:
    said = process.communicate()[0].split()
    reads, seconds, torn, again, missing = said
    return Reads(int(reads), float(seconds), int(torn), int(again), int(missing))


@dataclass(frozen=True)
class Writing:
    changes: int
    seconds: float
    cpu: float

    @property
    def cost_us(self) -> float:
        return self.cpu / self.changes * 1e6


def write(store: Store, going: Callable[[], bool]) -> Writing:
    """Changes values RATE times a second, a hundred at a time. Counts processor time, because what
    else runs on the machine takes time away from anybody."""
    keys = [f"bench-{number}" for number in range(KEYS)]
    random.Random(1).shuffle(keys)
    start, cpu, number = time.perf_counter(), 0.0, 0
    while going():
        before = time.thread_time()
        for _ in range(100):
            number += 1
            store.set(0, keys[number % KEYS], value(number))
        cpu += time.thread_time() - before
        ahead = number / RATE - (time.perf_counter() - start)
        if ahead > 0:
            time.sleep(ahead)
    return Writing(number, time.perf_counter() - start, cpu)


def writing_alone(store: Store, seconds: float) -> Writing:
    end = time.monotonic() + seconds
    return write(store, lambda: time.monotonic() < end)


def redis_in_c(program: Path, path: Path) -> float:
    """GETs per second, one in flight."""
    rates = []
    for _ in range(RUNS):
        command = [program, path, str(KEYS), "2"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        reads, seconds = map(float, done.stdout.split())
        rates.append(reads / seconds)
    return statistics.median(rates)


def in_python(get: Callable[[str], object], count: int) -> float:
    """Gets per second."""
    keys = [f"bench-{number}" for number in range(KEYS)] * (count // KEYS)
    start = time.perf_counter()
    for key in keys:
        get(key)
    return len(keys) / (time.perf_counter() - start)


def c_figures(folder: Path, quick: bool) -> Iterator[Figure]:
    reader, client = build(folder, "store_reader"), build(folder, "store_redis")
    _, memory, fd = asyncio.run(filled())
    rates = [finish(start_readers(reader, fd, 1, 20_000_000)).per_second for _ in range(RUNS)]
    rate = statistics.median(rates)
    os.close(fd)
    memory.close()
    yield Figure("C reader, 16 B, one thread", rate, "reads/s", ">= 3,000,000", rate >= 3e6)
    if shutil.which("redis-server") is None:
        yield not_measured("C reader to Redis", "redis-server", ">= 50")
        return
    with one_cpu(), redis_server(folder) as path:
        redis = redis_in_c(client, path)
    yield Figure("Redis GET, unix socket, one in flight, C client", redis, "reads/s")
    yield Figure("C reader to Redis", rate / redis, "times", ">= 50", rate / redis >= 50)


def contention_figures(folder: Path, quick: bool) -> Iterator[Figure]:
    reader = build(folder, "store_reader")
    reads = 10**7 if quick else 10**8
    store, memory, fd = asyncio.run(filled())
    _, other, other_fd = asyncio.run(filled())
    alone, apart, together = [], [], []
    for _ in range(RUNS):
        alone.append(writing_alone(store, 1.5))
        process = start_readers(reader, other_fd, 8, reads // RUNS)
        apart.append(write(store, lambda p=process: p.poll() is None))  # type: ignore[misc]
        finish(process)
        process = start_readers(reader, fd, 8, reads // RUNS + 8)
        together.append((write(store, lambda p=process: p.poll() is None), finish(process)))  # type: ignore[misc]
    for descriptor in (fd, other_fd):
        os.close(descriptor)
    memory.close()
    other.close()
    torn = sum(each.torn + each.missing for _, each in together)
    total = sum(each.reads for _, each in together)
    again = sum(each.again for _, each in together)
    costs = [statistics.median(each.cost_us for each in runs) for runs in (alone, apart)]
    cost = statistics.median(each.cost_us for each, _ in together)
    changes = sum(each.changes for each, _ in together)
    seconds = sum(each.seconds for each, _ in together)
    yield Figure("8 readers while the writer writes: reads", total, "")
    yield Figure("   changes per second meanwhile", changes / seconds, "changes/s")
    yield Figure("   torn or missing values", torn, "", "0", torn == 0)
    yield Figure("   given up (MAPIPC_AGAIN)", again, "")
    yield Figure("a set, nobody reads", costs[0], "us")
    yield Figure("a set, 8 threads read another memory", costs[1], "us")
    slowed = cost / costs[1]
    yield Figure("a set, 8 threads read this one", cost, "us")
    yield Figure("writer slowed by its readers", (slowed - 1) * 100, "%", "<= 10", slowed <= 1.1)


def python_figures(folder: Path, quick: bool) -> Iterator[Figure]:
    _, memory, fd = asyncio.run(filled())
    with Reader(fd) as reader:
        rates = [in_python(reader.get, 300_000) for _ in range(RUNS)]
    memory.close()
    rate = statistics.median(rates)
    yield Figure("Python reader, 16 B", rate, "reads/s")
    try:
        import redis
    except ImportError:
        yield not_measured("Python reader to redis-py", "redis-py", ">= 20")
        return
    if shutil.which("redis-server") is None:
        yield not_measured("Python reader to redis-py", "redis-server", ">= 20")
        return
    with one_cpu(), redis_server(folder) as path:
        redis_in_c(build(folder, "store_redis"), path)  # sets the keys
        with contextlib.closing(redis.Redis(unix_socket_path=str(path))) as client:
            others = [in_python(client.get, 30_000) for _ in range(RUNS)]
    other = statistics.median(others)
    yield Figure("redis-py GET, unix socket", other, "reads/s")
    yield Figure("Python reader to redis-py", rate / other, "times", ">= 20", rate / other >= 20)


def cost_figures(folder: Path, quick: bool) -> Iterator[Figure]:
    """What the memory adds to each set."""
    keys = [f"bench-{number}" for number in range(KEYS)]

    def sets(store: Store, runs: int = 100_000) -> float:
        start = time.thread_time()
        for number in range(runs):
            store.set(0, keys[number % KEYS], value(number + runs))
        return (time.thread_time() - start) / runs * 1e6

    store, memory, fd = asyncio.run(filled())
    os.close(fd)
    listeners = list(store.on_change)
    with_memory, without = [], []
    for _ in range(RUNS):
        store.on_change[:] = listeners
        with_memory.append(sets(store))
        store.on_change.clear()
        without.append(sets(store))
    added = statistics.median(with_memory) - statistics.median(without)
    store.on_change[:] = listeners
    memory.close()
    yield Figure("the memory adds to a set of 16 B", added, "us", "<= 3", added <= 3)


def figures(quick: bool = False) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="buswork-bench-") as name:
        for part in (cost_figures, c_figures, python_figures, contention_figures):
            yield from part(Path(name), quick)


if __name__ == "__main__":
    for figure in figures("--quick" in sys.argv[1:]):
        print(figure, flush=True)
