import asyncio
import os
import shutil
import subprocess
import threading

import pytest
from appview.people import Viewed, queues_of

from buswork.appview.native import mqueue, namespaces
from buswork.appview.native.conversations import Conversations
from buswork.appview.native.namespaces import Traveller, namespace_of, own_namespace
from buswork.appview.wire import requests

NEW = ("unshare", "--ipc", "--pid", "--fork", "--mount-proc")


def can_unshare():
    found = shutil.which("unshare") and subprocess.run([*NEW, "true"], stderr=subprocess.DEVNULL)
    return bool(found) and found.returncode == 0


pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not can_unshare(), reason="needs root, for namespaces"),
]


@pytest.fixture
async def contained():
    """A process in a container: its PID and IPC namespaces are its own."""
    viewed = await Viewed.start(before=NEW)
    yield viewed
    await viewed.kill()


@pytest.fixture
def traveller():
    traveller = Traveller()
    yield traveller
    traveller.close()


async def test_a_process_in_a_container(contained):
    conversations = Conversations(seconds=20)
    with contained.held() as target:
        assert (target.own_pid, target.namespace == own_namespace()) == (1, False)
        async with conversations.speak(target, 0) as conversation:
            assert (await conversation.ask(requests.DETAILS))["pid"] == 1
            assert queues_of(1) == []  # they are there, not here
    conversations.close()


async def test_two_containers_do_not_meet(contained):
    """Both have a process 1, each with queues of its own."""
    other = await Viewed.start("--state", "latent", before=NEW)
    conversations = Conversations(seconds=20)

    async def viewed(process):
        with process.held() as target:
            async with conversations.speak(target, 0) as conversation:
                return (await conversation.ask(requests.STATUS))["viewed"]

    try:
        assert await asyncio.gather(viewed(contained), viewed(other)) == [True, False]
    finally:
        await other.kill()
        conversations.close()


async def test_there_and_back(traveller, contained):
    def look():
        return own_namespace(), threading.current_thread() is threading.main_thread()

    with contained.held() as target:
        found, is_main = await traveller.run(target.namespace_fd, look)
    assert (found, is_main) == (target.namespace, False)
    assert await traveller.run(os.open("/proc/self/ns/ipc", os.O_RDONLY), look) == (
        own_namespace(),
        False,
    )


async def test_what_fails_there_is_told_here(traveller, contained):
    def fail():
        raise FileNotFoundError(2, "nothing here")

    with contained.held() as target:
        with pytest.raises(FileNotFoundError):
            await traveller.run(target.namespace_fd, fail)
        assert await traveller.run(target.namespace_fd, own_namespace) == target.namespace


async def test_what_is_no_namespace(traveller):
    nothing = os.open(os.devnull, os.O_RDONLY)
    with pytest.raises(OSError, match="Invalid"):
        await traveller.run(nothing, own_namespace)
    os.close(nothing)


async def test_a_thread_that_is_lost_is_not_used_again(traveller, contained, monkeypatch):
    real = namespaces._enter
    entered = []

    def once(fd):
        entered.append(fd)
        if len(entered) == 2:  # on its way back
            raise OSError(1, "no way")
        real(fd)

    monkeypatch.setattr(namespaces, "_enter", once)
    with contained.held() as target:
        lost = []
        with pytest.raises(OSError, match="no way back"):
            await traveller.run(target.namespace_fd, lambda: lost.append(threading.get_ident()))
        again = await traveller.run(target.namespace_fd, threading.get_ident)
    assert again != lost[0]


async def test_a_namespace_that_vanishes(contained):
    """It lives as long as its descriptor, so the queues can be taken away."""
    conversations = Conversations(seconds=20)
    traveller = Traveller()
    with contained.held() as target:
        async with conversations.speak(target, 0):
            await contained.kill()

        def look():
            with pytest.raises(FileNotFoundError):
                mqueue.look("AppViewIPCIn.1")
            return True

        assert await traveller.run(target.namespace_fd, look)
    assert namespace_of(os.open("/proc/self/ns/ipc", os.O_RDONLY)) == own_namespace()
    traveller.close()
    conversations.close()
