import os
from dataclasses import replace

import pytest
from appview.people import Viewed

from buswork.appview.native import owning
from buswork.appview.native.owning import owner

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be several users"),
]
OTHER = 65534


@pytest.fixture
async def theirs():
    viewed = await Viewed.start("--uid", str(OTHER))
    yield viewed
    await viewed.kill()


async def test_a_users_own(theirs):
    assert owner(theirs.seen) == OTHER


async def test_roots_own():
    viewed = await Viewed.start()
    assert owner(viewed.seen) == 0
    await viewed.kill()


@pytest.mark.attack(46)
@pytest.mark.parametrize("number", range(4))
async def test_a_setuid_program_is_nobodys(theirs, number):
    uids = [OTHER] * 4
    uids[number] = 0
    assert owner(replace(theirs.seen, uids=tuple(uids))) is None


@pytest.mark.attack(46)
async def test_one_with_capabilities_is_nobodys(theirs):
    assert owner(replace(theirs.seen, has_capabilities=True)) is None


@pytest.mark.attack(46)
async def test_one_that_may_not_be_traced_is_nobodys():
    """As after a change of its uid."""
    viewed = await Viewed.start("--uid", str(OTHER), "--not-dumpable")
    assert owner(viewed.seen) is None
    await viewed.kill()


@pytest.mark.attack(46)
async def test_one_in_another_user_namespace_is_nobodys(theirs, monkeypatch):
    monkeypatch.setattr(owning, "_is_at_home", lambda pid: False)
    assert owner(theirs.seen) is None


async def test_one_that_has_gone_is_nobodys(theirs):
    seen = theirs.seen
    await theirs.kill()
    assert owner(seen) is None
