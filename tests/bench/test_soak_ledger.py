"""Nothing that the soak asks goes without a fate, and none is excused without a reason."""

import asyncio
import os
import subprocess
import sys

import pytest
from bench import soak_ledger
from bench.soak_ledger import Changed, Counts, Cut, Desk, Remarks, Weather

from buswork.errors import Disconnected, InvalidArgs

KILLED = """\
import os, pathlib, sys
from bench.soak_ledger import Counts
Counts(pathlib.Path(sys.argv[1]), is_writer=True).add("asked")
os.kill(os.getpid(), 9)
"""
CLAIMED = "org.flipper.Error.Claimed"


class Office:
    """A desk, with its papers."""

    def __init__(self, folder):
        self.counts = Counts(folder / "counts", is_writer=True)
        self.weather = Weather(folder, is_writer=True)
        self.remarks = Remarks(folder)
        self.desk = Desk("load", self.counts, Weather(folder), self.remarks, ("daemon", "1-3"))

    async def fate(self, what, **more):
        """The fate of a request."""
        before = self.counts.all()
        try:
            await self.desk.ask(what, **more)
        except Cut:
            pass
        (fate,) = {*(self.counts.all() - before)} - {"asked"}
        return fate


@pytest.fixture
def office(tmp_path):
    return Office(tmp_path)


async def fails(error):
    raise error


async def test_an_answer_is_handed_on(office):
    assert await office.desk.ask(asyncio.sleep(0, "answer")) == "answer"
    assert office.counts.all() == {"asked": 1, "answered": 1}
    assert list(office.remarks.all()) == []


async def test_an_error_that_may_come_at_any_time_is_refused(office):
    claimed = InvalidArgs("bob has it", CLAIMED)
    assert await office.fate(fails(claimed), may={CLAIMED}) == "refused"
    assert await office.fate(fails(claimed)) == "lost"


async def test_who_goes_away_without_a_reason_loses_the_request(office):
    assert await office.fate(fails(Disconnected("gone"))) == "lost"
    assert await office.fate(fails(ConnectionResetError())) == "lost"


async def test_what_was_done_to_a_target_excuses_that_it_went(office):
    office.weather.begin("daemon")
    assert await office.fate(fails(Disconnected("gone"))) == "cut"
    office.weather.end("daemon")
    assert await office.fate(fails(ConnectionResetError())) == "cut", "in the same round"
    office.desk.begin()
    assert await office.fate(fails(Disconnected("gone"))) == "lost", "it is back"


async def test_it_excuses_no_other_error_and_no_other_target(office):
    office.weather.begin("1-4")
    assert await office.fate(fails(Disconnected("gone"))) == "lost"
    office.weather.begin("1-3")
    assert await office.fate(fails(InvalidArgs("what?"))) == "lost"
    assert await office.fate(fails(Disconnected("gone"))) == "cut"


async def test_another_value_is_lost_but_after_a_storm(office):
    assert await office.fate(fails(Changed("x"))) == "lost"
    office.weather.begin("daemon")
    assert await office.fate(fails(Changed("x"))) == "cut"


async def test_no_answer_is_lost_whatever_was_done(office, monkeypatch):
    monkeypatch.setattr(soak_ledger, "PATIENCE", 0)
    office.weather.begin("daemon")
    assert await office.fate(asyncio.Event().wait()) == "lost"


async def test_every_failure_leaves_a_remark(office, tmp_path):
    await office.fate(fails(InvalidArgs("what?")))
    ((_, load, fate, name, text),) = Remarks(tmp_path).all()
    assert (load, fate, name, text) == ("load", "lost", InvalidArgs.name, "what?")


def test_the_counts_outlive_whoever_is_killed(tmp_path):
    path = tmp_path / "counts"
    environment = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", KILLED, path], env=environment, check=False)
    assert Counts(path).all() == {"asked": 1}
