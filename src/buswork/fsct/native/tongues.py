"""The two protocols of the driver's socket, and what they do differently."""

import time
from typing import Any, ClassVar

from buswork.errors import BusworkError
from buswork.fsct.model.players import NoSuchPlayer, NotAssigned
from buswork.fsct.wire import jsonrpc, methods, msgpackrpc
from buswork.fsct.wire.methods import UnknownMethod
from buswork.fsct.wire.protocol import VERSION, Protocol, protocol_of
from buswork.fsct.wire.terms import BadValue

# What a client is told of; everything else is a defect of ours.
TOLD = (BusworkError, BadValue, UnknownMethod)


class Tongue:
    """What the two protocols do differently."""

    is_told_of_devices: ClassVar[bool]
    decoder: msgpackrpc.Decoder | jsonrpc.Decoder

    def arguments(self, request: Any) -> tuple[Any, ...]:
        raise NotImplementedError

    def result(self, request: Any, value: Any) -> bytes:
        raise NotImplementedError

    def error(self, request: Any, error: Exception) -> bytes:
        raise NotImplementedError

    def refused(self, message: Any) -> bytes:
        raise NotImplementedError

    def cut_off(self, text: str) -> bytes:
        """What to answer to a message that is not read to its end."""
        raise NotImplementedError


# What needs no look at each time: methods without parameters, and the version in its wire's form.
_BARE = frozenset(name for name, method in methods.METHODS.items() if not method.params)
_VERSION = methods.encode_result(VERSION)


class MessagePack(Tongue):
    is_told_of_devices = False
    decoder: msgpackrpc.Decoder

    def __init__(self) -> None:
        self.decoder = msgpackrpc.Decoder()

    def arguments(self, request: msgpackrpc.Request) -> tuple[Any, ...]:
        if not request.params and request.method in _BARE:
            return ()
        return methods.parse_params(request.method, request.params)

    def result(self, request: msgpackrpc.Request, value: Any) -> bytes:
        if value is VERSION:
            value = _VERSION
        elif value is not None:
            value = methods.encode_result(value)
        return msgpackrpc.encode_response(request.msgid, value)

    def error(self, request: msgpackrpc.Request, error: Exception) -> bytes:
        text = _text(error)
        if isinstance(error, (NoSuchPlayer, NotAssigned)):
            text = methods.error_text(request.method, text)
        return msgpackrpc.encode_error(request.msgid, text)

    def refused(self, message: msgpackrpc.Refused) -> bytes:
        return msgpackrpc.encode_error(message.msgid, message.text)

    def cut_off(self, text: str) -> bytes:
        return self.decoder.broken(text).answer


class Json(Tongue):
    is_told_of_devices = True

    def __init__(self) -> None:
        self.decoder = jsonrpc.Decoder()

    def arguments(self, request: jsonrpc.Request) -> tuple[Any, ...]:
        mono_to_unix_ns = time.time_ns() - time.monotonic_ns()
        return jsonrpc.parse_params(request.method, request.params, mono_to_unix_ns)

    def result(self, request: jsonrpc.Request, value: Any) -> bytes:
        return jsonrpc.encode_result(request.id, value)

    def error(self, request: jsonrpc.Request, error: Exception) -> bytes:
        code, text = jsonrpc.DRIVER_ERROR, _text(error)
        if isinstance(error, UnknownMethod):
            code = jsonrpc.UNKNOWN_METHOD
        elif isinstance(error, NoSuchPlayer):
            player_id = request.params[jsonrpc.METHODS[request.method].params[0]]
            text = f"player_id {player_id} not registered for this connection"
        return jsonrpc.encode_error(request.id, code, text)

    def refused(self, message: jsonrpc.Refused) -> bytes:
        return jsonrpc.encode_error(message.id, message.code, message.text)

    def cut_off(self, text: str) -> bytes:
        return jsonrpc.encode_error(None, jsonrpc.DRIVER_ERROR, text)  # its id may be at its end


TONGUES: dict[Protocol, type[Tongue]] = {
    Protocol.MSGPACK_RPC: MessagePack,
    Protocol.JSON_RPC: Json,
}
_REQUESTS = (msgpackrpc.Request, jsonrpc.Request)
_REFUSED = (msgpackrpc.Refused, jsonrpc.Refused)


def tongue_of(first_byte: int) -> Tongue:
    """That of a connection whose first byte is this."""
    return TONGUES[protocol_of(first_byte)]()


def request_or_answer(tongue: Tongue, message: Any) -> Any:
    """A request, or the answer (bytes) to what is none."""
    if type(message) in _REQUESTS:
        return message
    # Notifications are taken, and change nothing; there are no requests of ours.
    return tongue.refused(message) if isinstance(message, _REFUSED) else b""


def _text(error: Exception) -> str:
    """What a client is told; of our own defects nothing."""
    return str(error) if isinstance(error, TOLD) else "the driver failed; its log says how"
