import pytest

from buswork.cli import flipper_pins
from buswork.cli.flipper_pins import Pins, mask_of, parse, reachable, settings, source
from buswork.cli.output import InputError


@pytest.mark.parametrize(
    ("word", "pins"),
    [
        ("IO1", Pins("IO1", 1 << 22, True)),
        ("rx", Pins("RX", 1 << 5, True)),
        ("0x30", Pins("0x30", 0x30, False)),
        ("48", Pins("48", 0x30, False)),
        ("0xFFFFFFFF", Pins("0xFFFFFFFF", 0xFFFFFFFF, False)),
    ],
)
def test_a_pin_is_a_name_or_a_mask(word, pins):
    assert parse(word) == pins


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("IO13", "there is no pin IO13; there are IO1,"),
        ("", "there is no pin"),
        ("0xzz", "there is no pin"),
        ("io15", "IO15 is a pin of port B"),
        ("0", "no mask of 32 bits"),
        ("-1", "no mask of 32 bits"),
        ("0x100000000", "no mask of 32 bits"),
    ],
)
def test_what_is_no_pin_is_said(word, why):
    with pytest.raises(InputError, match=why):
        parse(word)


def test_levels_are_words_for_a_pin_and_numbers_for_a_mask():
    assert [parse("IO1").level(levels) for levels in (0, 1 << 22, 1)] == ["low", "high", "low"]
    assert parse("0x30").level(0x11) == "0x10"


def test_a_mask_has_all_that_are_named():
    assert mask_of(["IO1", "RX", "0x1"]) == 1 << 22 | 1 << 5 | 1
    names = [pins.name for pins in reachable()]
    assert "IO14" in names
    assert not {"IO15", "A5", "D+"} & set(names)


def test_settings_say_what_is_to_be_high_and_what_low():
    assert settings(["IO1=high", "IO2=low", "0x5=1", "0x2=0"]) == (1 << 22 | 5, 1 << 23 | 2)
    assert set(flipper_pins.LEVELS) == {"high", "low", "1", "0"}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["IO1"], "=high or =low"),
        (["IO1="], "=high or =low"),
        (["IO1=up"], "=high or =low"),
        (["IO1=1", "IO1=0"], "high and low"),
    ],
)
def test_what_is_no_setting_is_said(words, why):
    with pytest.raises(InputError, match=why):
        settings(words)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("button", "button"),
        ("gpio:IO1,RX", "gpio:0x400020"),
        ("gpio:16", "gpio:0x10"),
        ("gpio", "gpio"),
        ("uart0:IO1", "uart0:IO1"),
    ],
)
def test_a_source_has_a_mask(word, told):
    assert source(word) == told
