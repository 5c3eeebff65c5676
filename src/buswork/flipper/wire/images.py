"""Images of user modules and applications, which the 4S runs as they are (section 10).

It trusts them: what lies outside of an image would be read all the same, or written. What is
checked here keeps the loader in its bounds; what the code does, nobody can tell.
"""

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from buswork.flipper.wire.crc import identifier, module_name
from buswork.flipper.wire.terms import MAX_IMAGE_BYTES, BadValue

_HEADER = struct.Struct("<11I")
_WORD = struct.Struct("<I")
# A function of the 4S is Thumb code, which its address says in this bit.
_THUMB: Final = 1


class Section(NamedTuple):
    size: int
    offset: int

    @property
    def end(self) -> int:
        return self.offset + self.size


@dataclass(frozen=True, slots=True)
class Image:
    name: str
    entry: int  # 0: a module; an application begins there
    functions: tuple[int, ...]  # offsets, with their Thumb bit

    @property
    def identifier(self) -> int:
        return identifier(self.name)


def parse_image(image: bytes) -> Image:
    """What an image says of itself; BadValue if the 4S would stumble over it."""
    if not _HEADER.size <= len(image) <= MAX_IMAGE_BYTES:
        raise _bad(f"an image has {_HEADER.size} to {MAX_IMAGE_BYTES} bytes, not {len(image)}")
    words = _HEADER.unpack_from(image)
    entry = words[2]
    name, table, data, bss, got = (
        Section(*words[at : at + 2]) for at in (0, 3, 5, 7, 9)
    )  # fmt: skip
    sections = {"name": name, "module table": table, "data": data, "got": got}
    for what, section in sections.items():
        if section.end > len(image):
            raise _bad(f"its {what} ends at {section.end}, and it has {len(image)} bytes")
    # What is zero at the beginning may lie behind the image.
    if bss.end > MAX_IMAGE_BYTES:
        raise _bad(f"its memory has {bss.end} bytes, and {MAX_IMAGE_BYTES} are allowed")
    if table.size % _WORD.size:
        raise _bad(f"its module table has {table.size} bytes, which are not whole addresses")
    addresses = struct.unpack_from(f"<{table.size // _WORD.size}I", image, table.offset)
    for number, address in enumerate(addresses):
        if not address & _THUMB or address >= len(image):
            raise _bad(f"its function {number} is at {address:#x}, where no code is")
    if entry >= len(image):
        raise _bad(f"its entry is at {entry:#x}, and it has {len(image)} bytes")
    if not entry and not addresses:
        raise _bad("it has neither functions nor an entry")
    return Image(_parse_name(image[name.offset : name.end]), entry, addresses)


def _parse_name(content: bytes) -> str:
    name, nul, _ = content.partition(b"\0")
    if not nul:
        raise _bad("its name has no end")
    try:
        text = name.decode()
        module_name(text)
    except ValueError:  # BadValue and UnicodeDecodeError
        raise _bad("its name is none") from None
    return text


def _bad(text: str) -> BadValue:
    return BadValue("image", f"this is no image for the 4S: {text}")


def encode_image(name: str, code: bytes, functions: tuple[int, ...], entry: int = 0) -> bytes:
    """For simulators and tests: the offsets of functions and entry are those in `code`."""
    table_at = _HEADER.size
    code_at = table_at + _WORD.size * len(functions)
    name_at = code_at + len(code)
    content = module_name(name) + b"\0"
    end = name_at + len(content)
    header = _HEADER.pack(
        len(content), name_at, code_at + entry if entry else 0, code_at - table_at, table_at,
        0, end, 0, end, 0, 0,
    )  # fmt: skip
    table = b"".join(_WORD.pack(code_at + offset | _THUMB) for offset in functions)
    return header + table + code + content
