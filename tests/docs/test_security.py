"""docs/security.md and the tests that it names say the same, by their markers; nothing is run."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest
from support.guides import table

from buswork import authority
from buswork.store.model import limits

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
PAGE = (ROOT / "docs/security.md").read_text()
CASES = 46
ROW = re.compile(r"^\| (\d+) \|(.*)\|$", re.MULTILINE)


def rows():
    return {int(number): rest.split("|") for number, rest in ROW.findall(PAGE)}


def listed():
    """By case: what its last cell names, files and functions."""
    return {number: set(re.findall(r"`([^`]+)`", cells[-1])) for number, cells in rows().items()}


def numbers(nodes):
    """Those of pytest.mark.attack(...) among decorators, or in a pytestmark."""
    for node in nodes:
        if isinstance(node, ast.List):
            yield from numbers(node.elts)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.attack":
            yield from (ast.literal_eval(each) for each in node.args)


def marks_of(path):
    """(case, file or function) of a file of tests."""
    name, text = str(path.relative_to(TESTS)), path.read_text()
    if "mark.attack" not in text:
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from ((number, f"{name}::{node.name}") for number in numbers(node.decorator_list))
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            yield from ((number, name) for number in numbers([node.value]))


def marked():
    found = defaultdict(set)
    for path in TESTS.rglob("test_*.py"):
        for number, name in marks_of(path):
            found[number].add(name)
    return dict(found)


def test_all_cases_are_there_in_order():
    assert [int(number) for number, _ in ROW.findall(PAGE)] == [*range(1, CASES + 1)]


@pytest.mark.parametrize("number", range(1, CASES + 1))
def test_each_says_what_happens_what_protects_and_what_proves_it(number):
    happens, protects, _, tests = rows()[number]
    assert happens.strip()
    assert protects.strip()
    assert tests.strip()


def test_the_tests_have_the_numbers_of_their_cases():
    assert marked() == listed()


def test_files_of_one_case_are_named_after_it():
    for path in TESTS.rglob("test_attack_*.py"):
        assert {number for number, _ in marks_of(path)} == {int(path.stem.split("_")[2])}, path


def mib(size):
    return f"{size >> 20} MiB"


def test_the_limits_are_those_of_the_code():
    own, store = authority.Limits(), limits.Limits()
    assert dict(table(PAGE, "## What one user may have")) == {
        "calls that wait for a prompt, a device or a peer": f"{own.calls}",
        "bytes of calls that wait for their turn": mib(own.waiting_bytes),
        "objects": f"{own.objects}",
        "watches": f"{own.watches}",
        "connections with keys that go with them": f"{own.leases}",
        "descriptors handed out": f"{own.descriptors}",
        "connections to native sockets": f"{own.native_connections}",
        "open prompts": (
            f"{authority.PLACES_INTERACTIVE_PER_UID}, "
            f"and {authority.PLACES_INTERACTIVE} of all users"
        ),
        "questions to polkit": (
            f"{authority.PLACES_PLAIN_PER_UID}, and {authority.PLACES_PLAIN} of all users"
        ),
        "keys in the store": f"{store.keys_per_uid}",
        "bytes in the store": (
            f"{mib(store.bytes_per_uid)}, and {mib(store.total_bytes)} of all users"
        ),
        "a value in the store": mib(store.value_bytes),
    }
