"""What the guide to Flipper boards says in tables and numbers, held against the code."""

from pathlib import Path

import pytest
from support.guides import rights, table

from buswork.errors import BusworkError
from buswork.flipper import doors, errors, holders
from buswork.flipper.model import boards, calls, claims, events
from buswork.flipper.native import network, sessions
from buswork.flipper.wire.errors import Error
from buswork.flipper.wire.samba import ERASE_SECONDS
from buswork.flipper.wire.terms import BLOCK_BYTES, MAX_IMAGE_BYTES

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/guide-flipper.md").read_text()
TEXT = " ".join(GUIDE.split())


def rows(heading):
    return [[cell.strip("`") for cell in row] for row in table(GUIDE, heading)]


def test_the_rights_are_those_of_the_policy():
    assert {row[0]: tuple(row[2:]) for row in rows("## Who may do what")} == rights(
        "org.flipper.device"
    )


def test_the_errors_are_those_of_the_wing():
    own = [each for module in (errors, network) for each in vars(module).values()]
    classes = [each for each in own if isinstance(each, type) and issubclass(each, BusworkError)]
    names = {each.name for each in classes if each.name.startswith("org.flipper.")}
    told = {f"org.flipper.Error.{row[0]}" for row in rows("## What can go wrong")}
    boards = {f"org.flipper.Error.{error.camel}" for error in Error}
    assert names <= told | {errors.AlreadyAttached.name}
    assert told <= names | boards | {"org.flipper.Error.BadAnswer"}


def test_the_limits_are_those_of_the_code():
    assert dict(rows("## Limits")) == {
        "boards": f"{boards.MAX_BOARDS}",
        "subscriptions of a board": (
            f"{events.MAX_SUBSCRIPTIONS}; of one program {events.MAX_SUBSCRIPTIONS_OF_OWNER}, "
            f"of one user {events.MAX_SUBSCRIPTIONS_OF_UID}"
        ),
        "looks of a subscription": (
            f"every {events.MIN_INTERVAL_MS} to {events.MAX_INTERVAL_MS} milliseconds"
        ),
        "a push or pull": f"{calls.MAX_TRANSFER_BYTES >> 20} MiB",
        "pushes and pulls of all callers, in memory": f"{holders.MOST_BYTES >> 20} MiB",
        "the image of a user module": f"{MAX_IMAGE_BYTES} bytes",
        "the lease of a claim": (
            f"{claims.MIN_LEASE_SECONDS} to {claims.MAX_LEASE_SECONDS} seconds"
        ),
        "programs of one user at a door": (
            f"{doors.GUESTS_PER_UID}; then the one that was silent longest goes"
        ),
    }


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
