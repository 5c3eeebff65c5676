"""Where a board on the network is: its host and port, as people write them."""

import re
from typing import Final, NamedTuple

from buswork.flipper.wire.terms import UDP_PORT, BadValue, shown

# A name or an address, in brackets one of IPv6; then perhaps a port.
_WRITTEN: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?")
MAX_HOST_CHARACTERS: Final = 253


class Endpoint(NamedTuple):
    host: str
    port: int = UDP_PORT

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_endpoint(text: str) -> Endpoint:
    written = _WRITTEN.fullmatch(text)
    if written is None or len(text) > MAX_HOST_CHARACTERS:
        raise BadValue("endpoint", f"{shown(text)!r} is none: HOST, HOST:PORT or [ADDRESS]:PORT")
    address, name, port = written.groups()
    number = int(port) if port else UDP_PORT
    if not 0 < number < 1 << 16:
        raise BadValue("endpoint", f"there is no port {number}")
    return Endpoint((address or name).lower(), number)
