"""buswork install and buswork uninstall."""

import argparse
import importlib.util
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from buswork.cli import generate
from buswork.cli.exits import Exit
from buswork.cli.output import CommandError, InputError, Output
from buswork.client import Client
from buswork.installation import activation, changes, manifest, places, sources
from buswork.installation.activation import Outcome, Step
from buswork.installation.changes import Change, Verdict
from buswork.installation.files import File, below
from buswork.installation.manifest import Manifest, ManifestError
from buswork.installation.places import Layout
from buswork.log import escaped

SYSTEM = Path("/")
MAKERS_OF_PAGES = ("argparse_manpage", "shtab")
# What means nothing else to systemd, udev, pkg-config and the first line of a script.
_PREFIX = re.compile(r"(/[\w.+-]+)+", re.ASCII)
_COLORS = {Verdict.NEW: "green", Verdict.CHANGED: "yellow", Verdict.KEPT: "red"}


async def install(_: Client, options: argparse.Namespace, out: Output) -> int:
    job = _job(options, out)
    if not _may(job, out):
        return Exit.DENIED
    layout = _layout(options, job.root)
    before = _manifest(job) or Manifest(package=options.package)
    if before.package and not options.package:
        raise InputError("a package has installed it; `apt upgrade` or the like renews it")
    pages = {} if options.no_pages else _pages(out)
    ours = _programs(options) | _shipped(options, out) | pages
    wanted = places.wanted(ours, layout)
    whole = bool(pages) and not options.no_programs
    job.plan(changes.plan(job.root, wanted, before, force=options.force, whole=whole))
    before.prefix = layout.prefix
    if not job.dry:
        changes.install(job.root, job.changes, before)
    steps = list(activation.AFTER_INSTALL)
    if not options.no_enable and _first_time(job.changes):
        steps += activation.ENABLE
    job.tell_system(steps)
    return job.report()


async def uninstall(_: Client, options: argparse.Namespace, out: Output) -> int:
    job = _job(options, out)
    if not _may(job, out):
        return Exit.DENIED
    noted = _manifest(job)
    if noted is None:
        raise InputError(f"{manifest.PATH} is not there: nothing to undo")
    if noted.package:
        raise InputError("a package has installed it; `apt remove buswork` or the like removes it")
    job.tell_system(activation.BEFORE_REMOVAL)
    job.plan(list(changes.removal(job.root, noted, list(noted.files))))
    if not job.dry:
        changes.uninstall(job.root, job.changes, noted)
    job.tell_system(activation.AFTER_REMOVAL)
    if options.purge:
        job.tell_system(activation.PURGE)
    return job.report()


# -- what is asked for -------------------------------------------------------------------------


@dataclass
class _Job:
    root: Path
    dry: bool
    out: Output
    changes: list[Change] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    def plan(self, planned: list[Change]) -> None:
        self.changes = planned
        for change in planned:
            if not self.out.json:
                _show_change(change, self.out)

    def tell_system(self, steps: Iterable[Step]) -> None:
        """Unless it is not the system that runs."""
        if self.root != SYSTEM:
            return
        undone = (Outcome(step.words) for step in steps)
        for outcome in undone if self.dry else activation.run(steps):
            self.outcomes.append(outcome)
            if not self.out.json:
                _show_outcome(outcome, self.out, dry=self.dry)

    def report(self) -> int:
        if self.out.json:
            self.out.document(_document(self))
        else:
            self.out.prose(_summary(self))
        kept = any(change.verdict is Verdict.KEPT for change in self.changes)
        failed = any(outcome.failure for outcome in self.outcomes)
        return Exit.FAILED if kept or failed else Exit.OK


def _job(options: argparse.Namespace, out: Output) -> _Job:
    root = Path(os.path.realpath(options.root))
    if not root.is_dir():
        raise InputError(f"--root {options.root} is no directory")
    return _Job(root, options.dry_run, out)


def _layout(options: argparse.Namespace, root: Path) -> Layout:
    prefix = os.path.normpath(options.prefix)
    if not _PREFIX.fullmatch(prefix):
        raise CommandError(f"--prefix {options.prefix} is no absolute path that units can have")
    debian = below(root, f"{prefix}/share/zsh/{places.DEBIANS_ZSH}").is_dir()
    return Layout(prefix, places.DEBIANS_ZSH if debian else places.ZSH)


def _may(job: _Job, out: Output) -> bool:
    allowed = job.dry or job.root != SYSTEM or os.geteuid() == 0
    if not allowed:
        out.error("only root can make changes to the system (sudo); --dry-run shows them")
    return allowed


def _manifest(job: _Job) -> Manifest | None:
    try:
        return manifest.load(job.root)
    except ManifestError as error:
        raise InputError(str(error)) from None


def _shipped(options: argparse.Namespace, out: Output) -> dict[str, File]:
    found = sources.shipped()
    unreadable = sources.out_of_apparmors_reach(options.python or sys.executable, options.lib)
    if unreadable is None or options.package:
        return found
    out.note(f"no AppArmor profiles: they would keep the daemon from reading {unreadable}")
    return {name: file for name, file in found.items() if not name.startswith("apparmor/")}


def _programs(options: argparse.Namespace) -> dict[str, File]:
    if options.no_programs:
        return {}
    if options.python is None and (hidden := sources.hidden_from_the_daemon()):
        raise InputError(
            f"{hidden} is out of the reach of the daemon, which has a user of its own. buswork and "
            "its Python must be where all can read: /usr/bin/python3 -m venv /opt/buswork"
        )
    found = sources.programs(options.python or sys.executable, options.lib)
    if options.globstash is not None:
        compiled = File(Path(options.globstash).read_bytes(), sources.PROGRAM_MODE)
        found["bin/globstash"] = compiled
    return found


def _pages(out: Output) -> dict[str, File]:
    missing = [name for name in MAKERS_OF_PAGES if importlib.util.find_spec(name) is None]
    if missing:
        out.note(
            "no manual pages and completions, for want of "
            f"{' and '.join(missing)} (pip install 'buswork[pages]')"
        )
        return {}
    return {
        f"{kind}/{name}": File(text.encode())
        for kind in generate.KINDS
        for name, text in generate.texts(kind)
    }


def _first_time(planned: list[Change]) -> bool:
    """Later, an administrator may have disabled what is off."""
    return any(
        change.verdict is Verdict.NEW and change.path.endswith(f"/{activation.SOCKETS[0]}")
        for change in planned
    )


# -- what came of it ---------------------------------------------------------------------------


def _document(job: _Job) -> dict[str, object]:
    return {
        "dry_run": job.dry,
        "files": {
            verdict.value: [change.path for change in job.changes if change.verdict is verdict]
            for verdict in Verdict
        },
        "why_kept": {change.path: change.why for change in job.changes if change.why},
        "commands": [outcome._asdict() for outcome in job.outcomes],
    }


def _summary(job: _Job) -> str:
    counted = Counter(change.verdict.value for change in job.changes)
    numbers = ", ".join(f"{number} {verdict}" for verdict, number in counted.items())
    return f"files: {numbers or 'none'}" + (" (a dry run: nothing was done)" if job.dry else "")


def _show_change(change: Change, out: Output) -> None:
    if change.verdict is not Verdict.SAME:
        word = out.styled(change.verdict.value.ljust(7), _COLORS.get(change.verdict, "dim"))
        why = f" ({change.why})" if change.why else ""
        out.prose(f"{word} {escaped(change.path)}{why}")


def _show_outcome(outcome: Outcome, out: Output, *, dry: bool) -> None:
    command = shlex.join(outcome.words)
    if outcome.failure:
        out.error(f"{command}: {outcome.failure}")
    elif outcome.missing:
        out.prose(f"left out {command}: no {outcome.missing} here")
    else:
        out.prose(f"{'to run ' if dry else 'ran    '} {command}")
