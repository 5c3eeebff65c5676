"""What the guides say in numbers, held against the code that has them."""

import re
import tomllib
from pathlib import Path

import pytest
from support.guides import table

from buswork.authority import Limits
from buswork.bus import backlog, news
from buswork.client import fsct
from buswork.fsct import mpris, relay, wing
from buswork.fsct.model.display import MAX_DEVICES
from buswork.fsct.model.players import MAX_PLAYERS, MAX_TEXT_BYTES
from buswork.fsct.native.calls import RIGHTS
from buswork.fsct.native.connection import MAX_IN_FLIGHT, MAX_UNREAD_BYTES, Patience
from buswork.fsct.wire import jsonrpc, msgpackrpc
from buswork.fsct.wire.methods import METHODS
from buswork.fsct.wire.protocol import MAX_MESSAGE_BYTES

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/guide-fsct.md").read_text()
DESIGN = (ROOT / "docs/design.md").read_text()
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
LIMITS = {
    "players of a user, and its other objects on D-Bus": f"{Limits().objects}",
    "players in all (`MaxPlayers`)": f"{MAX_PLAYERS}",
    "registrations of a user": (
        f"{wing.REGISTRATIONS_AT_ONCE} at once, then {wing.REGISTRATIONS_A_SECOND} a second"
    ),
    "devices (`MaxDevices`)": f"{MAX_DEVICES}",
    "a text (`MaxTextBytes`)": f"{MAX_TEXT_BYTES} bytes of UTF-8",
    "connections of a user to the socket": f"{Limits().native_connections}",
    "requests of a connection that wait for their answer": f"{MAX_IN_FLIGHT}",
    "answers that a client has not read": f"{MAX_UNREAD_BYTES // 1024} KiB",
    "a message on the socket": (
        f"{MAX_MESSAGE_BYTES >> 20} MiB, within {Patience().message_seconds:.0f} seconds"
    ),
    "values in a message; in JSON, commas and colons": f"{msgpackrpc.MAX_VALUES}",
    "lists and maps in a message": f"{msgpackrpc.MAX_CONTAINERS}",
    "from a request on the socket to its answer": f"{Patience().request_seconds:.0f} seconds",
    "connections to the agent's socket": f"{relay.MAX_CONNECTIONS}",
    "media players that the agent shows": f"{mpris.MAX_PLAYERS}",
    "PropertiesChanged of a user's players": (
        f"{news.AT_ONCE} at once, then {news.A_SECOND} a second"
    ),
    "PropertiesChanged of all": (
        f"{news.AT_ONCE_IN_ALL} at once, then {news.A_SECOND_IN_ALL} a second"
    ),
    "signals of the wing that listeners have not read": f"{backlog.PART_BYTES >> 20} MiB",
}


def rows(heading):
    return table(GUIDE, heading)


def test_the_limits_of_the_guide_are_those_of_the_code():
    assert {what: much for what, much, _ in rows("## Limits")} == LIMITS
    assert f"after {Patience().unread_seconds:.0f} seconds it is closed" in GUIDE
    assert f"for {Patience().drain_seconds:.0f} seconds at the most" in GUIDE
    assert GUIDE.count(f"keeps {MAX_TEXT_BYTES} bytes") == 1
    most = jsonrpc.MAX_SEPARATORS, jsonrpc.MAX_CONTAINERS
    assert most == (msgpackrpc.MAX_VALUES, msgpackrpc.MAX_CONTAINERS)


def test_the_pauses_of_a_client_are_those_of_the_code():
    _, _, said = " ".join(GUIDE.split()).partition("### From Python ")
    for first, longest in (
        (fsct.FIRST_PAUSE, fsct.LONGEST_PAUSE),
        (fsct.FIRST_REFUSED_PAUSE, fsct.LONGEST_REFUSED_PAUSE),
    ):
        assert f"after {first:g} to {longest:g} seconds" in said


@pytest.mark.parametrize("row", rows("### The methods"), ids=lambda row: row[0].strip("`"))
def test_the_guide_says_which_right_a_method_takes(row):
    name, right = row[0].strip("`"), row[-1].strip("`")
    asked = RIGHTS.get(name)
    assert right == ("none" if asked is None else asked.own.rpartition(".")[2])
    assert asked is None or asked.others in (asked.own, "org.fsct.driver.manage")


def test_the_guide_has_every_method_and_says_which_take_something():
    takes = [(name.strip("`"), bool(params)) for name, params, _, _ in rows("### The methods")]
    assert sorted(takes) == sorted((name, bool(each.params)) for name, each in METHODS.items())


def test_the_design_has_the_same_numbers():
    text = " ".join(DESIGN.split())
    assert f"Each wing has {backlog.PART_BYTES >> 20} MiB" in text
    rates = f"past {news.A_SECOND} changes a second of one user's things, or {news.A_SECOND_IN_ALL}"
    assert f"{rates} of all" in text


@pytest.mark.parametrize("package", ["bus", "native"])
def test_the_architecture_names_every_module_of_what_wings_share(package):
    section = re.search(rf"^## .*`{package}/`\n(.*?)^#", ARCHITECTURE, re.MULTILINE | re.DOTALL)[1]
    named = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|.*\n", section, re.MULTILINE))))
    files = {path.stem for path in (ROOT / "src/buswork" / package).glob("*.py")} - {"__init__"}
    assert files <= named


def test_the_architecture_names_every_room():
    section = ARCHITECTURE.partition("\n## Rooms\n")[2].partition("\n|")[0]
    named = {name.removesuffix(".py") for name in re.findall(r"[a-z]+(?:/|\.py)", section)}
    there = {path.stem for path in (ROOT / "src/buswork").iterdir() if path.stem[0] not in "_."}
    assert there - {"py"} <= {name.rstrip("/") for name in named}


def test_the_architecture_has_every_socket():
    section = ARCHITECTURE.partition("\n## Sockets\n")[2].partition("\n## ")[0]
    units = [*(ROOT / "systemd").glob("*.socket"), *(ROOT / "systemd/user").glob("*.socket")]
    assert len(units) >= 6
    for unit in units:
        places = re.findall(r"^Listen\w+=(\S+)", unit.read_text(), re.MULTILINE)
        if not all(place.startswith("/tmp/") for place in places):
            assert f"`{unit.name}`" in section
            assert all(Path(place).name in section for place in places)


def test_the_architecture_has_every_program():
    section = ARCHITECTURE.partition("\n## Processes\n")[2].partition("\n## ")[0]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert all(f"`{program}`" in section for program in project["scripts"])
