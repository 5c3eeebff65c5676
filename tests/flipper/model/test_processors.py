"""Tests of buswork.flipper.model.processors."""

import pytest
from flipper.model.bench import Carbon, run_turn

from buswork.flipper.model.processors import Processors, is_reserved
from buswork.flipper.wire.exchanges import Exchange
from buswork.flipper.wire.modules import TABLES
from buswork.flipper.wire.plans import ALIVE, standard
from buswork.flipper.wire.terms import BadValue, Generation, Processor

G1, G2 = Generation
U2, S4, FVM = Processor
ON_USB, ON_UDP = Processors(G1, on_usb=True), Processors(G1, on_usb=False)
READ = Exchange(standard(*TABLES[G1, S4].find("gpio", "read"), 0xFF))


@pytest.mark.parametrize("name", TABLES[G1, S4].modules)
def test_every_module_of_a_board_on_usb_has_its_processor(name):
    expected = U2 if name in ("led", "button", "uart0", "wdt") else S4
    table, own = ON_USB.table(name)
    assert (table.processor, own) == (expected, name)
    assert ON_USB.modules[name] is table.modules[name]


@pytest.mark.parametrize("generation", Generation)
def test_a_board_on_the_network_runs_all_of_its_modules_itself(generation):
    board = Processors(generation, on_usb=False)
    table = TABLES[generation, FVM]
    assert all(board.table(name)[0] is table for name in board.modules)
    assert dict(board.modules) == dict(table.modules)


def test_a_processors_own_modules_have_its_name():
    for processor in (U2, S4):
        for name in TABLES[G1, processor].modules:
            assert ON_USB.table(f"{processor}.{name}") == (TABLES[G1, processor], name)
    assert ON_UDP.table("fvm.led") == (TABLES[G1, FVM], "led")


@pytest.mark.parametrize(
    ("board", "module", "text"),
    [
        (ON_USB, "lead", "no module 'lead'"),
        (ON_USB, "", "no module ''"),
        (ON_USB, ".led", "no module '.led'"),
        (ON_USB, "u2.adc", "no module 'adc'"),
        (ON_USB, "u3.led", "no processor 'u3'; there are 4s, u2"),
        (ON_USB, "u2.u2.led", "no processor 'u2.u2'"),
        (ON_UDP, "u2.led", "no processor 'u2'; there are fvm"),
        (ON_USB, "led" * 100 + ".led", "no processor 'ledled"),
    ],
)
def test_what_there_is_not(board, module, text):
    with pytest.raises(BadValue, match=text) as caught:
        board.find(module, "configure")
    assert caught.value.field == "module"
    assert len(str(caught.value)) < 250


def test_a_function_is_found_with_its_table():
    assert ON_USB.find("led", "rgb") == (TABLES[G1, U2], *TABLES[G1, U2].find("led", "rgb"))
    with pytest.raises(BadValue, match="no function 'write'"):
        ON_USB.find("led", "write")


def test_modules_that_a_board_has_not_got_are_not_there():
    board = Processors(G2, on_usb=False)
    board.has_only({"led": 9, "gpio": 2})
    assert {name: module.index for name, module in board.modules.items()} == {"led": 9, "gpio": 2}
    assert board.find("led", "rgb")[1].index == board.find("fvm.led", "rgb")[1].index == 9
    with pytest.raises(BadValue, match="no module 'adc'"):
        board.find("adc", "configure")


def test_what_disturbs_others_is_reserved():
    reserved = {
        f"{processor}.{module.name}.{function.name}"
        for processor in Processor
        for module, function in TABLES[G1, processor]
        if is_reserved(processor, module, function)
    }
    assert reserved == {
        "u2.uart0.configure", "u2.uart0.push", "u2.uart0.pull",
        "4s.uart0.configure", "4s.uart0.push", "4s.uart0.pull",
        "u2.gpio.configure", "u2.gpio.enable", "u2.gpio.write",
        "u2.wdt.fire", "4s.wdt.fire",
    }  # fmt: skip


def test_turns_go_where_they_belong():
    line = Carbon()
    board = Processors(G1, on_usb=True)
    run_turn(board.turn(S4, READ), line)
    assert line.s4 == [READ]
    line = Carbon()
    run_turn(board.turn(U2, ALIVE), line)
    assert (line.u2, line.steps) == ([ALIVE], 1)
    run_turn(ON_UDP.turn(FVM, READ), line)
    assert line.u2 == [ALIVE, READ]


def test_a_reserved_turn_leaves_doubt():
    board, line = Processors(G1, on_usb=True), Carbon()
    run_turn(board.turn(S4, READ), line)
    steps = line.steps
    run_turn(board.turn(U2, ALIVE, reserved=True), line)
    run_turn(board.turn(S4, READ), line)
    assert line.steps == steps + 1 + 4
    run_turn(board.turn(U2, ALIVE), line)
    run_turn(board.turn(S4, READ), line)
    assert line.steps == steps + 5 + 1 + 2
