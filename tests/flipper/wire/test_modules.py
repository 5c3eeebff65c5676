import pytest

from buswork.flipper.wire.modules import (
    ON_U2,
    PINS,
    S4_RESET,
    TABLES,
    Kind,
    processor_of,
)
from buswork.flipper.wire.terms import LIMITS, MAX_ARGUMENTS, BadValue, Generation, Processor, Type

G1, G2 = Generation
U2, S4, FVM = Processor
EVERY = [(table, module, function) for table in TABLES.values() for module, function in table]


def test_modules_have_the_indices_of_section_8():
    indices = {
        key: {m.name: m.index for m in table.modules.values()} for key, table in TABLES.items()
    }
    assert indices[G1, U2] == {"button": 0, "gpio": 1, "led": 2, "uart0": 3, "wdt": 4}
    assert indices[G1, S4] == indices[G1, FVM] == {
        "adc": 0, "button": 1, "dac": 2, "fld": 3, "gpio": 4, "i2c": 5, "led": 6, "pwm": 7,
        "rtc": 8, "spi": 9, "swd": 10, "task": 11, "temp": 12, "timer": 13, "uart0": 14,
        "usart": 15, "usb": 16, "wdt": 17,
    }  # fmt: skip
    assert indices[G2, U2] == {"button": 0, "gpio": 1, "led": 2, "spi": 3, "uart0": 4, "wdt": 5}
    assert indices[G2, S4] == indices[G2, FVM] == {
        "adc": 0, "button": 1, "dac": 2, "gpio": 3, "i2c": 4, "led": 5, "pwm": 6, "rtc": 7,
        "spi": 8, "swd": 9, "temp": 10, "timer": 11, "uart0": 12, "usart": 13, "usb": 14,
        "wdt": 15,
    }  # fmt: skip


def functions(generation, processor, module):
    found = TABLES[generation, processor].modules[module]
    return " ".join(f"{f.number}:{f.name}" for f in found.functions.values())


@pytest.mark.parametrize(
    ("module", "first", "second"),
    [
        ("adc", "0:configure", "0:configure"),
        ("button", "0:configure 1:read", "0:configure 1:read"),
        ("gpio", "0:configure 1:enable 2:write 3:read", "0:configure 1:enable 2:read 3:write"),
        ("i2c", "0:configure", "0:configure 1:read 2:start_read 3:start_write 4:stop 5:write"),
        ("led", "0:configure 1:rgb", "0:configure 1:rgb"),
        ("spi", "0:configure 1:enable 2:disable 3:ready 4:put 5:get 6:push 7:pull",
         "0:configure 1:disable 2:enable 3:end 4:get 5:put 6:ready"),
        ("timer", "0:configure", "0:configure 1:register"),
        ("uart0", "0:configure 1:ready 2:push 3:pull",
         "0:configure 1:disable 2:enable 3:get 4:put 5:read 6:ready 7:reset 8:setbaud 9:write"),
        ("usart", "0:configure 1:ready 2:push 3:pull",
         "0:configure 1:disable 2:enable 3:get 4:put 5:ready"),
        ("wdt", "0:configure 1:fire", "0:configure 1:fire"),
    ],
)  # fmt: skip
def test_functions_have_the_numbers_of_section_8(module, first, second):
    assert functions(G1, S4, module) == functions(G1, FVM, module) == first
    assert functions(G2, S4, module) == functions(G2, FVM, module) == second


def test_functions_that_only_one_generation_or_processor_has():
    assert functions(G1, S4, "fld") == "0:configure 1:index"
    assert functions(G1, S4, "task") == "0:pause 1:resume 2:stop"
    assert functions(G1, U2, "uart0") == "0:configure 1:ready 2:push 3:pull"
    assert functions(G2, U2, "spi") == (
        "0:configure 1:disable 2:enable 3:get 4:put 5:read 6:ready 7:write"
    )
    assert functions(G2, U2, "gpio") == "0:configure 1:enable 2:read 3:write"


@pytest.mark.parametrize("key", TABLES)
def test_every_prototype_is_one_that_its_processor_survives(key):
    table = TABLES[key]
    limits = LIMITS[table.processor]
    for _, function in table:
        assert len(function.parameters) <= MAX_ARGUMENTS
        assert function.returns in limits.returns
        # The unsigned ones, which all of them take (section 4).
        assert function.returns < Type.UINT64
        for parameter in function.parameters:
            assert parameter.type in limits.arguments
            assert parameter.type < Type.UINT64
            assert parameter.type.lowest <= parameter.lowest <= parameter.highest
            assert parameter.highest <= parameter.type.highest


def test_everything_is_told_for_the_documentation():
    for table, module, function in EVERY:
        where = f"{table.processor} {module.name}.{function.name}"
        assert module.meaning, where
        assert function.meaning, where
        assert bool(function.result) == (function.returns is not Type.VOID), where
        assert all(parameter.meaning for parameter in function.parameters), where
        assert function.name.isidentifier(), where
        assert module.name.isidentifier(), where
        names = [parameter.name for parameter in function.parameters]
        assert len(set(names)) == len(names), where
        if function.kind is not Kind.CALL:
            assert not names, where
            assert function.returns is Type.INT, where


def test_what_is_found_by_name_is_found_by_number():
    for table, module, function in EVERY:
        assert table.find(module.name, function.name) == (module, function)
        assert table.at(module.index, function.number) == (module, function)


def test_what_is_not_there_is_answered_with_what_is():
    table = TABLES[G1, U2]
    with pytest.raises(BadValue, match="no module 'lcd'; there are button, gpio, led") as caught:
        table.find("lcd", "rgb")
    assert caught.value.field == "module"
    with pytest.raises(
        BadValue, match=r"no function 'rbg'; it has .*rgb\(red, green, blue\)"
    ) as caught:
        table.find("led", "rbg")
    assert caught.value.field == "function"
    with pytest.raises(BadValue, match="no module 5") as caught:
        table.at(5, 0)
    assert caught.value.field == "module"
    with pytest.raises(BadValue, match="the module led has no function 7") as caught:
        table.at(2, 7)
    assert caught.value.field == "function"


def test_usage_tells_what_a_function_takes():
    table = TABLES[G1, S4]
    assert table.find("led", "rgb")[1].usage == "rgb(red, green, blue)"
    assert table.find("spi", "push")[1].usage == "push(data)"
    assert table.find("spi", "pull")[1].usage == "pull(length)"
    assert table.find("adc", "configure")[1].usage == "configure()"
    assert table.find("led", "rgb")[1].parameters[0].range == "0..255"


def test_boards_of_the_second_generation_say_where_their_modules_are():
    table = TABLES[G2, FVM].renumbered({"led": 9, "uart0": 0, "nobody knows": 3})
    assert {name: module.index for name, module in table.modules.items()} == {"led": 9, "uart0": 0}
    assert table.at(9, 1)[1].name == "rgb"
    with pytest.raises(BadValue):
        table.at(5, 1)
    assert TABLES[G2, FVM].modules["led"].index == 5


def test_what_hurts_is_marked():
    marked = {
        (int(table.generation), str(table.processor), f"{module.name}.{function.name}")
        for table, module, function in EVERY
        if function.caution
    }
    assert {name for _, _, name in marked if not name.startswith("uart0.")} == {
        "wdt.fire", "gpio.enable", "gpio.write", "timer.register"
    }  # fmt: skip
    # The bridge goes over this one.
    assert {(1, "u2", f"uart0.{name}") for name in ("configure", "ready", "push", "pull")} <= marked
    assert (1, "4s", "gpio.write") not in marked


def test_the_u2_has_fewer_pins():
    for name in ("enable", "write", "read"):
        for generation in Generation:
            u2, s4 = (TABLES[generation, p].find("gpio", name)[1].parameters for p in (U2, S4))
            assert {parameter.highest for parameter in u2} == {0xFF}
            assert {parameter.highest for parameter in s4} == {0xFFFFFFFF}
    assert 1 << S4_RESET == 0x10


def test_boards_on_usb_are_two():
    assert {"led", "button", "uart0", "wdt"} == ON_U2 <= TABLES[G1, U2].modules.keys()
    assert processor_of("led") is U2
    assert {processor_of(name) for name in ("gpio", "fld", "spi", "task")} == {S4}


def test_pins_have_masks_where_gpio_reaches_them():
    assert len(PINS) == 33
    assert PINS["IO1"].mask == 1 << 22
    assert PINS["SS"].mask == 1 << 31
    assert "IO13" not in PINS
    unreachable = {name for name, pin in PINS.items() if pin.mask is None}
    assert unreachable == {"IO15", "IO16", "A5", "A6", "A7", "A8", "D+", "D-"}
    places = [(pin.port, pin.bit) for pin in PINS.values()]
    assert len(set(places)) == len(places)
