import os
import subprocess
import sys

import pytest

SCRIPT = """
import os, sys
from buswork.systemd import take_listen_fds
os.environ["LISTEN_PID"] = os.environ.get("FAKE_PID") or str(os.getpid())
print(take_listen_fds(), take_listen_fds(), "LISTEN_FDS" in os.environ)
print([os.get_inheritable(fd) for fd in (3, 4)])
"""


def take(count, names, **environment):
    """What a process finds to which descriptors 3 and 4 were passed."""
    one, two = os.pipe()
    move = f'exec 3<&{one} 4<&{two} && exec "$@"'
    done = subprocess.run(
        ["bash", "-c", move, "bash", sys.executable, "-c", SCRIPT],
        pass_fds=(one, two),
        env=os.environ | {"LISTEN_FDS": count, "LISTEN_FDNAMES": names, **environment},
        capture_output=True,
        text=True,
    )
    os.close(one)
    os.close(two)
    assert not done.stderr
    return done.stdout.splitlines()


def test_they_are_taken_once_by_name_and_kept_from_children():
    assert take("2", "store:memory") == ["{'store': [3], 'memory': [4]} {} False", "[False, False]"]


def test_one_name_may_have_several():
    assert take("2", "store:store")[0] == "{'store': [3, 4]} {} False"


def test_those_without_a_name():
    assert take("2", "store")[0] == "{'store': [3], 'unknown': [4]} {} False"


def test_fewer_than_promised():
    assert "[3], 'unknown': [4" in take("9", "store")[0]


@pytest.mark.parametrize("count", ["", "x", "-1", "²"])
def test_no_number_is_none(count):
    assert take(count, "store") == ["{} {} False", "[True, True]"]


def test_those_of_another_process_are_not_ours():
    assert take("2", "store", FAKE_PID="1") == ["{} {} False", "[True, True]"]
