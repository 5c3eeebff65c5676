"""Codec and messages against sd-bus: both understand each other, and agree on what is malformed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import reference, sdbus
from support.reference import Message
from support.values import BODIES

from buswork.bus.codec import CodecError, body_decoder
from buswork.bus.message import FrameBuffer, SignalTemplate, parse_fields

pytestmark = pytest.mark.skipif(not sdbus.AVAILABLE, reason="no libsystemd.so.0")
FIELDS = {reference.PATH: "/org/toy", reference.INTERFACE: "org.toy", reference.MEMBER: "Moved"}


@pytest.fixture(scope="module")
def sd():
    with sdbus.SdBus() as sd:
        yield sd


@given(BODIES)
def test_sd_bus_reads_our_signals(sd, case):
    signature, values = case
    template = SignalTemplate("/org/toy", "org.toy", "Moved", signature, None)
    assert sd.read(signature, template.message(7, values)) == list(values)


@given(BODIES, st.sampled_from("<>"))
def test_sd_bus_reads_what_the_reference_of_these_tests_writes(sd, case, order):
    signature, values = case
    fields = FIELDS | ({reference.SIGNATURE: signature} if signature else {})
    body = reference.encode(signature, values, order)
    data = Message(reference.SIGNAL, 7, fields, body, 0, order).write()
    assert sd.read(signature, data) == list(values)


@given(BODIES)
def test_we_read_what_sd_bus_writes(sd, case):
    signature, values = case
    data = sd.write(signature, values)
    buffer = FrameBuffer()
    buffer.room()[: len(data)] = data
    buffer.filled(len(data))
    kind, _, _, order, fields, body = buffer.next()
    header = parse_fields(fields, order)
    assert (kind, header.path, header.interface, header.member, header.signature) == (
        reference.SIGNAL, "/org/toy", "org.toy", "Moved", signature,
    )  # fmt: skip
    assert list(body_decoder(signature, order)(body, ())) == list(values)


REFUSED_BY_BOTH = [
    ("s", b"\1\0\0\0\xff\0"),
    ("s", b"\1\0\0\0\0\0"),
    ("o", b"\2\0\0\0/-\0"),
    ("g", b"\1z\0"),
    ("as", b"\6\0\0\0\4\0\0\0abcd\0"),
    ("ai", b"\5\0\0\0\1\0\0\0\0"),
]


@pytest.mark.parametrize(("signature", "body"), REFUSED_BY_BOTH)
def test_26_what_sd_bus_does_not_read_we_do_not_read(signature, body):
    with pytest.raises(CodecError):
        body_decoder(signature, "<")(body, ())
    data = Message(reference.SIGNAL, 7, FIELDS | {reference.SIGNATURE: signature}, body).write()
    with sdbus.SdBus() as sd, pytest.raises(OSError):  # noqa: PT011
        sd.read(signature, data)
