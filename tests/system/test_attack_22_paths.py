"""Attack 22: nobody makes the daemon open a file. Data come and go through descriptors."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

pytestmark = pytest.mark.attack(22)

CONTRACTS = sorted((Path(__file__).parents[2] / "dbus").glob("*.xml"))
# What a place in the file system is called.
WORDS = ("path", "file", "folder", "dir", "place", "socket", "fifo")


def methods():
    return [method for contract in CONTRACTS for method in ET.parse(contract).iter("method")]


def names_a_place(text):
    return any(word in text.lower() for word in WORDS)


def test_no_argument_is_a_place_in_the_file_system():
    arguments = [arg for method in methods() for arg in method.iterfind("arg[@direction='in']")]
    texts = [arg for arg in arguments if arg.get("type") in ("s", "as", "ay")]
    assert len(texts) > 20
    assert not [arg.attrib for arg in texts if names_a_place(arg.get("name"))]
