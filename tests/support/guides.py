"""What a guide says in tables, and what a policy says, in the same words."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).parents[2]
ANSWERS = {"yes": "yes", "auth_admin_keep": "administrator's password"}


def table(guide: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    section = guide.partition(f"\n{heading}\n")[2]
    found = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert found is not None
    _, _, *lines = found[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def rights(wing: str) -> dict[str, tuple[str, str]]:
    """What the shipped policy answers to who has an active session, and to all others."""
    policy = ET.parse(ROOT / f"polkit/{wing}.policy")
    return {
        action.attrib["id"].removeprefix(f"{wing}."): (
            ANSWERS[action.findtext("defaults/allow_active", "")],
            ANSWERS[action.findtext("defaults/allow_any", "")],
        )
        for action in policy.iter("action")
    }
