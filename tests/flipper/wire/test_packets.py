from itertools import product

import pytest
from flipper.wire.requests import requests
from hypothesis import given
from hypothesis import strategies as st

from buswork.flipper.wire.crc import crc16
from buswork.flipper.wire.errors import Error
from buswork.flipper.wire.packets import (
    Allocate,
    Argument,
    Call,
    Event,
    Free,
    Load,
    Lookup,
    Pull,
    Push,
    Read,
    Receive,
    Send,
    Unknown,
    Write,
    data_to_board,
    data_to_host,
    encode_request,
    parse_header,
    parse_request,
)
from buswork.flipper.wire.terms import BadPacket, BadValue, Generation, Type

G1, G2 = Generation
RGB = Call(6, 1, Type.VOID, tuple(Argument(Type.UINT8, value) for value in (10, 20, 30)))


def signed(packet, length=None):
    """This packet with the checksum that it should have."""
    length = int.from_bytes(packet[3:5], "little") if length is None else length
    packet = packet[:3] + length.to_bytes(2, "little") + packet[5:]
    checksum = crc16((packet[:1] + b"\0\0" + packet[3:])[:length])
    return packet[:1] + checksum.to_bytes(2, "little") + packet[3:]


def test_the_example_of_the_description():
    packet = encode_request(RGB)
    assert packet[:17].hex() == "fe46ca1100000601020000000003" + "0a141e"
    assert packet[17:] == bytes(47)
    assert parse_request(packet) == RGB
    assert parse_header(packet) == (0xCA46, 17, 0)


@given(requests(G1))
def test_requests_of_the_first_generation_come_back(request):
    packet = encode_request(request)
    assert len(packet) == 64
    assert parse_request(packet) == request


@given(requests(G2))
def test_requests_of_the_second_generation_come_back(request):
    packet = encode_request(request, G2)
    short = isinstance(request, Allocate | Write | Read | Free)
    assert len(packet) == (18 if short else 64)
    assert parse_request(packet, G2) == request
    assert parse_request(packet.ljust(64, b"\0"), G2) == request
    # A length that tells the truth is taken, too.
    if isinstance(request, Call):
        length = 14 + sum(argument.type.width for argument in request.arguments)
        assert parse_request(encode_request(request, G2, length), G2) == request


@pytest.mark.parametrize(
    ("request_", "to_board", "to_host"),
    [
        (RGB, 0, 0), (Push(1, 2, 9), 9, 0), (Pull(1, 2, 9), 0, 9), (Send(9), 9, 0),
        (Receive(9, 0), 0, 9), (Load(9), 9, 0), (Event(), 0, 0), (Lookup("led"), 0, 0),
        (Allocate(9), 0, 0), (Write(9, 5), 9, 0), (Read(9, 5), 0, 9), (Free(5), 0, 0),
        (Unknown(9), 0, 0),
    ],
)  # fmt: skip
def test_how_much_data_a_request_moves(request_, to_board, to_host):
    assert (data_to_board(request_), data_to_host(request_)) == (to_board, to_host)


def test_values_are_cut_to_their_width():
    call = Call(1, 2, Type.INT, (Argument(Type.UINT8, 0x1FF), Argument(Type.UINT16, -1)))
    assert parse_request(encode_request(call)).arguments == (
        (Type.UINT8, 0xFF),
        (Type.UINT16, 0xFFFF),
    )


def test_a_packet_may_be_full():
    call = Call(1, 2, Type.INT, (Argument(Type.PTR, 5),) * 6 + (Argument(Type.UINT16, 7),))
    assert parse_header(encode_request(call)).length == 64
    assert parse_request(encode_request(call)) == call


# -- what can't be sent --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (Call(256, 0, 0), "request"),
        (Call(0, -1, 0), "request"),
        (Call(0, 0, 256), "request"),
        (Call(0, 0, 0, (Argument(Type.UINT8, 1),) * 9), "arguments"),
        (Call(0, 0, 0, (Argument(Type.PTR, 1),) * 7), "arguments"),
        (Push(0, 0, 2**32), "request"),
        (Push(0, 0, 1, -1), "request"),
        (Receive(1, 2**64), "request"),
        (Load(-1), "request"),
        (Unknown(7), "request"),
        (Unknown(256), "request"),
        (Unknown(99, bytes(59)), "arguments"),
        (Lookup("led"), "request"),
        (Free(0), "request"),
    ],
)
def test_what_the_first_generation_has_no_packet_for(request_, field):
    with pytest.raises(BadValue) as caught:
        encode_request(request_)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "request_", [Push(0, 0, 1), Event(), Load(1), Send(1), Receive(1, 0), Call(0, 0, 0, user=True)]
)
def test_what_the_second_generation_has_no_packet_for(request_):
    with pytest.raises(BadValue, match="generation 2 has no"):
        encode_request(request_, G2)


@pytest.mark.parametrize("name", ["", "sixteen_letters_", "a b", "é", "a\0", "\udc80", "a?"])
def test_names_that_are_none(name):
    with pytest.raises(BadValue, match="name of a module"):
        encode_request(Lookup(name), G2)


# -- what can't be read --------------------------------------------------------------------------


def refused(packet, generation=G1):
    with pytest.raises(BadPacket) as caught:
        parse_request(packet, generation)
    return caught.value.error


def test_packets_of_any_other_size_are_refused():
    packet = encode_request(Event())
    for size in (*range(6), 65, 128):
        assert refused(packet.ljust(128, b"\0")[:size]) is Error.E_CHECKSUM


def test_each_bit_that_the_checksum_covers_is_guarded():
    packet = encode_request(RGB)
    for at, bit in product(range(17), range(8)):
        altered = bytearray(packet)
        altered[at] ^= 1 << bit
        assert refused(bytes(altered)) is Error.E_CHECKSUM
    for at in range(17, 64):  # and no more
        assert parse_request(packet[:at] + b"\xff" + packet[at + 1 :]) == RGB


def test_a_length_beyond_the_packet_is_refused():
    assert refused(signed(encode_request(RGB), 65)) is Error.E_CHECKSUM
    assert refused(signed(encode_request(RGB), 0xFFFF)) is Error.E_CHECKSUM
    assert refused(signed(encode_request(RGB)[:16], 17)) is Error.E_CHECKSUM


def test_a_length_of_nothing_covers_nothing():
    """Boards take it, and call whatever the packet names."""
    packet = encode_request(RGB)
    assert parse_request(packet[:1] + bytes(4) + packet[5:]) == RGB


@pytest.mark.parametrize("size", range(6, 17))
def test_packets_that_end_too_early_are_refused(size):
    packet = signed(encode_request(RGB)[:size], 6)
    assert refused(packet) is Error.E_FMR_OVERFLOW


@pytest.mark.parametrize(
    ("generation", "request_class", "size"),
    [(G1, 2, 29), (G1, 3, 12), (G1, 4, 9), (G1, 5, 25), (G1, 6, 8), (G2, 1, 17), (G2, 2, 17),
     (G2, 4, 17), (G2, 5, 17)],
)  # fmt: skip
def test_the_other_classes_need_their_bytes(generation, request_class, size):
    packet = signed(b"\xfe\0\0\6\0" + bytes((request_class,)) + bytes(size - 6))
    assert refused(packet, generation) is Error.E_FMR_OVERFLOW


@pytest.mark.parametrize("code", [5, 10, 12, 13, 14])
def test_types_that_do_not_exist_are_refused(code):
    packet = bytearray(encode_request(Call(0, 0, 0, (Argument(Type.UINT8, 1),) * 2)))
    packet[9] = code << 4
    with pytest.raises(BadPacket, match=f"argument 1 has the type {code}") as caught:
        parse_request(signed(bytes(packet)))
    assert caught.value.error is Error.E_TYPE


def test_arguments_stay_in_the_packet():
    packet = bytearray(encode_request(Call(0, 0, 0, (Argument(Type.PTR, 1),) * 6)))
    packet[13] = 7
    packet[9:13] = b"\x66\x66\x66\x06"
    with pytest.raises(BadPacket, match="argument 6 begins at 62") as caught:
        parse_request(signed(bytes(packet)))
    assert caught.value.error is Error.E_FMR_OVERFLOW
    packet[13] = 9
    with pytest.raises(BadPacket, match="9 arguments"):
        parse_request(signed(bytes(packet)))


@pytest.mark.parametrize("request_", [Push(9, 6, 100), Pull(9, 7, 100)])
def test_transfers_have_a_pointer_and_their_length(request_):
    packet = bytearray(encode_request(request_))
    for at, value in ((13, 0x33), (14, 1), (17, 1), (17, 3)):
        altered = packet.copy()
        altered[at] = value
        assert refused(signed(bytes(altered))) is Error.E_TYPE
    packet[26] = 101
    with pytest.raises(BadPacket, match="announces 100 bytes, and its argument says 101") as caught:
        parse_request(signed(bytes(packet)))
    assert caught.value.error is Error.E_BOUNDARY


@pytest.mark.parametrize("name", [b"\0", b"sixteen_letters_\0", b"a b\0", b"\xff\0"])
def test_look_ups_have_names(name):
    packet = signed((b"\xfe\0\0\6\0\3" + name).ljust(64, b"x"))
    assert refused(packet, G2) is Error.E_NAME


def test_a_name_needs_no_end_where_the_packet_ends():
    assert parse_request(signed(b"\xfe\0\0\6\0\3" + b"led"), G2) == Lookup("led")


@given(st.integers(6, 255), st.binary(max_size=58))
def test_classes_that_do_not_exist_keep_what_they_have(request_class, payload):
    request = Unknown(request_class, payload)
    assert parse_request(encode_request(request, G2), G2) == request
