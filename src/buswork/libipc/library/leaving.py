"""Closing a socket so that the other end sees an end, and no failure."""

import socket
from typing import Final

# A unix socket holds no more than this many such reads, and once shut down it takes no more; the
# other end of a TCP connection may go on for ever.
_MOST_READS: Final = 64
_READ_BYTES: Final = 65_536


def leave(sock: socket.socket) -> None:
    """Closes it, with nothing unread.

    What is unread when a unix socket is closed turns the other end's end of file into ECONNRESET,
    which C services take for an error and may exit with, as pongd does (section 3); and TCP drops
    what was sent and is still on its way.
    """
    try:
        sock.shutdown(socket.SHUT_RDWR)  # or something might come in between
        for _ in range(_MOST_READS):
            if not sock.recv(_READ_BYTES, socket.MSG_DONTWAIT):
                break
    except OSError:
        pass  # it is gone already
    sock.close()
