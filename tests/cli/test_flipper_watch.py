import json
import signal
import subprocess

import pytest
from cli.boards import BENCH
from client.private_bus import PrivateBus
from support import usb_kernel

from buswork.cli.exits import Exit
from buswork.cli.flipper_watch import _meaning


class EmulatedBus(PrivateBus):
    """Whose programs see the devices of an emulated kernel."""

    def __init__(self, environment):
        self._seen = environment
        super().__init__()

    @property
    def environment(self):
        return super().environment | self._seen


class Watching:
    def __init__(self, boards, *words):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = boards.popen("flipper", "watch", *words, "--interval", "10", **pipes)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def next(self):
        return self.process.stdout.readline()

    def end(self):
        said = self.process.communicate(timeout=10)
        return self.process.returncode, *said


def test_what_changes_is_told_once_it_was_told_how_it_is(boards):
    with Watching(boards, "button", "--count", "3") as watching:
        assert watching.next() == "button released\n"
        boards.simulator("SetButton", "sb", BENCH, True)
        assert watching.next() == "button pressed\n"
        boards.simulator("SetButton", "sb", BENCH, False)
        assert watching.next() == "button released\n"
        assert watching.end() == (Exit.OK, "", "")


def test_pins_are_told_as_they_were_asked_for(boards):
    with Watching(boards, "gpio:IO1,IO2", "--json") as watching:
        assert json.loads(watching.next()) == {"source": "gpio:IO1,IO2", "value": 0}
        boards.simulator("SetInputs", "su", BENCH, 1 << 22)
        assert json.loads(watching.next()) == {"source": "gpio:IO1,IO2", "value": 1 << 22}
        boards.simulator("SetInputs", "su", BENCH, 0)
        assert json.loads(watching.next()) == {"source": "gpio:IO1,IO2", "value": 0}
        watching.process.send_signal(signal.SIGINT)
        assert watching.end()[0] == Exit.INTERRUPTED


@pytest.mark.usb
def test_what_a_board_prints_is_told_as_it_comes():
    """Simulated boards don't print; in an emulated kernel, they can be made to."""
    with usb_kernel.emulated() as (sock, environment, _):
        kernel = usb_kernel.Kernel(sock)
        kernel.plug(port="1-2", kind="carbon")
        seen = {"LD_PRELOAD": environment["LD_PRELOAD"], "UMOCKDEV_DIR": kernel.root}
        with EmulatedBus(seen) as bus:
            bus.start_daemon("--wings", "flipper")
            # The line has to be open, which looking at the button sees to.
            with Watching(bus, "button", "debug", "--count", "3") as watching:
                assert watching.next() == "button released\n"
                kernel.board(port="1-2", name="say", text="hello\n")
                assert watching.next() == "hello\n"
                kernel.board(port="1-2", name="say", text="no end of a line")
                assert watching.next() == "no end of a line\n"
                assert watching.end() == (Exit.OK, "", "")


def test_it_ends_with_the_board(boards):
    with Watching(boards, "button", "--board", "carbon-1-3") as watching:
        assert watching.next() == "button released\n"
        boards.simulator("Unplug", "s", "1-3")
        said = "buswork: carbon-1-3 is gone (org.flipper.Error.Disconnected)\n"
        assert watching.end() == (Exit.FAILED, "", said)
    boards.simulator("Plug", "s", "1-3")


def test_it_ends_with_the_daemon(bus):
    bus.stop_daemon()
    bus.start_daemon("--simulate")
    with Watching(bus, "button") as watching:
        assert watching.next() == "button released\n"
        bus.kill_bus()
        assert watching.end()[0] == Exit.NOT_RUNNING


def test_it_ends_with_its_reader(boards):
    with Watching(boards, "button") as watching:
        watching.next()
        watching.process.stdout.close()
        assert watching.process.wait(10) == Exit.NOBODY_READS


@pytest.mark.parametrize("source", ["nonsense", "gpio", "gpio:0"])
def test_there_has_to_be_such_a_source(boards, source):
    boards.failure("watch", source)


@pytest.mark.parametrize(
    ("word", "value", "meaning"),
    [
        ("button", 1, "pressed"),
        ("gpio:IO1", 1 << 22, "high"),
        ("gpio:io1", 0, "low"),
        ("gpio:0x30", 0x10, "0x10"),
        ("gpio:IO1,IO2", 0, "0x0"),
        ("usart", 1, "1"),
    ],
)
def test_values_are_told_in_words(word, value, meaning):
    assert _meaning(word, value) == meaning
