"""The commands for the system that buswork is installed on."""

import argparse

from buswork.cli.parsing import Commands, add_command

INSTALL_DESCRIPTION = """\
Places what the system has to know: policies, actions, units, users, rules, manual pages and so on,
and activates it: reloads what has to, and enables the sockets. What is placed already stays as it
is, and so does a file that somebody else made or changed, which is named. With --root, or when
somebody else than root does it, nothing is activated."""

UNINSTALL_DESCRIPTION = """\
Stops what was installed, and removes its files, but for those that somebody changed, which are
named. The users stay, as files may be theirs; so does what the daemon keeps."""

DOCTOR_DESCRIPTION = """\
Looks at all that has to be right for the daemon to work and to be asked, and says of each thing
that is not, which command mends it."""


def add(commands: Commands) -> None:
    _add_install(commands)
    _add_uninstall(commands)
    _add_doctor(commands)


def _add(
    commands: Commands,
    name: str,
    run: str,
    summary: str,
    description: str,
    *,
    timeout: str | None = None,
) -> argparse.ArgumentParser:
    parser = add_command(commands, name, run, summary, description, timeout=timeout)
    parser.set_defaults(opens_bus=False)
    return parser


def _add_root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--root", default="/", metavar="DIR", help="the system's root directory (default: /)"
    )
    parser.add_argument(
        "-n", "--dry-run", action="store_true", help="only print what would be done"
    )


def _add_install(commands: Commands) -> None:
    parser = _add(
        commands, "install", "install.install", "make it part of the system", INSTALL_DESCRIPTION
    )
    _add_root(parser)
    parser.add_argument(
        "--prefix", default="/usr", help="where the programs are, in its bin (default: /usr)"
    )
    parser.add_argument(
        "--force", action="store_true", help="overwrite what others made or changed, too"
    )
    parser.add_argument(
        "--no-enable", action="store_true", help="leave the sockets as they are: off at first"
    )
    parser.add_argument(
        "--globstash", metavar="FILE", help="place this globstash, compiled, instead of Python's"
    )
    group = parser.add_argument_group("for those who make packages")
    group.add_argument(
        "--package",
        action="store_true",
        help="note that a package has the files, which uninstall leaves alone then",
    )
    group.add_argument(
        "--python", metavar="PROGRAM", help="what runs the programs (default: what runs this one)"
    )
    group.add_argument(
        "--lib", metavar="DIR", help="where that Python finds buswork, if not by itself"
    )
    group.add_argument("--no-programs", action="store_true", help="place no programs")
    group.add_argument("--no-pages", action="store_true", help="no manual pages and completions")


def _add_uninstall(commands: Commands) -> None:
    parser = _add(commands, "uninstall", "install.uninstall", "undo install", UNINSTALL_DESCRIPTION)
    _add_root(parser)
    parser.add_argument(
        "--purge", action="store_true", help="remove also what the daemon keeps: /var/lib/buswork"
    )


def _add_doctor(commands: Commands) -> None:
    _add(
        commands,
        "doctor",
        "doctor.show",
        "is all well? if not: how to mend it",
        DOCTOR_DESCRIPTION,
        timeout="how long it may take to look at one thing (default: 3)",
    )
