"""The commands for viewed processes."""

import argparse

from buswork.cli.parsing import CALLS, Commands, add_command, add_group, add_optional

DESCRIPTION = """\
Processes that have the AppView library in them. A PROCESS is a pid, or the name of a program; of
several with that name, none is meant. They are your own, unless --others has all users' looked at,
which asks for an administrator."""

CONFIG_DESCRIPTION = """\
How a process is configured. FILE (default: -, stdin) has JSON, as `config get` prints it, or YAML
where PyYAML is installed."""


def add(commands: Commands) -> None:
    actions = add_group(commands, "view", "processes under AppView", DESCRIPTION)
    for add_one in (
        _add_ps, _add_inspect, _add_config, _add_transport, _add_attach, _add_detach, _add_watch,
    ):  # fmt: skip
        add_one(actions)


UNTIL_IT_REPORTS = "give up after so long (default: never)"


def setting(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name.startswith("APPVIEW_"):
        raise argparse.ArgumentTypeError(f"{text} is not APPVIEW_...=VALUE")
    return name, value


def _add(
    actions: Commands,
    name: str,
    run: str,
    summary: str,
    description: str = "",
    *,
    timeout: str = CALLS,
) -> argparse.ArgumentParser:
    parser = add_command(actions, name, run, summary, description, timeout=timeout)
    parser.add_argument("--others", action="store_true", help="among all users' processes")
    return parser


def _add_process(parser: argparse.ArgumentParser, *, may_miss: bool = False) -> None:
    parser.add_argument(
        "process",
        nargs="?" if may_miss else None,
        metavar="PROCESS",
        help="a pid, or the name of a program",
    )


# -- looking -----------------------------------------------------------------------------------


def _add_ps(actions: Commands) -> None:
    parser = _add(
        actions,
        "ps",
        "view.ps",
        "print the viewed processes",
        "Prints the processes that are viewed now. With --json, each is an object on a line, with "
        "id, pid, user and command.",
    )
    parser.add_argument(
        "-a", "--all", action="store_true", help="all that have the library, and their states"
    )


def _add_inspect(actions: Commands) -> None:
    parser = _add(
        actions,
        "inspect",
        "view.inspect",
        "all that a process says of itself",
        "Prints the configuration of a process, where it writes to, and how it calls itself. "
        "Without PROCESS, that of the only viewed one.",
    )
    _add_process(parser, may_miss=True)
    parser.add_argument("-a", "--all", action="store_true", help="of all viewed processes")


def _add_transport(actions: Commands) -> None:
    parser = _add(
        actions, "transport", "view.transport", "where a process writes to, and whether it can"
    )
    _add_process(parser)


def _add_watch(actions: Commands) -> None:
    _add(
        actions,
        "watch",
        "view_watch.watch",
        "print processes as they come, change and go",
        "Prints the processes that are there, and from then on each one that comes (+), changes "
        "(~) or goes (-), until Ctrl-C.",
    )


# -- changing ----------------------------------------------------------------------------------


def _add_config(actions: Commands) -> None:
    group = add_group(
        actions, "config", "print and change how a process is configured", CONFIG_DESCRIPTION
    )
    _add_process(_add(group, "get", "view_config.get", "print the configuration, as JSON"))
    _add_change(
        group,
        "set",
        "replace it by another one",
        "Replaces the configuration: what FILE leaves out goes back to its default. Protocols are "
        "only ever added.",
    )
    _add_change(
        group,
        "merge",
        "change parts of it",
        "Changes what FILE names, and nothing else.",
    )


def _add_change(group: Commands, name: str, summary: str, description: str) -> None:
    parser = _add(group, name, f"view_config.{name}", summary, description)
    _add_process(parser)
    add_optional(parser, "file", "what to send (default: -, stdin)", default="-")
    parser.add_argument(
        "-n", "--dry-run", action="store_true", help="only print what would be sent"
    )


def _add_attach(actions: Commands) -> None:
    parser = _add(
        actions,
        "attach",
        "view.attach",
        "view a process again",
        "Views a process again that was detached, or gives a viewed one other settings. It takes "
        "them at its next report, which is waited for: within 10 seconds if nobody has set another "
        "period.",
        timeout=UNTIL_IT_REPORTS,
    )
    _add_process(parser)
    parser.add_argument(
        "--set",
        dest="settings",
        type=setting,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a variable of the library, APPVIEW_..., that it is to have; again for several",
    )


def _add_detach(actions: Commands) -> None:
    parser = _add(
        actions,
        "detach",
        "view.detach",
        "view a process no longer",
        "Ends the view of a process; the library stays in it. It does so at its next report, which "
        "is waited for: within 10 seconds if nobody has set another period.",
        timeout=UNTIL_IT_REPORTS,
    )
    _add_process(parser, may_miss=True)
    parser.add_argument("-a", "--all", action="store_true", help="all viewed processes")
