"""The commands for libipc: services, and messages between programs."""

import argparse

from buswork.cli.parsing import CALLS, Commands, add_command, add_group, seconds

DESCRIPTION = """\
Messages between programs, by libipc. A SERVICE is a name in a run directory: in $IPC_RUNDIR, or
/run/ipc, for programs of the C library, in $RUNDIR, or /tmp/.libipc-run, for those of the Zig
library; c:NAME and zig:NAME say which. What the user may reach there is used directly, without a
daemon; what the user may not, or is not there, is asked of busworkd, if it runs."""

FORMS = ("c", "zig")
FRAMINGS = ("lines", "json", "wire")
STDIO = "-"
DEFAULT_SECONDS = 25.0
MEASURED_TRIPS = 10_000
# In the form of C; that of Zig has 99,992.
MOST_BYTES = 1_999_988


def add(commands: Commands) -> None:
    actions = add_group(commands, "ipc", "messages between programs, by libipc", DESCRIPTION)
    for add_one in (_add_list, _add_send, _add_listen, _add_pong, _add_bridge):
        add_one(actions)


def _number(text: str, lowest: int, highest: int) -> int:
    try:
        found = int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no number") from None
    if not lowest <= found <= highest:
        raise argparse.ArgumentTypeError(f"{text} is not in {lowest}..{highest}")
    return found


def user_type(text: str) -> int:
    return _number(text, 0, 255)


def count(text: str) -> int:
    return _number(text, 1, 2**63)


def size(text: str) -> int:
    return _number(text, 0, MOST_BYTES)


def _add(
    actions: Commands,
    name: str,
    run: str,
    summary: str,
    description: str,
    *,
    timeout: str | None = CALLS,
) -> argparse.ArgumentParser:
    parser = add_command(actions, name, run, summary, description, timeout=timeout)
    parser.set_defaults(opens_bus=False)
    group = parser.add_argument_group("where")
    group.add_argument(
        "--form", choices=FORMS, metavar="FORM",
        help="c or zig: only the directory of this form, which is that of the header of messages "
        "(default: both, c first)",
    )  # fmt: skip
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "--direct", action="store_true", help="in the run directories alone, never by busworkd"
    )
    either.add_argument("--daemon", action="store_true", help="by busworkd alone")
    return parser


def _add_user_type(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--user-type", type=user_type, default=0, metavar="N", help=text)


# -- commands ----------------------------------------------------------------------------------


def _add_list(actions: Commands) -> None:
    parser = _add(
        actions,
        "list",
        "ipc.list_",
        "print the services",
        "Prints the services, whether somebody listens there, whose they are, and how many are "
        "connected.",
    )
    parser.add_argument("-w", "--watch", action="store_true", help="again whenever it changes")


def _add_send(actions: Commands) -> None:
    parser = _add(
        actions,
        "send",
        "ipc.send",
        "send a message, and print the answer",
        "Sends PAYLOAD, or stdin, as one message, and prints the answer exactly as it is; of "
        "several answers, each is a line. On a terminal, control characters are escaped. With "
        "--json, each is an object with type, user_type and payload, which is a text, or an "
        'object {"hex": ...} of what is no UTF-8.',
        timeout=None,
    )
    parser.add_argument("service", metavar="SERVICE", help="who gets it")
    parser.add_argument(
        "payload", nargs="?", default=STDIO, metavar="PAYLOAD",
        help="what to send (default: -, stdin)",
    )  # fmt: skip
    _add_user_type(parser, "the user type, 0 to 255 (default: 0); in the form of C")
    answers = parser.add_mutually_exclusive_group()
    answers.add_argument("--wait", type=count, metavar="N", help="for so many answers (default: 1)")
    answers.add_argument("--no-reply", action="store_true", help="end when the service has read it")
    parser.add_argument(
        "--hex", action="store_true", help="PAYLOAD and what is printed are hexadecimal"
    )
    parser.add_argument(
        "--timeout", dest="wait_timeout", type=seconds, default=DEFAULT_SECONDS, metavar="SECONDS",
        help=f"how long all of it may take (default: {DEFAULT_SECONDS:g})",
    )  # fmt: skip


def _add_listen(actions: Commands) -> None:
    parser = _add(
        actions,
        "listen",
        "ipc_listen.listen",
        "be a service, and print what comes",
        "Serves a name, and prints who comes, what they send and who goes, until Ctrl-C; control "
        "characters are escaped. With --json each line is an object with event (connected, "
        "message, disconnected), client, a number, and of a message type, user_type and payload. "
        "--exec runs a command for each message instead, one after the other, with the payload on "
        "its stdin and BUSWORK_IPC_CLIENT and BUSWORK_IPC_USER_TYPE in its environment; what it "
        "prints is the answer, with the same user type. If it prints nothing there is none.",
    )
    parser.add_argument("service", metavar="SERVICE", help="its name")
    parser.add_argument(
        "--connect", action="store_true",
        help="do not serve: connect to SERVICE, and print what it sends",
    )  # fmt: skip
    parser.add_argument("-c", "--count", type=count, metavar="N", help="end after so many messages")
    parser.add_argument("--hex", action="store_true", help="payloads are printed in hexadecimal")
    parser.add_argument(
        "--exec", dest="program", nargs=argparse.REMAINDER, metavar="CMD",
        help="all that follows is a command, which answers each message",
    )  # fmt: skip


def _add_pong(actions: Commands) -> None:
    parser = _add(
        actions,
        "pong",
        "ipc_pong.pong",
        "be a service that sends everything back",
        "Serves a name, and sends every message back to who sent it, until Ctrl-C. With --measure "
        "it is the other side: it sends messages to such a service, one at a time, and prints how "
        "many come back in a second.",
    )
    parser.add_argument(
        "service", nargs="?", default="pong", metavar="SERVICE",
        help="the name (default: pong)",
    )  # fmt: skip
    parser.add_argument(
        "-c", "--count", type=count, metavar="N",
        help=f"end after so many messages (with --measure, default: {MEASURED_TRIPS})",
    )  # fmt: skip
    parser.add_argument("--measure", action="store_true", help="measure SERVICE")
    parser.add_argument(
        "--size", type=size, default=2, metavar="BYTES",
        help="how long the measuring messages are (default: 2)",
    )  # fmt: skip


def _add_bridge(actions: Commands) -> None:
    parser = _add(
        actions,
        "bridge",
        "ipc_bridge.bridge",
        "tie two services, or stdin and stdout and a service",
        "Connects to A and to B, and sends to each what comes from the other, until one of them "
        "ends; the forms of their headers may be different. A - is stdin and stdout. With --serve, "
        "A is a name to be served: everybody who connects gets a connection to B, until Ctrl-C.",
    )
    for name in ("a", "b"):
        parser.add_argument(
            name, metavar=name.upper(),
            help="a service, or -",
        )  # fmt: skip
    parser.add_argument("--serve", action="store_true", help="serve A, for as many as come")
    parser.add_argument(
        "--typed", action="store_true",
        help="the user type of the one form is the first byte of a payload in the other one",
    )  # fmt: skip
    parser.add_argument(
        "--framing", choices=FRAMINGS, default="lines", metavar="FRAMING",
        help="what - reads and writes: lines, each a message (default); json, a line with an "
        "object that has user_type and payload; wire, messages with their headers, in the form "
        "of the other side",
    )  # fmt: skip
    _add_user_type(parser, "the user type of lines, 0 to 255 (default: 0)")
    parser.add_argument(
        "-c", "--count", type=count, metavar="N", help="end when - got so many messages"
    )
    parser.add_argument(
        "--linger", type=seconds, default=1.0, metavar="SECONDS",
        help="at the end of stdin, stay until nothing came for so long (default: 1)",
    )  # fmt: skip
