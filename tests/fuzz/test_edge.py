"""Anything at all for the D-Bus edge: it accepts, or refuses with what it says it refuses with.

Short in a normal run; BUSWORK_FUZZ_EXAMPLES=100000 makes it long.
"""

import asyncio
import os

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support import reference
from support.fakebus import FakeBus, FakePolkit
from support.reference import Message
from support.toyface import ALICE, OTHER, ROOT, TOY, OtherFace, Stack
from support.values import BODIES, signatures

from buswork.bus.codec import CodecError, body_decoder, body_encoder
from buswork.bus.contract import ContractError, parse
from buswork.bus.library import InvalidSignatureError, variant
from buswork.bus.message import FrameBuffer, ProtocolError, parse_fields
from buswork.errors import LimitsExceeded

pytestmark = pytest.mark.attack(26)

EXAMPLES = int(os.environ.get("BUSWORK_FUZZ_EXAMPLES", "60"))
fuzz = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
ORDERS = st.sampled_from("<>")
REFUSED = (CodecError, LimitsExceeded)

CALL = Message(
    reference.CALL,
    77,
    {
        reference.PATH: ROOT,
        reference.INTERFACE: TOY,
        reference.MEMBER: "Options",
        reference.SENDER: ALICE,
        reference.SIGNATURE: "a{sv}",
    },
    reference.encode("a{sv}", [{"a": variant("(tas)", (5, ["x"])), "b": variant("s", "y")}]),
)


@st.composite
def mutated(draw, data):
    """These bytes, altered: flipped, cut, doubled, or with others in between."""
    raw = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(raw)))
        match draw(st.sampled_from(["set", "cut", "insert", "double", "number"])):
            case "set" if at < len(raw):
                raw[at] = draw(st.integers(0, 255))
            case "cut":
                del raw[at : at + draw(st.integers(1, 8))]
            case "insert":
                raw[at:at] = draw(st.binary(max_size=8))
            case "double":
                raw[at:at] = raw[at : at + 16]
            case "number":
                number = draw(st.sampled_from([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 26]))
                raw[at : at + 4] = number.to_bytes(4, "little")
    return bytes(raw)


@fuzz
@given(signatures(), st.binary(max_size=200), ORDERS)
def test_any_body(signature, body, order):
    try:
        values = body_decoder(signature, order)(body, (1, 2))
    except REFUSED:
        return
    body_encoder(signature)(values)


@fuzz
@given(BODIES.flatmap(lambda case: st.tuples(
    st.just(case[0]), mutated(reference.encode(*case)), ORDERS
)))  # fmt: skip
def test_altered_bodies(case):
    signature, body, order = case
    try:
        body_decoder(signature, order)(body, (1, 2))
    except REFUSED:
        pass


@fuzz
@given(st.text(alphabet="ybnqiuxtdsogavh(){}z\0", max_size=260))
def test_any_signature(signature):
    for make in (body_encoder, body_decoder):
        try:
            make(signature)
        except CodecError:
            pass


@fuzz
@given(mutated(CALL.write()[16:]), ORDERS)
def test_altered_header_fields(fields, order):
    try:
        parse_fields(fields, order)
    except REFUSED:
        pass


@fuzz
@given(mutated(CALL.write() * 3), st.integers(1, 300))
def test_altered_streams_in_pieces(stream, piece):
    buffer = FrameBuffer()
    try:
        while stream:
            room = buffer.room()
            size = min(piece, len(room), len(stream))
            room[:size] = stream[:size]
            buffer.filled(size)
            stream = stream[size:]
            while buffer.next() is not None:
                pass
    except ProtocolError:
        pass


async def run_on_a_bus(stream, errors):
    """Sends this as the bus; the connection must live on or end, and nothing else may happen."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: errors.append(context))
    async with FakeBus() as bus:
        FakePolkit(bus).rules |= {"org.toy.guarded": "yes"}
        stack = await Stack.make(bus)
        stack.toy(ROOT, OtherFace(), manager=True)
        bus.write(stream)
        for _ in range(20):
            await asyncio.sleep(0)
        if stack.connection.is_open and not stack.connection._buffer.partial:
            await bus.settle()
            assert stack.edge.dispatcher._lanes == {}
        elif stack.connection.closed.done():
            assert isinstance(stack.connection.closed.result(), ProtocolError)


NAMELESS = [
    Message(reference.CALL, 77, {**CALL.fields, reference.SENDER: name}, CALL.body).write()
    for name in ("\x041.7", "")
]


@fuzz
@given(mutated(CALL.write() * 2))
@example(NAMELESS[0])
@example(NAMELESS[1])
def test_a_bus_gone_mad(stream):
    errors = []
    asyncio.run(run_on_a_bus(stream, errors))
    assert errors == []


MEMBERS = st.sampled_from(
    [
        "Echo", "Guarded", "Private", "Fail", "BadString", "BadPath", "BadType", "Take", "Pair",
        "Options", "Nothing", "Both", "Only", "Get", "Set", "GetAll", "GetManagedObjects",
        "Introspect", "Ping", "No",
    ]
)  # fmt: skip
INTERFACES = st.sampled_from(
    [
        None, TOY, OTHER, "org.no", "org.freedesktop.DBus.Properties",
        "org.freedesktop.DBus.ObjectManager", "org.freedesktop.DBus.Peer",
    ]
)  # fmt: skip
VALUES = st.one_of(
    BODIES,
    st.tuples(st.just("s"), st.tuples(st.sampled_from(["", "x", TOY, "busy"]))),
    st.tuples(
        st.just("ss"), st.tuples(st.sampled_from([TOY, OTHER]), st.sampled_from(["Public", "No"]))
    ),
)
CALLS = st.tuples(
    st.sampled_from([ROOT, "/", "/org", "/no"]), INTERFACES, MEMBERS, VALUES, ORDERS,
    st.sampled_from([0, 4]),
)  # fmt: skip


async def every_call_is_answered(calls, errors):
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: errors.append(context))
    async with FakeBus() as bus:
        FakePolkit(bus)
        stack = await Stack.make(bus)
        stack.toy(ROOT, OtherFace(), manager=True)
        made = [
            bus.call(ALICE, path, interface, member, signature, values, order=order, flags=flags)
            for path, interface, member, (signature, values), order, flags in calls
        ]
        for call in made:
            await bus.answer_to(call)
        answered = [message.fields.get(reference.REPLY_SERIAL) for message in bus.received]
        assert [answered.count(call.serial) for call in made] == [1] * len(made)
        assert stack.connection.is_open


@fuzz
@given(st.lists(CALLS, min_size=1, max_size=8))
def test_every_well_formed_call_is_answered_once(calls):
    errors = []
    asyncio.run(every_call_is_answered(calls, errors))
    assert errors == []


@fuzz
@given(st.text(alphabet='<>/"= annotmehdigprsy', max_size=60))
def test_any_contract(text):
    try:
        parse(f"<node><interface name='org.toy.One'>{text}</interface></node>")
    except (ContractError, InvalidSignatureError, SyntaxError):
        pass
