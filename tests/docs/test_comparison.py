"""What the comparison with the originals says of us, held against code and benches."""

import re
from pathlib import Path

import pytest
from support.guides import table

from buswork.appview.native import conversations
from buswork.libipc.wire.forms import SAFE_BYTES
from buswork.store.model import limits

ROOT = Path(__file__).parents[2]
TEXT = " ".join((ROOT / "docs/comparison.md").read_text().split())
BENCHES = (ROOT / "docs/performance.md").read_text()


def measured(bench: str, figure: str) -> float:
    """The first number that a bench's own table says was measured."""
    (found,) = [row[2] for row in table(BENCHES, f"## {bench}") if row[0] == figure]
    return float(re.match(r"-?[\d.,]+", found)[0].replace(",", ""))


@pytest.mark.parametrize(
    "sentence",
    [
        f"| {limits.MAX_VALUE_BYTES >> 20} MiB |",
        f"| has {conversations.ANSWER_SECONDS:.0f} seconds |",
        f"some {SAFE_BYTES:,} bytes for sure",
    ],
)
def test_the_numbers_are_those_of_the_code(sentence):
    assert sentence in TEXT


def test_how_fast_the_store_is():
    store = "The store: `./dev bench store`"
    assert "a hundred times as many as Redis" in TEXT
    assert 90 <= measured(store, "C reader to Redis") < 150
    shape = "connecting each time, to a server of the same shape in C"
    assert "answers about twice as many" in TEXT
    for what in ("get", "set"):
        assert 0.4 <= measured(store, f"native {what}, {shape}") <= 0.67


def test_what_idle_connections_cost():
    idle = "what 2,000 idle connections cost another client's rate"
    assert "nothing measurable" in TEXT
    assert abs(measured("Messages: `./dev bench libipc`", idle)) < 2
    assert "12 % (C) or 1 % (Zig) of the rate" in TEXT
    assert "| 12% |" in BENCHES
    assert "| 1% |" in BENCHES


def test_a_long_request_costs_about_twice_its_queues():
    long = "1 MiB and back, to its 129 frames each way raw, to one that is woken for each"
    assert "cost about as much as the queues do" in TEXT
    assert 1.5 < measured("Viewed processes: `./dev bench appview`", long) < 2.7
