"""Texts as devices want them: in their coding and length, and never half a character."""

from buswork.fsct.wire.terms import Coding

_CODECS = {
    Coding.UTF8: "utf-8",
    Coding.UTF16: "utf-16-le",
    Coding.UCS2: "utf-16-le",
    Coding.UTF32: "utf-32-le",
}
# UCS-2 knows nothing else of what is beyond 16 bits; the original takes U+FFFF for such as well.
_REPLACEMENT = "\ufffd"
_FIRST_NOT_UCS2 = 0xFFFF


def encode_text(text: str, coding: Coding, max_bytes: int) -> bytes:
    """The beginning of a text that fits; empty, which clears the text, if nothing does.

    Half characters, which no checked text has, become question marks.
    """
    # A character has a byte or more: the rest of a long text need not be looked at.
    text = text[:max_bytes]
    if coding is Coding.UCS2:
        text = "".join([c if ord(c) < _FIRST_NOT_UCS2 else _REPLACEMENT for c in text])
    data = text.encode(_CODECS[coding], "replace")
    if len(data) <= max_bytes:
        return data
    match coding:
        case Coding.UTF8:
            return data[: _utf8_cut(data, max_bytes)]
        case Coding.UTF32:
            return data[: max_bytes // 4 * 4]
        case Coding.UTF16 | Coding.UCS2:
            cut = max_bytes // 2 * 2
            # The first half of a pair alone says nothing.
            return data[: cut - 2 if cut and data[cut - 1] & 0xFC == 0xD8 else cut]


def _utf8_cut(data: bytes, cut: int) -> int:
    while cut and data[cut] & 0xC0 == 0x80:  # what follows the cut continues a character
        cut -= 1
    return cut
