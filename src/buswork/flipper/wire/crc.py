"""The checksum of packets, which names user modules as well (sections 3 and 10)."""

from binascii import crc_hqx

from buswork.flipper.wire.terms import BadValue

# A name goes through 16 bits, and is kept by boards that have 128 KiB in all.
MAX_NAME_BYTES = 63


def crc16(data: bytes) -> int:
    """CRC-16/XMODEM: the polynomial 0x1021, from 0, not reflected."""
    return crc_hqx(data, 0)


def identifier(name: str) -> int:
    """What a user module is looked up by: two names may share one (section 15, pitfall 18)."""
    return crc16(module_name(name) + b"\0")


def module_name(name: object) -> bytes:
    """A user module's name as C has it."""
    if not isinstance(name, str) or not name:
        raise BadValue("name", "the name of a module is a text that is not empty")
    try:
        data = name.encode()
    except UnicodeEncodeError:
        raise BadValue("name", "the name of a module is no Unicode text") from None
    if len(data) > MAX_NAME_BYTES or b"\0" in data:
        text = f"the name of a module has at most {MAX_NAME_BYTES} bytes, none of them 0"
        raise BadValue("name", text)
    return data
