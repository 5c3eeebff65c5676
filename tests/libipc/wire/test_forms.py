"""buswork.libipc.wire.forms"""

import itertools
import tracemalloc

import pytest

from buswork.libipc.wire.forms import (
    DATA,
    ERR,
    NETWORK_LOOKUP,
    SAFE_BYTES,
    SERVER_CLOSE,
    Assembler,
    BadMessage,
    Form,
    Message,
    encode,
    frame,
    header_bytes,
    most_announced,
    most_payload,
)

C, ZIG = Form


@pytest.mark.parametrize(
    ("form", "message", "data"),
    [
        (C, Message(b"coucou\0", 42), "02 00000007 2a 636f75636f7500"),
        (C, Message(b"", 42), "02 00000000 2a"),
        (C, Message(b"OK", 255, ERR), "01 00000002 ff 4f4b"),
        (C, Message(b"x", 0, 255), "ff 00000001 00 78"),
        (ZIG, Message(b"bounce me"), "00000009 626f756e6365206d65"),
        (ZIG, Message(b""), "00000000"),
    ],
)
def test_both_forms(form, message, data):
    assert encode(form, message) == frame(form, *message) == bytes.fromhex(data)
    assert Assembler(form).feed(bytes.fromhex(data)) == [message]


def test_types_of_messages():
    assert (SERVER_CLOSE, ERR, DATA, NETWORK_LOOKUP) == (0, 1, 2, 3)


def test_the_rest_of_a_message_goes_without_saying():
    assert Message(b"x") == Message(b"x", 0, DATA)
    assert frame(C, b"x") == encode(C, Message(b"x"))


@pytest.mark.parametrize("form", Form)
def test_limits_of_senders(form):
    most = most_payload(form)
    data = frame(form, bytes(most))
    assert len(data) == most + header_bytes(form) > SAFE_BYTES
    assert Assembler(form).feed(data) == [Message(bytes(most))]
    with pytest.raises(BadMessage, match=f"at most {most} bytes"):
        frame(form, bytes(most + 1))


@pytest.mark.parametrize("types", [(256,), (-1,), (0, 256), (0, -1)])
def test_types_are_bytes(types):
    with pytest.raises(BadMessage, match="0 to 255"):
        frame(C, b"", *types)


@pytest.mark.parametrize("types", [(1,), (0, ERR)])
def test_the_form_without_types_drops_none(types):
    with pytest.raises(BadMessage, match="carries no types"):
        frame(ZIG, b"x", *types)


# -- streams ---------------------------------------------------------------------------------------

SOME = {
    C: [Message(b"abc", 7), Message(b"", 0, 0), Message(b"d" * 300, 255, 255), Message(b"")],
    ZIG: [Message(b"abc"), Message(b""), Message(b"d" * 300), Message(b"")],
}


@pytest.mark.parametrize("form", Form)
def test_any_two_cuts(form):
    stream = b"".join(encode(form, message) for message in SOME[form])
    whole = [0, *itertools.accumulate(len(encode(form, message)) for message in SOME[form])]
    for first in range(len(stream) + 1):
        for second in (first, first + 1, len(stream) - 3):
            assembler = Assembler(form)
            got = []
            for piece in (stream[:first], stream[first:second], stream[max(first, second) :]):
                got += assembler.feed(piece)
            assert got == SOME[form]
            assert assembler.waiting == 0
        assembler = Assembler(form)
        assembler.feed(stream[:first])
        assert assembler.waiting == first - max(at for at in whole if at <= first)


@pytest.mark.parametrize("form", Form)
def test_byte_by_byte(form):
    stream = b"".join(encode(form, message) for message in SOME[form])
    assembler = Assembler(form)
    assert [m for byte in stream for m in assembler.feed(bytes((byte,)))] == SOME[form]
    assembler.check()


@pytest.mark.parametrize("form", Form)
def test_nothing_brings_nothing(form):
    assembler = Assembler(form)
    assert assembler.feed(b"") == []
    assembler.feed(b"\0")
    assert assembler.feed(b"") == []
    assert assembler.waiting == 1


@pytest.mark.parametrize("form", Form)
def test_payloads_are_bytes_of_their_own(form):
    assembler = Assembler(form)
    data = frame(form, b"abc")
    for pieces in (data, data + data, memoryview(data)):
        messages = assembler.feed(pieces)
        assert {type(message.payload) for message in messages} == {bytes}


def announced(form, length):
    data = length.to_bytes(4, "big")
    return b"\2" + data + b"\0" if form is C else data


@pytest.mark.parametrize("form", Form)
def test_a_message_that_is_too_long(form):
    """What was whole before it counts; what comes after is nothing any more."""
    most = most_announced(form)
    whole = frame(form, b"x")
    for pieces in ([announced(form, most + 1)], [announced(form, 2**32 - 1)[:3], b"\xff" * 9]):
        assembler = Assembler(form)
        assert [assembler.feed(piece) for piece in pieces[:-1]] == [[]] * (len(pieces) - 1)
        with pytest.raises(BadMessage, match="was announced"):
            assembler.feed(pieces[-1])
    assembler = Assembler(form)
    assert assembler.feed(whole + whole + announced(form, most + 1)) == [Message(b"x")] * 2
    assert assembler.waiting
    for ask in (assembler.check, lambda: assembler.feed(whole)):
        with pytest.raises(BadMessage, match=f"{most + 1} bytes was announced; {most} are taken"):
            ask()
    assert assembler.waiting


@pytest.mark.parametrize("form", Form)
def test_one_may_take_less(form):
    assembler = Assembler(form, most=3)
    assert assembler.feed(frame(form, b"abc")) == [Message(b"abc")]
    for data in (frame(form, b"abcd"), frame(form, b"abcd")[:-1]):
        with pytest.raises(BadMessage):
            Assembler(form, most=3).feed(data)
    assert Assembler(form, most=2**32).feed(announced(form, most_announced(form))) == []
    with pytest.raises(BadMessage):
        Assembler(form, most=2**32).feed(announced(form, most_announced(form) + 1))


@pytest.mark.parametrize("form", Form)
def test_an_announcement_reserves_nothing(form):
    tracemalloc.start()
    try:
        assemblers = [Assembler(form) for _ in range(100)]
        for assembler in assemblers:
            assembler.feed(announced(form, most_announced(form)) + b"x" * 100)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100 * 1_000


@pytest.mark.parametrize("form", Form)
def test_what_was_taken_is_not_kept(form):
    tracemalloc.start()
    try:
        assembler = Assembler(form)
        data = frame(form, bytes(most_payload(form)))
        for at in range(0, len(data), 40_000):
            assembler.feed(data[at : at + 40_000])
        assembler.feed(data[:1])
        del data
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert assembler.waiting == 1
    assert held < 5_000


@pytest.mark.parametrize("form", Form)
def test_nothing_is_kept_of_what_is_refused(form):
    tracemalloc.start()
    try:
        assembler = Assembler(form)
        assembler.feed(frame(form, b"x") + b"\xff" * 100_000)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert assembler.waiting
    assert held < 5_000
