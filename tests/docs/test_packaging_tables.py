"""docs/packaging.md against what it tells of."""

import importlib.util
import re
import shlex
import tomllib
from pathlib import Path

from support.guides import table

from buswork.installation import activation
from buswork.installation.places import PLACES, ZSH, Layout

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs/packaging.md").read_text()
BUILD = importlib.util.spec_from_file_location("build", REPOSITORY / "packaging/build.py")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def rows(title: str) -> list[list[str]]:
    return [[cell.strip("`") for cell in row] for row in table(PAGE, f"## {title}")]


def test_places():
    layout = Layout("PREFIX", ZSH)
    told = [[place.what, place.sources, layout.folder(place)] for place in PLACES]
    assert rows("What goes where") == told


def test_commands():
    section = PAGE.partition("\n## After installing")[2].partition("\n## ")[0]
    commands = re.findall(r"^    (.*)$", section, re.MULTILINE)
    steps = (*activation.AFTER_INSTALL, *activation.ENABLE)
    assert commands == [shlex.join(step.words) for step in steps]


def test_users():
    lines = (REPOSITORY / "systemd/sysusers.d/buswork.conf").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("u ")]
    assert [user for user, _ in rows("Users, and what stays")] == users


def test_versions():
    build = importlib.util.module_from_spec(BUILD)
    BUILD.loader.exec_module(build)
    told = {name: cells for name, *cells in rows("Versions")}
    for pinned in PROJECT["dependencies"]:
        name, _, version = pinned.partition("==")
        least, _, way = told[name]
        if name in build.DEBIANS:
            assert way == "takes it"
            assert f"(>= {least.split(',')[0]})" in build.DEBIANS[name]
        else:
            assert (least, way) == (version, "carries its own")
    assert PROJECT["requires-python"] == f">={told['Python'][0]}"
