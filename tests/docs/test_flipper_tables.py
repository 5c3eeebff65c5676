"""What the guide to Flipper boards says in tables and numbers, held against the code."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from buswork.errors import BusworkError
from buswork.flipper import errors
from buswork.flipper.model import calls, claims, events
from buswork.flipper.native import network, sessions
from buswork.flipper.wire.errors import Error
from buswork.flipper.wire.samba import ERASE_SECONDS
from buswork.flipper.wire.terms import BLOCK_BYTES

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/guide-flipper.md").read_text()
TEXT = " ".join(GUIDE.split())
ANSWERS = {"yes": "yes", "auth_admin_keep": "administrator's password"}


def rows(heading):
    """The cells of the first table below a heading, without its head."""
    section = GUIDE.partition(f"\n{heading}\n")[2]
    _, _, *lines = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)[0].splitlines()
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


def test_the_rights_are_those_of_the_policy():
    policy = ET.parse(ROOT / "polkit/org.flipper.device.policy")
    shipped = {
        action.get("id").removeprefix("org.flipper.device."): (
            ANSWERS[action.findtext("defaults/allow_active")],
            ANSWERS[action.findtext("defaults/allow_any")],
        )
        for action in policy.iter("action")
    }
    assert {row[0]: tuple(row[2:]) for row in rows("## Who may do what")} == shipped


def test_the_errors_are_those_of_the_wing():
    own = [each for module in (errors, network) for each in vars(module).values()]
    classes = [each for each in own if isinstance(each, type) and issubclass(each, BusworkError)]
    names = {each.name for each in classes if each.name.startswith("org.flipper.")}
    told = {f"org.flipper.Error.{row[0]}" for row in rows("## What can go wrong")}
    boards = {f"org.flipper.Error.{error.camel}" for error in Error}
    assert names <= told | {errors.AlreadyAttached.name}
    assert told <= names | boards | {"org.flipper.Error.BadAnswer"}


@pytest.mark.parametrize(
    "sentence",
    [
        f"one exchange of at most {BLOCK_BYTES} bytes with the U2",
        f"a lease, of {claims.MIN_LEASE_SECONDS} to {claims.MAX_LEASE_SECONDS} seconds",
        f"lets go of it {({2.0: 'two'})[sessions.IDLE_S]} seconds after its last call",
        f"which then takes {({8.0: 'eight'})[ERASE_SECONDS]} seconds",
    ],
)
def test_the_numbers_are_those_of_the_code(sentence):
    assert sentence in TEXT


def test_intervals_and_sizes_are_those_of_the_command_as_well():
    from buswork.cli import flipper_parser, flipper_transfer

    command = Path(flipper_parser.__file__).read_text()
    assert f"_within({events.MIN_INTERVAL_MS}, {events.MAX_INTERVAL_MS:_})" in command
    assert flipper_transfer.PIECE_BYTES <= calls.MAX_TRANSFER_BYTES
