"""Groups of users, and of who connected."""

import os
import pwd
import socket

import pytest

from buswork.libipc.native import groups as module
from buswork.libipc.native.groups import MAX_KEPT, groups_of, groups_of_peer

ME = pwd.getpwuid(os.geteuid())


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(module, "_kept", type(module._kept)())


async def test_of_a_user():
    assert await groups_of(ME.pw_uid) == frozenset(os.getgrouplist(ME.pw_name, ME.pw_gid))


async def test_of_one_without_a_name_there_are_none():
    assert await groups_of(54_321_987) == frozenset()


async def test_they_are_kept_for_a_while(monkeypatch):
    await groups_of(ME.pw_uid)
    monkeypatch.setattr(module, "_look_up", lambda uid: pytest.fail("asked again"))
    await groups_of(ME.pw_uid)


async def test_and_not_for_longer(monkeypatch):
    monkeypatch.setattr(module, "KEEP_SECONDS", -1.0)
    await groups_of(ME.pw_uid)
    monkeypatch.setattr(module, "_look_up", lambda uid: frozenset((7,)))
    assert await groups_of(ME.pw_uid) == {7}


async def test_not_of_everybody(monkeypatch):
    monkeypatch.setattr(module, "_look_up", lambda uid: frozenset())
    for uid in range(MAX_KEPT + 10):
        await groups_of(uid)
    assert len(module._kept) == MAX_KEPT


def test_of_a_peer():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert groups_of_peer(ours) == {os.getegid(), *os.getgroups()}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root chooses its groups")
@pytest.mark.parametrize("count", [0, 3, 1000])
def test_of_a_peer_with_so_many(count):
    before = os.getgroups()
    os.setgroups(range(2000, 2000 + count))
    try:
        ours, theirs = socket.socketpair()
    finally:
        os.setgroups(before)
    with ours, theirs:
        assert groups_of_peer(ours) == {os.getegid(), *range(2000, 2000 + count)}
