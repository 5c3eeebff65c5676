import asyncio

import pytest

from buswork.fsct.simulator import LONGEST_SECONDS, SHORTEST_SECONDS, Simulator


@pytest.mark.parametrize(
    ("seconds", "expected"), [(1e-6, SHORTEST_SECONDS), (2.0, 2.0), (1e12, LONGEST_SECONDS)]
)
async def test_a_display_is_looked_at_in_a_pace_of_its_own(monkeypatch, seconds, expected):
    simulator = Simulator()
    monkeypatch.setattr(simulator.displays["1-1"], "seconds_to_change", lambda: seconds)
    now = asyncio.get_running_loop().time()
    simulator._look("1-1")
    assert simulator._timers["1-1"].when() - now == pytest.approx(expected, abs=0.05)
    simulator.close()
