"""The second generation's virtual machine against what was recorded of the original's."""

import struct

import pytest
from flipper.wire.vectors import vector, vectors
from sim.boards import call, packet

from buswork.sim.fvm2 import MINUS_ONE, SimFvm2
from buswork.sim.parts import Gpio

GPIO, UART0, USART = 3, 12, 13
ALIVE = call(1, 0)


class Constant(Gpio):
    """The original's stub says 1, whatever it is asked."""

    def _read(self, mask):
        return 1


@pytest.fixture
def fvm():
    return SimFvm2()


@pytest.fixture
def stub(monkeypatch):
    monkeypatch.setattr("buswork.sim.fvm2.Gpio", Constant)
    fvm = SimFvm2()
    fvm.spi.sent += b"\1"
    fvm.memory[0x562C2E8FA560] = bytearray()  # where it was when this was recorded
    return fvm


def result(value=0, error=0):
    return struct.pack("<QB", value & MINUS_ONE, error)


def memory(request_class, length, address=0):
    return packet(request_class, struct.pack("<IQ", length, address))[:18]


VOLATILE = ("void return", "device address")


def is_volatile(found):
    return any(place["why"].startswith(VOLATILE) for place in found.content.get("volatile", ()))


def test_a_recorded_course_is_answered_byte_for_byte(stub):
    compared = 0
    for found in vectors("gen2_udp"):
        stub.spi.is_enabled = True  # a stub as well
        for sent, received in found.turns:
            answered = [each for datagram in sent for each in stub.handle(datagram)]
            if is_volatile(found) and received[0] != result(MINUS_ONE):
                assert [len(each) for each in answered] == [9]
            else:
                assert answered == received, found.name
                compared += 1
    assert compared > 30
    assert 0x562C2E8FA560 not in stub.memory


# Beyond the table, it runs what happens to be there; what malloc says is an address.
OTHER = {"err.function.led.9", "err.malloc.big", "ok.exactlen"}


@pytest.mark.parametrize("found", vectors("gen2_udp_errors"), ids=lambda found: found.content["id"])
def test_every_recorded_error_is_the_same(fvm, found):
    for sent, received in found.turns:
        answered = [each for datagram in sent for each in fvm.handle(datagram)]
        if found.content["id"] in OTHER:
            assert [(len(each), each[8]) for each in answered] == [(9, 0)]
        else:
            assert answered == received
    if found.content["id"] == "err.dyld.unknown":
        assert fvm.handle(result(MINUS_ONE, 17)) == [result(MINUS_ONE, 11)]
    assert fvm.handle(ALIVE) == [result(1)]


def test_modules_are_in_the_order_that_was_recorded(fvm):
    names = [part.name for part in fvm.parts()]
    assert len(names) == 16
    assert names == sorted(names)
    for part in fvm.parts():
        functions = [each.name for each in part.functions]
        assert functions == sorted(functions)
    assert vector("gen2_udp/dyld.wdt").turns[0][1] == [result(names.index("wdt"))]


def test_bulk_data_go_through_memory_of_the_board(fvm):
    (answer,) = fvm.handle(memory(4, 5))
    address, error = struct.unpack("<QB", answer)
    assert (address > 0, error) == (True, 0)
    assert fvm.handle(memory(1, 5, address)) == []
    assert fvm.handle(b"hello") == [result(-1)]
    assert fvm.handle(memory(2, 7, address)) == [b"hello\0\0", result(-1)]
    write = packet(0, struct.pack("<BBBIBQI", UART0, 9, 4, 0x36, 2, address, 5))
    assert fvm.handle(write) == [result(1)]
    assert fvm.uart0.sent == b"hello"
    fvm.uart0.receive(b"world")
    read = packet(0, struct.pack("<BBBIBQI", UART0, 5, 4, 0x36, 2, address, 5))
    assert fvm.handle(read) == [result(1)]
    assert fvm.handle(memory(2, 5, address)) == [b"world", result(-1)]
    assert fvm.handle(memory(5, 0, address)) == [result(-1)]
    assert fvm.handle(memory(2, 5, address)) == []
    assert fvm.has_died


@pytest.mark.parametrize("length", [0, 65508])
def test_what_was_not_given_out_or_is_too_much_is_its_end(fvm, length):
    address = struct.unpack("<Q", fvm.handle(memory(4, 5))[0][:8])[0]
    assert fvm.handle(memory(2, length, address + (not length))) == []
    assert fvm.has_died


def test_values_have_64_bits(fvm):
    fvm.gpio.inputs = 0xFFFFFFFF
    assert fvm.handle(call(GPIO, 2, 0x80000000, returns=3)) == [result(0x80000000)]
    (address,) = struct.unpack("<Q", fvm.handle(memory(4, 5))[0][:8])
    read = packet(0, struct.pack("<BBBIBQI", UART0, 5, 4, 0x36, 2, address, 5))
    assert fvm.handle(read)[0][8] == 31


def test_a_serial_port_byte_by_byte(fvm):
    fvm.usart.receive(b"in")
    assert fvm.handle(call(USART, 5, returns=0)) == [result(1)]
    assert [fvm.handle(call(USART, 3, returns=0)) for _ in range(3)] == [
        [result(ord("i"))],
        [result(ord("n"))],
        [result(0)],
    ]
    assert fvm.handle(call(USART, 4, 0x41, types=0, width=1)) == [result()]
    assert fvm.usart.sent == b"A"
    fvm.uart0.receive(b"old")
    assert fvm.handle(call(UART0, 7)) == [result()]
    assert fvm.handle(call(UART0, 8, 115200)) == [result()]
    assert not fvm.uart0.received
    assert fvm.handle(call(15, 1)) == [result()]
