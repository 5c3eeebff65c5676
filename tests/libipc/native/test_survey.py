"""What services there are."""

import asyncio
import os
import socket

import pytest
from libipc.native.town import ME, STRANGER, UID, until

from buswork.libipc.model.terms import Who
from buswork.libipc.native import survey as module
from buswork.libipc.native.survey import Survey
from buswork.libipc.wire.forms import Form

ROOT = Who(0)


async def found(town, who=ME):
    return {(each.form, each.name): each for each in await town.hub.services(who)}


async def test_all_directories_services_and_their_facts(town):
    town.service("pong", mode=0o755)
    town.service("pong", town.zig, mode=0o660)
    town.service("dead").close()
    await town.join("pong")
    await town.things[0].accept()
    known = await found(town)
    assert set(known) == {(Form.C, "pong"), (Form.ZIG, "pong"), (Form.C, "dead")}
    pong = known[Form.C, "pong"]
    assert pong == ("pong", Form.C, town.c.path, True, UID, 0o755, 1, False)
    assert not known[Form.C, "dead"].alive
    assert known[Form.ZIG, "pong"].mode == 0o660


async def test_only_sockets_with_names_of_services(town, tmp_path):
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "other"))
        os.symlink(tmp_path / "other", f"{town.c.path}/link")
    os.mkfifo(f"{town.c.path}/fifo")
    os.mknod(f"{town.c.path}/pong.lock")
    for name in (b"new\nline", b"esc\x1b[2J", b"\xff\xfe", "\u202egnp".encode()):
        with socket.socket(socket.AF_UNIX) as strange:
            strange.bind(town.c.path.encode() + b"/" + name)
    town.service("pong")
    assert list(await found(town)) == [(Form.C, "pong")]


async def test_who_may_not_list_a_directory_is_told_nothing_of_it(town):
    town.service("pong")
    town.service("zong", town.zig)
    os.chmod(town.c.path, 0o1773)
    assert list(await found(town, STRANGER)) == [(Form.ZIG, "zong")]
    assert len(await found(town, ROOT)) == 2


async def test_a_directory_that_is_not_there_or_not_safe_is_left_out(town):
    town.service("pong")
    os.rmdir(town.zig.path)
    assert list(await found(town)) == [(Form.C, "pong")]
    os.chmod(town.c.path, 0o777)
    assert not await found(town)


async def test_one_owner_does_not_fill_the_list(town, monkeypatch):
    monkeypatch.setattr(module, "MOST_OF_ONE_OWNER", 3)
    for number in range(5):
        town.service(str(number))
    assert len(await found(town)) == 3


async def test_nor_do_all_together(town, monkeypatch):
    monkeypatch.setattr(module, "MOST_SERVICES", 4)
    for number in range(5):
        town.service(str(number))
    assert len(await found(town)) == 4


async def test_nor_do_other_files_make_it_last(town, monkeypatch):
    monkeypatch.setattr(module, "MOST_FILES", 100)
    looked = []
    original = module._service
    monkeypatch.setattr(module, "_service", lambda entry: looked.append(original(entry)))
    for number in range(150):
        os.mknod(f"{town.c.path}/{number}")
    await found(town)
    assert len(looked) == 100


async def test_others_have_their_turn_meanwhile(town):
    for number in range(1000):
        os.mknod(f"{town.c.path}/{number}")
    turns = 0
    asking = asyncio.create_task(found(town))
    while not asking.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns > 1000 / module.TURN_FILES


async def test_those_who_ask_together_are_answered_together_and_not_too_early(town, monkeypatch):
    looks = []
    original = module.all_sockets

    async def all_sockets():
        looks.append(1)
        return await original()

    monkeypatch.setattr(module, "all_sockets", all_sockets)
    first = asyncio.create_task(found(town))
    await until(lambda: looks == [1])
    town.service("pong")  # whoever asks now must hear of it
    others = [asyncio.create_task(found(town)) for _ in range(50)]
    await first
    for other in others:
        assert (Form.C, "pong") in await other
    assert len(looks) == 2


async def test_each_answer_has_a_turn_of_its_own(town):
    """A long one takes milliseconds until it is on the bus."""
    turn, answered = 0, []

    async def ask():
        await found(town)
        answered.append(turn)

    asking = asyncio.gather(*(ask() for _ in range(5)))
    while not asking.done():
        turn += 1
        await asyncio.sleep(0)
    assert len(set(answered)) == 5


async def test_who_asks_all_the_time_leaves_others_time(town):
    look = Survey([town.c], UID, lambda directory, name: None)
    assert look._looks._most_rest == module.MOST_REST_SECONDS > 0


async def test_the_end(town):
    look = Survey([town.c], UID, lambda directory, name: None)
    asking = asyncio.create_task(look.services(ME))
    await asyncio.sleep(0)
    await look.stop()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_failure_is_not_kept(town, monkeypatch):
    async def all_sockets():
        raise RuntimeError("out of luck")

    look = Survey([town.c], UID, lambda directory, name: None)
    with monkeypatch.context() as broken:
        broken.setattr(module, "all_sockets", all_sockets)
        with pytest.raises(RuntimeError):
            await look.services(ME)
    assert await look.services(ME) == []
