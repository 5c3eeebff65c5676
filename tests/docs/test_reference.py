"""Where the D-Bus reference says that objects are, they are."""

import re
import subprocess
from functools import partial

import pytest
from client.private_bus import PrivateBus
from support.places import eventually

from buswork.docs import PLACES

pytestmark = pytest.mark.tools

# What is there with simulated devices and nobody who has anything.
MADE_BY_CALLERS = {"org.fsct.Player", "org.libipc.Channel", "org.libipc.Service"}
WHO_ELSE = re.compile(r"org\.appview\.")


def busctl(bus, *words):
    command = ["busctl", f"--address={bus.address}", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def objects(bus, place):
    pattern = re.compile(re.sub(r"[A-Z]{2,}$", "[^/]+", place))
    paths = busctl(bus, "tree", "--list", "org.buswork").split()
    return [path for path in paths if pattern.fullmatch(path)]


def test_objects_are_where_the_reference_says():
    with PrivateBus() as bus:
        bus.start_daemon("--simulate")
        for interface, place in PLACES.items():
            if interface in MADE_BY_CALLERS or WHO_ELSE.match(interface):
                continue
            path, *_ = eventually(partial(objects, bus, place))  # devices come a moment later
            assert interface in busctl(bus, "introspect", "org.buswork", path).split()
