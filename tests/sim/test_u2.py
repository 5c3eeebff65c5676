"""What the U2 has between USB and the 4S."""

import pytest
from sim.boards import call, result

from buswork.sim.fmr import Failed, Pause, Say
from buswork.sim.u2 import ERASE, POWER, RESET, U2, UART_BYTES, PortD, Uart

PINS = call(4, 3, 0xFF, returns=3)


class Late:
    def __init__(self):
        self.times = 0

    def __call__(self):
        self.times -= 1
        return self.times >= 0


@pytest.fixture
def late():
    return Late()


@pytest.fixture
def uart(late):
    return Uart(late)


def run(part, name, *values):
    (function,) = (each for each in part.functions if each.name == name)
    return function.run(*values)


def pulled(uart, length):
    """What a pull brings; None: it failed after its time."""
    buffer = bytearray(length)
    steps = run(uart.part(), "pull", buffer)
    try:
        assert next(steps) == Pause(0.1)
    except StopIteration as done:
        return bytes(buffer) if done.value == 0 else done.value
    with pytest.raises(Failed) as caught:
        next(steps)
    assert caught.value.error == 31
    return None


def push(uart, data):
    return run(uart.part(), "push", bytearray(data))


def test_it_carries_packets_to_the_4s_and_keeps_its_answers(uart):
    assert push(uart, PINS) == 0
    assert pulled(uart, 4) == result(1)[:4]
    assert pulled(uart, 1) == result(1)[4:]
    assert pulled(uart, 1) is None


def test_what_a_pull_found_too_little_is_lost(uart):
    push(uart, PINS)
    assert pulled(uart, 6) is None
    assert pulled(uart, 1) is None


def test_an_answer_that_comes_during_a_pull_waits_for_the_next(uart, late):
    late.times = 1
    push(uart, PINS[:10])
    push(uart, PINS[10:])
    push(uart, PINS)
    assert pulled(uart, 5) == result(1)  # of the second
    assert pulled(uart, 5) is None
    assert pulled(uart, 5) == result(1)


def test_it_keeps_no_more_than_its_buffer(uart):
    for _ in range(60):
        push(uart, PINS)
    assert pulled(uart, UART_BYTES) is not None
    assert pulled(uart, 1) is None


def test_at_another_speed_the_4s_understands_nothing(uart):
    assert run(uart.part(), "configure", 8, 0) == 0
    push(uart, PINS)
    assert pulled(uart, 5) is None
    run(uart.part(), "configure", 0, 0)
    push(uart, PINS)
    assert run(uart.part(), "ready") == 1
    run(uart.part(), "configure", 0, 1)
    assert run(uart.part(), "ready") == 0
    uart.power_on()
    assert pulled(uart, 5) is None


def test_bits_of_its_port_hold_the_4s(uart):
    port = PortD(uart.s4)
    port.power_on()
    assert port.levels == 0x12
    for bit in (RESET, POWER):
        uart.s4.tasks.start()
        run(port.part(), "write", 0, bit)
        assert not uart.s4.is_up
        run(port.part(), "write", bit, 0)
        assert uart.s4.is_up
        assert not uart.s4.tasks.states
    run(port.part(), "write", 0xFFF, 0)
    assert run(port.part(), "read", 0) == 0xFF
    uart.s4.crash()
    port.power_on()
    assert uart.s4.is_up


def test_the_last_module_is_its_watchdog_and_behind_it_is_nothing():
    fired, said = [], []
    u2 = U2((), memory=lambda: 2, say=said.append, fire=lambda: fired.append(True))
    (step,) = u2.serve(call(0, 1))
    assert (step, fired) == (Say(result(0x0818)), [True])
    assert list(u2.serve(call(1, 0))) == [Say(result(0xFFFFFFFF, 2))]
    assert u2.memory == 2
    assert list(u2.serve(call(0, 0, request_class=1))) == [Say(result(0xFFFFFFFF))]
    assert said == ["no user modules\n"]


def test_the_boot_rom_listens_at_a_speed_of_its_own(uart):
    port = PortD(uart.s4)
    port.power_on()
    run(port.part(), "write", ERASE, 0)
    assert not uart.s4.is_up
    run(port.part(), "write", 0, ERASE | RESET)
    run(port.part(), "write", RESET, 0)
    assert push(uart, b"#") == 0
    assert pulled(uart, 3) is None
    run(uart.part(), "configure", 8, 0)
    assert push(uart, b"#") == 0
    assert pulled(uart, 3) == b"\n\r>"
