"""What the FSCT wire promises for any bytes at all, whoever makes them up.

Each function fails where something other than the refusals that are named comes out of it.
"""

from fsct.wire.vectors import recorded, vectors

from buswork.fsct.wire import jsonrpc, methods, msgpackrpc, requests
from buswork.fsct.wire.descriptors import BadDescriptor, parse_bos, parse_set, parse_set_length
from buswork.fsct.wire.protocol import Broken
from buswork.fsct.wire.terms import BadValue
from buswork.fsct.wire.texts import encode_text

FSCT = bytes.fromhex("00ebbe33c4008d20449515bcb7faf38a41")

BLOBS = [bytes.fromhex(vector["bos_hex"]) for vector in vectors("bos_descriptors")]
SETS = [bytes.fromhex(vector["set_hex"]) for vector in vectors("fsct_descriptor_sets")]
MESSAGES = [
    bytes.fromhex(case["request_hex"]) for case in recorded("msgpack_rpc_malformed")["cases"]
] + [bytes.fromhex(vector["request_hex"]) for vector in vectors("msgpack_rpc_methods")]
LINES = [vector["request"].encode() for vector in vectors("jsonrpc_later_protocol")]
REFUSALS = (methods.UnknownMethod, BadValue)


# -- hostile devices -----------------------------------------------------------------------------


def read_bos(data):
    """Contract: a capability whose bytes are there, or BadDescriptor."""
    try:
        capability = parse_bos(data)
    except BadDescriptor as error:
        return type(error).__name__
    assert FSCT[1:] + b"\x00\x01" + bytes((capability.subclass,)) in data
    return "accepted"


def read_set(data):
    """Contract: what fits into the bytes, or BadDescriptor."""
    try:
        length = parse_set_length(data[:5])
        descriptors = parse_set(data)
    except BadDescriptor as error:
        return type(error).__name__
    assert 5 <= length <= 0xFFFF
    assert 3 * len(descriptors.texts) + 7 * len(descriptors.images) <= len(data)
    assert len({field.id for field in descriptors.texts}) == len(descriptors.texts)
    for field in descriptors.texts[:1]:
        shown = encode_text("Zażółć 🎵", descriptors.coding, field.max_bytes)
        assert len(shown) <= field.max_bytes
    return "accepted"


def read_answers(data):
    """Contract: an answer, or BadAnswer."""
    for parse in (
        requests.whole_bos,
        requests.whole_set_header,
        requests.parse_timestamp,
        requests.Progress.decode,
    ):
        try:
            parse(data)
        except requests.BadAnswer:
            pass


# -- strange clients -----------------------------------------------------------------------------


def answers(decoder, stream, sizes, answer):
    """What a server would send; contract: nothing but Broken, and an answer for every id."""
    sent = []
    try:
        while stream:
            size = sizes.randrange(1, 40)
            decoder.feed(stream[:size])
            stream = stream[size:]
            while (message := decoder.next()) is not None:
                sent.append(answer(message))
    except Broken as broken:
        sent.append(broken.answer)
    return b"".join(sent)


def answer_in_messagepack(message):
    match message:
        case msgpackrpc.Refused():
            return msgpackrpc.encode_error(*message)
        case msgpackrpc.Request(msgid, method, params):
            try:
                args = methods.parse_params(method, params)
            except REFUSALS as error:
                return msgpackrpc.encode_error(msgid, str(error))
            again = methods.parse_params(method, methods.encode_params(*args))
            assert repr(again) == repr(args)
            return msgpackrpc.encode_response(msgid, None)
    return b""


def answer_in_json(message):
    match message:
        case jsonrpc.Refused():
            return jsonrpc.encode_error(*message)
        case jsonrpc.Request(message_id, method, params):
            try:
                args = jsonrpc.parse_params(method, params, 10**18)
            except REFUSALS as error:
                return jsonrpc.encode_error(message_id, jsonrpc.INVALID_PARAMS, str(error))
            (line,) = jsonrpc.encode_request(1, method, *args).splitlines()
            again = jsonrpc.parse_line(line)
            assert jsonrpc.parse_params(method, again.params, 0) == args
            return jsonrpc.encode_result(message_id, None)
    return b""


def serve_messagepack(stream, sizes):
    """A connection of this protocol, to which this is sent."""
    return answers(msgpackrpc.Decoder(), stream, sizes, answer_in_messagepack)


def serve_json(stream, sizes):
    """The same of the newer one; every answer is a message of the protocol."""
    sent = answers(jsonrpc.Decoder(), stream, sizes, answer_in_json)
    for line in sent.splitlines():
        jsonrpc.parse_line(line)
    return sent
