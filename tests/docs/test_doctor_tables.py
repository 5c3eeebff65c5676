"""What the page about the doctor says in tables, held against the code."""

import re

from support.guides import ROOT, rights, table

from buswork.cli.exits import Exit
from buswork.doctor.checks import CHECKS
from buswork.doctor.findings import Severity
from buswork.doctor.patient import ASK_SECONDS

PAGE = (ROOT / "docs/doctor.md").read_text()


def test_the_checks():
    assert [row[0].strip("`") for row in table(PAGE, "## Checks")] == list(CHECKS)


def test_the_exit_statuses():
    told = [int(row[0]) for row in table(PAGE, "## Exit status")]
    assert told == [Exit.OK, Exit.WARNINGS, Exit.BROKEN]


def test_the_rights_are_those_of_the_policy():
    found = re.findall(r"^\| `([a-z-]+)` \|.*\| (.*) \| (.*) \|$", PAGE, re.MULTILINE)
    assert {action: (here, elsewhere) for action, here, elsewhere in found} == rights("org.buswork")


def test_the_severities():
    assert all(f"`{severity}`" in PAGE for severity in Severity)


def test_how_long_a_question_takes():
    assert ASK_SECONDS == 3.0
    assert "has three seconds" in PAGE
