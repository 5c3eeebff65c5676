import concurrent.futures
import inspect
import os
import threading

import pytest

from buswork.client import Disconnected, RevisionGone, TimedOut, blocking, connection, daemon, store
from buswork.client.blocking import Client


def public(kind: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if name[0] != "_"}


def signature(kind: type, name: str) -> inspect.Signature:
    return inspect.signature(getattr(kind, name), eval_str=True)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(blocking.Store, store.Store), (blocking.Daemon, daemon.Daemon)]
)
def test_the_signatures_are_those_of_the_asyncio_client(ours, theirs):
    assert public(ours) == public(theirs)
    for name in public(ours) - {"watch"}:
        assert signature(ours, name) == signature(theirs, name), name
    if "watch" in public(ours):
        watch = signature(ours, "watch").replace(return_annotation=store.Watch)
        assert watch == signature(theirs, "watch")


@pytest.mark.parametrize(
    ("name", "only_asyncio"),
    [
        ("__init__", {"before_prompt"}),
        ("on_restart", set()),
        ("wait_running", {"not_by", "start"}),
    ],
)
def test_the_client_takes_the_same_arguments(name, only_asyncio):
    theirs = dict(signature(connection.Client, name).parameters)
    for left_out in only_asyncio:
        del theirs[left_out]
    assert dict(signature(blocking.Client, name).parameters) == theirs


def test_the_same_calls(shared_bus):
    with Client(shared_bus.address) as client:
        store = client.store
        revision = store.set("bl/a", "1", ttl=60)
        assert store.get("bl/a") == "1"
        assert store.lookup("bl/a").revision == revision == store.revision()
        assert store.set_many({"bl/b": "2"}) == revision + 1
        assert store.compare_and_set("bl/b", 0, "3").changed is False
        assert store.get_many(["bl/b"]) == {"bl/b": "2"}
        assert store.list("bl/") == ["bl/a", "bl/b"]
        assert store.describe("bl/a").size == 1
        assert store.mark("m") == store.last_mark() == "m"
        assert store.delete("bl/a")
        assert client.daemon.epoch() == client.daemon.facts().epoch
        assert client.daemon.list_clients() == []
        assert client.wait_running()
        assert store.clear() > 0


def test_from_many_threads(shared_bus):
    with Client(shared_bus.address) as client:

        def work(number: int) -> list[str]:
            keys = [f"thread/{number}/{n}" for n in range(50)]
            for key in keys:
                client.store.set(key, key)
            return [client.store.get(key) for key in keys]

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            for number, values in enumerate(pool.map(work, range(16))):
                assert values == [f"thread/{number}/{n}" for n in range(50)]


def test_nothing_is_left_behind(shared_bus):
    threads, descriptors = threading.active_count(), os.listdir("/proc/self/fd")
    for _ in range(20):
        with Client(shared_bus.address) as client:
            client.store.watch("left/").__enter__()
    with pytest.raises(Disconnected):
        Client("unix:path=/nowhere").open()
    assert threading.active_count() == threads
    assert os.listdir("/proc/self/fd") == descriptors


def test_watch(shared_bus):
    with Client(shared_bus.address) as client:
        with client.store.watch("bw/") as changes:
            with pytest.raises(TimedOut):
                changes.next(timeout=0.01)
            client.store.set("bw/1", "x")
            assert changes.next(timeout=10).key == "bw/1"
            client.store.set("bw/2", "x")
            assert next(changes).key == "bw/2"
        assert list(changes) == []


def test_hints(shared_bus):
    with Client(shared_bus.address) as client:
        arrived = threading.Event()
        end = client.store.on_changed(lambda hint: arrived.set())
        client.store.set("hint", "x")
        assert arrived.wait(10)
        end()


def test_closing_ends_what_waits_in_other_threads(shared_bus):
    client = Client(shared_bus.address)
    client.open()
    watch = client.store.watch("cl/")
    watch.__enter__()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, watch)
        client.close()
        with pytest.raises(Disconnected):
            waiting.result(10)
    with pytest.raises(Disconnected):
        client.store.get("key")
    watch.close()
    client.close()


def test_a_callback_can_not_wait_for_its_own_client(bus):
    with Client(bus.address) as client:
        outcome: concurrent.futures.Future[Exception] = concurrent.futures.Future()

        def restarted() -> None:
            try:
                client.store.get("key")
            except RuntimeError as error:
                outcome.set_result(error)

        client.on_restart(restarted)
        bus.kill_daemon()
        bus.start_daemon()
        assert "can't wait" in str(outcome.result(10))


def test_the_daemon_is_killed_while_a_watch_is_open(bus):
    with Client(bus.address) as client:
        with client.store.watch() as changes:
            client.store.set("a", "1")
            assert changes.next(timeout=10).value == "1"
            bus.kill_daemon()
            bus.start_daemon()
            with pytest.raises(RevisionGone):
                changes.next(timeout=10)
        assert client.store.get("a") == ""
