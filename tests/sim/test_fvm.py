"""The virtual machine against what was recorded of the original's, and on a real socket."""

import asyncio
import socket

import pytest
from flipper.wire.vectors import vectors
from sim.boards import call, packet, result, transfer

from buswork.sim.fmr import (
    I8,
    I16,
    I32,
    INT,
    MAX_CALLS,
    PTR,
    U8,
    U16,
    U32,
    U64,
    Failed,
    Function,
)
from buswork.sim.fvm import SimFvm

GPIO, LED, UART0, USART = 4, 6, 14, 15
PINS = call(GPIO, 3, 0xFF, returns=3)


def failing():
    raise Failed(29)


def same(value):
    return value


# The module of the recordings: each function returns its argument.
TYPES = [
    *(Function(f"f_{kind}", same, (kind,), kind) for kind in (U8, U16, U32)),
    Function("f_u64", same, (U64,), U64),
    *(Function(f"f_{kind}", same, (kind,), kind) for kind in (I8, I16, I32)),
    Function("f_i64", same, (U64,), U64),
    Function("f_int", same, (INT,), INT),
    Function("f_ptr", same, (PTR,), PTR),
    Function("f_none", lambda: 0xCAFEBABE, (), U32),
    Function("f_void", lambda: None),
    Function("f_five", lambda *v: sum(v), (U32, U32, U32, U8, U32), U32),
    Function("f_fail", failing, (), INT),
]
# Results of void functions are whatever was in a register; theirs and ours are not compared.
GARBAGE = "return"
PATTERN = bytes(3 + 7 * n & 0xFF for n in range(4096))


@pytest.fixture
def fvm():
    return SimFvm({"types": TYPES})


def prepare(fvm, name):
    """What was in the machine when it was recorded."""
    if name == "button.read.pressed":
        fvm.button.pressed = True
    elif name == "std.gpio.read":
        fvm.gpio.outputs, fvm.gpio.inputs = 0, 0x0F
    elif name == "gpio.read.clear":
        fvm.gpio.outputs = 0
    fvm.uart0.received[:] = b"" if name.endswith("short") else PATTERN
    fvm.usart.received[:] = b"" if name == "std.usart.ready" else PATTERN


def is_garbage(found):
    return any(GARBAGE in place["why"] for place in found.content.get("volatile", ()))


FILES = ("gen1_udp_modules", "gen1_udp_pushpull", "gen1_udp_types", "gen1_udp_lookup")


@pytest.mark.parametrize("file", FILES)
def test_a_recorded_course_is_answered_byte_for_byte(fvm, file):
    compared = 0
    for found in vectors(file):
        name = found.content["id"]
        prepare(fvm, name)
        for sent, received in found.turns:
            answered = [each for datagram in sent for each in fvm.handle(datagram)]
            if is_garbage(found):
                assert [len(each) for each in answered] == [len(each) for each in received]
            else:
                assert answered == received, name
                compared += 1
        fvm.button.pressed = False
    assert compared >= 3


@pytest.mark.parametrize("found", vectors("gen1_udp_errors"), ids=lambda found: found.content["id"])
def test_every_recorded_error_is_the_same(fvm, found):
    ((sent, received),) = found.turns
    assert [each for datagram in sent for each in fvm.handle(datagram)] == received
    assert fvm.has_died == found.content["peer_after"].startswith("died")
    if "followup_reply" in found.content:
        assert fvm.handle(PINS) == [bytes.fromhex(found.content["followup_reply"])]
    if not fvm.has_died:
        assert fvm.handle(PINS) == [result()]


def test_data_are_whatever_comes_next(fvm):
    assert fvm.handle(transfer(2, UART0, 2, 5)) == []
    assert fvm.handle(b"abc") == [result()]
    assert fvm.handle(transfer(2, UART0, 2, 5)) == []
    assert fvm.handle(b"abcdefghi") == [result()]
    assert fvm.uart0.sent == b"abc\0\0abcde"
    assert fvm.handle(PINS[:18]) == [result()]


def test_classes_of_the_4s_are_transfers_of_the_first_function(fvm):
    assert fvm.handle(packet(5, (4).to_bytes(4, "little") + bytes(16))) == [bytes(4), result()]


def test_what_is_too_much_for_datagrams_is_not_sent(fvm):
    assert fvm.handle(transfer(3, UART0, 3, 0xFFFFFFFF)) == []
    assert fvm.handle(PINS) == [result()]


def test_user_modules_have_bounds(fvm):
    assert fvm.handle(call(0, 20, request_class=1)) == [result(0xFFFFFFFF, 2)]
    assert fvm.handle(call(0, 200, request_class=1)) == []
    assert fvm.handle(PINS) == []


def test_it_remembers_its_last_calls(fvm):
    asked = [call(LED, 1, number, 0, 0, types=0, width=1) for number in (1, 2)]
    for packet_ in (*asked, *[PINS] * (MAX_CALLS - 1)):
        fvm.handle(packet_)
    assert len(fvm.calls) == MAX_CALLS
    assert fvm.calls[0] == ("led", "rgb", (2, 0, 0))


# -- on a socket -----------------------------------------------------------------------------------


async def ask(sock, *datagrams):
    loop = asyncio.get_running_loop()
    for each in datagrams:
        sock.send(each)
    return await asyncio.wait_for(loop.sock_recv(sock, 65536), 5)


async def test_it_answers_the_one_who_sent_last(fvm):
    await fvm.listen()
    fvm.gpio.inputs = 3
    with (
        socket.socket(type=socket.SOCK_DGRAM) as one,
        socket.socket(type=socket.SOCK_DGRAM) as other,
    ):
        for sock in (one, other):
            sock.setblocking(False)
            sock.connect(fvm.address)
        assert await ask(one, PINS) == result(3)
        one.send(transfer(2, UART0, 2, 3))
        assert await ask(other, b"abc") == result()
        lost = [PINS]
        fvm.is_lost = lambda datagram: bool(lost) and datagram == lost.pop()
        assert await ask(one, PINS, call(LED, 1, 1, 2, 3, types=0, width=1)) == result()
        fvm.is_lost = lambda datagram: datagram == result(3)
        assert await ask(one, PINS, call(LED, 0)) == result()
        one.send(call(18, 0))
        await asyncio.wait_for(fvm.closed.wait(), 5)
        assert fvm.has_died
        with pytest.raises(ConnectionRefusedError):  # the system's answer
            await ask(one, PINS)
    assert fvm.calls[-1] == ("led", "configure", ())
    assert fvm.led.colour == (1, 2, 3)
    fvm.close()
