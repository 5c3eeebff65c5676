"""buswork doctor; what it finds is tested with each check."""

import argparse
import json
import subprocess
import sys

import pytest

from buswork.cli import doctor
from buswork.cli.exits import Exit
from buswork.cli.output import Output
from buswork.doctor.checks import CHECKS, Diagnosis
from buswork.doctor.findings import Severity

OK = Diagnosis("a.b", Severity.OK, "this is well", "")
WARNING = Diagnosis("a.c", Severity.WARNING, "this is\x1b[31m not", "mend it")


async def shown(monkeypatch, *found, json=False):
    """The exit status; what is printed is captured."""
    asked = []

    async def examine(patient):
        asked.append((patient.bus, patient.seconds))
        return list(found)

    monkeypatch.setattr(doctor, "examine", examine)
    options = argparse.Namespace(bus="session", timeout=7.0)
    status = await doctor.show(None, options, Output(json=json))
    assert asked == [("session", 7.0)]
    return status


@pytest.mark.parametrize(
    ("severity", "status"),
    [
        (Severity.OK, Exit.OK),
        (Severity.NOTE, Exit.OK),
        (Severity.WARNING, Exit.WARNINGS),
        (Severity.FAILURE, Exit.BROKEN),
    ],
)
async def test_the_worst_is_the_exit_status(monkeypatch, severity, status):
    assert await shown(monkeypatch, OK, Diagnosis("a", severity, "x", ""), OK) == status


async def test_what_people_see(monkeypatch, capsys):
    await shown(monkeypatch, OK, WARNING)
    assert capsys.readouterr().out.splitlines() == [
        "ok       a.b: this is well",
        "warning  a.c: this is\\x1b[31m not",
        "           mend it",
        "failures: 0, warnings: 1",
    ]


async def test_what_scripts_see(monkeypatch, capsys):
    await shown(monkeypatch, OK, WARNING, json=True)
    said = json.loads(capsys.readouterr().out)
    assert said["result"] == "warning"
    assert said["findings"][1] == {
        "check": "a.c",
        "severity": "warning",
        "text": "this is\x1b[31m not",
        "mend": "mend it",
    }


def test_where_there_is_no_bus(tmp_path):
    """By the command itself, which makes every check all the same."""
    command = [sys.executable, "-m", "buswork.cli", "doctor", "--json"]
    done = subprocess.run(
        [*command, "--bus", f"unix:path={tmp_path}/none"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (Exit.BROKEN, "")
    said = json.loads(done.stdout)
    assert said["result"] == "failure"
    checks = list(dict.fromkeys(each["check"] for each in said["findings"]))
    assert checks[0] == "bus.reachable"
    assert checks == [name for name in CHECKS if name in checks]
    assert {"places.directories", "polkit.actions", "versions"} <= set(checks)
