"""The commands for Flipper boards."""

import argparse
import functools

from buswork.cli.parsing import Commands, add_command, add_group, add_optional

DESCRIPTION = """\
Flipper boards, which several programs use at once. A command is for the current board, the one that
came last, or for the BOARD that --board names. A PIN is a name (IO1, RX, A2 ...) or a mask (0x10);
numbers are decimal, or hexadecimal with 0x."""


def add(commands: Commands) -> None:
    actions = add_group(
        commands, "flipper", "Flipper boards, for several programs at once", DESCRIPTION
    )
    add_command(
        actions,
        "list",
        "flipper.list_",
        "print the boards",
        "Prints the boards, the current one with a *.",
    )
    for add_one in (
        _add_info, _add_led, _add_gpio, _add_button, _add_call, _add_push, _add_pull, _add_watch,
        _add_bind, _add_user, _add_load, _add_reset, _add_claim, _add_lend, _add_attach,
        _add_detach, _add_flash, _add_repl,
    ):  # fmt: skip
        add_one(actions)


def number(text: str, *, lowest: int = -(2**63), highest: int = 2**64 - 1) -> int:
    """As C has it: 10, 0x0a; what the board takes, the daemon knows."""
    try:
        found = int(text, 16 if text[:2].lower() == "0x" else 10)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no number") from None
    if not lowest <= found <= highest:
        raise argparse.ArgumentTypeError(f"{text} is not in {lowest}..{highest}")
    return found


def _within(lowest: int, highest: int) -> "functools.partial[int]":
    return functools.partial(number, lowest=lowest, highest=highest)


def _add(
    actions: Commands, name: str, run: str, summary: str, description: str = ""
) -> argparse.ArgumentParser:
    parser = add_command(actions, name, run, summary, description)
    parser.add_argument("--board", metavar="BOARD", help="which board (default: the current one)")
    return parser


# -- what there is -----------------------------------------------------------------------------


def _add_info(actions: Commands) -> None:
    parser = _add(
        actions,
        "info",
        "flipper.info",
        "what a board is and can do",
        "Shows a board, who uses it, and its modules; of MODULE, the functions with all that is "
        "known of them.",
    )
    add_optional(parser, "module", "the functions of this one")


# -- lights, pins and calls --------------------------------------------------------------------


def _add_led(actions: Commands) -> None:
    parser = _add(
        actions, "led", "flipper.led", "set the colour of the light", "Sets it; 0 0 0 is off."
    )
    for colour in ("red", "green", "blue"):
        parser.add_argument(
            colour, type=_within(0, 255), metavar=colour[0].upper(), help=f"how {colour}, 0 to 255"
        )


def _add_gpio(actions: Commands) -> None:
    parser = _add(
        actions,
        "gpio",
        "flipper.gpio",
        "read, write and enable pins",
        "read prints which PINs are high (without PIN: all that have a name); write sets them, as "
        "in IO1=high IO2=low; enable and disable switch them on and off.",
    )
    parser.add_argument(
        "what", choices=("read", "write", "enable", "disable"), metavar="ACTION",
        help="read, write, enable or disable",
    )  # fmt: skip
    parser.add_argument("pins", nargs="*", metavar="PIN", help="a name or mask; to write, PIN=high")


def _add_button(actions: Commands) -> None:
    _add(actions, "button", "flipper.button", "whether the button is pressed")


def _add_function(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("module", metavar="MODULE", help="a module; u2.gpio is that of the U2")
    parser.add_argument("function", metavar="FUNCTION", help="one of its functions")


def _add_call(actions: Commands) -> None:
    parser = _add(
        actions,
        "call",
        "flipper.call",
        "call a function",
        "Calls a function, and prints what it returns. `buswork flipper info` lists them.",
    )
    _add_function(parser)
    parser.add_argument("values", nargs="*", type=number, metavar="ARG", help="a number")


def _add_push(actions: Commands) -> None:
    parser = _add(
        actions,
        "push",
        "flipper_transfer.push",
        "send data to a function",
        "Sends FILE to a function that takes data, such as usart push.",
    )
    _add_function(parser)
    add_optional(parser, "file", "what to send (default: -, stdin)", default="-")


def _add_pull(actions: Commands) -> None:
    parser = _add(
        actions,
        "pull",
        "flipper_transfer.pull",
        "get data from a function",
        "Gets LENGTH bytes from a function that brings data, such as usart pull.",
    )
    _add_function(parser)
    parser.add_argument("length", type=_within(0, 2**63 - 1), metavar="LENGTH", help="how many")
    add_optional(parser, "file", "where to (default: -, stdout)", default="-")


def _add_watch(actions: Commands) -> None:
    parser = _add(
        actions,
        "watch",
        "flipper_watch.watch",
        "print what changes",
        "Prints what a SOURCE is, and then every change: button; gpio:PIN, or several as in "
        "gpio:IO1,IO2; uart0 and usart, 1 when there is something to pull; debug, what the board "
        "prints for people. With --json, each line is an object with source and value.",
    )
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="what to watch")
    parser.add_argument(
        "--interval", type=_within(10, 60_000), default=50, metavar="MS",
        help="how often to look, in milliseconds (10 to 60000, default: 50)",
    )  # fmt: skip
    parser.add_argument(
        "-c", "--count", type=_within(1, 2**63), metavar="N", help="end after so many changes"
    )


# -- user modules ------------------------------------------------------------------------------


def _add_bind(actions: Commands) -> None:
    parser = _add(
        actions,
        "bind",
        "flipper.bind",
        "find a user module, and load it if need be",
        "Prints the index of a user module. If the board has not got it, and there is an IMAGE, "
        "that is loaded first.",
    )
    parser.add_argument("name", metavar="NAME", help="what the module is called")
    add_optional(parser, "image", "a file with the module")


def _add_user(actions: Commands) -> None:
    parser = _add(
        actions,
        "user",
        "flipper.user",
        "call a function of a user module",
        "Calls a function, by its number, of a user module that the board has got. What it "
        "returns, a Carbon does not tell: it is always 0.",
    )
    parser.add_argument("name", metavar="NAME", help="what the module is called")
    parser.add_argument("function", type=_within(0, 255), metavar="NUMBER", help="which function")
    parser.add_argument("values", nargs="*", type=number, metavar="ARG", help="a number")


def _add_load(actions: Commands) -> None:
    parser = _add(
        actions,
        "load",
        "flipper.load",
        "load a module or an application",
        "Loads IMAGE into the memory of the board; an application begins at once.",
    )
    parser.add_argument("image", metavar="IMAGE", help="a file with the module or application")


def _add_reset(actions: Commands) -> None:
    _add(
        actions,
        "reset",
        "flipper.reset",
        "reset the main processor of a board",
        "Resets the main processor of a board; what was loaded is lost.",
    )


# -- to have a board to oneself ----------------------------------------------------------------


def _add_lease(parser: argparse.ArgumentParser, reason: str) -> None:
    parser.add_argument(
        "--reason", default=reason, metavar="TEXT",
        help=f"what others are told (default: {reason})",
    )  # fmt: skip
    parser.add_argument(
        "program", nargs=argparse.REMAINDER, metavar="-- CMD", help="the command, behind --"
    )


def _add_claim(actions: Commands) -> None:
    parser = _add(
        actions,
        "claim",
        "flipper_claim.claim",
        "have a board to oneself while a command runs",
        "Claims a board as soon as all is done that was asked before, runs CMD, and releases the "
        "board; exits with the status of CMD. CMD has the board by the descriptor whose number is "
        "in BUSWORK_FMR_FD, which speaks FMR; whatever comes by other ways is others', and "
        "refused. For calls with nobody between them: `buswork flipper repl --claim`.",
    )
    _add_service(parser)
    _add_lease(parser, "buswork flipper claim")


def _add_lend(actions: Commands) -> None:
    parser = add_command(
        actions,
        "lend",
        "flipper_claim.lend",
        "give a board to a program that opens it by itself",
        "Lets go of a board on USB, runs CMD, which can open it as if there were no daemon, and "
        "takes it back; exits with the status of CMD.",
    )
    parser.add_argument("board", metavar="NAME", help="which board")
    _add_lease(parser, "buswork flipper lend")


# -- boards on the network ---------------------------------------------------------------------


def _add_attach(actions: Commands) -> None:
    parser = add_command(
        actions,
        "attach",
        "flipper.attach",
        "attach a board on the network",
        "Attaches a board that is reached over the network, and prints its name.",
    )
    parser.add_argument("endpoint", metavar="HOST[:PORT]", help="where it is (port: 3258)")


def _add_detach(actions: Commands) -> None:
    parser = add_command(actions, "detach", "flipper.detach", "let go of a board on the network")
    parser.add_argument("board", metavar="NAME", help="which board")


# -- more --------------------------------------------------------------------------------------


def _add_flash(actions: Commands) -> None:
    parser = _add(
        actions,
        "flash",
        "flipper_flash.flash",
        "put a firmware into the main processor",
        "Erases the main processor of a board on USB, puts IMAGE there, and starts it, with the "
        "board claimed all the while. If it fails on its way, do it again: nothing else helps.",
    )
    parser.add_argument("image", metavar="IMAGE", help="a file with the firmware")
    parser.add_argument(
        "--verify", action="store_true", help="compare each page when it is written"
    )


def _add_repl(actions: Commands) -> None:
    parser = _add(
        actions,
        "repl",
        "flipper_repl.repl",
        "call functions at a prompt",
        "Calls what you type: MODULE FUNCTION ARG ..., or help. Tab completes, and what was typed "
        "is remembered. Without a terminal, each line of stdin, until one fails.",
    )
    parser.add_argument(
        "--claim", action="store_true", help="with the board claimed, so that nobody comes between"
    )
    _add_service(parser)


def _add_service(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--service",
        action="store_true",
        help="claim it for service: u2.gpio, u2.uart0, 4s.uart0 and wdt.fire may be used too",
    )
