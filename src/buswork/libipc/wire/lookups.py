"""Asking a daemon for a connection to a service that may be elsewhere (section 8).

IPC_NETWORK says where services are: entries of a name, a blank and a URI, joined by `;`. The
originals don't see an entry after `; `, and the C client mistakes one for another that begins
alike; `asks` is what they do. Here blanks are harmless and names are whole, see `target`.
"""

import re
from typing import Final, NamedTuple, Self

from buswork.libipc.wire.forms import (
    NETWORK_LOOKUP,
    Form,
    Message,
    frame,
)
from buswork.libipc.wire.names import MAX_NAME_BYTES, BadName, parse

# The services that are asked.
DAEMONS: Final = {Form.C: "network", Form.ZIG: "ipc"}

# Linux takes no longer variable of the environment; and an entry takes more memory than bytes.
MAX_REQUEST_BYTES: Final = 131_072 + MAX_NAME_BYTES
_USER_TYPE: Final = NETWORK_LOOKUP

# What a client is told before it gets its descriptor. In the form C that comes after this was
# read, with a byte of its own; in the form ZIG it comes with these bytes, which have no header.
AGREED: Final = {Form.C: frame(Form.C, b"OK"), Form.ZIG: b"ok"}
DESCRIPTOR_BYTE: Final = b"\0"

# What the TCP leg answers the bare name of a service with (section 9).
DOOR_AGREED: Final = {Form.C: b"OK", Form.ZIG: b"ok"}
# What a protocol daemon answers a URI with, in a message.
TAKEN: Final = b"ok"

_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/]+)(?:/(.*))?", re.DOTALL)
_ENDPOINT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})", re.ASCII)


class BadRequest(ValueError):
    """What is asked for can't be understood."""


class Request(NamedTuple):
    service: str
    network: str  # the client's IPC_NETWORK


class Uri(NamedTuple):
    """The scheme is the service to go through; `unix` stands for services right here."""

    scheme: str
    address: str
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        found = _URI.fullmatch(text) if text.isprintable() else None
        if found is None:
            raise BadRequest(f"{text[:64]!a} is no URI: scheme://address or .../path")
        scheme, address, path = found.groups("")
        return cls(scheme, address, path)

    def __str__(self) -> str:
        path = f"/{self.path}" if self.path else ""
        return f"{self.scheme}://{self.address}{path}"

    def endpoint(self) -> tuple[str, int]:
        """The host and port of an address on the network."""
        found = _ENDPOINT.fullmatch(self.address)
        if found is None or not 0 < int(found[3]) < 1 << 16:
            raise BadRequest(f"{self.address[:64]!r} is no HOST:PORT or [ADDRESS]:PORT")
        return found[1] or found[2], int(found[3])


# -- requests --------------------------------------------------------------------------------------


def encode_request(form: Form, request: Request) -> bytes:
    """The whole message."""
    if ";" in request.service:
        raise BadRequest("the name of a service that is looked up has no semicolon")
    payload = ";".join(request).encode(errors="surrogateescape")
    if form is Form.C:
        return frame(form, payload, _USER_TYPE, NETWORK_LOOKUP)
    return frame(form, payload)


def parse_request(form: Form, message: Message) -> Request:
    """What a client asks for; the service's name is one."""
    if form is Form.C and message.type != NETWORK_LOOKUP:
        raise BadRequest(f"a message of type {message.type} is no look-up")
    if len(message.payload) > MAX_REQUEST_BYTES:
        raise BadRequest(f"a look-up has at most {MAX_REQUEST_BYTES} bytes")
    service, semicolon, network = message.payload.partition(b";")
    if not semicolon:
        raise BadRequest("a look-up is the name of a service, a semicolon and IPC_NETWORK")
    try:
        return Request(parse(service), network.decode())
    except BadName as error:
        raise BadRequest(str(error)) from None
    except UnicodeDecodeError:
        raise BadRequest("IPC_NETWORK is no UTF-8") from None


# -- IPC_NETWORK -----------------------------------------------------------------------------------


def asks(form: Form, service: str, network: str | None) -> bool:
    """Whether an original asks the daemon, with this IPC_NETWORK (None: not set)."""
    if network is None:
        return False
    return form is Form.ZIG or network.startswith(service) or f";{service}" in network


def target(request: Request) -> Uri | None:
    """Where IPC_NETWORK says that the service is; of several entries the last one counts."""
    found: list[str] | None = None
    for entry in request.network.split(";"):
        if request.service not in entry:  # to take all apart would take ten times as long
            continue
        name, *targets = entry.split() or [""]
        if name == request.service:
            found = targets
    if found is None:
        return None
    if len(found) != 1:
        raise BadRequest(f"the entry of {request.service!r} is not a name, a blank and a URI")
    return Uri.parse(found[0])
