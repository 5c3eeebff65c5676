import pytest

from buswork.sim.fmr import Failed
from buswork.sim.parts import MAX_KEPT_BYTES, MAX_TASKS, Button, Gpio, Led, Line, Spi, Tasks, plain


def run(part, name, *values):
    (function,) = (each for each in part.functions if each.name == name)
    return function.run(*values)


def names(part):
    return [each.name for each in part.functions]


def test_functions_are_in_the_order_of_their_numbers():
    assert names(plain("adc")) == ["configure"]
    assert names(Led().part()) == ["configure", "rgb"]
    assert names(Button().part()) == ["configure", "read"]
    assert names(Gpio().part()) == ["configure", "enable", "write", "read"]
    assert names(Line().part("usart")) == ["configure", "ready", "push", "pull"]
    assert names(Tasks().part()) == ["pause", "resume", "stop"]
    assert names(Spi().part()) == [
        "configure", "enable", "disable", "ready", "put", "get", "push", "pull",
    ]  # fmt: skip
    assert run(plain("adc"), "configure", 1, 2) == 0


def test_a_light_and_a_button():
    led, button = Led(), Button()
    run(led.part(), "rgb", 1, 2, 3)
    assert led.colour == (1, 2, 3)
    assert run(button.part(), "read") == 0
    button.pressed = True
    assert run(button.part(), "read") == 1


def test_a_pin_is_high_if_either_side_holds_it_so():
    gpio = Gpio(0b0001)
    part = gpio.part()
    gpio.inputs = 0b1000
    run(part, "write", 0b0110, 0b0001)
    assert run(part, "read", 0xFF) == gpio.levels == 0b1110
    assert run(part, "read", 0b1100) == 0b1100
    run(part, "write", 0, 0b1111)
    assert run(part, "read", 0xFF) == 0b1000
    run(part, "enable", 0b11, 0b01)
    assert gpio.enabled == 0b10
    assert run(Gpio(0x12, has_mask=False).part(), "read", 0) == 0x12


def test_a_serial_port_has_what_somebody_sent():
    line = Line()
    part = line.part("usart")
    assert run(part, "push", bytearray(b"out")) == 0
    assert line.sent == b"out"
    line.receive(b"incoming")
    buffer = bytearray(2)
    assert (run(part, "ready"), run(part, "pull", buffer), buffer) == (1, 0, b"in")
    buffer = bytearray(9)
    with pytest.raises(Failed) as caught:
        run(part, "pull", buffer)
    assert (caught.value.error, buffer) == (31, b"coming\0\0\0")
    assert run(part, "ready") == 0
    run(part, "push", bytearray(MAX_KEPT_BYTES))
    line.receive(b"first")
    line.receive(bytes(MAX_KEPT_BYTES))
    assert line.received.startswith(b"first")
    assert len(line.sent) == len(line.received) == MAX_KEPT_BYTES


def test_a_bus_with_a_wire_on_it_has_the_last_byte():
    spi = Spi()
    part = spi.part()
    assert (run(part, "get"), run(part, "ready")) == (0, 0)
    run(part, "enable")
    run(part, "put", 7)
    assert (run(part, "get"), run(part, "ready")) == (7, 1)
    run(part, "push", bytearray(b"abc"))
    run(part, "pull", buffer := bytearray(3))
    assert (spi.sent, buffer) == (b"\x07abc", b"ccc")
    run(part, "disable")
    assert not spi.is_enabled
    run(part, "push", bytearray(MAX_KEPT_BYTES))
    assert len(spi.sent) == MAX_KEPT_BYTES


def test_tasks_that_are_there_obey():
    tasks = Tasks()
    part = tasks.part()
    pid = tasks.start()
    assert tasks.start() == pid + 1
    assert run(part, "pause", pid) == 0
    assert tasks.states == {pid: "paused", pid + 1: "running"}
    run(part, "resume", pid)
    assert tasks.states[pid] == "running"
    run(part, "stop", pid)
    assert tasks.start() == pid
    for pid, error in ((0, 27), (7, 2), (99, 26)):
        with pytest.raises(Failed) as caught:
            run(part, "stop", pid)
        assert caught.value.error == error


def test_there_is_no_room_for_tasks_without_end():
    tasks = Tasks()
    pids = [tasks.start() for _ in range(MAX_TASKS)]
    assert pids[-2:] == [MAX_TASKS - 1, 0]
