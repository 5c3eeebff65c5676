"""All that the services show of themselves, before somebody who says anything at all.

A minute in a normal run, a quarter of an hour with --fuzz; BUSWORK_FUZZ_SECONDS says how long.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SHORT_SECONDS, LONG_SECONDS = 48, 900
SHARES = {"daemon": 0.7, "appview": 0.3}
# Of a service that has a fault.
PLANTED_SECONDS, PLANTED_DEADLINE = 30, 2
# A machine that starts and ends, where much else is done.
SPARE_SECONDS = 180


def fuzz(service, seconds, *options):
    """What the fuzzer found, as it says itself."""
    command = [sys.executable, HERE / "introspected.py", "--service", service]
    done = subprocess.run(
        [*command, "--seconds", str(seconds), *options],
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=seconds + SPARE_SECONDS,
    )
    assert done.returncode in (0, 1), done.stderr
    assert done.stdout, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert bool(found["wrong"]) is bool(done.returncode), done.stderr
    return found


@pytest.mark.parametrize("service", SHARES)
def test_whatever_is_called_answers_in_words_of_the_contract(service, request):
    is_long = request.config.getoption("--fuzz")
    default = LONG_SECONDS if is_long else SHORT_SECONDS
    seconds = SHARES[service] * int(os.environ.get("BUSWORK_FUZZ_SECONDS", default))
    found = fuzz(service, seconds, *([] if is_long else ["--seed=1"]))
    assert found["wrong"] == [], f"seed {found['seed']}"
    assert found["never called"] == []
    # Else nothing was looked at but how calls are refused.
    assert len(found["never answered with a value"]) < found["methods"] / 2, found


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("defect", "a defect: org.freedesktop.DBus.Error.Failed"),
        ("death", "the service has ended with 3"),
        ("silence", "no answer in 2 s"),
        ("wordless", "an error that says nothing"),
    ],
)
def test_a_fault_that_somebody_planted_is_found(fault, words):
    found = fuzz(fault, PLANTED_SECONDS, "--first", "--deadline", str(PLANTED_DEADLINE), "--seed=1")
    assert any(words in wrong for wrong in found["wrong"]), found
    assert any("org.buswork.Planted" in wrong for wrong in found["wrong"]), found
