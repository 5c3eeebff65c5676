"""The soak's verdict: what grows is found, and what only swings is not taken for it."""

import math
import os
import subprocess
import sys

import pytest
from bench.soak_growth import KIB, MEASURES, MIB, growth, sizes

# As the soak looks: every five seconds, for twenty minutes.
TIMES = [5.0 * number for number in range(240)]


@pytest.mark.parametrize("kind", ["rss", "pss"])
def test_a_leak_of_a_few_bytes_for_each_request_is_growth(kind):
    leaking = [60 * MIB + 300 * 12 * at for at in TIMES]  # 12 bytes, 300 times a second
    assert not growth(MEASURES[kind], TIMES, leaking).is_none


def test_a_descriptor_in_two_minutes_is_growth():
    leaking = [50.0 + at // 120 for at in TIMES]
    assert not growth(MEASURES["descriptors"], TIMES, leaking).is_none


def test_waves_and_one_step_at_the_end_are_none():
    waves = [60 * MIB + 4 * MIB * math.sin(at / 40) for at in TIMES]
    assert growth(MEASURES["rss"], TIMES, waves).is_none
    step = [50.0] * 230 + [80.0] * 10
    assert growth(MEASURES["descriptors"], TIMES, step).is_none


def test_what_settles_is_none():
    settling = [60 * MIB + MIB * (1 - math.exp(-at / 100)) for at in TIMES]
    assert growth(MEASURES["rss"], TIMES, settling).is_none


def test_the_sizes_of_a_process():
    code = "import sys, os; kept = bytearray(b'x') * (1 << 25); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline()
        found = sizes(process.pid)
        process.stdin.close()
    assert found["rss"] >= found["pss"] > 32 * MIB
    assert found["rss"] % KIB == 0
    assert (found["descriptors"], found["threads"]) == (3, 1)
    with pytest.raises(FileNotFoundError):
        sizes(process.pid)
    assert sizes(os.getpid())["threads"] >= 1
