"""buswork.store.native.memory: the writer, seen through its reader, its seals and its clock."""

import asyncio
import ctypes
import errno
import fcntl
import mmap
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.steps import steps

from buswork.client.reader import Closed, Reader, Reopen, TooLarge
from buswork.store.model.limits import Limits
from buswork.store.model.store import Store
from buswork.store.native.generation import SEALS, Generation, Lost
from buswork.store.native.heap import CHUNK, ORDERS, SPARES, Heap
from buswork.store.native.memory import SharedMemory
from buswork.store.wire.memory import ELSEWHERE, FREED, MAX_PROBES, MIN_SIZE, tag_of
from buswork.store.wire.values import EMPTY, Json

EPOCH = bytes(range(16))
UNLIMITED = Limits(bytes_per_uid=1 << 40, keys_per_uid=1 << 30, total_bytes=1 << 40)


@pytest.fixture
def store() -> Store:
    return Store(lambda: 0, UNLIMITED)


class Rig:
    """A store, its memory, and a reader that is always of the present generation."""

    def __init__(self, store: Store, **sizes: int) -> None:
        self.store = store
        self.memory = SharedMemory(store, EPOCH, **sizes)

    async def open(self) -> "Rig":
        self.reader = Reader(await self.memory.open_reader())
        return self

    async def settle(self) -> None:
        """Until no work is left, and the reader is of the last generation."""
        while self.memory._work is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        self.reader.close()
        await self.open()

    def check(self, *, elsewhere: bool = False) -> int:
        """That reader and store say the same; returns how many values were elsewhere."""
        missed = 0
        for key, entry in self.store.entries():
            try:
                assert self.reader.lookup(key) == (entry.value, entry.revision), key
            except TooLarge:
                missed += 1
        assert elsewhere or not missed
        return missed


@pytest.fixture
def rig(store: Store) -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def make(**sizes: int) -> Rig:
        rigs.append(Rig(store, **sizes))
        return rigs[-1]

    yield make
    for made in rigs:
        if hasattr(made, "reader"):
            made.reader.close()
        made.memory.close()


SMALL = {"smallest": MIN_SIZE, "largest": MIN_SIZE}


# -- before the first reader ---------------------------------------------------------------------


async def test_nothing_is_there_before_a_reader_asks(store: Store) -> None:
    memory = SharedMemory(store, EPOCH)
    assert store.on_change == []
    assert memory.facts() == {}
    memory.close()


async def test_readers_that_ask_at_once_get_one_memory(store: Store) -> None:
    for n in range(5000):
        store.set(0, f"k{n}", b"v")
    memory = SharedMemory(store, EPOCH)
    fds = await asyncio.gather(*(memory.open_reader() for _ in range(10)))
    inodes = {os.fstat(fd).st_ino for fd in fds}
    assert (len(set(fds)), len(inodes)) == (10, 1)
    for fd in fds:
        os.close(fd)
    memory.close()


async def test_what_changes_while_it_is_built(store: Store, rig: Callable[..., Rig]) -> None:
    for n in range(20_000):
        store.set(0, f"k{n}", b"old")
    made = rig()
    building = asyncio.ensure_future(made.memory.open_reader())
    generator = random.Random(1)
    while not building.done():
        key = f"k{generator.randrange(25_000)}"
        if generator.random() < 0.3:
            store.delete(0, key)
        else:
            store.set(0, key, b"old" if generator.random() < 0.3 else b"%d" % store.revision)
        await asyncio.sleep(0)
    made.reader = Reader(building.result())
    made.check()
    assert made.reader.sequence == store.revision
    assert sum(1 for _ in made.reader.records()) == store.count


async def test_no_memory_to_be_had(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, "too many")

    memory = SharedMemory(store, EPOCH)
    with monkeypatch.context() as patched:
        patched.setattr(os, "memfd_create", refuse)
        with pytest.raises(OSError, match="no shared memory"):
            await memory.open_reader()
    os.close(await memory.open_reader())
    memory.close()


async def test_sizes_that_make_no_sense(store: Store) -> None:
    for epoch, sizes in ((b"short", {}), (EPOCH, {"smallest": 4096}), (EPOCH, {"largest": 4096})):
        with pytest.raises(ValueError, match="epoch"):
            SharedMemory(store, epoch, **sizes)


# -- changes --------------------------------------------------------------------------------------


async def test_every_kind_of_change(store: Store, rig: Callable[..., Rig]) -> None:
    made = await rig().open()
    reader = made.reader
    store.set(0, "k", b"one")
    assert reader.lookup("k") == (b"one", 1)
    store.set(0, "k", b"another, which is much longer than the first, and of another order")
    made.check()
    store.delete(0, "k")
    assert reader.get("k") is None
    store.set_many(0, {"a": b"1", "b": b"2"})
    made.check()
    store.clear()
    assert reader.get("a") is None
    assert reader.sequence == store.revision
    store.set(0, "a", b"3")
    made.check()


async def test_what_is_no_text(store: Store, rig: Callable[..., Rig]) -> None:
    made = await rig().open()
    store.set(0, "number", Json(b"5"))
    store.set(0, "empty", EMPTY)
    assert made.reader.get("number") == Json(b"5")
    assert made.reader.lookup("number") == (Json(b"5"), 1)
    assert made.reader.get("empty") == b""


async def test_private_keys_never_enter(store: Store, rig: Callable[..., Rig]) -> None:
    store.set(7, "~7/before", b"secret before")
    made = await rig().open()
    store.set(7, "~7/after", b"secret after")
    store.set(7, "~7", b"not private")
    store.delete(7, "~7/before")
    for key in ("~7/before", "~7/after"):
        with pytest.raises(TooLarge, match="private"):
            made.reader.get(key)
    assert made.reader.get("~7") == b"not private"
    assert made.reader.sequence == store.revision
    assert b"secret" not in made.reader._memory[:]


async def test_too_large_for_the_memory(store: Store, rig: Callable[..., Rig]) -> None:
    made = await rig().open()
    store.set(0, "k", b"x" * 4096)
    made.check()
    store.set(0, "k", b"x" * 4097)
    with pytest.raises(TooLarge):
        made.reader.get("k")
    store.set(0, "k", b"short")
    made.check()
    store.set(0, "k", b"x" * 4097)
    store.delete(0, "k")
    assert made.reader.get("k") is None


KEYS = st.sampled_from([f"k{n}" for n in range(30)])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), KEYS, st.integers(1, 5000)),
        st.tuples(st.just("delete"), KEYS, st.just(0)),
        st.tuples(st.just("clear"), st.just(""), st.just(0)),
        st.tuples(st.just("work"), st.just(""), st.just(0)),
    ),
    max_size=150,
)


@given(STEPS, st.sampled_from([MIN_SIZE, 4 * MIN_SIZE]))
@settings(max_examples=150, deadline=None)
def test_reader_and_store_agree_after_every_step(
    steps: list[tuple[str, str, int]], largest: int
) -> None:
    async def play() -> None:
        store = Store(lambda: 0, UNLIMITED)
        rig = await Rig(store, smallest=MIN_SIZE, largest=largest).open()
        for what, key, size in steps:
            if what == "set":
                store.set(0, key, b"%d" % store.revision * (size // 4) + b"x")
            elif what == "delete":
                store.delete(0, key)
            elif what == "clear":
                store.clear()
            else:
                await asyncio.sleep(0.0005)
            try:
                rig.check(elsewhere=True)
                for absent in range(30):
                    if store.describe(0, f"k{absent}") is None:
                        assert rig.reader.get(f"k{absent}") is None
            except Reopen:
                await rig.settle()
                rig.check(elsewhere=True)
        rig.reader.close()
        rig.memory.close()

    asyncio.run(play())


# -- growing --------------------------------------------------------------------------------------


async def test_growing_keeps_every_value(store: Store, rig: Callable[..., Rig]) -> None:
    made = await rig(smallest=MIN_SIZE, largest=64 * MIN_SIZE).open()
    generator = random.Random(2)
    moved = 0
    for n in range(20_000):
        store.set(0, f"k{n}", b"v" * generator.randrange(1, 60))
        store.set(0, f"k{generator.randrange(n + 1)}", b"%d" % n)
        if n % 7 == 0:
            store.delete(0, f"k{generator.randrange(n + 1)}")
        if n % 50 == 0:
            await asyncio.sleep(0)
            try:
                made.reader.get("k0")
            except Reopen:
                moved += 1
                await made.settle()
                made.check()
    await made.settle()
    made.check()
    assert moved >= 4
    assert made.memory.facts()["generation"] == moved + 1
    assert sum(1 for _ in made.reader.records()) == store.count


async def test_an_old_reader_is_told(store: Store, rig: Callable[..., Rig]) -> None:
    made = await rig(smallest=MIN_SIZE, largest=2 * MIN_SIZE).open()
    store.set(0, "k0", b"old")
    for n in range(1000):
        store.set(0, f"k{n}", b"new")
    while made.memory.facts()["generation"] == 1:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    with pytest.raises(Reopen):
        made.reader.get("k0")
    with pytest.raises(Reopen):
        made.reader.get("missing")


async def test_all_generations_together_are_less_than_twice_the_largest(
    store: Store, rig: Callable[..., Rig]
) -> None:
    made = await rig(smallest=MIN_SIZE, largest=32 * MIN_SIZE).open()
    sizes = {int(made.memory.facts()["generation"]): int(made.memory.facts()["size"])}
    for round_ in range(3):
        for n in range(20_000):
            store.set(0, f"k{n}", b"v" * (1 + 300 * round_))
            if n % 100 == 0:
                await asyncio.sleep(0)
                facts = made.memory.facts()
                sizes[int(facts["generation"])] = int(facts["size"])
        store.clear()
    assert max(sizes.values()) == 32 * MIN_SIZE
    assert sum(sizes.values()) < 2 * 32 * MIN_SIZE


async def test_a_full_memory_sends_readers_elsewhere(store: Store, rig: Callable[..., Rig]) -> None:
    made = await rig(**SMALL).open()
    for n in range(3000):
        store.set(0, f"k{n}", b"v")
    assert 0 < made.check(elsewhere=True) < 3000
    with pytest.raises(TooLarge):  # a key that is not set may be one that found no slot
        made.reader.get("missing")
    for n in range(3000):
        store.delete(0, f"k{n}")
    assert made.reader.get("missing") is None
    for n in range(300):
        store.set(0, f"k{n}", b"v")
    made.check()


async def test_keys_that_chose_one_slot_hurt_nobody_for_long(
    store: Store, rig: Callable[..., Rig]
) -> None:
    made = await rig(**SMALL).open()
    shift = made.reader.layout.shift
    same = [key for n in range(400_000) if tag_of((key := f"k{n}").encode()) >> shift == 5]
    assert len(same) > MAX_PROBES
    for key in same:
        store.set(0, key, b"v")
    assert made.check(elsewhere=True) == len(same) - MAX_PROBES
    for key in same:
        store.delete(0, key)
    assert set(made.memory._generation.slots) <= {0, FREED}
    assert made.reader.get("missing") is None


async def test_building_and_growing_never_hold_the_loop(
    store: Store, rig: Callable[..., Rig]
) -> None:
    for n in range(20_000):
        store.set(0, f"k{n}", b"%016d" % n)
    made = rig()
    work, turns = made.memory._work_on, list[int]()
    made.memory._work_on = lambda: turns.append(steps(work))  # type: ignore[method-assign]
    await made.open()
    # Of 20,000 keys a turn takes some.
    assert len(turns) > 5
    assert max(turns) < 50_000
    for n in range(20_000, 60_000):
        store.set(0, f"k{n}", b"%0100d" % n)
        if n % 20 == 0:
            await asyncio.sleep(0)
    await made.settle()
    assert int(made.memory.facts()["generation"]) >= 2
    assert max(turns) < 50_000


async def crowd_slot_of(made: Rig, key: str) -> list[str]:
    """Keys whose search begins where this one's does: as many as a search looks at, and more."""
    shift = made.reader.layout.shift
    slot = tag_of(key.encode()) >> shift
    return [other for n in range(400_000) if tag_of((other := f"k{n}").encode()) >> shift == slot]


@pytest.mark.parametrize("then", ["delete", "set"])
async def test_a_key_without_a_slot_takes_nobodys(
    store: Store, rig: Callable[..., Rig], then: str
) -> None:
    """Two keys with the same tag, both elsewhere: their words are the same."""
    made = await rig(**SMALL).open()
    first, second = "plumless", "buckeroo"
    assert tag_of(first.encode()) == tag_of(second.encode())
    store.set(0, first, b"x" * 5000)
    for key in (await crowd_slot_of(made, first))[: MAX_PROBES - 1]:
        store.set(0, key, b"v")
    store.set(0, second, b"x" * 5000)
    assert made.memory._slotless == {second}
    if then == "set":
        store.set(0, second, b"short")
    store.delete(0, second)
    with pytest.raises(TooLarge):
        made.reader.get(first)
    assert made.reader.get("missing") is None


def test_words_that_were_lost_are_found_once_for_each() -> None:
    lost = Lost()
    for word in (5, 5, 7):
        lost.add(word)
    assert (len(lost), 5 in lost, 6 in lost) == (3, True, False)
    assert [lost.take(5), lost.take(5), lost.take(5), lost.take(7)] == [True, True, False, True]
    assert (len(lost), 7 in lost) == (0, False)


@pytest.mark.parametrize("then", ["delete", "set", "retake"])
async def test_a_key_that_lost_its_slot_in_growing(
    store: Store, rig: Callable[..., Rig], then: str
) -> None:
    made = await rig(**SMALL).open()
    first, second = "plumless", "buckeroo"
    for key in (first, second):
        store.set(0, key, b"x" * 5000)
    memory = made.memory
    generation = memory._generation
    assert generation is not None
    word = tag_of(first.encode()) << 32 | ELSEWHERE
    generation.remove(word >> 32, word)  # there were no slots for both
    generation.lost.add(word)
    memory._count_outside(generation)
    assert made.check(elsewhere=True) == 2
    if then == "retake":
        memory._begin(memory._retake())
        await made.settle()
        assert made.check(elsewhere=True) == 2
    else:
        if then == "set":
            store.set(0, second, b"short")
            assert made.reader.get(second) == b"short"
        store.delete(0, second)
        with pytest.raises(TooLarge):
            made.reader.get(first)
    assert made.reader.get("missing") is None
    assert len(generation.lost) == 0


async def test_a_defect_while_it_is_built_keeps_nobody_waiting(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for n in range(100):
        store.set(0, f"k{n}", b"v")
    memory = SharedMemory(store, EPOCH)
    for broken in ("_measure", "_put_present"):
        with monkeypatch.context() as patched:
            patched.setattr(memory, broken, None)
            async with asyncio.timeout(5):
                with pytest.raises(OSError, match="no shared memory"):
                    await memory.open_reader()
        assert "given up" in caplog.text
        assert store.on_change == []
    with Reader(await memory.open_reader()) as reader:
        assert reader.get("k99") == b"v"
        assert reader.layout.generation == memory.facts()["generation"] == 2
    memory.close()


async def test_without_a_thread_it_is_closed_all_the_same(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    fds = len(os.listdir("/proc/self/fd"))
    memory = SharedMemory(store, EPOCH)
    os.close(await memory.open_reader())
    monkeypatch.setattr(threading.Thread, "start", refuse)
    memory.close()
    assert len(os.listdir("/proc/self/fd")) == fds


async def test_a_memory_that_could_not_grow_tries_again(
    store: Store, rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await rig(smallest=MIN_SIZE, largest=2 * MIN_SIZE).open()

    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, "too many")

    with monkeypatch.context() as patched:
        patched.setattr(os, "memfd_create", refuse)
        for n in range(900):
            store.set(0, f"k{n}", b"v")
            if n % 10 == 0:
                await asyncio.sleep(0)
        await made.settle()
    assert made.check(elsewhere=True) > 0
    made.memory._may_grow_at = 0.0  # ten seconds later
    store.set(0, "k0", b"w")
    await made.settle()
    assert made.memory.facts()["generation"] == 2
    made.check()


async def test_when_others_go_those_who_found_no_room_come_in(
    store: Store, rig: Callable[..., Rig]
) -> None:
    made = await rig(**SMALL).open()
    for n in range(900):
        store.set(0, f"k{n}", b"v")
    missed = made.check(elsewhere=True)
    assert missed > 100
    for n in range(500):
        store.delete(0, f"k{n}")
    await made.settle()
    made.check()


def status_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# -- descriptors ----------------------------------------------------------------------------------


def attacks(fd: int) -> dict[str, Callable[[], object]]:
    """What somebody may try who was given the descriptor."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(result: int) -> None:
        if result < 0:
            raise OSError(ctypes.get_errno(), "refused")

    def protect() -> None:
        mapped = mmap.mmap(fd, 4096, prot=mmap.PROT_READ)
        libc.mmap.restype = ctypes.c_void_p
        at = libc.mmap(None, 4096, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
        mapped.close()
        call(libc.mprotect(ctypes.c_void_p(at), 4096, mmap.PROT_READ | mmap.PROT_WRITE))

    def reopen() -> None:
        os.write(os.open(f"/proc/self/fd/{fd}", os.O_RDWR), b"x")

    keep_size, punch_hole = 1, 2
    size = os.fstat(fd).st_size
    return {
        "write": lambda: os.write(fd, b"x"),
        "pwrite": lambda: os.pwrite(fd, b"x", 4096),
        "map": lambda: mmap.mmap(fd, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE),
        "protect": protect,
        "shrink": lambda: os.ftruncate(fd, 0),
        "grow": lambda: os.ftruncate(fd, size * 2),
        "punch": lambda: call(
            libc.fallocate(fd, keep_size | punch_hole, ctypes.c_long(0), ctypes.c_long(size))
        ),
        "seal": lambda: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
        "reopen": reopen,
    }


@pytest.mark.attack(44)
async def test_nobody_can_write(store: Store, rig: Callable[..., Rig]) -> None:
    """Not even root, nor this very user: the seals are for everybody but the one mapping."""
    made = await rig().open()
    store.set(0, "k", b"v")
    fd = await made.memory.open_reader()
    sealed = made.memory._generation._fd
    for descriptor in (fd, sealed):
        for name, attack in attacks(descriptor).items():
            with pytest.raises(OSError):  # noqa: PT011 - which one is the kernel's choice
                print(name, attack())
    os.close(fd)
    made.check()


async def test_a_reader_is_open_for_reading_alone(store: Store, rig: Callable[..., Rig]) -> None:
    made = await rig().open()
    fd = await made.memory.open_reader()
    assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    assert not os.get_inheritable(fd)
    assert os.fstat(fd).st_mode & 0o777 == 0o400
    seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    assert seals & SEALS == SEALS
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.posix_fallocate(fd, 0, 4096)  # would make pages that count as the writer's
    os.close(fd)


@pytest.mark.attack(44)
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
async def test_another_user_can_do_nothing_either(store: Store, rig: Callable[..., Rig]) -> None:
    made = await rig().open()
    store.set(0, "k", b"v")
    fd = await made.memory.open_reader()
    child = os.fork()
    if child == 0:
        failed = 1
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            more = {
                "open": lambda: os.open(f"/proc/self/fd/{fd}", os.O_RDONLY),
                "mode": lambda: os.fchmod(fd, 0o666),
                "owner": lambda: os.fchown(fd, 65534, 65534),
            }
            failed = 0
            for attack in (attacks(fd) | more).values():
                try:
                    attack()
                    failed += 1
                except OSError:
                    pass
            failed += Reader(fd).get("k") != b"v"
        finally:
            os._exit(failed)
    os.close(fd)
    assert await asyncio.to_thread(status_of, child) == 0


async def test_without_proc(
    store: Store, rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await rig().open()

    def refuse(path: str, *_: object) -> int:
        raise FileNotFoundError(errno.ENOENT, "no /proc", path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        fd = await made.memory.open_reader()
    with pytest.raises(PermissionError):
        os.write(fd, b"x")
    store.set(0, "k", b"v")
    with Reader(fd) as reader:
        assert reader.get("k") == b"v"


async def test_facts(store: Store, rig: Callable[..., Rig]) -> None:
    made = await rig(**SMALL).open()
    assert made.memory.facts() == {
        "version": 1,
        "epoch": EPOCH.hex(),
        "generation": 1,
        "size": MIN_SIZE,
        "max_value_bytes": 4096,
        "max_key_bytes": 1024,
    }


# -- the end --------------------------------------------------------------------------------------


async def test_the_end_takes_the_values(store: Store) -> None:
    store.set(0, "k", b"v")
    memory = SharedMemory(store, EPOCH)
    reader = Reader(await memory.open_reader())
    assert reader.alive
    memory.close()
    with pytest.raises(Closed):
        reader.get("k")
    assert store.on_change == []
    assert list(reader.records()) == []
    while reader.alive:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    with pytest.raises(OSError, match="no shared memory"):
        await memory.open_reader()
    memory.close()
    store.set(0, "k", b"w")
    reader.close()


async def test_an_end_in_the_middle_of_building_and_growing(store: Store) -> None:
    for n in range(5000):
        store.set(0, f"k{n}", b"v")
    memory = SharedMemory(store, EPOCH, smallest=MIN_SIZE)
    waiting = asyncio.ensure_future(memory.open_reader())
    await asyncio.sleep(0)
    memory.close()
    with pytest.raises(OSError, match="no shared memory"):
        await waiting
    memory = SharedMemory(store, EPOCH, smallest=MIN_SIZE)
    os.close(await memory.open_reader())
    while memory._next is None:
        store.set(0, f"more{store.revision}", b"v" * 1000)
        await asyncio.sleep(0)
    memory.close()


async def test_a_killed_writer_leaves_whole_values(tmp_path: Path) -> None:
    """Wherever it was: each key has its old value or its new one, and no reader waits."""
    for round_ in range(10):
        ready, theirs = os.pipe()
        store = Store(lambda: 0, UNLIMITED)
        memory = SharedMemory(store, EPOCH)
        reader = Reader(await memory.open_reader())
        child = os.fork()
        if child == 0:
            number = 0
            while True:
                number += 1
                store.set(0, f"k{number % 50}", b"%08d" % number * (1 + number % 40))
                if number == 100:
                    os.write(theirs, b"x")
        os.close(theirs)
        os.read(ready, 1)
        os.close(ready)
        await asyncio.sleep(0.002 * round_)
        os.kill(child, 9)
        await asyncio.to_thread(status_of, child)
        for n in range(50):
            value = reader.get(f"k{n}")
            assert value is not None
            assert value == value[:8] * (len(value) // 8)
        assert len(list(reader.records())) == 50
        reader.close()
        memory.close()


# -- parts ----------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), st.integers(0, ORDERS - 1)), max_size=400))
@settings(deadline=None)
def test_places_never_overlap(steps: list[tuple[bool, int]]) -> None:
    heap = Heap(40 * CHUNK)
    held: list[int] = []
    used: set[int] = set()
    for take, order in steps:
        if take:
            place = heap.take(order)
            if place:
                blocks = set(range(place >> 3, (place >> 3) + (1 << order)))
                assert place & 7 == order
                assert not blocks & used
                assert min(blocks) > ELSEWHERE
                assert max(blocks) < heap.blocks
                used |= blocks
                held.append(place)
        elif held:
            place = held.pop(order % len(held))
            used -= set(range(place >> 3, (place >> 3) + (1 << (place & 7))))
            heap.rest(place)


def test_what_was_short_can_be_long_again() -> None:
    heap = Heap(10 * CHUNK)
    for order in (0, ORDERS - 1, 0):
        places = []
        while place := heap.take(order):
            places.append(place)
        assert len(places) == 9 * CHUNK >> order
        for place in places:
            heap.rest(place)


def test_in_a_full_heap_new_keys_leave_the_places_that_are_written_by_turns() -> None:
    heap = Heap(2 * CHUNK)
    while place := heap.take(0):
        last = place
    for _ in range(3):
        heap.rest(last)
    assert heap.take(0, 3) == 0
    assert len(heap.spares[0]) == 3
    assert heap.take(0, 2) == last
    assert heap.take(0) == last
    assert len(heap.spares[0]) == 1


def test_a_place_rests_before_it_is_used_again() -> None:
    """So that a reader that is slow still finds what it looked for."""
    store = Store(lambda: 0, UNLIMITED)

    async def play() -> list[int]:
        memory = SharedMemory(store, EPOCH)
        os.close(await memory.open_reader())
        places = []
        for n in range(100):
            store.set(0, "k", b"%d" % n)
            places.append(memory._place_of("k"))
        memory.close()
        return places

    places = asyncio.run(play())
    for at, place in enumerate(places):
        assert place not in places[at + 1 : at + 1 + SPARES]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=300))
@settings(deadline=None, max_examples=50)
def test_the_table_forgets_nothing(steps: list[tuple[bool, int]]) -> None:
    """Tags that crowd around the end of the table, and around its start."""
    generation = Generation(MIN_SIZE, EPOCH, 1)
    present: dict[int, int] = {}
    for insert, number in steps:
        tag = (0xFFFF_FFFF - number * 1000) if number % 2 else number * 1000
        if insert and tag not in present:
            present[tag] = tag << 32 | 2 + number
            assert generation.insert(tag, present[tag]) >= 0
        elif insert:
            was, present[tag] = present[tag], present[tag] ^ 64
            assert generation.replace(tag, was, present[tag]) >= 0
        elif tag in present:
            assert generation.remove(tag, present.pop(tag)) >= 0
        for known, word in present.items():
            assert generation._find(known, word) >= 0
    generation.close()


async def test_crowded_keys_while_it_grows(store: Store, rig: Callable[..., Rig]) -> None:
    """Keys that have no slot find one, lose it, and move, in every phase of growing."""
    made = await rig(smallest=MIN_SIZE, largest=4 * MIN_SIZE).open()
    shift = made.reader.layout.shift
    same = [key for n in range(900_000) if tag_of((key := f"k{n}").encode()) >> shift == 5]
    others = [f"other{n}" for n in range(1500)]
    generator = random.Random(3)
    for n in range(30_000):
        key = generator.choice(same) if n % 3 else others[n % len(others)]
        if generator.random() < 0.25:
            store.delete(0, key)
        else:
            store.set(0, key, b"%d" % n)
        if n % 20 == 0:
            await asyncio.sleep(0)
        if n % 500 == 0:
            try:
                made.check(elsewhere=True)
            except Reopen:
                made.reader.close()
                await made.open()
                made.check(elsewhere=True)
    await made.settle()
    made.check(elsewhere=True)
    for key, _ in list(store.entries()):
        store.delete(0, key)
    assert made.memory._slotless == set()
    assert set(made.memory._generation.slots) <= {0, FREED}
