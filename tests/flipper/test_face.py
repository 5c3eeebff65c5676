"""Tests of buswork.flipper.face, on a scripted bus."""

import os
import socket

import pytest
from flipper.world import MANAGER, World
from support.fakebus import FakeBus, FakePolkit
from support.toyface import ALICE, ALICE_UID, BOB, BOB_UID, Stack

from buswork.bus.caller import Call as BusCall
from buswork.bus.caller import Peer
from buswork.bus.contract import load
from buswork.bus.library import variant
from buswork.flipper.face import DEVICE, HUB, PIECE_BYTES, WATCHED_BYTES, board_path
from buswork.flipper.holders import ROOT
from buswork.flipper.model.calls import MAX_TRANSFER_BYTES, invoke
from buswork.flipper.wire.exchanges import Answer
from buswork.flipper.wire.images import encode_image
from buswork.flipper.wire.packets import Argument, Call, Pull
from buswork.flipper.wire.plans import hold_s4
from buswork.flipper.wire.results import Result
from buswork.flipper.wire.terms import BadAnswer, Type

ASKED = BusCall(BOB, 0, 0, "/")
USE = "org.flipper.device.use"
ODD = {
    "Load": "org.flipper.device.load",
    "ClaimForService": "org.flipper.device.load",
    "Bind": "org.flipper.device.load",
    "Reset": "org.flipper.device.reset",
    "Attach": "org.flipper.device.attach",
    "Detach": "org.flipper.device.attach",
}


@pytest.fixture
async def world():
    async with FakeBus() as bus:
        polkit = FakePolkit(bus)
        yield World(bus, polkit, await Stack.make(bus))


@pytest.fixture
async def carbon(world):
    return world.plug()


@pytest.fixture
async def far(world):
    return world.reach()


# -- the contract --------------------------------------------------------------------------------


@pytest.mark.attack(18)
def test_what_lasts_or_disturbs_has_a_right_of_its_own():
    for interface in (HUB, DEVICE):
        for name, method in load(interface).methods.items():
            assert method.guard.action == ODD.get(name, USE), name
        for property_ in load(interface).properties.values():
            assert property_.read.is_open or property_.read.action == "org.flipper.device.observe"


async def test_who_may_not_is_told_so(world, carbon):
    world.allow("observe")
    name, text = await world.refused(ALICE, carbon, "Invoke", "ssav", "button", "read", [])
    assert name == "AccessDenied"
    assert USE in text
    world.allow("use")
    name, text = await world.refused(ALICE, carbon, "Reset")
    assert (name, carbon.exchanges) == ("AccessDenied", [])
    assert await world.get_all(ALICE, ROOT, HUB) == {
        "MaxBoards": 4,
        "MaxImageBytes": 32768,
        "MaxTransferBytes": MAX_TRANSFER_BYTES,
    }


# -- objects -------------------------------------------------------------------------------------


async def test_boards_are_objects_and_one_is_current(world):
    async def current():
        return (await world.get_all(ALICE, ROOT, HUB))["Current"]

    assert await current() == "/"
    bench = world.plug("1-3", "bench")
    assert board_path(bench.board) == f"{ROOT}/devices/bench"
    other = world.plug("1-2.3")
    path = f"{ROOT}/devices/carbon_2d1_2d2_2e3"
    assert board_path(other.board) == path == await current()
    assert (ROOT, {}, ["Current"]) in await world.news()
    objects = world.value(await world.hub(ALICE, "GetManagedObjects", interface=MANAGER))
    assert set(objects) == {board_path(bench.board), path}
    world.boards.detach("usb:1-2.3")
    assert await current() == f"{ROOT}/devices/bench"
    (gone,) = world.bus.signals("InterfacesRemoved")
    assert gone.values == [path, [DEVICE]]
    assert (await world.refused(ALICE, other, "Reset"))[0] == "UnknownObject"


async def test_properties(world):
    world.boards.attach("usb:1-2")
    world.boards.detach("usb:1-2")
    found = await world.properties(ALICE, world.plug("1-2"))
    assert found.pop("Modules")["led"] == ["configure()", "rgb(red, green, blue)"]
    assert found == {
        "Name": "carbon-1-2",
        "Transport": "usb",
        "Place": "1-2",
        "Generation": 1,
        "State": "ready",
        "LastError": "",
        "Incarnation": 2,
        "ClaimReason": "",
        "Holders": [],
    }
    found = await world.properties(ALICE, world.reach("host:4000"))
    assert (found["Name"], found["Transport"]) == ("carbon-host:4000", "udp")
    assert found["Place"] == "host:4000"


async def test_changes_are_told_without_values(world, carbon):
    await world.news()
    path = board_path(carbon.board)
    carbon.board.line_opened()
    assert await world.news() == [(path, {}, ["State"])]
    carbon.board.line_closed("a\0b")
    assert await world.news() == [(path, {}, ["State", "LastError"])]
    found = await world.properties(ALICE, carbon)
    assert (found["State"], found["LastError"]) == ("failed", "a?b")
    await world.call(ALICE, carbon, "Claim", "su", "alone", 5)
    assert (path, {}, ["ClaimReason"]) in await world.news()
    assert (await world.properties(BOB, carbon))["ClaimReason"] == "alone"


async def test_who_uses_a_board(world, far):
    far.hold()
    world.begin(ALICE, far, "Invoke", "ssav", "button", "read", [])
    world.begin(ALICE, far, "Invoke", "ssav", "button", "read", [])
    await world.call(BOB, far, "Subscribe", "su", "gpio:16", 1000)
    assert (await world.properties(ALICE, far))["Holders"] == [
        (ALICE, ALICE_UID, "2 calls"),
        (BOB, BOB_UID, "gpio:0x10"),
    ]
    far.release()
    await world.call(BOB, far, "Claim", "su", "mine", 5)
    assert (await world.properties(ALICE, far))["Holders"] == [
        (BOB, BOB_UID, "alone: mine, gpio:0x10")
    ]


async def test_native_peers_are_known_by_their_process(world, far):
    far.hold()
    peer = Peer(ALICE_UID, 4711, -1)
    far.board.turns.ask(peer, peer.uid, invoke(far.board, "button", "read", ()), lambda *_: None)
    assert (await world.properties(ALICE, far))["Holders"] == [("pid:4711", ALICE_UID, "1 calls")]


async def test_boards_on_the_network_come_and_go(world, carbon):
    assert world.error(await world.hub(ALICE, "Attach", "s", "host"))[0] == "AccessDenied"
    world.allow("attach", "observe")
    path = world.value(await world.hub(ALICE, "Attach", "s", "host"))
    assert path == f"{ROOT}/devices/carbon_2dhost"
    assert (await world.get_all(ALICE, ROOT, HUB))["Current"] == path
    world.value(await world.hub(ALICE, "Detach", "o", path))
    assert list(world.boards.boards) == ["carbon-1-2"]
    assert world.error(await world.hub(ALICE, "Detach", "o", path))[0] == "NoSuchBoard"


# -- calls ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("signature", "ynqiuxt")
async def test_numbers_of_any_width(world, carbon, signature):
    values = [variant(signature, number) for number in (0, 64, 127)]
    assert await world.call(ALICE, carbon, "Invoke", "ssav", "led", "rgb", values) == variant(
        "s", ""
    )
    (request,) = carbon.requests
    assert request.arguments == tuple(Argument(Type.UINT8, number) for number in (0, 64, 127))


@pytest.mark.parametrize(
    ("call", "value", "signature", "number"),
    [
        (("button", "read", []), 0xFF01, "y", 1),
        (("gpio", "read", [variant("u", 1 << 31)]), 1 << 31, "u", 1 << 31),
        (("led", "configure", []), 0xFFFFFFFF, "i", -1),
    ],
)
async def test_results_are_typed_as_the_prototype_says(world, far, call, value, signature, number):
    far.result = Result(value)
    found = await world.call(ALICE, far, "Invoke", "ssav", *call)
    assert (found.signature, found.value) == (signature, number)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (("nothing", "read", []), "nothing"),
        (("led", "nothing", []), "nothing"),
        (("led", "rgb", [variant("y", 0)]), "takes"),
        (("led", "rgb", [variant("u", 256), variant("y", 0), variant("y", 0)]), "red"),
        (("led", "rgb", [variant("n", -1), variant("y", 0), variant("y", 0)]), "red"),
        (("led", "rgb", [variant("b", True), variant("y", 0), variant("y", 0)]), "red"),
        (("led", "rgb", [variant("d", 1.0), variant("y", 0), variant("y", 0)]), "red"),
        (("led", "rgb", [variant("s", "1"), variant("y", 0), variant("y", 0)]), "red"),
        (("usart", "push", []), "transfers data"),
        (("xx.led", "rgb", []), "xx"),
    ],
)
async def test_the_board_never_sees_a_bad_call(world, carbon, call, field):
    name, text = await world.refused(ALICE, carbon, "Invoke", "ssav", *call)
    assert name == "InvalidArgs"
    assert field in text
    assert not carbon.exchanges


async def test_what_the_board_refuses_has_the_boards_name(world, far):
    far.result = Result(0, 18)
    name, text = await world.refused(ALICE, far, "Invoke", "ssav", "button", "read", [])
    assert name == "Checksum"
    assert "E_CHECKSUM (error 18)" in text
    far.error = BadAnswer("what is this")
    name, text = await world.refused(ALICE, far, "Invoke", "ssav", "button", "read", [])
    assert (name, text) == ("BadAnswer", "what is this")


async def test_calls_end_with_the_board_at_once(world, carbon):
    carbon.hold()
    call = world.begin(ALICE, carbon, "Invoke", "ssav", "button", "read", [])
    await world.until(lambda: carbon.board.turns.has_work)
    world.boards.detach("usb:1-2")
    name, text = world.error(await world.bus.answer_to(call))
    assert (name, text) == ("Disconnected", "carbon-1-2 was unplugged.")


async def test_what_disturbs_others_needs_a_claim(world, carbon):
    call = ("Invoke", "ssav", "u2.gpio", "read", [variant("u", 1)])
    assert (await world.call(ALICE, carbon, *call)).value == 0
    call = ("Invoke", "ssav", "u2.gpio", "write", [variant("u", 1), variant("u", 0)])
    assert (await world.refused(ALICE, carbon, *call))[0] == "NotClaimed"
    token = await world.call(ALICE, carbon, "Claim", "su", "mine", 5)
    assert (await world.refused(ALICE, carbon, *call))[0] == "NotClaimed"
    await world.call(ALICE, carbon, "Release", "s", token)
    world.allow("use", "load")
    await world.call(ALICE, carbon, "ClaimForService", "su", "mine", 5)
    await world.call(ALICE, carbon, *call)


async def test_reset(world, carbon, far):
    def nothing_to_pull(exchange):
        return Answer(Result(0, 31 if isinstance(exchange.request, Pull) else 0))

    world.allow("reset")
    carbon.answer = nothing_to_pull
    await world.call(ALICE, carbon, "Reset")
    assert carbon.exchanges[0] == hold_s4()
    assert (await world.refused(ALICE, far, "Reset"))[0] == "InvalidArgs"


# -- user modules --------------------------------------------------------------------------------


async def test_user_modules(world, far):
    world.allow("load", "use")
    far.result = Result(3)
    assert await world.call(ALICE, far, "Bind", "say", "mine", b"") == 3
    far.result = Result(0xFFFFFFFE)
    values = [variant("y", 5), variant("i", -1), variant("t", 1 << 40)]
    assert await world.call(ALICE, far, "InvokeUser", "uuav", 3, 7, values) == -2
    assert far.requests[-1] == Call(
        3,
        7,
        Type.INT,
        (
            Argument(Type.UINT32, 5),
            Argument(Type.INT, -1),
            Argument(Type.UINT64, 1 << 40),
        ),
        user=True,
    )
    assert (await world.refused(ALICE, far, "Load", "ay", b"x"))[0] == "InvalidArgs"


async def test_what_a_carbon_does_not_take(world, carbon):
    world.allow("load", "use")
    name, text = await world.refused(ALICE, carbon, "Load", "ay", b"x")
    assert name == "InvalidArgs"
    assert "no image" in text
    image = encode_image("theirs", bytes(64), [0])
    name, text = await world.refused(ALICE, carbon, "Bind", "say", "mine", image)
    assert (name, carbon.exchanges) == ("InvalidArgs", [])
    name, text = await world.refused(ALICE, carbon, "InvokeUser", "uuav", 1, 0, [])
    assert (name, carbon.exchanges) == ("InvalidArgs", [])


# -- data ----------------------------------------------------------------------------------------


async def test_push_and_pull(world, far):
    assert await world.call(ALICE, far, "Push", "ssay", "usart", "push", bytes(2000)) == 2000
    assert [len(exchange.data) for exchange in far.exchanges] == [1024, 976]
    assert await world.call(ALICE, far, "Pull", "ssu", "usart", "pull", 2000) == bytes(2000)
    assert [request.length for request in far.requests[2:]] == [1024, 976]
    assert world.held() == []


@pytest.mark.parametrize("member", ["Push", "Pull"])
async def test_nobody_transfers_without_end(world, far, member):
    if member == "Push":
        call = ("Push", "ssay", "usart", "push", bytes(MAX_TRANSFER_BYTES + 1))
    else:
        call = ("Pull", "ssu", "usart", "pull", 2**32 - 1)
    name, text = await world.refused(ALICE, far, *call)
    assert (name, far.exchanges) == ("InvalidArgs", [])
    assert str(MAX_TRANSFER_BYTES) in text


async def test_a_transfer_that_fails_says_how_far_it_came(world, far):
    far.hold()
    call = world.begin(ALICE, far, "Push", "ssay", "usart", "push", bytes(2000))
    await world.until(lambda: far.board.turns.has_work)
    far.run(1)
    far.result = Result(0, 31)
    far.release()
    name, text = world.error(await world.bus.answer_to(call))
    assert name == "Uart0PullTimeout"
    assert "1024 of 2000 bytes" in text


async def test_a_long_transfer_is_not_overtaken_by_what_its_caller_asks_for_later(world, far):
    long = world.begin(ALICE, far, "Push", "ssay", "usart", "push", b"a" * (WATCHED_BYTES + 1))
    short = world.begin(ALICE, far, "Push", "ssay", "usart", "push", b"b")
    assert world.value(await world.bus.answer_to(long)) == WATCHED_BYTES + 1
    assert world.value(await world.bus.answer_to(short)) == 1
    sent = b"".join(exchange.data for exchange in far.exchanges)
    assert sent == b"a" * (WATCHED_BYTES + 1) + b"b"


async def test_a_long_transfer_ends_with_its_caller(world, far):
    far.hold()
    world.begin(ALICE, far, "Push", "ssay", "usart", "push", bytes(WATCHED_BYTES * 100))
    await world.until(lambda: far.board.turns.has_work)
    short = world.begin(BOB, far, "Push", "ssay", "usart", "push", bytes(WATCHED_BYTES))
    await world.until(lambda: len(far.board.turns.waiting()) == 2)
    assert [(what, client) for _, what, client in world.held()] == [
        ("a push to carbon-10.0.0.1", ALICE)
    ]
    far.run(1)
    await world.leave(ALICE)
    assert world.held() == []
    far.release()
    assert world.value(await world.bus.answer_to(short)) == WATCHED_BYTES
    assert len(far.exchanges) == 2
    assert not any(ALICE in rule for rule in world.bus.matches)


async def test_a_long_transfer_can_be_ended_by_force(world, far):
    far.hold()
    call = world.begin(ALICE, far, "Pull", "ssu", "usart", "pull", 100_000)
    await world.until(world.held)
    ((path, _, _),) = world.held()
    world.holdings.force(path, ASKED)
    name, text = world.error(await world.bus.answer_to(call))
    assert (name, text) == ("TransferFailed", "This transfer was ended by force.")
    far.release()
    assert not far.exchanges


async def test_transfers_have_so_much_room(world, far):
    far.hold()
    for _ in range(2):
        world.begin(ALICE, far, "Pull", "ssu", "usart", "pull", MAX_TRANSFER_BYTES)
    await world.until(lambda: len(world.held()) == 2)
    name, _ = await world.refused(ALICE, far, "Pull", "ssu", "usart", "pull", MAX_TRANSFER_BYTES)
    assert name == "LimitsExceeded"
    await world.leave(ALICE)
    world.bus.uids[ALICE] = ALICE_UID
    for _ in range(2):
        world.begin(ALICE, far, "Pull", "ssu", "usart", "pull", MAX_TRANSFER_BYTES)
    await world.until(lambda: len(world.held()) == 2)


# -- descriptors ---------------------------------------------------------------------------------


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as reader, open(writer, "wb", buffering=0) as writer:
        yield reader, writer


async def test_what_comes_through_a_descriptor_is_pushed(world, far, pipe):
    reader, writer = pipe
    call = world.begin(ALICE, far, "PushFrom", "ssh", "usart", "push", 0, fds=[reader.fileno()])
    writer.write(b"first")
    await world.until(lambda: far.exchanges)
    assert [(what, client) for _, what, client in world.held()] == [
        ("a push to carbon-10.0.0.1", ALICE)
    ]
    writer.write(b"second")
    writer.close()
    assert world.value(await world.bus.answer_to(call)) == len("firstsecond")
    assert b"".join(exchange.data for exchange in far.exchanges) == b"firstsecond"
    assert world.held() == []


async def test_what_is_pulled_goes_to_a_descriptor(world, far, tmp_path):
    path = tmp_path / "data"
    far.answer = lambda exchange: Answer(Result(0), b"x" * exchange.request.length)
    with path.open("wb") as sink:
        length = PIECE_BYTES + 1000
        call = ("PullTo", "ssth", "usart", "pull", length, 0)
        assert await world.call(ALICE, far, *call, fds=[sink.fileno()]) == length
    assert path.read_bytes() == b"x" * length


async def test_a_descriptor_is_no_way_to_ask_for_nonsense(world, far, pipe):
    reader, _ = pipe
    for call in (
        ("PushFrom", "ssh", "led", "rgb", 0),
        ("PushFrom", "ssh", "usart", "pull", 0),
        ("PullTo", "ssth", "usart", "push", 5, 0),
    ):
        name, _ = await world.refused(ALICE, far, *call, fds=[reader.fileno()])
        assert name == "InvalidArgs"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        call = ("PushFrom", "ssh", "usart", "push", 0)
        name, text = await world.refused(ALICE, far, *call, fds=[datagrams.fileno()])
    assert name == "InvalidArgs"
    assert "a pipe, a stream socket or a file" in text
    assert (far.exchanges, world.held()) == ([], [])


async def test_what_fails_says_how_much_was_done(world, far, pipe, tmp_path):
    reader, writer = pipe
    name, text = await world.refused(
        ALICE, far, "PushFrom", "ssh", "usart", "push", 0, fds=[writer.fileno()]
    )
    assert name == "TransferFailed"
    assert text == "The descriptor failed (Bad file descriptor) after 0 bytes."

    reader.close()
    call = ("PullTo", "ssth", "usart", "pull", 5, 0)
    name, text = await world.refused(ALICE, far, *call, fds=[writer.fileno()])
    assert (name, text) == ("TransferFailed", "The descriptor failed (Broken pipe) after 0 bytes.")


async def test_somebody_elses_claim_ends_an_endless_push(world, far, pipe):
    reader, writer = pipe
    call = world.begin(ALICE, far, "PushFrom", "ssh", "usart", "push", 0, fds=[reader.fileno()])
    writer.write(b"first")
    await world.until(lambda: far.exchanges)
    await world.call(BOB, far, "Claim", "su", "mine", 5)
    writer.write(b"second")
    name, text = world.error(await world.bus.answer_to(call))
    assert name == "Claimed"
    assert text.endswith("(after 5 bytes)")
    assert [held.client for held in world.holdings.all()] == [BOB]


async def test_a_push_from_a_descriptor_ends_with_its_caller(world, far, pipe):
    reader, writer = pipe
    world.begin(ALICE, far, "PushFrom", "ssh", "usart", "push", 0, fds=[reader.fileno()])
    reader.close()
    writer.write(b"first")
    await world.until(lambda: far.exchanges)
    await world.leave(ALICE)
    assert world.held() == []
    with pytest.raises(BrokenPipeError):  # our copy is closed
        writer.write(b"second")
