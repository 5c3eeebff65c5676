"""Tests of buswork.libipc.face: calls that reach the hub, answers, and the signals of the hub."""

import socket

import pytest
from libipc.bus_world import ACTIONS, DIRECTORIES, close_all
from support.toyface import ALICE, ALICE_UID, BOB

from buswork.bus.library import variant
from buswork.errors import LimitsExceeded
from buswork.libipc.errors import NameTaken, NoSuchService, QueueFull
from buswork.libipc.face import HUB
from buswork.libipc.holders import CHANNEL, ROOT, SERVICE
from buswork.libipc.model.terms import Access, ServiceFacts, Who
from buswork.libipc.wire.forms import Form

WHO = Who(ALICE_UID, frozenset({ALICE_UID}), ALICE)
PONG = ("pong", {})


async def test_all_services_are_listed(world):
    world.hub.facts = [
        ServiceFacts("pong", Form.C, "/run/ipc", True, 1000, 0o755, 3, False),
        ServiceFacts("ping", Form.ZIG, "/tmp/.libipc-run", False, 0, 0o660, 0, True),
    ]
    first, second = await world.call(ALICE, ROOT, HUB, "ListServices")
    assert {name: value.value for name, value in first.items()} == {
        "name": "pong",
        "form": "c",
        "directory": "/run/ipc",
        "alive": True,
        "owner_uid": 1000,
        "mode": 0o755,
        "connections": 3,
        "served": False,
    }
    assert (second["form"].value, second["served"].value) == ("zig", True)


async def test_what_there_is_to_know_of_the_hub(world):
    assert await world.get_all(ALICE, ROOT, HUB) == {
        "Directories": [("c", "/run/ipc"), ("zig", "/tmp/.libipc-run")],
        "MaxPayload": {"c": 1_999_988, "zig": 99_992},
        "StartCredits": 32,
        "MaxCredits": 1024,
    }


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({}, (None, None)),
        ({"form": "zig"}, (Form.ZIG, None)),
        ({"directory": "/run/ipc", "form": "c"}, (Form.C, "/run/ipc")),
    ],
)
async def test_a_connected_socket_is_handed_out(world, options, asked):
    given = {name: variant("s", text) for name, text in options.items()}
    answer = await world.answer(ALICE, ROOT, HUB, "Connect", "sa{sv}", "pong", given)
    assert world.hub.asked == [("connect", WHO, "pong", *asked)]
    with socket.socket(fileno=answer.fds.pop()) as theirs:
        theirs.send(b"hello")
        assert world.hub.other_end.recv(100) == b"hello"
    assert world.hub.other_end.recv(100) == b""  # nobody else has it
    world.hub.other_end.close()


async def test_a_service_of_another_machine_is_dialled(world):
    address = "tcp://example.org:9000/pong"
    given = {"form": variant("s", "zig")}
    answer = await world.answer(ALICE, ROOT, HUB, "Dial", "sa{sv}", address, given)
    assert world.hub.asked[0] == ("dial", WHO, address, Form.ZIG)
    close_all(answer.fds)
    world.hub.other_end.close()


@pytest.mark.attack(25)
@pytest.mark.parametrize("member", ["Connect", "OpenChannel", "Serve", "Dial"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"form": variant("s", "ada")}, "one of c, zig"),
        ({"form": variant("u", 1)}, "'s', not 'u'"),
        ({"colour": variant("s", "red")}, "no such option: colour"),
    ],
)
async def test_options_that_make_no_sense(world, member, options, words):
    name, text = await world.refused(ALICE, ROOT, HUB, member, "sa{sv}", "pong", options)
    assert (name, world.hub.asked) == ("InvalidArgs", [])
    assert words in text


@pytest.mark.parametrize("member", ["Connect", "OpenChannel", "Serve"])
@pytest.mark.parametrize("name", ["", "a/b", "..", "a\nb", "x" * 200])
async def test_names_that_no_service_has(world, member, name):
    error, _ = await world.refused(ALICE, ROOT, HUB, member, "sa{sv}", name, {})
    assert (error, world.hub.asked, world.held()) == ("InvalidArgs", [], [])


async def test_who_may_connect_to_a_service_of_ours(world):
    _, served = await world.serve(ALICE, access="own")
    assert served.access is Access.OWN
    _, served = await world.serve(ALICE)
    assert served.access is Access.ALL
    options = {"access": variant("s", "mine")}
    name, text = await world.refused(ALICE, ROOT, HUB, "Serve", "sa{sv}", "pong", options)
    assert name == "InvalidArgs"
    assert "all, own" in text


@pytest.mark.parametrize("error", [NoSuchService("no"), NameTaken("no"), LimitsExceeded("no")])
async def test_what_the_hub_refuses_has_a_name(world, error):
    world.hub.error = error
    for member in ("Connect", "OpenChannel", "Serve", "Dial"):
        name, text = await world.refused(ALICE, ROOT, HUB, member, "sa{sv}", *PONG)
        assert name == error.name.rpartition(".")[2]
        assert text == "no"
    assert world.held() == []


@pytest.mark.parametrize("denied", ACTIONS)
async def test_polkit_is_asked_first(world, denied):
    world.polkit.rules[f"org.libipc.{denied}"] = "no"
    calls = {
        "list": [("ListServices",)],
        "connect": [("Connect", "sa{sv}", *PONG), ("OpenChannel", "sa{sv}", *PONG)],
        "serve": [("Serve", "sa{sv}", *PONG)],
        "dial": [("Dial", "sa{sv}", *PONG)],
    }
    for words in calls[denied]:
        name, text = await world.refused(ALICE, ROOT, HUB, *words)
        assert name == "AccessDenied"
        assert f"org.libipc.{denied}" in text
    assert world.hub.asked == []


async def test_a_change_is_told_to_everybody(world):
    for tell in world.hub.on_services_changed:
        tell()
    assert await world.told() == [(None, ROOT, "ServicesChanged")]


# -- channels ------------------------------------------------------------------------------------


async def test_messages_through_a_channel(world):
    path, channel = await world.open(ALICE)
    await world.told()
    await world.call(ALICE, path, CHANNEL, "Send", "yay", 42, b"hello\0")
    assert channel.sent == [(42, b"hello\0")]
    channel.says(7, b"back")
    channel.says(0, b"")
    assert await world.told() == [
        (ALICE, path, "Message", 7, b"back"),
        (ALICE, path, "Message", 0, b""),
    ]
    await world.call(ALICE, path, CHANNEL, "Grant", "u", 5)
    assert await world.get_all(ALICE, path, CHANNEL) == {
        "Service": "pong",
        "Form": "c",
        "Directory": "/run/ipc",
        "Uid": ALICE_UID,
        "Credits": 37,
    }


async def test_a_full_queue_is_told_and_when_there_is_room(world):
    path, channel = await world.open(ALICE)
    channel.error = QueueFull("slow")
    name, _ = await world.refused(ALICE, path, CHANNEL, "Send", "yay", 0, b"x")
    assert name == "QueueFull"
    await world.told()
    channel.on_room()
    assert await world.told() == [(ALICE, path, "Drained")]


async def test_credits_never_look_negative(world):
    path, channel = await world.open(ALICE)
    channel._credits.left = -3
    assert (await world.get_all(ALICE, path, CHANNEL))["Credits"] == 0


# -- services ------------------------------------------------------------------------------------


async def test_a_service_of_ours(world):
    path, served = await world.serve(ALICE, "pong", form="zig")
    assert world.hub.asked == [("serve", WHO, "pong", Form.ZIG, None, Access.ALL)]
    await world.told()
    number = served.come(uid=1001, pid=77)
    served.events.message(number, 0, b"ping")
    await world.call(ALICE, path, SERVICE, "Send", "uyay", number, 3, b"pong")
    assert served.sent == [(number, 3, b"pong")]
    facts = await world.get_all(BOB, path, SERVICE)
    assert facts == {
        "Name": "pong",
        "Form": "zig",
        "Directory": DIRECTORIES[1].path,
        "Path": f"{DIRECTORIES[1].path}/pong",
        "Access": "all",
        "Uid": ALICE_UID,
        "Clients": [(number, 1001, 77)],
        "Credits": 32,
    }
    served.on_room(number)
    await world.call(ALICE, path, SERVICE, "Disconnect", "u", number)
    assert await world.told() == [
        (ALICE, path, "Connected", number, 1001, 77),
        (ALICE, path, "Message", number, 0, b"ping"),
        (ALICE, path, "Drained", number),
        (ALICE, path, "Disconnected", number),
    ]
    name, _ = await world.refused(ALICE, path, SERVICE, "Disconnect", "u", number)
    assert name == "NoSuchClient"
    await world.call(ALICE, path, SERVICE, "Grant", "u", 1)
    assert served.credits == 33


async def test_nothing_is_left_on_the_bus_in_the_end(world):
    await world.open(ALICE)
    await world.serve(BOB)
    world.faces.close()
    assert not world.stack.tree.children("/")
    assert world.hub.on_services_changed == []
    assert world.hub.channels[0].is_closed
    assert world.hub.services_[0].is_closed
    world.faces.__init__(world.stack.edge, world.hub, world.holders, world._whose)
