"""What was recorded of the real library and the original client: frames both ways."""

import json
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).resolve().parents[2] / "vectors" / "appview"


def recorded(file: str) -> dict[str, dict[str, Any]]:
    """The vectors of a file, by name."""
    (path,) = VECTORS.glob(f"{file}_*.json")
    return {each["name"]: each for each in json.loads(path.read_text())["vectors"]}


def every() -> dict[str, dict[str, Any]]:
    files = sorted(path.name[:2] for path in VECTORS.glob("*.json"))
    return {f"{file}/{name}": each for file in files for name, each in recorded(file).items()}


def asked(vector: dict[str, Any]) -> list[bytes]:
    return _frames(vector.get("request_frames", []))


def answered(vector: dict[str, Any]) -> list[bytes]:
    return _frames(vector.get("response_frames", []))


def _frames(listed: list[dict[str, Any]]) -> list[bytes]:
    return [bytes.fromhex(each["hex"]) for each in listed if "hex" in each]
