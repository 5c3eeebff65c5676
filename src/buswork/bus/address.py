"""Getting onto a bus: addresses, the socket, and who we are."""

import asyncio
import os
import socket
from urllib.parse import unquote_to_bytes

SYSTEM_BUS = "unix:path=/run/dbus/system_bus_socket"
# A bus that answers a line of authentication with more than this is no bus.
MAX_LINE = 16 * 1024


class RejectedError(ConnectionError):
    """The bus does not believe that we are who we say."""


def bus_address(bus: str) -> str:
    """The address that "system", "session" or an address in its own right stands for."""
    if bus == "system":
        return os.environ.get("DBUS_SYSTEM_BUS_ADDRESS", SYSTEM_BUS)
    if bus == "session":
        runtime = os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
        return os.environ.get("DBUS_SESSION_BUS_ADDRESS", f"unix:path={runtime}/bus")
    return bus


def socket_names(address: str) -> list[bytes]:
    """The unix socket names in a D-Bus address; those of other transports are passed over."""
    names = []
    for entry in address.split(";"):
        transport, _, options = entry.partition(":")
        if transport != "unix":
            continue
        for option in options.split(","):
            key, _, value = option.partition("=")
            if key == "path":
                names.append(unquote_to_bytes(value))
            elif key == "abstract":
                names.append(b"\0" + unquote_to_bytes(value))
    return names


async def connect(address: str) -> socket.socket:
    loop = asyncio.get_running_loop()
    failure: OSError = FileNotFoundError(f"no unix socket in the bus address {address!r}")
    for name in socket_names(address):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, name)
        except OSError as error:
            failure = error
            sock.close()
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure


async def authenticate(sock: socket.socket) -> None:
    """SASL EXTERNAL: the kernel vouches for our uid ("Authentication Protocol")."""
    uid = str(os.geteuid()).encode().hex().encode()
    try:
        await _ask(sock, b"\0AUTH EXTERNAL " + uid, b"OK ")
    except RejectedError:
        # In a user namespace our uid has another number than for the bus, which knows it unsaid.
        await _ask(sock, b"AUTH EXTERNAL", b"DATA")
        await _ask(sock, b"DATA", b"OK ")
    await _ask(sock, b"NEGOTIATE_UNIX_FD", b"AGREE_UNIX_FD")
    await asyncio.get_running_loop().sock_sendall(sock, b"BEGIN\r\n")


async def _ask(sock: socket.socket, line: bytes, expected: bytes) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, line + b"\r\n")
    answer = b""
    while not answer.endswith(b"\r\n"):
        chunk = await loop.sock_recv(sock, MAX_LINE)
        answer += chunk
        if not chunk or len(answer) > MAX_LINE:
            raise ConnectionError("the bus ended the authentication")
    if not answer.startswith(expected):
        kind = RejectedError if answer.startswith(b"REJECTED") else ConnectionError
        raise kind(f"the bus refused authentication: {answer!r}")
