"""buswork flipper, on a private bus with simulated boards."""

import os

import pytest
from cli.boards import BENCH, FIRST

from buswork.cli.exits import Exit
from buswork.cli.flipper import module_of
from buswork.cli.output import InputError
from buswork.client import BoardFacts
from buswork.flipper.wire.images import encode_image
from buswork.flipper.wire.modules import TABLES
from buswork.flipper.wire.terms import Generation, Processor


@pytest.fixture
def image(tmp_path):
    file = tmp_path / "blink.img"
    file.write_bytes(encode_image("blink", bytes(16), (0, 4)))
    return str(file)


# -- what there is -------------------------------------------------------------------------------


def test_list(boards):
    first, *lines = boards.ok("list").splitlines()
    assert first.split() == ["BOARD", "STATE", "PLACE", "USED", "BY", "ERROR"]
    assert sorted(line.split()[0] for line in lines) == ["bench*", "carbon-1-3"]
    found = {board["name"]: board for board in boards.answer("list")}
    assert found["bench"]["current"]
    assert not found["carbon-1-3"]["current"]
    assert (found["bench"]["transport"], found["bench"]["place"]) == ("usb", BENCH)


def test_without_boards(boards):
    for port in (BENCH, FIRST):
        boards.simulator("Unplug", "s", port)
    try:
        done = boards.flipper("list")
        assert (done.returncode, done.stdout) == (Exit.OK, "")
        assert "there is no board" in done.stderr
        assert boards.answer("list") == []
        assert "NoSuchBoard" in boards.failure("button")
    finally:
        for port in (FIRST, BENCH):
            boards.simulator("Plug", "s", port)


def test_the_board_before_is_current_when_the_current_one_goes(boards):
    boards.simulator("Unplug", "s", BENCH)
    try:
        assert boards.answer("info")["name"] == "carbon-1-3"
    finally:
        boards.simulator("Plug", "s", BENCH)
    assert boards.answer("info")["name"] == "bench"


def test_info(boards):
    lines = boards.ok("info", "--board", "carbon-1-3").splitlines()
    assert lines[:2] == ["name         carbon-1-3", "place        usb 1-3"]
    assert any(
        line.split(maxsplit=1) == ["led", "configure(), rgb(red, green, blue)"] for line in lines
    )
    facts = boards.answer("info")
    assert facts["modules"]["button"] == ["configure()", "read()"]
    assert facts["holders"] == []


def test_info_of_a_module(boards):
    lines = boards.ok("info", "gpio").splitlines()
    assert lines[0] == "gpio: the pins"
    assert "      mask                 a bit for each to read, 0..4294967295" in lines
    assert boards.ok("info", "u2.gpio").splitlines()[0].startswith("gpio: the U2's pins")
    assert "take care" in boards.ok("info", "wdt")
    functions = boards.answer("info", "led")["functions"]
    assert functions["rgb"]["parameters"][0] == {
        "name": "red", "meaning": "how red", "range": [0, 255],
    }  # fmt: skip
    assert functions["rgb"]["returns"] is None


@pytest.mark.parametrize("name", ["nope", "u2.adc", "u3.gpio"])
def test_info_of_no_module(boards, name):
    assert f"there is no module {name}; there are adc, button" in boards.failure("info", name)


def test_a_board_that_is_not_there(boards):
    assert "there is no board nope" in boards.failure("led", "1", "2", "3", "--board", "nope")


def test_a_board_on_the_network_has_one_processor():
    facts = BoardFacts(
        name="far", transport="udp", place="far:3258", generation=2, modules={"gpio": []},
        state="ready", last_error="", incarnation=1, claim_reason="", holders=(),
    )  # fmt: skip
    assert module_of(facts, "gpio") is TABLES[Generation.G2, Processor.FVM].modules["gpio"]
    assert module_of(facts, "fvm.led") is TABLES[Generation.G2, Processor.FVM].modules["led"]
    for name in ("u2.gpio", "led"):
        with pytest.raises(InputError):
            module_of(facts, name)


# -- lights, pins and calls ----------------------------------------------------------------------


def test_led(boards):
    assert boards.ok("led", "10", "20", "30") == ""
    assert boards.look()["light"] == "#0a141e"
    assert boards.answer("led", "0", "0", "0") == {"red": 0, "green": 0, "blue": 0}
    assert boards.look()["light"] == "off"
    boards.ok("led", "1", "2", "3", "--board", "carbon-1-3")
    assert (boards.look(FIRST)["light"], boards.look()["light"]) == ("#010203", "off")


def test_button(boards):
    assert boards.ok("button") == "released\n"
    boards.simulator("SetButton", "sb", BENCH, True)
    assert boards.ok("button") == "pressed\n"
    assert boards.answer("button") == {"pressed": True}
    boards.simulator("SetButton", "sb", BENCH, False)


def test_pins(boards):
    assert boards.ok("gpio", "enable", "IO1", "0x80000000") == ""
    boards.simulator("SetInputs", "su", BENCH, 1 << 5)
    assert boards.answer("gpio", "write", "IO1=high", "IO2=low") == {
        "high": 1 << 22,
        "low": 1 << 23,
    }
    assert boards.ok("gpio", "read", "io1", "IO2", "RX", "0x400020").splitlines() == [
        "IO1    high", "IO2    low", "RX     high", "0x400020 0x400020",
    ]  # fmt: skip
    assert boards.ok("gpio", "read", "IO1") == "high\n"
    assert boards.ok("gpio", "read", "0x20") == "0x20\n"
    everything = boards.ok("gpio", "read").splitlines()
    assert {"IO1    high", "TX     low", "A4     low"} < set(everything)
    assert boards.answer("gpio", "read", "IO1", "IO2") == {"IO1": 1 << 22, "IO2": 0}
    assert boards.answer("gpio", "disable", "IO1") == {"enabled": 0, "disabled": 1 << 22}
    boards.simulator("SetInputs", "su", BENCH, 0)


def test_pins_that_are_none(boards):
    assert "write takes a PIN" in boards.failure("gpio", "write", status=Exit.USAGE)
    assert "IO15 is a pin of port B" in boards.failure("gpio", "read", "IO15")


def test_call(boards):
    assert boards.ok("call", "led", "rgb", "1", "0x2", "3") == ""
    assert boards.ok("call", "gpio", "read", "1") == "1\n"
    assert boards.answer("call", "gpio", "read", "1") == {"value": 1}
    assert boards.answer("call", "led", "rgb", "0", "0", "0") == {"value": None}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("led", "rgb", "1", "2", "256"), "blue must be 0 to 255"),
        (("led", "rgb", "1", "2"), "led.rgb"),
        (("led", "blink"), "rgb(red, green, blue)"),
        (("light", "rgb"), "there is no module 'light'"),
        (("u2.gpio", "write", "0", "0"), "NotClaimed"),
    ],
)
def test_what_is_refused(boards, words, why):
    assert why in boards.failure("call", *words)


def test_a_main_processor_that_is_silent(boards):
    boards.simulator("Crash", "ss", BENCH, "4s")
    assert "NotResponding" in boards.failure("gpio", "read", "IO1")
    assert boards.ok("button") == "released\n"
    assert boards.answer("reset") == {"reset": "bench"}
    assert boards.ok("gpio", "read", "IO1") == "low\n"


# -- user modules --------------------------------------------------------------------------------


def test_user_modules(boards, image):
    assert "org.flipper.Error.Module" in boards.failure("user", "blink", "0")
    assert boards.ok("bind", "blink", image) == "0\n"
    assert boards.answer("bind", "blink") == {"index": 0}
    assert boards.ok("user", "blink", "1", "5", "-6") == "0\n"
    assert boards.answer("user", "blink", "1") == {"value": 0}
    assert boards.look()["user modules"] == "blink"
    boards.ok("reset")
    assert boards.answer("load", image) == {"loaded": os.path.getsize(image)}
    assert boards.look()["user modules"] == "blink"
    boards.ok("reset")


def test_images_that_are_none(boards, image, tmp_path):
    assert "no image" in boards.failure("load", "/dev/null")
    assert "No such file" in boards.failure("load", str(tmp_path / "nothing"))
    assert "more than" in boards.failure("bind", "blink", "/dev/zero")
    assert "blink" in boards.failure("bind", "other", image)


# -- boards on the network -----------------------------------------------------------------------


def test_boards_on_the_network_take_their_process(boards):
    assert "buswork-doors" in boards.failure("attach", "localhost")
    assert "bench is plugged in" in boards.failure("detach", "bench")
