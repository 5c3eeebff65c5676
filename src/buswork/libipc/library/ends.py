"""What a switch ties together: libipc connections, and sockets that speak something else."""

import socket
from collections.abc import Callable

from buswork.libipc.errors import PeerGone
from buswork.libipc.library.connections import Connection
from buswork.libipc.library.lines import In, Line, Out, SocketEnd, plain_in, plain_out
from buswork.libipc.library.readiness import Poll
from buswork.libipc.library.switching import Code, End, Side, Switch, Switched, Unswitched
from buswork.libipc.wire.forms import BadMessage, Form, Message


class ConnectionEnd:
    """A libipc connection; it sends by the rules of section 3."""

    def __init__(self, connection: Connection) -> None:
        self.form: Form | None = connection.form
        self._connection = connection
        self._side: Side

    @property
    def subject(self) -> object:
        return self._connection

    @property
    def full(self) -> bool:
        return self._connection.is_full

    @property
    def empty(self) -> bool:
        return self._connection.queued == (0, 0)

    def start(self, side: Side) -> None:
        self._side = side
        self._connection.divert(self)
        self._connection.resume()

    def push(self, message: Message) -> None:
        try:
            self._connection.send_message(message)
        except PeerGone:
            pass  # it tells so itself

    def pause(self) -> None:
        self._connection.pause()

    def resume(self) -> None:
        self._connection.resume()

    def close(self) -> None:
        self._connection.close()

    # -- the connection tells ------------------------------------------------------------------

    def received(self, message: Message) -> None:
        self._side.took(message)

    def room(self) -> None:
        self._side.room()

    def disconnected(self, error: Exception | None) -> None:
        code = Code.CLOSING
        if isinstance(error, BadMessage):
            code = Code.PARSING
        elif error is not None:
            code = Code.ERROR
        self._side.ended(code, error)


def join(
    a: Connection | socket.socket | End,
    b: Connection | socket.socket | End,
    *,
    a_in: In | None = None,
    a_out: Out | None = None,
    b_in: In | None = None,
    b_out: Out | None = None,
    typed: bool = False,
    on_event: Callable[[Switched | Unswitched], None] | None = None,
    reading: Poll | None = None,
) -> Switch:
    """Ties two ends together, which belong to the switch from now on.

    A connection needs no callbacks. A socket needs one at least, as has a connection that is to
    be read or written in another way; what there is no callback for is the plain format, of the
    connection's form or else of the form C. PeerGone: an end is closed already.

    Sockets are read by `reading`, which a context holds while its events are not taken.
    """
    if not all(end.is_open for end in (a, b) if isinstance(end, Connection)):
        raise PeerGone("the connection is closed")
    first, second = _end(a, a_in, a_out, reading), _end(b, b_in, b_out, reading)
    return Switch(first, second, typed=typed, on_event=on_event)


def _end(
    what: Connection | socket.socket | End, take: In | None, give: Out | None, reading: Poll | None
) -> End:
    has_callbacks = take is not None or give is not None
    if isinstance(what, Connection):
        if not has_callbacks:
            return ConnectionEnd(what)
        return _socket_end(what.detach(), take, give, what.form, reading)
    if isinstance(what, socket.socket):
        if not has_callbacks:
            raise TypeError("a socket without callbacks has to be adopted by a context first")
        return _socket_end(what, take, give, Form.C, reading)
    if has_callbacks:
        raise TypeError("an end of this kind has no use for callbacks")
    return what


def _socket_end(
    sock: socket.socket, take: In | None, give: Out | None, form: Form, reading: Poll | None
) -> SocketEnd:
    end_form = form if take is None or give is None else None
    take, give = take or plain_in(form), give or plain_out(form)
    return SocketEnd(Line(sock), take, give, end_form, reading)
