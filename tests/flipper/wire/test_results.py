import pytest
from hypothesis import given
from hypothesis import strategies as st

from buswork.flipper.wire.errors import BoardError, Error
from buswork.flipper.wire.results import (
    RESULT_BYTES,
    Result,
    encode_result,
    encode_value,
    failed,
    interpret,
    parse_result,
    raise_for,
    refused,
)
from buswork.flipper.wire.terms import BadAnswer, Generation, Processor, Type

G1, G2 = Generation
U2, S4, FVM = Processor


def test_results_have_the_lengths_that_tell_generations_apart():
    assert RESULT_BYTES == {G1: 5, G2: 9}
    assert encode_result(Result(0x12345678, 18)).hex() == "7856341212"
    assert encode_result(Result(1, 11), G2).hex() == "01000000000000000b"
    assert encode_result(Result(-1)).hex() == "ffffffff00"


@given(st.sampled_from(Generation), st.integers(0, 2**32 - 1), st.integers(0, 255))
def test_results_come_back(generation, value, error):
    encoded = encode_result(Result(value, error), generation)
    assert parse_result(encoded, generation) == (value, error)
    assert parse_result(encoded.ljust(64, b"\xaa"), generation) == (value, error)


@pytest.mark.attack(27)
@pytest.mark.parametrize("generation", Generation)
@pytest.mark.parametrize("size", [0, 1, 4, 6, 8, 10, 63, 65, 128])
def test_what_is_no_result_is_refused(generation, size):
    with pytest.raises(BadAnswer, match=f"not {size}"):
        parse_result(bytes(size), generation)


def test_errors_are_raised_with_their_number_and_name():
    raise_for(Result(0xFFFFFFFF))  # a value says nothing of errors
    with pytest.raises(BoardError, match="E_INVALID_TASK") as caught:
        raise_for(Result(0xFFFFFFFF, 27))
    assert (caught.value.number, caught.value.value) == (27, 0xFFFFFFFF)
    with pytest.raises(BoardError, match="E_NO_PID"):
        raise_for(Result(0, 27), G2)


def test_refusals_look_like_the_boards():
    assert failed() == (0xFFFFFFFF, 0)
    assert failed(G2) == (2**64 - 1, 0)
    assert refused(Error.E_CHECKSUM) == (0xFFFFFFFF, 18)
    assert refused(Error.E_CHECKSUM, G2) == (2**64 - 1, 19)


@pytest.mark.parametrize(
    ("value", "returns", "processor", "number"),
    [
        (0x0000FFFF, Type.INT, U2, -1),  # as recorded of an empty UART: 16 bits, no sign
        (0x00007FFF, Type.INT, U2, 32767),
        (0xFFFFFFFF, Type.INT, U2, -1),  # a call that was not made
        (0x0000FFFF, Type.INT, S4, 65535),
        (0xFFFFFFFF, Type.INT, S4, -1),
        (0xFFFFFFFF, Type.INT, FVM, -1),
        (0x00400001, Type.UINT32, S4, 0x00400001),
        (0xFFFFFFFF, Type.UINT32, S4, 0xFFFFFFFF),
        (0x24FC0201, Type.UINT8, FVM, 1),  # the rest of the register
        (0x000000FB, Type.INT8, FVM, -5),
        (0x0000CFC7, Type.INT16, FVM, -12345),
        (0xF8A432EB, Type.INT32, FVM, -123456789),
        (0x20001234, Type.PTR, S4, 0x20001234),
        (2**64 - 2, Type.INT64, FVM, -2),
        (0x0000000D, Type.VOID, FVM, None),
    ],
)
def test_values_become_numbers_with_their_sign(value, returns, processor, number):
    assert interpret(Result(value), returns, processor) == number


@given(st.sampled_from(Type), st.sampled_from(Processor), st.integers())
def test_simulated_values_come_back(returns, processor, number):
    value = encode_value(number, returns, processor)
    back = interpret(Result(value), returns, processor)
    if returns is Type.VOID:
        assert (value, back) == (0, None)
    else:
        assert (number - back) % (1 << (16 if returns is Type.INT else 8)) == 0
        assert encode_value(back, returns, processor) == value
        assert returns.lowest <= back <= returns.highest
