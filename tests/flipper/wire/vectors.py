"""What was recorded of the original library, the virtual machine and both firmwares."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from buswork.flipper.wire.terms import Framing, Generation

VECTORS = Path(__file__).resolve().parents[2] / "vectors" / "flipper"

FRAMINGS = {
    "gen1_4s_uart": Framing.UART,
    "gen1_udp_errors": Framing.UDP,
    "gen1_udp_lookup": Framing.UDP,
    "gen1_udp_modules": Framing.UDP,
    "gen1_udp_pushpull": Framing.UDP,
    "gen1_udp_types": Framing.UDP,
    "gen1_usb_board": Framing.USB,
    "gen1_usb_errors": Framing.USB,
    "gen1_usb_load": Framing.USB,
    "gen1_usb_types": Framing.USB,
    "gen2_udp": Framing.UDP,
    "gen2_udp_errors": Framing.UDP,
    "gen2_usb_u2": Framing.USB,
}


def recorded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text())
    return found


class Vector(NamedTuple):
    file: str
    generation: Generation
    framing: Framing
    content: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.file}/{self.content['id']}"

    @property
    def steps(self) -> list[tuple[str, bytes]]:
        """What was sent and received; what is volatile in it is made zero, where that is ours."""
        steps = [(step["dir"], bytes.fromhex(step.get("hex", ""))) for step in self.all_steps]
        for place in self.content.get("volatile", ()):
            if "padding" in place["why"]:
                direction, data = steps[place["exchange"]]
                at, length = place["offset"], place["length"]
                steps[place["exchange"]] = (
                    direction,
                    data[:at] + bytes(length) + data[at + length :],
                )
        return [step for step in steps if step[1]]

    @property
    def all_steps(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.content["exchange"]
        return found

    @property
    def turns(self) -> list[tuple[list[bytes], list[bytes]]]:
        """What was sent, and what came before more was sent."""
        turns: list[tuple[list[bytes], list[bytes]]] = []
        for direction, data in self.steps:
            if direction == "h2d":
                if not turns or turns[-1][1]:
                    turns.append(([], []))
                turns[-1][0].append(data)
            elif direction == "d2h":
                turns[-1][1].append(data)
        return turns


def vectors(*files: str) -> list[Vector]:
    found = []
    for file in files or FRAMINGS:
        content = recorded(file)
        generation = Generation(content["generation"])
        found += [Vector(file, generation, FRAMINGS[file], each) for each in content["vectors"]]
    return found


def vector(name: str) -> Vector:
    file, _, _ = name.partition("/")
    return next(found for found in vectors(file) if found.name == name)
