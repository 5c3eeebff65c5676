import pytest
from flipper.wire.requests import requests
from flipper.wire.vectors import vectors
from hypothesis import given
from hypothesis import strategies as st

from buswork.flipper.wire import checks
from buswork.flipper.wire.checks import Invocation, Transfer, refusal, understood, user_call
from buswork.flipper.wire.errors import Error
from buswork.flipper.wire.exchanges import Refused, RequestReader
from buswork.flipper.wire.modules import TABLES, Kind
from buswork.flipper.wire.packets import (
    Argument,
    Call,
    Event,
    Load,
    Lookup,
    Pull,
    Push,
    Receive,
    Send,
    Unknown,
)
from buswork.flipper.wire.terms import (
    LIMITS,
    MAX_IMAGE_BYTES,
    BadValue,
    Framing,
    Generation,
    Processor,
    Type,
)

G1, G2 = Generation
U2, S4, FVM = Processor
U8, U32 = Type.UINT8, Type.UINT32


def field_of(check, *args):
    with pytest.raises(BadValue) as caught:
        check(*args)
    assert str(caught.value)
    return caught.value.field


# -- calls by name -------------------------------------------------------------------------------


def test_calls_are_made_from_the_table():
    for processor, index in ((U2, 2), (S4, 6), (FVM, 6)):
        call = checks.call(TABLES[G1, processor], "led", "rgb", [10, 20, 30])
        assert call == Call(index, 1, Type.VOID, ((U8, 10), (U8, 20), (U8, 30)))
    assert checks.call(TABLES[G2, FVM], "gpio", "read", (5,)) == Call(3, 2, U32, ((U32, 5),))


@pytest.mark.parametrize(
    ("module", "function", "values", "field", "text"),
    [
        ("lcd", "rgb", [], "module", "no module 'lcd'"),
        ("led", "hsv", [], "function", "no function 'hsv'"),
        ("uart0", "push", [], "function", "transfers data"),
        ("led", "rgb", [1, 2], "values", r"led.rgb\(red, green, blue\) takes 3 values"),
        ("led", "rgb", [1, 2, 3, 4], "values", "takes 3 values"),
        ("led", "configure", [1], "values", r"led.configure\(\) takes no values"),
        ("gpio", "read", [], "values", "takes 1 value$"),
        ("led", "rgb", [1, 256, 3], "green", "green must be 0 to 255"),
        ("led", "rgb", [-1, 2, 3], "red", "red must be 0 to 255"),
        ("led", "rgb", [1, 2, 2**64], "blue", "blue must be 0 to 255"),
        ("led", "rgb", [True, 2, 3], "red", "whole number"),
        ("led", "rgb", [1, 2.0, 3], "green", "whole number"),
        ("led", "rgb", [1, 2, "3"], "blue", "whole number"),
        ("led", "rgb", [1, 2, None], "blue", "whole number"),
        ("gpio", "write", [0, 256], "clear", "clear must be 0 to 255"),
        ("uart0", "configure", [0, 2], "interrupts", "0 to 1"),
    ],
)
def test_calls_that_are_refused_name_the_field(module, function, values, field, text):
    with pytest.raises(BadValue, match=text) as caught:
        checks.call(TABLES[G1, U2], module, function, values)
    assert caught.value.field == field


@given(
    st.sampled_from([(t, m, f) for t in TABLES.values() for m, f in t if f.kind is Kind.CALL]),
    st.data(),
)
def test_every_function_takes_all_of_its_range_and_nothing_else(which, data):
    table, module, function = which
    values = [data.draw(st.integers(-1, p.highest + 1)) for p in function.parameters]
    fit = all(p.lowest <= v <= p.highest for p, v in zip(function.parameters, values, strict=True))
    asked = table, module.name, function.name, values
    if not fit:
        assert field_of(checks.call, *asked) in [p.name for p in function.parameters]
        return
    call = checks.call(*asked)
    assert [value for _, value in call.arguments] == values
    assert understood(table, call) == Invocation(module.name, function.name, tuple(values))


# -- transfers -----------------------------------------------------------------------------------


def test_transfers_are_made_from_the_table():
    make = checks.transfer_request
    assert make(TABLES[G1, U2], "uart0", "push", Kind.PUSH, 128) == Push(3, 2, 128)
    assert make(TABLES[G1, S4], "spi", "pull", Kind.PULL, 4096) == Pull(9, 7, 4096)
    assert make(TABLES[G1, FVM], "usart", "pull", Kind.PULL, 65507) == Pull(15, 3, 65507)


@pytest.mark.parametrize("processor", Processor)
def test_transfers_have_the_lengths_that_their_processor_survives(processor):
    table = TABLES[G1, processor]
    for length in (0, -1, LIMITS[processor].transfer_bytes + 1, 2**32, True, "5", None):
        asked = table, "uart0", "pull", Kind.PULL, length
        assert field_of(checks.transfer_request, *asked) == "length"


def test_transfers_need_a_function_that_transfers():
    table = TABLES[G1, S4]
    with pytest.raises(
        BadValue, match=r"led.rgb takes no data; these do: spi.push, uart0.push, us"
    ):
        checks.transfer(table, "led", "rgb", Kind.PUSH)
    with pytest.raises(BadValue, match=r"spi\.push brings no data"):
        checks.transfer(table, "spi", "push", Kind.PULL)
    assert field_of(checks.transfer, table, "lcd", "push", Kind.PUSH) == "module"
    asked = TABLES[G2, FVM], "uart0", "write", Kind.PUSH
    assert checks.transfer(*asked)[1].number == 9
    assert field_of(checks.transfer_request, *asked, 5) == "request"


# -- user modules --------------------------------------------------------------------------------


def test_calls_of_user_modules_stay_in_the_limits():
    argument = Argument(Type.UINT8, 41)
    assert user_call(S4, 0, 1, U8, [argument]) == Call(0, 1, U8, (argument,), user=True)
    for code in LIMITS[FVM].arguments:
        edges = [Argument(code, code.lowest), Argument(code, code.highest)]
        assert user_call(FVM, 0, 0, U8, edges).arguments == tuple(edges)
    signed = Argument(Type.INT64, -5)
    assert user_call(FVM, 255, 255, Type.INT64, [signed] * 4).arguments == (signed,) * 4


def test_the_4s_gets_signed_values_in_a_type_that_it_knows():
    asked = [Argument(code, -5) for code in (Type.INT8, Type.INT16, Type.INT32, Type.INT)]
    assert user_call(S4, 0, 0, U8, asked).arguments == (Argument(Type.INT, -5),) * 4
    assert user_call(FVM, 0, 0, U8, asked).arguments == tuple(asked)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ((U2, 0, 0, U8, []), "module"),
        ((S4, 4, 0, U8, []), "module"),
        ((S4, -1, 0, U8, []), "module"),
        ((FVM, 256, 0, U8, []), "module"),
        ((S4, 0, 256, U8, []), "function"),
        ((S4, 0, 0, 5, []), "returns"),
        ((S4, 0, 0, Type.INT8, []), "returns"),
        ((S4, 0, 0, U8, [Argument(U8, 1)] * 5), "values"),
        ((S4, 0, 0, U8, [Argument(U8, 1), Argument(Type.INT64, 1)]), "values[1]"),
        ((S4, 0, 0, U8, [Argument(Type.INT8, 128)]), "values[0]"),
        ((S4, 0, 0, U8, [Argument(Type.UINT64, 1)]), "values[0]"),
        ((S4, 0, 0, U8, [Argument(U8, 256)]), "values[0]"),
        ((S4, 0, 0, U8, [Argument(U32, -1)]), "values[0]"),
    ],
)
def test_calls_of_user_modules_that_are_refused(asked, field):
    assert field_of(user_call, *asked) == field


# -- packets of strangers ------------------------------------------------------------------------

# What makes no sense, and harms most boards; by the field that says so.
NOT_UNDERSTOOD = {
    "err.class.9": "request",
    "err.module.18": "module",
    "err.function.adc.5": "function",
    "err.function.gpio.200": "function",
    "err.args.7": "values",
    "load.on.fvm": "request",
    "send.on.fvm": "request",
    "std.uart0.configure": "interrupts",
    "types.f_five": "values",
}


def test_what_unmodified_clients_send_is_understood():
    asked = 0
    files = "gen1_udp_modules", "gen1_udp_pushpull", "gen1_udp_lookup", "gen1_udp_types"
    for found in vectors(*files, "gen1_udp_errors"):
        board = RequestReader(Framing.UDP)
        for chunk in [chunk for sent, _ in found.turns for chunk in sent]:
            for exchange in board.feed(chunk):
                if isinstance(exchange, Refused):
                    continue
                if refused := NOT_UNDERSTOOD.get(found.content["id"]):
                    asked_for = TABLES[G1, FVM], exchange.request
                    assert field_of(understood, *asked_for) == refused
                    continue
                meant = understood(TABLES[G1, FVM], exchange.request)
                call = found.content.get("call")
                if call and "module" in call and not isinstance(meant, Call):
                    assert (meant.module, meant.function) == (call["module"], call["function"])
                asked += 1
    assert asked > 60


def test_an_understood_packet_goes_to_a_processor_with_other_numbers():
    """As the library sends it over a network, and a board on USB gets it."""
    packet = Call(6, 1, Type.VOID, tuple(Argument(U8, value) for value in (1, 2, 3)))
    meant = understood(TABLES[G1, FVM], packet)
    assert meant == Invocation("led", "rgb", (1, 2, 3))
    assert checks.call(TABLES[G1, U2], meant.module, meant.function, meant.values).module == 2


def test_types_do_not_matter_where_values_fit():
    """Boards would read led.rgb of uint32 as 0, 7, 0; they get uint8."""
    for code in (U32, Type.UINT64, Type.INT, Type.INT8, Type.VOID):
        packet = Call(6, 1, Type.INT, tuple(Argument(code, value) for value in (7, 8, 9)))
        assert understood(TABLES[G1, FVM], packet) == Invocation("led", "rgb", (7, 8, 9))
    packet = Call(6, 1, Type.VOID, (Argument(U32, 256),) * 3)
    assert field_of(understood, TABLES[G1, FVM], packet) == "red"


def test_negative_numbers_are_their_bits():
    for code in (Type.INT, Type.INT32, Type.INT8):
        packet = Call(4, 3, Type.INT32, (Argument(code, -1),))
        assert understood(TABLES[G1, FVM], packet).values == (0xFFFFFFFF,)
    packet = Call(4, 3, Type.INT32, (Argument(Type.INT, -(2**31) - 1),))
    assert field_of(understood, TABLES[G1, FVM], packet) == "mask"
    packet = Call(6, 1, Type.VOID, (Argument(Type.INT, -128),) * 3)
    assert understood(TABLES[G1, FVM], packet).values == (128,) * 3


@pytest.mark.parametrize(
    ("processor", "request_", "field"),
    [
        (U2, Call(5, 0, 4), "module"),
        (U2, Call(2, 7, 4), "function"),
        (U2, Call(0, 0, 4, user=True), "module"),
        (U2, Push(3, 3, 5), "function"),
        (U2, Push(3, 2, 129), "length"),
        (U2, Pull(3, 3, 0), "length"),
        (U2, Pull(9, 3, 5), "module"),
        (U2, Load(88), "request"),
        (U2, Receive(8, 0), "request"),
        (FVM, Send(8), "request"),
        (S4, Send(0), "length"),
        (S4, Send(4097), "length"),
        (S4, Receive(8, 2**32 - 7), "address"),
        (S4, Load(MAX_IMAGE_BYTES + 1), "length"),
        (S4, Unknown(9), "request"),
        (S4, Lookup("led"), "request"),
    ],
)
def test_packets_that_would_do_harm_are_refused(processor, request_, field):
    assert field_of(understood, TABLES[G1, processor], request_) == field


def test_who_splits_transfers_may_take_longer_ones():
    request = Push(3, 2, 1000)
    assert field_of(understood, TABLES[G1, U2], request) == "length"
    assert understood(TABLES[G1, U2], request, 1000) == Transfer("uart0", "push", 1000)
    assert field_of(understood, TABLES[G1, U2], request, 999) == "length"


@pytest.mark.parametrize(
    "request_", [Event(), Load(88), Send(8), Receive(8, 2**32 - 8), Call(0, 0, 4, user=True)]
)
def test_what_is_no_call_of_the_table_stays_as_it_is(request_):
    assert understood(TABLES[G1, S4], request_) == request_


@given(requests(G1), st.sampled_from(Processor))
def test_whatever_is_understood_has_a_packet_that_is_safe(request, processor):
    table = TABLES[G1, processor]
    try:
        meant = understood(table, request)
    except BadValue:
        return
    if isinstance(meant, Invocation):
        call = checks.call(table, meant.module, meant.function, meant.values)
        assert (call.module, call.function) == request[:2]
    elif isinstance(meant, Transfer):
        assert meant.length == request.length <= LIMITS[processor].transfer_bytes
    elif isinstance(meant, Call):
        assert meant.user
        assert len(meant.arguments) <= 4


def test_refusals_have_the_number_that_boards_have_for_it():
    wanted = {"module": Error.E_MODULE, "request": Error.E_UNIMPLEMENTED, "returns": Error.E_TYPE,
              "red": Error.E_BOUNDARY}  # fmt: skip
    for field, error in wanted.items():
        assert refusal(BadValue(field, "why")) == (error, "why")
