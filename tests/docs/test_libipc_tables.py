"""What the guide to messages between programs says in tables and numbers, held against the code."""

import re
from http import HTTPStatus
from pathlib import Path

import pytest
from support.guides import rights, table

from buswork import authority, doors
from buswork.cli import ipc_parser
from buswork.errors import BusworkError
from buswork.libipc import Context, Form, errors
from buswork.libipc.doors import gate, tcp, websocket
from buswork.libipc.library.connections import Limits
from buswork.libipc.library.network import LOOKUP_SECONDS
from buswork.libipc.model import terms
from buswork.libipc.model.credits import MAX_CREDITS, START_CREDITS
from buswork.libipc.native import survey
from buswork.libipc.wire.forms import SAFE_BYTES, most_payload
from buswork.libipc.wire.lookups import DAEMONS
from buswork.libipc.wire.names import MAX_NAME_BYTES, RESERVED

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/guide-libipc.md").read_text()
TEXT = " ".join(GUIDE.split())


def rows(heading):
    return [[cell.strip("`") for cell in row] for row in table(GUIDE, heading)]


def test_the_rights_are_those_of_the_policy():
    assert {row[0]: tuple(row[2:]) for row in rows("## Who may do what")} == rights("org.libipc")


def test_the_errors_are_those_of_the_wing():
    classes = [each for each in vars(errors).values() if isinstance(each, type)]
    names = {each.name for each in classes if issubclass(each, BusworkError)}
    told = {f"org.libipc.Error.{row[0]}" for row in rows("## What can go wrong")}
    assert told == {name for name in names if name.startswith("org.libipc.")}


def test_the_limits_are_those_of_the_code():
    own, uid = Limits(), authority.Limits()
    assert dict(rows("## Limits")) == {
        "a message, form C": f"{most_payload(Form.C)} bytes",
        "a message, form Zig": f"{most_payload(Form.ZIG)} bytes",
        "a message that originals take whole for sure": f"{SAFE_BYTES} bytes with its header",
        "messages that wait to be sent on a connection": (
            f"{own.queued_messages}, or {own.queued_bytes >> 20} MiB"
        ),
        "connections of a context; more wait to be accepted": f"{own.connections}",
        "from the first byte of a message to its last": f"{own.message_seconds:g} seconds",
        "a look-up, as a client waits for it": f"{LOOKUP_SECONDS:g} seconds",
        "credits of a channel, or of a service on D-Bus": (
            f"{START_CREDITS} in the beginning, {MAX_CREDITS} at most"
        ),
        "channels and services of a user on D-Bus, with its other objects": f"{uid.objects}",
        "descriptors that the daemon holds for a user: channels, services": f"{uid.descriptors}",
        "clients of a service on D-Bus": f"{terms.MAX_CLIENTS}",
        "services of one owner that are listed in a directory": f"{survey.MOST_OF_ONE_OWNER}",
        "connections at all doors": f"{gate.MAX_GUESTS}, of one user {gate.MAX_GUESTS_PER_UID}",
        "connections that the doors dialled": f"{tcp.MAX_DIALLED}",
    }


def test_the_commands_are_all_there(capsys):
    from buswork.cli.parser import parse

    for row in rows("## The commands"):
        with pytest.raises(SystemExit):
            parse(["ipc", row[0].split()[0], "--help"])
        told = capsys.readouterr().out
        for option in re.findall(r"`(--[a-z-]+)", row[1]):
            assert option in told


def test_the_options_of_the_doors_are_all_there():
    told = {option for row in rows("### All options of the doors") for option in row[0].split()}
    found = {
        option
        for action in doors.make_parser()._actions
        for option in action.option_strings
        if option.startswith("--")
    }
    assert {word.strip("`,") for word in told if "--" in word} == found - {"--help", "--version"}


def table_after(head):
    (table,) = re.findall(rf"\|{head}.*\n.*\n((?:\|.*\n)+)", GUIDE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_what_a_context_can_do():
    for cell, _ in table_after(r" `context\.` "):
        for name in re.findall(r"\b(\w+)\(", cell):
            assert callable(getattr(Context, name))


def test_refusals_have_their_statuses():
    source = Path(websocket.__file__).read_text()
    found = {HTTPStatus[name].value for name in re.findall(r"HTTPStatus\.([A-Z_]+)", source)}
    found.remove(HTTPStatus.SERVICE_UNAVAILABLE)  # for those who have left
    assert {int(status) for status, _ in table_after(" refused at the handshake ")} == found


@pytest.mark.parametrize(
    "sentence",
    [
        f"at most **{SAFE_BYTES:,} bytes**",
        f"{most_payload(Form.C):,} bytes |",
        f"{most_payload(Form.ZIG):,} bytes |",
        f"More than {Limits().queued_messages:,} of them, or {Limits().queued_bytes >> 20} MiB,",
        f"does not come within {Limits().message_seconds:g} seconds",
        f"{START_CREDITS} in the beginning and {MAX_CREDITS:,} at most",
        f"or more than {MAX_NAME_BYTES} bytes)",
        f"(form C) and `{DAEMONS[Form.ZIG]}` (form Zig) are its own",
        f"Every {websocket.PING_SECONDS:g} seconds there is a ping",
        f"within `--timeout` ({ipc_parser.DEFAULT_SECONDS:g} seconds)",
        *(f"`{name}`" for name in sorted(RESERVED)),
        *(f"`{name}`" for name in websocket.SUBPROTOCOLS),
        f"`{websocket.TOKEN_PREFIX}TOKEN`",
    ],
)
def test_the_numbers_are_those_of_the_code(sentence):
    assert sentence in TEXT


def test_the_most_that_is_measured_is_a_message():
    assert most_payload(Form.C) == ipc_parser.MOST_BYTES
