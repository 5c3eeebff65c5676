"""The hub: which service is meant, and what it connects to."""

import asyncio
import os
import socket

import pytest
from libipc.native.town import ME, STRANGER, until

from buswork.errors import InvalidArgs
from buswork.libipc.errors import NoSuchService, NotAllowed
from buswork.libipc.model.terms import RunDirectory
from buswork.libipc.native.hub import Hub
from buswork.libipc.wire.forms import Form


async def reaches(sock, service):
    with sock:
        sock.send(b"x")
        return (await service.accept()).sock.recv(1) == b"x"


async def test_a_name_that_is_in_one_place(town):
    c, zig = town.service("pong"), town.service("zong", town.zig)
    assert await reaches(await town.hub.connect(ME, "pong"), c)
    assert await reaches(await town.hub.connect(ME, "zong"), zig)


async def test_the_descriptor_is_one_to_hand_out(town):
    town.service("pong")
    with await town.hub.connect(ME, "pong") as sock:
        assert os.get_blocking(sock.fileno())
        assert not sock.get_inheritable()


async def test_a_name_that_is_in_two_places_has_to_be_told_apart(town):
    c, zig = town.service("pong"), town.service("pong", town.zig)
    with pytest.raises(InvalidArgs, match="say which"):
        await town.hub.connect(ME, "pong")
    assert await reaches(await town.hub.connect(ME, "pong", Form.C), c)
    assert await reaches(await town.hub.connect(ME, "pong", None, town.zig.path), zig)


async def test_a_directory_by_another_way_is_not_one_more(town, tmp_path):
    """There a service of ours, and the look-up too, would pass for somebody else's: attack 42."""
    (tmp_path / "link").symlink_to(town.c.path)
    alias = RunDirectory(Form.ZIG, str(tmp_path / "link"))
    hub = Hub([town.c, alias], town.authority, town.commons, tmp_path / "doors.sock")
    hub.make_lookups()
    with pytest.raises(InvalidArgs, match="no such run directory"):
        await hub.connect(STRANGER, "network", Form.ZIG)
    await hub.stop()


async def test_nobody_looks_around_after_the_end(town, tmp_path):
    hub = Hub([town.c], town.authority, town.commons, tmp_path / "doors.sock")
    asking = asyncio.create_task(hub.services(ME))
    await asyncio.sleep(0)
    await hub.stop()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_unless_only_one_of_them_lives(town):
    town.service("pong").close()
    zig = town.service("pong", town.zig)
    assert await reaches(await town.hub.connect(ME, "pong"), zig)


@pytest.mark.attack(22)
async def test_a_place_that_does_not_exist(town):
    for form, directory in ((Form.ZIG, town.c.path), (None, "/tmp")):
        with pytest.raises(InvalidArgs, match="there are"):
            await town.hub.connect(ME, "pong", form, directory)


@pytest.mark.parametrize("name", ["", "..", "a/b", "x\n", "\x1b"])
async def test_a_name_that_is_none(town, name):
    with pytest.raises(InvalidArgs):
        await town.hub.connect(ME, name)
    with pytest.raises(InvalidArgs):
        await town.hub.connect(ME, name, Form.C)


async def test_a_service_that_nobody_has(town):
    with pytest.raises(NoSuchService):
        await town.hub.connect(ME, "pong")


async def test_who_may_not_see_whether_there_is_one_is_told_that(town):
    os.chmod(town.c.path, 0o1770)
    with pytest.raises(NotAllowed):
        await town.hub.connect(STRANGER, "pong")


async def test_a_directory_that_is_not_used_is_no_reason(town):
    os.chmod(town.zig.path, 0o777)
    with pytest.raises(NoSuchService):
        await town.hub.connect(ME, "pong")
    with pytest.raises(NotAllowed, match="sticky"):
        await town.hub.connect(ME, "pong", Form.ZIG)


async def test_42_nobody_is_brought_to_the_look_ups(town):
    """Which would take him for the daemon."""
    town.hub.make_lookups()
    for form, name in ((Form.C, "network"), (Form.ZIG, "ipc")):
        with pytest.raises(NotAllowed):
            await town.hub.connect(ME, name, form)
        with pytest.raises(NotAllowed):
            await town.hub.open_channel(ME, name, form, None, print, print)


async def test_where_somebody_else_answers_look_ups_it_is_a_service_like_others(town):
    service = town.service("network")
    assert await reaches(await town.hub.connect(ME, "network"), service)


async def test_what_changes_is_told(town):
    told = []
    town.hub.on_services_changed.append(lambda: told.append(1))
    town.service("pong")
    await until(lambda: told)


async def test_what_is_served_is_heard_of_too(town):
    told = []
    town.hub.on_services_changed.append(lambda: told.append(1))
    await town.hub.serve(ME, "pong", None, None, "all", None)
    await until(lambda: told)


async def test_a_channel_to_what_is_no_stream(town):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as wrong:
        wrong.bind(f"{town.c.path}/pong")
        wrong.listen()
        with pytest.raises(NoSuchService):
            await town.hub.open_channel(ME, "pong", None, None, print, print)
