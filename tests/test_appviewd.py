"""buswork-appview: what it serves, and what it does not even import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from buswork import __version__, appviewd
from buswork.appview.wing import Limits

OTHERS = ("store", "fsct", "flipper", "usb", "client", "daemon")


def test_it_has_one_wing_and_a_name_of_its_own():
    assert list(appviewd.PROGRAM.wings) == ["appview"]
    assert appviewd.PROGRAM.bus_name == "org.buswork.AppView"
    options = appviewd.make_parser().parse_args(["--limit", "appview.processes=7"])
    assert options.limits["appview"] == Limits(processes=7)


def test_the_version(capsys):
    with pytest.raises(SystemExit):
        appviewd.main(["--version"])
    assert capsys.readouterr().out == f"buswork-appview {__version__}\n"


def test_a_process_with_such_rights_imports_no_other_wing():
    code = "import sys, buswork.appviewd; print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(Path(appviewd.__file__).parents[1])}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    modules = done.stdout.split()
    assert "buswork.appview.wing" in modules
    assert not [name for name in OTHERS if f"buswork.{name}" in modules]
