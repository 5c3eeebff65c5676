"""The simulated Carbon replays what was recorded of the real firmware, and goes wrong as it did."""

import json

import pytest
import usb.core
from flipper.wire.vectors import VECTORS, vectors
from sim.boards import Bare, Pyusb, call, packet, padded, result, transfer

from buswork.sim.carbon import FIRE_SECONDS, WATCHDOG_SECONDS, SimCarbon
from buswork.sim.device import How, Setup
from buswork.sim.s4 import Loaded
from buswork.sim.usb import SimBackend

BUTTON, GPIO, LED, UART0, WDT = range(5)
ALIVE = call(BUTTON, 0)
RGB = call(LED, 1, 1, 2, 3, types=0, width=1, returns=2)
PIND = call(GPIO, 3, 0xFF, returns=3)
PIND_IS = padded(result(0x12))
FINE = padded(result())
REFUSED = padded(result(0xFFFFFFFF, 18))

# What was recorded one after the other, with one board; of the others, each had a new one.
COURSES = ("gen1_usb_board", "gen1_usb_load")
SINGLES = ("gen1_usb_errors", "gen1_usb_types")


@pytest.fixture
def board():
    return SimCarbon()


@pytest.fixture
def host(board):
    return Bare(board)


@pytest.fixture(params=[Bare, Pyusb])
def either(board, request):
    return request.param(board)


# -- as recorded -----------------------------------------------------------------------------------


def replay(host, found):
    for step in found.all_steps:
        data = bytes.fromhex(step.get("hex", ""))
        if step["dir"] == "h2d":
            assert host.write(data) is How.DONE
        elif step["dir"] == "d2h" and data:
            assert host.read(len(data)) == data, found.name
        elif step["dir"] == "d2h":
            assert host.read(timeout=0.01) is None


@pytest.mark.parametrize("course", COURSES)
def test_a_recorded_course_is_answered_byte_for_byte(either, course):
    for found in vectors(course):
        replay(either, found)
    assert len(vectors(course)) >= 6


@pytest.mark.parametrize("found", vectors(*SINGLES), ids=lambda found: found.name)
def test_every_recorded_request_is_answered_byte_for_byte(either, found):
    replay(either, found)
    after = found.content.get("peer_after", "")
    if "ffffffff12" in after:
        assert either.read() == REFUSED
    elif after == "alive" and "board_events" not in found.content:
        assert either.write(ALIVE) is How.DONE
        assert either.read() == FINE


def test_its_descriptors_are_the_recorded_ones(board):
    recorded = json.loads((VECTORS / "usb_descriptors.json").read_text())
    assert board.device_descriptor().hex() == recorded["device"]
    assert board.configuration().hex() == recorded["configuration"]
    for index in range(3):
        answer = board.transfer(Setup(0x80, 6, 0x0300 + index, 0x0409, 255))
        assert answer.data.hex() == recorded[f"string_{index}"]


def test_pyusb_finds_one_interface_and_can_claim_the_other(board):
    backend = SimBackend()
    facts = backend.plug(board)
    device = usb.core.find(backend=backend)
    assert (device.manufacturer, device.product) == ("flipper.io", "Flipper: Carbon")
    assert device.serial_number is None
    assert [each.bInterfaceNumber for each in device.get_active_configuration()] == [0]
    assert [each.number for each in facts.interfaces] == [0, 1]
    board.say("started\n")
    usb.util.claim_interface(device, 1)
    assert backend.intr_read(device._ctx.handle, 0x83, 1, data := usb.util.create_buffer(32), 50)
    assert data.tobytes() == b"started\n".ljust(32, b"\0")


# -- as it goes wrong ------------------------------------------------------------------------------


def test_a_result_that_nobody_reads_is_the_next_clients_for_ever(either):
    either.write(RGB)  # and that client is killed
    either.write(PIND)
    assert either.read() == FINE
    either.write(ALIVE)
    assert either.read() == PIND_IS
    either.write(PIND)
    assert either.read() == FINE


def test_a_second_result_is_dropped_in_time(host):
    host.write(RGB)
    host.write(PIND)
    host.clock.now += 0.21
    assert host.call(RGB) == FINE
    assert host.read() == FINE
    assert host.read(timeout=0.5) is None


def test_a_packet_is_taken_for_the_data_of_a_dead_client(host):
    host.write(transfer(2, UART0, 2, 128))
    host.write(PIND)
    assert host.read(timeout=0.15) is None
    assert host.read() == FINE
    assert host.read(timeout=0.5) is None


def test_while_it_is_busy_it_takes_one_packet_more(either):
    either.write(transfer(3, UART0, 3, 5))  # which takes 100 ms
    assert either.write(PIND + PIND, timeout=0.0) is How.PARTLY
    assert either.read(128) == bytes(64) + padded(result(0xFFFF, 31))
    assert either.read() == PIND_IS


def test_a_write_may_come_to_nothing(either):
    either.board.trouble.has_watchdog = False
    either.board.hang()
    assert either.write(PIND) is How.DONE
    assert either.write(PIND, timeout=0.01) is not How.DONE
    assert either.read(timeout=0.01) is None


def test_one_read_waits_for_data_and_result(either):
    either.board.trouble.answer_seconds = 0.1
    either.write(transfer(3, UART0, 3, 70))
    assert either.read(192) == bytes(128) + padded(result(0xFFFF, 31))
    either.write(PIND)
    # The time is over when a part has come.
    assert either.read(128, timeout=0.2) == PIND_IS


def test_less_than_a_packet_can_not_be_read(board):
    host = Pyusb(board)
    host.write(PIND)
    with pytest.raises(usb.core.USBError, match="Overflow"):
        host.device.read(0x81, 5)


def test_memory_can_be_less(board, host):
    board.trouble.memory = 10
    assert host.call(transfer(3, UART0, 3, 11)) == padded(result(0xFFFFFFFF, 1))


@pytest.mark.parametrize(
    "fatal",
    [
        call(GPIO, 3, 1, types=7, width=8),
        call(GPIO, 3, 1, types=5, width=1),
        call(GPIO, 3, 1, 1, 1, 1, 1, types=0x33333),
    ],
    ids=["64 bits", "undefined", "stack"],
)
def test_arguments_of_another_kind_hang_it_until_the_watchdog_bites(board, host, fatal):
    told = []
    board.on_reset = told.append
    assert host.write(fatal) is How.DONE
    assert host.read(timeout=WATCHDOG_SECONDS - 0.1) is None
    assert told == [WATCHDOG_SECONDS]
    host.clock.now += 0.2
    for outcome in (board.write(0x02, PIND), board.read(0x81, 64)):
        assert outcome.how is How.VANISH
    assert board.transfer(Setup(0x80, 8, 0, 0, 1)).how is How.VANISH
    board.power_on()
    assert host.call(PIND) == PIND_IS


@pytest.mark.parametrize("code", [call(200, 0), call(BUTTON, 99)], ids=["module", "function"])
def test_what_is_no_code_restarts_it_unconfigured(either, code):
    board = either.board
    board.s4.tasks.start()
    either.write(code)
    assert either.read(timeout=0.01) is None
    assert either.write(PIND) is How.DONE
    assert either.read(timeout=0.01) is None
    assert either.write(PIND, timeout=0.01) is not How.DONE
    assert not board.s4.tasks.states
    assert board.transfer(Setup(0, 9, 1, 0, 0)).how is How.DONE
    assert either.write(PIND) is How.DONE
    assert either.read() == PIND_IS


def test_a_reset_of_the_bus_wakes_it_and_leaves_the_rest_alone(board):
    host = Pyusb(board)
    board.s4.tasks.start()
    host.device.reset()
    assert board.s4.tasks.states
    board.stumble()
    host.device.reset()
    host.write(PIND)
    assert host.read() == PIND_IS


def test_a_hang_is_not_cured_by_a_configuration(board, host):
    board.trouble.has_watchdog = False
    board.hang()
    host.write(PIND)
    assert board.transfer(Setup(0, 9, 1, 0, 0)).how is How.DONE
    assert host.call(PIND, timeout=1.0) is None
    assert board.read(0x81, 64).how is How.SILENCE


def test_a_configuration_empties_its_endpoints_and_nothing_else(board, host):
    host.call(RGB)
    host.write(PIND)
    board.transfer(Setup(0, 9, 1, 0, 0))
    assert host.call(RGB) == FINE
    assert board.led.colour == (1, 2, 3)
    host.write(transfer(2, UART0, 2, 128))
    board.transfer(Setup(0, 9, 1, 0, 0))
    host.write(PIND)  # are data still
    assert host.read() == FINE
    assert host.read(timeout=0.1) is None


def test_it_can_be_unconfigured_and_has_no_settings(board, host):
    assert board.transfer(Setup(0, 9, 0, 0, 0)).how is How.DONE
    host.write(PIND)
    assert host.read(timeout=0.1) is None
    assert board.transfer(Setup(1, 11, 0, 0, 0)).how is How.STALL
    assert board.transfer(Setup(0xC0, 1, 0, 0, 4)).how is How.STALL


def test_the_watchdog_can_be_let_go(board, host):
    told = []
    board.on_reset = told.append
    assert host.call(call(WDT, 1)) == padded(result(0x0818))
    assert told == [FIRE_SECONDS]
    host.clock.now += FIRE_SECONDS
    assert host.write(PIND) is How.VANISH


def test_it_leaves_the_bus_when_it_crashes(board):
    host = Pyusb(board)
    host.write(RGB)
    board.crash()
    assert host.read() is None
    assert host.backend.devices == []
    host.backend.plug(board)
    again = Pyusb(board)
    assert again.read(timeout=0.01) is None  # nothing is left of the time before


# -- trouble ---------------------------------------------------------------------------------------


def test_answers_may_be_lost(board, host):
    board.trouble.lost_answers = 1
    assert host.call(PIND) is None
    assert host.call(PIND) == PIND_IS


def test_packets_may_be_damaged(board, host):
    board.trouble.damaged_packets = 1
    assert host.call(PIND) == padded(result(0, 18))
    assert host.call(PIND) == PIND_IS


def test_answers_may_take_their_time(board, host):
    board.trouble.answer_seconds = 0.1
    assert host.call(PIND, timeout=0.05) is None
    assert host.read(timeout=0.1) == PIND_IS


def test_an_answer_of_the_4s_may_come_when_a_pull_has_begun(board, host):
    board.trouble.late_answers = 1
    assert host.call(transfer(2, UART0, 2, 64) + call(4, 3, 1, returns=3)) == FINE
    pull = transfer(3, UART0, 3, 5)
    host.write(pull)
    assert host.read(128) == bytes(64) + padded(result(0xFFFF, 31))
    host.write(pull)
    assert host.read(128) == padded(result(1)) + FINE


# -- what it is ------------------------------------------------------------------------------------


def test_the_firmware_tells_at_its_debug_endpoint(board, host):
    host.call(packet(1, bytes(8)))
    assert host.read(32, endpoint=0x83) == b"no user modules\n".ljust(32, b"\0")
    assert host.read(32, endpoint=0x83, timeout=0.1) is None
    board.say("x" * 1000)
    assert len(board.read(0x83, 64).data) == 32
    assert sum(1 for _ in iter(lambda: board.read(0x83, 32).data, b"")) == 7
    assert board.read(0x84, 32).how is How.SILENCE
    assert board.write(0x03, PIND).how is How.STALL


def test_what_it_was_asked_is_kept(board, host):
    host.call(RGB)
    host.call(transfer(2, UART0, 2, 64) + call(4, 3, 1, returns=3))
    assert list(board.calls) == [
        ("u2", "led", "rgb", (1, 2, 3)),
        ("u2", "uart0", "push", (0x1000, 64)),
        ("4s", "gpio", "read", (1,)),
    ]


def test_people_see_how_it_looks(board, host):
    changes = []
    board.on_change = lambda: changes.append(board.lines()[0])
    host.call(RGB)
    host.call(RGB)
    assert changes == ["light: #010203"]
    board.button.pressed = True
    board.s4.gpio.inputs = 5
    board.s4.tasks.start()
    board.s4.modules.append(Loaded(b"one", 1))
    board.s4.crash()
    assert board.lines() == [
        "light: #010203",
        "button: pressed",
        "main processor: down",
        "pins: 0x00000005",
        "user modules: one",
        "tasks: 1 running",
    ]
    board.power_on()
    assert board.lines()[:3] == ["light: off", "button: pressed", "main processor: up"]
