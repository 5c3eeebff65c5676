"""Tests of buswork.client.link, through the IpcDriver that has one."""

import asyncio

import pytest
from support.fakedriver import hurried

from buswork.client import Disconnected, TimedOut
from buswork.client import link as module
from buswork.client.fsct import DriverError, IpcDriver, Status
from buswork.fsct.wire import msgpackrpc

pytestmark = pytest.mark.usefixtures("short_pauses")


async def test_answers_find_their_question_in_whatever_order(server, driver):
    server.held.add("register_player")
    asking = [asyncio.create_task(driver.register_player(f"p{n}")) for n in range(10)]
    await server.asked("register_player", 10)
    server.release(backwards=True)
    handles = await asyncio.gather(*asking)
    assert [server.players[handle].self_id for handle in handles] == [f"p{n}" for n in range(10)]


async def test_requests_leave_in_their_order_and_no_more_at_once_than_the_driver_reads(
    server, driver
):
    server.held.add("register_player")
    asking = [asyncio.create_task(driver.register_player(f"p{n}")) for n in range(100)]
    await server.asked("register_player", module.MAX_IN_FLIGHT)
    await asyncio.sleep(0.01)
    assert len(server.calls("register_player")) == module.MAX_IN_FLIGHT
    server.release()
    await asyncio.gather(*asking)
    assert server.names() == [f"p{n}" for n in range(100)]


async def test_a_request_that_takes_too_long(server, driver):
    server.held.add("get_preferred_player")
    with (
        hurried(driver),
        pytest.raises(TimedOut, match="did not answer get_preferred_player"),
    ):
        await driver.get_preferred_player()
    server.release()  # too late, and it confuses nobody
    assert await driver.get_preferred_player() is None


async def test_a_player_that_nobody_waits_for_any_more_is_taken_back(server, driver):
    server.held.add("register_player")
    asking = asyncio.create_task(driver.register_player("radio"))
    await server.asked("register_player")
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    with hurried(driver), pytest.raises(TimedOut):
        await driver.register_player("radio")
    await server.asked("register_player", 2)
    server.release()
    await server.asked("unregister_player", 2)
    assert server.players == {}


@pytest.mark.parametrize("is_cancelled_first", [False, True])
async def test_a_player_that_comes_in_the_moment_of_the_cancellation_is_taken_back(
    server, driver, is_cancelled_first
):
    server.held.add("register_player")
    asking = asyncio.create_task(driver.register_player("radio"))
    await server.asked("register_player")
    link = driver._link
    answered = link._answered

    def cancel_too(response):
        if is_cancelled_first:
            asking.cancel()
        answered(response)
        if not is_cancelled_first:
            asking.cancel()

    link._answered = cancel_too
    server.release()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await server.asked("unregister_player")
    assert server.players == {}
    assert not driver._link._registering


@pytest.mark.parametrize("answer", ["refused", "nonsense"])
async def test_no_player_that_nobody_waits_for_needs_no_taking_back(server, driver, answer):
    server.held.add("register_player")
    asking = asyncio.create_task(driver.register_player("radio"))
    await server.asked("register_player")
    asking.cancel()
    if answer == "refused":
        server.refused["register_player"] = "Quota exceeded"
    else:
        server.raw = lambda request: msgpackrpc.encode_response(request.msgid, "one")
    server.release()
    server.raw = lambda request: None
    assert await driver.get_protocol_version() == (1, 0)
    assert server.calls("unregister_player") == []


async def test_a_player_of_a_driver_that_goes_in_the_moment_of_its_answer(server, driver):
    server.held.add("register_player")
    asking = asyncio.create_task(driver.register_player("radio"))
    await server.asked("register_player")
    link = driver._link
    answered = link._answered

    def end_too(response):
        answered(response)
        link.close()

    link._answered = end_too
    server.release()
    player = await asking
    await driver.update_player_status(player, Status.PLAYING)
    await server.until(lambda: server.by_name("radio").state.status is Status.PLAYING)


async def test_an_answer_that_comes_twice(server, driver):
    server.raw = lambda request: 2 * msgpackrpc.encode_response(request.msgid, 7)
    assert await driver.register_player("radio") == 7
    server.raw = lambda request: None
    assert await driver.get_protocol_version() == (1, 0)


async def test_an_answer_that_makes_no_sense(server, driver):
    server.raw = lambda request: msgpackrpc.encode_response(request.msgid, "one")
    with pytest.raises(DriverError, match="makes no sense"):
        await driver.register_player("radio")
    server.raw = lambda request: msgpackrpc._packed([1, request.msgid, {"half": b"\x80"}, None])
    with pytest.raises(DriverError, match="half"):
        await driver.register_player("radio")
    server.raw = lambda request: msgpackrpc.encode_error(request.msgid, "x" * 100_000)
    with pytest.raises(DriverError) as caught:
        await driver.register_player("radio")
    assert len(str(caught.value)) == module.MAX_ERROR_TEXT


async def test_messages_that_nobody_asked_for_are_passed_over(server, driver):
    server.write(
        msgpackrpc.encode_response(4711, 1)
        + b"\x93\x02\xa5hello\x90"
        + msgpackrpc.encode_request(1, "get_protocol_version", [])
        + b"\xc0\x01\x90"
    )
    assert await driver.get_protocol_version() == (1, 0)
    assert server.connections == 1


async def test_nonsense_ends_the_connection_and_the_next_one_is_as_good(server, driver, back):
    player = await driver.register_player("radio")
    server.write(b"\x94\x01\xc1")
    await back(driver, 2)
    await driver.update_player_status(player, Status.PLAYING)
    assert server.by_name("radio").state.status is Status.PLAYING


async def test_nonsense_right_behind_the_first_answer(server):
    version = {"major": 1, "minor": 0}
    server.raw = lambda request: (
        msgpackrpc.encode_response(request.msgid, version) + b"\x94\x01\xc1"
    )
    with pytest.raises(Disconnected):
        await IpcDriver(server.path).open()
