"""The runtime alone: how each kind of processor takes calls, and what it wants and says."""

import json

import pytest
from flipper.wire.vectors import VECTORS
from sim.boards import call, packet, result, transfer

from buswork.sim.fmr import (
    I8,
    I16,
    I32,
    INT,
    PTR,
    U8,
    U16,
    U32,
    U64,
    VOID,
    Abi,
    Argument,
    Arm,
    Avr,
    Crash,
    Data,
    Failed,
    Function,
    Hang,
    Part,
    Pause,
    Runtime,
    Say,
    Want,
    address_of,
    crc16,
    is_whole,
    length_of,
)
from buswork.sim.fmr import (
    transfer as moves,
)

MINUS_ONE = 0xFFFFFFFF


def of(*values, kind=U32):
    return [Argument(kind, value) for value in values]


# -- calls (section 4) -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "given", "expected"),
    [
        ((U8, U8, U8), of(7, 8, 9, kind=U8), [7, 8, 9]),
        ((U8, U8, U8), of(7, 8, 9, kind=I8), [7, 8, 9]),
        ((U8, U8, U8), of(7, 8, 9, kind=U16), [7, 8, 9]),
        ((U8, U8, U8), of(7, 8, 9), [0, 7, 0]),  # measured
        ((U32,), of(0x12345678), [0x12345678]),
        ((U32,), of(0x12345678, kind=I32), [0x12345678]),
        ((INT,), of(0x12345678, kind=INT), [0x5678]),
        ((PTR, U32), [Argument(PTR, 0x20001234), Argument(U32, 5)], [0x1234, 5]),
        ((U32,), of(1, 2, 3, 4), [1]),
        ((U16,), [], [0]),
    ],
)
def test_the_u2_finds_arguments_where_their_types_put_them(parameters, given, expected):
    assert Avr().values(parameters, given) == expected


@pytest.mark.parametrize("given", [of(1, kind=U64), of(1, kind=5), of(1, 2, 3, 4, 5)])
def test_the_u2_hangs_with_what_does_not_fit_its_registers(given):
    with pytest.raises(Hang):
        Avr().values((U32,), given)


@pytest.mark.parametrize(
    ("number", "returns", "asked", "expected"),
    [
        (0x12, U32, U32, 0x12),
        (0x12, U32, I32, 0x12),
        (0x12, U32, U8, 0),
        (0x12, U32, U16, 0),
        (0x12, U32, INT, 0),
        (0x12, U32, PTR, 0),
        (0x12345678, U32, U16, 0x1234),
        (1, U8, U8, 1),
        (1, U8, I8, 1),
        (-1, INT, INT, 0xFFFF),
        (5, INT, VOID, 0),
        (5, U8, U64, MINUS_ONE),
        (5, U8, 5, MINUS_ONE),
        (0x0818, VOID, INT, 0x0818),
    ],
)
def test_the_u2_returns_what_lies_in_its_registers(number, returns, asked, expected):
    assert Avr().value(number, returns, asked) == expected


def test_the_4s_refuses_what_it_does_not_know():
    arm = Arm()
    for kind in (U64, I8, I16, I32, 5):
        assert arm.values((U32,), of(1, kind=kind)) is None
    assert arm.values((U32,), of(1, 2, 3, 4, 5)) is None
    for kind in (U8, U16, U32, INT, PTR):
        assert arm.values((U32,), of(0x81, kind=kind)) == [0x81]
    assert [arm.value(-1, INT, asked) for asked in (INT, U64, U8, VOID)] == [
        MINUS_ONE,
        MINUS_ONE,
        0xFF,
        0,
    ]
    assert arm.value(1, U32, I32) == MINUS_ONE


def test_the_virtual_machine_takes_all_that_has_a_meaning():
    abi = Abi()
    assert abi.values((U8, U64), [Argument(I16, 0x1FF), Argument(U64, 1 << 40)]) == [0xFF, 1 << 40]
    assert abi.values((), of(*range(7))) is None
    assert abi.values((), of(1, kind=12)) is None
    assert abi.value(1 << 40 | 7, U64, U64) == 7
    assert abi.value(1, U32, 5) == MINUS_ONE


# -- packets ---------------------------------------------------------------------------------------


def test_checksums_as_recorded():
    for found in json.loads((VECTORS / "crc.json").read_text())["vectors"]:
        assert crc16(bytes.fromhex(found["input_hex"])) == int(found["crc"], 16)


def test_the_header_says_what_the_checksum_covers():
    whole = call(4, 3, 0xFF)
    assert is_whole(whole)
    assert is_whole(whole[:40] + b"garbage".ljust(24, b"\0"))
    assert not is_whole(whole[:17] + b"\1" + whole[18:])
    assert not is_whole(b"\0" + whole[1:])
    assert is_whole(packet(0, length=0))  # the checksum of nothing
    assert not is_whole(packet(0, length=0)[:1] + b"\1" + bytes(62))


# -- the runtime -----------------------------------------------------------------------------------


def failing():
    raise Failed(27)


def waiting(buffer):
    yield Pause(0.5)
    buffer[:] = b"x" * len(buffer)
    return 3


@pytest.fixture
def took():
    return []


@pytest.fixture
def runtime(took):
    one = Part("one", (Function("add", lambda a, b: a + b, (U32, U32), U32),))
    two = Part(
        "two",
        (
            Function("fail", failing, (), INT),
            moves("push", lambda buffer: took.append(bytes(buffer)), Data.TAKES),
            moves("pull", waiting, Data.FILLS),
        ),
    )
    return Runtime(Abi(), [one, two])


def course(runtime, first, *given):
    """All steps of a packet, with what each that wants something is given."""
    steps = runtime.serve(first)
    given = list(given)
    found, answer = [], None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration:
            return found
        found.append(step)
        answer = given.pop(0) if isinstance(step, Want) else None


def said(runtime, first, *given):
    return b"".join(s.data for s in course(runtime, first, *given) if isinstance(s, Say))


def test_a_call_and_its_result(runtime):
    told = []
    runtime.called = lambda *what: told.append(what)
    assert course(runtime, call(0, 0, 2, 3, returns=3)) == [Say(result(5))]
    assert told == [("one", "add", (2, 3))]
    assert said(runtime, call(1, 0)) == result(MINUS_ONE, 27)


def test_behind_the_last_function_is_the_next_modules_first(runtime):
    assert said(runtime, call(0, 1)) == result(MINUS_ONE, 27)
    for module, function in ((0, 4), (1, 3), (2, 0)):
        with pytest.raises(Crash):
            said(runtime, call(module, function))


def test_data_come_before_the_call_and_go_before_the_result(runtime, took):
    assert course(runtime, transfer(2, 1, 1, 3), b"abc") == [Want(3), Say(result())]
    assert took == [b"abc"]
    expected = [Pause(0.5), Say(b"xxxx"), Say(result(3))]
    assert course(runtime, transfer(3, 1, 2, 4)) == expected


def test_a_transfer_of_an_ordinary_function_is_a_call_with_its_arguments(runtime):
    assert said(runtime, transfer(2, 0, 0, 3), b"abc") == result(0x20001003)


def test_a_call_of_a_transfers_function_is_nothing_that_was_measured(runtime):
    with pytest.raises(Crash):
        said(runtime, call(1, 1, 0, 3))


def test_what_is_refused_has_the_value_of_before(runtime):
    said(runtime, call(0, 0, 2, 3, returns=3))
    assert said(runtime, bytes(64)) == result(5, 18)
    assert said(runtime, packet(7)) == result(5)
    assert said(runtime, packet(9)) == result(5)
    runtime.abi.keeps_value = False
    assert said(runtime, bytes(64)) == result(0, 18)


class Small(Runtime):
    memory = 3


def test_where_memory_is_short_a_transfer_has_a_result_alone():
    small = Small(Abi(), [])
    for request_class in (2, 3):
        refused = course(small, transfer(request_class, 0, 0, 4))
        assert refused == [Say(result(MINUS_ONE, 1))]


def test_a_call_that_is_not_made_fails_without_an_error(runtime):
    told = []
    runtime.called = lambda *what: told.append(what)
    assert said(runtime, call(0, 0, 1, types=5, width=1)) == result(MINUS_ONE)
    assert told == []


def test_fields_of_the_memory_classes():
    whole = packet(5, (7).to_bytes(4, "little") + bytes(8) + (1 << 40).to_bytes(8, "little"))
    assert (length_of(whole), address_of(whole)) == (7, 1 << 40)


def test_without_user_modules_their_calls_fail_without_an_error(runtime):
    assert said(runtime, packet(1, bytes(8))) == result(MINUS_ONE)


def test_from_the_fifth_on_arguments_are_taken_for_bytes():
    runtime = Runtime(Abi(), [Part("sum", (Function("sum", lambda *v: sum(v), (U32,) * 5, U32),))])
    fifth = call(0, 0, 1, 1, 1, 1, 0x10101010, returns=3, types=0x33333)
    assert said(runtime, fifth) == result(4 + 0x10)
    runtime.abi.told_types = 8
    assert said(runtime, fifth) == result(4 + 0x10101010)
