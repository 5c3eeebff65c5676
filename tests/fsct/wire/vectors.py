"""What was recorded of the original host and its clients."""

import json
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).resolve().parents[2] / "vectors" / "fsct"


def recorded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text())
    return found


def vectors(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = recorded(name)["vectors"]
    return found
