"""What is said on the command line about the doors of libipc, and whether it is safe together.

A door beyond this machine has no peers whose uid is known. Over the TCP leg they can't even be
asked for a secret: other hosts are let in by their addresses. At a WebSocket door they have the
token, and TLS keeps it one. Whoever they are, they have the rights of one user, who is named.
"""

import argparse
import os
import re
import ssl
import stat
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Final, NamedTuple

from buswork.libipc.wire.forms import Form
from buswork.libipc.wire.lookups import BadRequest, Uri
from buswork.libipc.wire.names import BadName, check
from buswork.native.users import uid_of

LOOPBACK: Final = "127.0.0.1"
PASSAGE: Final = "/run/buswork/ipc.sock"

# Sixteen random bytes have twenty-two characters.
_TOKEN = re.compile(r"[A-Za-z0-9_-]{22,256}")
MAX_TOKEN_FILE_BYTES: Final = 1024
# Those who may be in its group may read it: that is how systemd hands credentials over.
_TOO_OPEN: Final = stat.S_IWGRP | stat.S_IRWXO

_PLACE = re.compile(r"(?:(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+|localhost)):)?([0-9]{1,5})")
_ORIGIN = re.compile(r"null|[a-z][a-z0-9+.-]*://[^/\s]+")

Network = IPv4Network | IPv6Network


class Place(NamedTuple):
    """Where a door listens: an address by number."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        return ip_address(self.host).is_loopback


class Unsafe(ValueError):
    """Options that would let in whom nobody knows."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All that was said, and fits together."""

    tcp: tuple[tuple[Place, Form], ...]
    websockets: tuple[Place, ...]
    services: frozenset[str]
    uids: frozenset[int]
    origins: frozenset[str]
    hosts: frozenset[str]
    token: bytes | None
    tls: ssl.SSLContext | None
    remote_uid: int | None
    peers: tuple[Network, ...]
    dialled: frozenset[tuple[str, int]]
    passage: str


def settings(options: argparse.Namespace) -> Settings:
    """Unsafe, with a sentence, where they can't stay like this."""
    made = Settings(
        tcp=tuple(options.ipc_tcp),
        websockets=tuple(options.ipc_ws),
        services=frozenset(options.ipc_service),
        uids=frozenset(options.serve_uid),
        origins=frozenset(options.ipc_origin),
        hosts=frozenset(host.lower() for host in options.ipc_host),
        token=options.ipc_token_file and read_token(options.ipc_token_file),
        tls=_tls(options.ipc_cert, options.ipc_key),
        remote_uid=options.ipc_remote_user,
        peers=tuple(options.ipc_peer),
        dialled=frozenset(options.ipc_dial),
        passage=options.ipc_socket,
    )
    _check(made)
    return made


def _check(made: Settings) -> None:
    if made.origins and made.token is None:
        raise Unsafe("--ipc-origin lets browsers in, which need a token: --ipc-token-file")
    open_tcp = [place for place, _ in made.tcp if not place.is_loopback]
    open_websockets = [place for place in made.websockets if not place.is_loopback]
    for place in (*open_tcp, *open_websockets):
        if made.remote_uid is None:
            raise Unsafe(f"{place} is open to other hosts, which need --ipc-remote-user")
    for place in open_tcp:
        if not made.peers:
            raise Unsafe(f"{place} is open to other hosts; say to which: --ipc-peer")
    for place in open_websockets:
        if made.token is None or made.tls is None:
            needs = "--ipc-token-file, --ipc-cert and --ipc-key"
            raise Unsafe(f"{place} is open to other hosts, for which it needs {needs}")


def read_token(path: Path) -> bytes:
    """What browsers have to know."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(MAX_TOKEN_FILE_BYTES)
    except OSError as error:
        raise Unsafe(f"the token can't be read: {error}") from error
    if mode & _TOO_OPEN:
        raise Unsafe(f"others may read the token: chmod 600 {path}")
    if not _TOKEN.fullmatch(raw.decode(errors="replace").strip()):
        raise Unsafe(f"{path} holds no token: 22 to 256 of A-Z, a-z, 0-9, - and _")
    return raw.strip()


def _tls(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if cert is None:
        if key is not None:
            raise Unsafe("--ipc-key is the key of a certificate: --ipc-cert")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise Unsafe(f"the certificate of {cert} can't be used: {error}") from error
    return context


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("Messages between programs (libipc)")

    def add(name: str, metavar: str, reads: Callable[[str], object], text: str) -> None:
        group.add_argument(
            name,
            action="append",
            default=[],
            type=reads,
            metavar=metavar,
            help=f"{text}; may be repeated",
        )

    add(
        "--ipc-tcp",
        "[HOST:]PORT=FORM",
        _tcp_place,
        "a door for TCP daemons and programs, which speak this form of messages, c or zig "
        f"(host: an address by number; default: {LOOPBACK})",
    )
    add("--ipc-ws", "[HOST:]PORT", _place, "a door for WebSockets, of browsers and others")
    add("--ipc-service", "NAME", _service, "a service to lead all but root to (default: none)")
    add("--ipc-origin", "ORIGIN", _origin, "where the pages come from that browsers may come with")
    add("--ipc-host", "HOST", str, "how browsers may call this host, besides localhost")
    add("--ipc-peer", "ADDRESS[/BITS]", _network, "other hosts that may come in")
    add("--ipc-dial", "HOST:PORT", _endpoint, "another host's door that may be dialled")
    group.add_argument(
        "--ipc-token-file",
        type=Path,
        metavar="PATH",
        help="what browsers and other hosts have to know, 22 characters or more (A-Z, a-z, 0-9, "
        "- and _), in a file that others can't read",
    )
    group.add_argument(
        "--ipc-cert", type=Path, metavar="PATH", help="the certificate of the WebSocket doors"
    )
    group.add_argument(
        "--ipc-key", type=Path, metavar="PATH", help="its key, where that is a file of its own"
    )
    group.add_argument(
        "--ipc-remote-user",
        type=uid_of,
        metavar="USER",
        help="whose rights programs of other hosts have, by name or number (default: none come in)",
    )
    group.add_argument(
        "--ipc-socket",
        default=PASSAGE,
        metavar="PATH",
        help=f"where the daemon is asked for services (default: {PASSAGE})",
    )


# -- what options take ---------------------------------------------------------------------------


def _place(text: str) -> Place:
    found = _PLACE.fullmatch(text)
    if found is None or int(found[3]) >= 1 << 16:
        raise argparse.ArgumentTypeError(f"{text!r} is no HOST:PORT, the host being a number")
    host = found[1] or found[2] or LOOPBACK
    if host == "localhost":
        host = LOOPBACK
    try:
        return Place(str(ip_address(host)), int(found[3]))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _tcp_place(text: str) -> tuple[Place, Form]:
    place, equals, form = text.rpartition("=")
    if not equals or form not in tuple(Form):
        raise argparse.ArgumentTypeError(f"{text!r} does not end in =c or =zig")
    return _place(place), Form(form)


def _service(text: str) -> str:
    try:
        return check(text)
    except BadName as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _origin(text: str) -> str:
    if not _ORIGIN.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no origin, like http://localhost:8000")
    return text


def _network(text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _endpoint(text: str) -> tuple[str, int]:
    try:
        host, port = Uri("tcp", text).endpoint()
    except BadRequest as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return host.lower(), port
