"""Attack 26: whatever is sent, the answer is a named error or a clean close, and others are served.

On both buses: dbus-broker carries header fields that dbus-daemon strips.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from support import toywing
from support.machine import BUS_NAME, OPEN_POLICY, Client, Daemon, Machine, Variant, why_not
from support.places import (
    DAEMON,
    DBUS_ERROR,
    INTROSPECTABLE,
    LOG_CONTROL,
    MIB,
    OBJECT_MANAGER,
    PEER,
    PROPERTIES,
    STORE,
    check_unharmed,
    get_key,
    refused,
    resident_bytes,
    set_key,
)
from support.raw import (
    CALL,
    DESTINATION,
    ERROR,
    ERROR_NAME,
    INTERFACE,
    MEMBER,
    NO_REPLY,
    PATH,
    REPLY_SERIAL,
    RETURN,
    SIGNAL,
    UNIX_FDS,
    Crowd,
    Raw,
    marshal,
    message,
)

pytestmark = [pytest.mark.system, pytest.mark.attack(26)]


@pytest.fixture(scope="module", params=["daemon", "broker"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    if reason := why_not(bus=request.param):
        pytest.skip(reason)
    with Machine(bus=request.param) as machine:
        machine.add_policy(OPEN_POLICY)
        yield machine


@pytest.fixture(scope="module")
def daemon(machine: Machine) -> Daemon:
    return machine.start_daemon(command=toywing.COMMAND)


@pytest.fixture(scope="module")
def bob(machine: Machine, daemon: Daemon) -> Client:
    return machine.client("bob")


@pytest.fixture
def one(machine: Machine, daemon: Daemon, bob: Client) -> Iterator[Raw]:
    """A connection of alice's."""
    set_key(bob, "bob's", "key")
    with Crowd(machine, "alice", 1) as (one,):
        yield one
    check_unharmed(machine, daemon, bob)
    assert get_key(bob, "bob's") == "key"


# --- Names and signatures -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "interface", "member", "signature", "values", "error"),
    [
        ("/no/such/object", STORE[1], "Get", "s", ["x"], "UnknownObject"),
        ("/no/such/object", PROPERTIES, "Get", "ss", ["x", "x"], "UnknownObject"),
        ("/org/mapipc", STORE[1], "Get", "s", ["x"], "UnknownInterface"),
        ("/org/mapipc", PROPERTIES, "GetAll", "s", [""], "UnknownInterface"),
        ("/org/buswork", OBJECT_MANAGER, "GetManagedObjects", "", [], "UnknownInterface"),
        (STORE[0], "org.mapipc.Stores", "Get", "s", ["x"], "UnknownInterface"),
        (STORE[0], STORE[1], "Gett", "s", ["x"], "UnknownMethod"),
        (STORE[0], STORE[1], "get", "s", ["x"], "UnknownMethod"),
        (STORE[0], STORE[1], "owner_uid", "s", ["x"], "UnknownMethod"),
        (STORE[0], STORE[1], "__init__", "", [], "UnknownMethod"),
        (STORE[0], PEER, "Pong", "", [], "UnknownMethod"),
        (STORE[0], PROPERTIES, "Get", "ss", [STORE[1], "Size"], "UnknownProperty"),
        (STORE[0], PROPERTIES, "Get", "ss", ["org.x.Y", "Size"], "UnknownInterface"),
        (STORE[0], PROPERTIES, "GetAll", "s", ["org.x.Y"], "UnknownInterface"),
        (STORE[0], PROPERTIES, "Set", "ssv", [STORE[1], "No", Variant("s", "")], "UnknownProperty"),
        (STORE[0], STORE[1], "Get", "", [], "InvalidArgs"),
        (STORE[0], STORE[1], "Get", "t", [1], "InvalidArgs"),
        (STORE[0], STORE[1], "Get", "ss", ["x", "y"], "InvalidArgs"),
        (STORE[0], STORE[1], "Get", "v", [Variant("s", "x")], "InvalidArgs"),
        (STORE[0], STORE[1], "Get", "(s)", [["x"]], "InvalidArgs"),
        (STORE[0], STORE[1], "Clear", "s", ["x"], "InvalidArgs"),
        (DAEMON[0], DAEMON[1], "ForceRelease", "s", ["/x"], "InvalidArgs"),
        (STORE[0], STORE[1], "SetMany", "a{sv}", [{"x": Variant("s", "y")}], "InvalidArgs"),
    ],
)
def test_what_is_not_there(
    one: Raw, path: str, interface: str, member: str, signature: str, values: list[Any], error: str
) -> None:
    for order in ("<", ">"):
        with refused(error):
            one.ask(path, interface, member, signature, *values, order=order)


def test_a_call_without_interface(one: Raw) -> None:
    """By member where that is clear; where two could be meant it is refused, not guessed."""
    assert one.ask(STORE[0], None, "Lookup", "s", "no such key") is False
    with refused("UnknownMethod", "ambiguous", STORE[1], PROPERTIES):
        one.ask(STORE[0], None, "Get", "s", "x")
    with refused("UnknownMethod", "ambiguous"):
        one.ask(STORE[0], None, "Get", "ss", STORE[1], "Count")
    with refused("UnknownMethod", "ambiguous"):
        one.ask(STORE[0], None, "Set", "ss", "x", "y")
    with refused("UnknownMethod"):
        one.ask(STORE[0], None, "NoSuchMember")
    with refused("UnknownMethod"):
        one.ask("/no/such/object", None, "Lookup", "s", "x")
    assert one.ask("/", None, "Ping") is None
    # The action is that of the member which was found.
    with refused("InteractiveAuthorizationRequired", "org.mapipc.store.clear"):
        one.ask(STORE[0], None, "Clear")


def test_a_big_endian_caller(one: Raw) -> None:
    texts = ["", "x", "äöü", "long " * 1000]
    for text in texts:
        one.ask(*STORE, "Set", "ss", "big end", text, order=">")
        assert one.ask(*STORE, "Get", "s", "big end", order=">") == text
        assert one.ask(*STORE, "Get", "s", "big end") == text
    revision = one.ask(*STORE, "SetMany", "a{ss}", {"big end": "1", "b": "2"}, order=">")
    assert one.answer(
        one.call(*STORE, "CompareAndSet", "sts", "b", revision, "3", order=">")
    ).body == [True, revision + 1]
    options = {"ttl_ms": Variant("t", 60_000), "until_i_leave": Variant("b", True)}
    one.ask(*STORE, "SetWith", "ssa{sv}", "b", "4", options, order=">")
    assert one.ask(*STORE, "GetMany", "as", ["big end", "b"], order=">") == {
        "big end": "1",
        "b": "4",
    }
    with refused("InvalidArgs"):
        one.ask(
            *STORE, "SetWith", "ssa{sv}", "b", "4", {"x": Variant("(yv)", [1, options["ttl_ms"]])}
        )


# --- Values ---------------------------------------------------------------------------------------


def test_control_characters_are_kept_as_they_are(one: Raw) -> None:
    text = "".join(map(chr, range(1, 0x20))) + "\x7f\x85\xa0\u2028\ufeff\U0010ffff"
    _ = one.ask(*STORE, "Set", "ss", text, text)
    assert one.ask(*STORE, "Get", "s", text) == text
    assert one.ask(*STORE, "Delete", "s", text) is True


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\1",
        b"\0\0\0\0",
        b"\1\0\0\0",
        b"\1\0\0\0a",
        b"\1\0\0\0ab",
        b"\3\0\0\0a\0b\0",
        b"\1\0\0\0\xff\0",
        b"\2\0\0\0\xc0\x80\0",
        b"\3\0\0\0\xed\xa0\x80\0",
        b"\1\0\0\0a\0extra",
        b"\xff\xff\xff\xffa\0",
        b"\xff\xff\xff\x7fa\0",
    ],
    ids=repr,
)
def test_bodies_that_are_none(machine: Machine, one: Raw, body: bytes) -> None:
    """NUL, invalid UTF-8, wrong lengths: the bus cuts such a sender off, and only that."""
    with Crowd(machine, "alice", 2) as (first, second):
        first.call(*STORE, "Get", "s", body=body)
        second.call(*STORE, "Get", "s", body=body, flags=NO_REPLY)
        assert first.is_cut_off()
        assert second.is_cut_off()


def test_values_of_a_mib_and_one_byte(one: Raw) -> None:
    _ = one.ask(*STORE, "Set", "ss", "k", "x" * MIB)
    for value in ("x" * (MIB + 1), "x" * (20 * MIB)):
        with refused("LimitsExceeded", "MaxValueBytes"):
            one.ask(*STORE, "Set", "ss", "k", value)
    with refused("LimitsExceeded", "MaxKeyBytes"):
        one.ask(*STORE, "Set", "ss", "k" * 20 * MIB, "x")
    assert one.ask(*STORE, "Get", "s", "k" * 20 * MIB) == ""
    assert one.ask(*STORE, "Delete", "s", "k") is True


def bomb(signature: str, content: bytes) -> bytes:
    """The body of a SetWith with one option, an array of that type and content."""
    out = marshal("ss", ["k", "v"])
    out += bytes(-len(out) % 4)
    options_at = len(out)
    out += bytes(4)
    out += bytes(-len(out) % 8)
    options = len(out)
    marshal("s", ["x"], into=out)
    marshal("g", [signature], into=out)
    out += bytes(-len(out) % 4) + struct.pack("<I", len(content))
    out += bytes(-len(out) % (8 if signature[1] in "({xtd" else 4))
    out += content
    struct.pack_into("<I", out, options_at, len(out) - options)
    return bytes(out)


@pytest.mark.parametrize(
    ("signature", "element"),
    [
        ("a(" + "y" * 248 + ")", bytes(248)),
        ("an", b"\x39\x30" * 128),
        ("ad", bytes(128)),
        ("aay", bytes(128)),
        ("av", b"\1y\0\0" * 32),
        ("aas", bytes(128)),
        ("ag", bytes(128)),
    ],
    ids=lambda value: value[:4] if isinstance(value, str) else "",
)
def test_bombs(machine: Machine, daemon: Daemon, one: Raw, signature: str, element: bytes) -> None:
    """30 MiB that would become a hundred times as much, or hold everybody up for seconds."""
    content = element * (30 * MIB // len(element))
    serial = one.call(*STORE, "SetWith", "ssa{sv}", body=bomb(signature, content))
    assert one.answer(serial).error == DBUS_ERROR + "LimitsExceeded"
    assert resident_bytes(daemon, "VmHWM") < 300 * MIB


def test_deep_variants(machine: Machine, one: Raw) -> None:
    deep = Variant("s", "bottom")
    for _ in range(60):
        deep = Variant("v", deep)
    with refused("InvalidArgs"):
        one.ask(*STORE, "SetWith", "ssa{sv}", "k", "v", {"x": deep})
    for _ in range(600):
        deep = Variant("v", deep)
    with Crowd(machine, "alice", 1) as (other,):
        other.call(*STORE, "SetWith", "ssa{sv}", "k", "v", {"x": deep})
        assert other.is_cut_off()


def test_errors_do_not_repeat_what_was_sent(machine: Machine, one: Raw) -> None:
    """A reply longer than the longest message: the bus would throw the whole service out."""
    owner = machine.owner(BUS_NAME)
    most = 32 * MIB
    for spare in range(88, 136, 12):
        path = "/" + "a" * (most - spare - 1)
        with Crowd(machine, "alice", 1) as (other,):
            try:
                answer = other.answer(
                    other.call(path, STORE[1], "A", destination=owner), timeout=10
                )
            except OSError:
                continue  # too long for this bus
            except EOFError:
                continue
            assert answer.error == DBUS_ERROR + "UnknownObject"
            assert answer.size < 4096
    for interface in ("x" * MIB, "\x1b[2J"):
        answer = one.answer(one.call(STORE[0], PROPERTIES, "GetAll", "s", interface))
        assert answer.error == DBUS_ERROR + "UnknownInterface"
        assert answer.size < 8192


# --- Messages -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "strange",
    [
        [(200, Variant("h", 0))],
        [(200, Variant("h", 7)), (201, Variant("ah", [1, 2, 3]))],
        [(199, Variant("s", "x"))] * 3,
        [(255, Variant("a{sv}", {"x": Variant("(yv)", [1, Variant("g", "a{sv}")])}))],
        [(77, Variant("v", Variant("v", Variant("av", [Variant("d", 1.5)]))))],
        [(77, Variant("(" + "y" * 100 + ")", [1] * 100))] * 50,
        [(77, Variant("ao", ["/"] * 2000))],
        [(77, Variant("an", list(range(5000))))],
        [(77, Variant("as", [""] * 70_000))],
    ],
    ids=lambda strange: f"{len(strange)} {strange[0][1].signature[:8]}",
)
def test_header_fields_that_nobody_knows(one: Raw, strange: list[tuple[int, Variant]]) -> None:
    """They are to be ignored, whatever is in them; and so are flags."""
    for order in ("<", ">"):
        assert one.ask("/", PEER, "Ping", order=order, strange=strange) is None
        one.ask(*STORE, "Set", "ss", "strange", "x", order=order, strange=strange)
        assert one.ask(*STORE, "Get", "s", "strange", order=order, strange=strange) == "x"
    assert one.ask(*STORE, "Get", "s", "strange", flags=0xF8) == "x"


def test_a_hundred_thousand_header_fields(machine: Machine, one: Raw) -> None:
    if machine.bus_kind == "daemon":
        pytest.skip("dbus-daemon takes them out itself, and takes minutes for it")
    field = marshal("(yv)", [[200, Variant("u", 7)]])
    field += bytes(-len(field) % 8)
    data = message(CALL, 99, {PATH: "/", INTERFACE: PEER, MEMBER: "Ping", DESTINATION: BUS_NAME})
    (length,) = struct.unpack_from("<I", data, 12)
    usual = data[16 : 16 + length]
    usual += bytes(-len(usual) % 8)
    fields = bytes(field) * 100_000 + usual[:length]
    head = data[:12] + struct.pack("<I", len(fields)) + fields
    one.send(head + bytes(-len(head) % 8))
    assert one.answer(99).error == ""


@pytest.mark.parametrize(
    "data",
    [
        message(CALL, 9, {PATH: "/", DESTINATION: BUS_NAME}),
        message(CALL, 9, {MEMBER: "Ping", DESTINATION: BUS_NAME}),
        message(CALL, 0, {PATH: "/", MEMBER: "Ping", DESTINATION: BUS_NAME}),
        message(CALL, 9, {PATH: "/", MEMBER: "Ping", DESTINATION: BUS_NAME, UNIX_FDS: 3}),
        message(CALL, 9, {PATH: "no/path", MEMBER: "Ping", DESTINATION: BUS_NAME}),
        message(CALL, 9, {PATH: "/", MEMBER: "P.ng", DESTINATION: BUS_NAME}),
        message(CALL, 9, {PATH: "/", MEMBER: "Ping", INTERFACE: "x", DESTINATION: BUS_NAME}),
        message(CALL, 9, {PATH: "/", MEMBER: "P" * 256, DESTINATION: BUS_NAME}),
        message(SIGNAL, 9, {PATH: "/", MEMBER: "Ping", DESTINATION: BUS_NAME}),
        message(RETURN, 9, {REPLY_SERIAL: 1, DESTINATION: BUS_NAME}),
        message(RETURN, 9, {REPLY_SERIAL: 0, DESTINATION: BUS_NAME}),
        message(ERROR, 9, {REPLY_SERIAL: 1, ERROR_NAME: "a.b", DESTINATION: BUS_NAME}),
        message(77, 9, {PATH: "/", MEMBER: "Ping", DESTINATION: BUS_NAME}),
        message(0, 9, {PATH: "/", MEMBER: "Ping", DESTINATION: BUS_NAME}),
        message(
            CALL, 9, {PATH: "/", MEMBER: "Ping", DESTINATION: BUS_NAME}, "a{vs}", body=bytes(4)
        ),
        message(CALL, 9, {PATH: "/", MEMBER: "Ping", DESTINATION: BUS_NAME}, "(" * 40, body=b""),
        b"x" * 64,
        b"l" + b"\xff" * 63,
    ],
)
def test_messages_that_are_none(machine: Machine, one: Raw, data: bytes) -> None:
    with Crowd(machine, "alice", 1) as (other,):
        other.send(data)
        other.is_cut_off(timeout=0.1)


def test_a_message_cut_at_every_byte(machine: Machine, daemon: Daemon, one: Raw) -> None:
    """Once with a pause at that place, once with the end of the connection there."""
    fields = {PATH: STORE[0], INTERFACE: STORE[1], MEMBER: "Set", DESTINATION: BUS_NAME}
    whole = message(CALL, 2, fields, "ss", ["cut", "here"])
    for at in range(1, len(whole)):
        serial = one.next_serial()
        data = message(CALL, serial, fields, "ss", ["pause", str(at)])
        one.send(data[:at])
        one.send(data[at:])
        assert one.answer(serial).error == ""
    with Crowd(machine, "alice", len(whole)) as crowd:
        for at, other in enumerate(crowd):
            other.send(whole[:at])
            other.close()
    assert one.ask(*STORE, "Get", "s", "cut") == ""


def test_random_bytes_in_messages(machine: Machine, one: Raw) -> None:
    """Any byte of a good message turned into any other: an answer, or a cut-off."""
    chance = random.Random(26)
    fields = {PATH: STORE[0], INTERFACE: STORE[1], MEMBER: "SetWith", DESTINATION: BUS_NAME}
    options = {"ttl_ms": Variant("t", 5), "x": Variant("a(sv)", [["y", Variant("b", True)]])}
    for _ in range(3):
        with Crowd(machine, "alice", 60) as crowd:
            for other in crowd:
                data = bytearray(message(CALL, 2, fields, "ssa{sv}", ["k", "v", options]))
                for _ in range(chance.randint(1, 4)):
                    data[chance.randrange(4, len(data))] = chance.randrange(256)
                other.send(bytes(data))
            assert one.ask("/", PEER, "Ping") is None


# --- A fuzz of the whole surface ------------------------------------------------------------------

TYPES = "ybnqiuxtdsogv"


def any_type(chance: random.Random, depth: int = 0) -> str:
    kind = chance.random()
    if kind < 0.7 or depth > 3:
        return chance.choice(TYPES)
    if kind < 0.8:
        return "a" + any_type(chance, depth + 1)
    if kind < 0.9:
        parts = (any_type(chance, depth + 1) for _ in range(chance.randint(1, 3)))
        return "(" + "".join(parts) + ")"
    return "a{" + chance.choice("yqus") + any_type(chance, depth + 1) + "}"


def any_value(chance: random.Random, type_: str) -> Any:
    from support.raw import NUMBERS, split

    code = type_[0]
    if code == "b":
        return chance.choice([0, 1])
    if code == "d":
        return chance.choice([0.0, -1.5, float("inf"), float("nan")])
    if code in NUMBERS:
        bits = 8 * struct.calcsize("<" + NUMBERS[code])
        low, high = (
            (0, 2**bits - 1)
            if NUMBERS[code].isupper()
            else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        )
        return chance.choice([low, high, 1, chance.randint(low, high)])
    if code == "s":
        texts = [
            "",
            "x",
            "~0/x",
            "~99999999999999999999/",
            "\x1b[2J\n",
            "ä" * 600,
            STORE[1],
            "Count",
        ]
        return chance.choice(texts)
    if code == "o":
        return chance.choice(["/", STORE[0], DAEMON[0], "/a/b_c/1"])
    if code == "g":
        return chance.choice(["", "s", "a{sv}", "(yv)"])
    if code == "v":
        inner = any_type(chance, 2)
        return Variant(inner, any_value(chance, inner))
    if code == "(":
        return [any_value(chance, part) for part in split(type_[1:-1])]
    size = chance.choice([0, 1, 3])
    if type_[1] == "{":
        key, value = split(type_[2:-1])
        return {any_value(chance, key): any_value(chance, value) for _ in range(size)}
    return [any_value(chance, type_[1:]) for _ in range(size)]


def surface(one: Raw) -> list[tuple[str, str, str, str]]:
    """(path, interface, member, signature) of all methods, by introspection."""
    import xml.etree.ElementTree as ET

    found = []

    def look(path: str) -> None:
        node = ET.fromstring(one.ask(path, INTROSPECTABLE, "Introspect"))
        for interface in node.iterfind("interface"):
            for method in interface.iterfind("method"):
                types = [a.get("type", "") for a in method.iterfind("arg[@direction='in']")]
                name = (str(interface.get("name")), str(method.get("name")))
                if not name[1].startswith(("Wait", "TakeAndWait", "Fail")):
                    found.append((path, *name, "".join(types)))
        for child in node.iterfind("node"):
            look(f"{path.rstrip('/')}/{child.get('name')}")

    look("/")
    return found


def test_fuzz_of_the_surface(one: Raw) -> None:
    """Random signatures and random values to every method, as alice; always a named answer."""
    from support.raw import split

    chance = random.Random(1926)
    methods = surface(one)
    assert len(methods) > 30
    calls = []
    for _ in range(2500):
        path, interface, member, signature = chance.choice(methods)
        if chance.random() < 0.3:
            signature = "".join(any_type(chance) for _ in range(chance.randint(0, 3)))
        if chance.random() < 0.1:
            path = chance.choice([LOG_CONTROL[0], STORE[0], "/org", "/x"])
        if "h" in signature:
            continue
        values = [any_value(chance, type_) for type_ in split(signature)]
        calls.append((path, interface, member, signature, *values))
    errors = set()
    for answer in one.in_turn(calls):
        assert answer.kind in (RETURN, ERROR)
        errors.add(answer.error)
    assert errors <= {
        "",
        "org.mapipc.Error.RevisionGone",
        "org.buswork.Error.NotOwner",
        "org.fsct.Error.NoSuchPlayer",
        "org.fsct.Error.NotAssigned",
        *(
            DBUS_ERROR + name
            for name in (
                *("UnknownObject", "UnknownInterface", "UnknownMethod", "UnknownProperty"),
                *("InvalidArgs", "AccessDenied", "InteractiveAuthorizationRequired"),
                *("PropertyReadOnly", "LimitsExceeded"),
            )
        ),
    }
