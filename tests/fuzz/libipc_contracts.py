"""What the libipc wire promises for any bytes at all, whoever makes them up.

Each function fails where something other than the refusals that are named comes out of it.
"""

from dataclasses import dataclass, field

from libipc.wire.vectors import LOOKUPS, streams, vectors

from buswork.libipc.wire import lookups, names
from buswork.libipc.wire.forms import (
    DATA,
    Assembler,
    BadMessage,
    Form,
    Message,
    encode,
    header_bytes,
    most_announced,
    most_payload,
)
from buswork.libipc.wire.typed import BadTyped, Registry

STREAMS = {
    form: [s.data for s in streams() if s.form is form and len(s.data) < 1100] for form in Form
}
REQUESTS = [
    bytes.fromhex(vector["observed"]["request"])[header_bytes(form) :]
    for _, form, vector in vectors(*LOOKUPS)
    if vector.get("observed", {}).get("request")
]


@dataclass
class Leaf:
    number: int
    share: float = 0.0


@dataclass
class Branch:
    name: str
    leaves: list[Leaf] = field(default_factory=list)
    branches: "dict[str, Branch | None]" = field(default_factory=dict)
    free: object = None


def _registry(codec):
    made = Registry(codec)
    for number, cls in enumerate((Leaf, Branch, dict)):
        made.register(number, cls)
    return made


REGISTRIES = {codec: _registry(codec) for codec in ("json", "cbor")}
OBJECTS = [
    Leaf(1), Leaf(-(2**40), 1e300), Branch("é"), {"a": [None, True, "x", {"b": 1.5}], "": 0},
    Branch("x", [Leaf(1), Leaf(2)], {"y": Branch("z", free=[1, {"a": None}]), "": None}, "free"),
]  # fmt: skip
TYPED = {
    codec: [made.dump(Form.ZIG, value)[0] for value in OBJECTS]
    for codec, made in REGISTRIES.items()
}


def told(error):
    """Contract: a refusal is one printable sentence, whatever was refused."""
    text = str(error)
    assert 5 < len(text) < 800
    return type(error).__name__


# -- streams ---------------------------------------------------------------------------------------


def in_one_go(form, data, most):
    """What a stream is, told by its description alone: messages, what is left, is it refused."""
    messages = []
    header = header_bytes(form)
    at_length = 1 if form is Form.C else 0
    while len(data) >= header:
        length = int.from_bytes(data[at_length : at_length + 4], "big")
        if length > most:
            return messages, data, True
        if len(data) < header + length:
            break
        types = (data[5], data[0]) if form is Form.C else (0, DATA)
        messages.append(Message(data[header : header + length], *types))
        data = data[header + length :]
    return messages, data, False


def read_stream(form, pieces, most=None):
    """Contract: the same messages however the stream is cut; no more is kept than came."""
    limit = most_announced(form) if most is None else min(most, most_announced(form))
    wanted, left, refused = in_one_go(form, b"".join(pieces), limit)
    assembler = Assembler(form, most)
    got = []
    said = None
    came = taken = 0
    for piece in pieces:
        try:
            messages = assembler.feed(piece)
        except BadMessage as error:
            said = told(error)
            assert refused
            continue
        came += len(piece)
        taken += sum(header_bytes(form) + len(message.payload) for message in messages)
        # Once it is refused it hands out nothing any more.
        assert said is None
        assert assembler.waiting <= came - taken
        got += messages
    assert got == wanted
    if refused:
        assert assembler.waiting
        try:
            assembler.check()
        except BadMessage as error:
            return told(error)
        raise AssertionError("it was not refused")
    assembler.check()
    assert assembler.waiting == len(left)
    for message in got:
        assert len(message.payload) <= limit
        if len(message.payload) <= most_payload(form):
            again = encode(form, message)
            assert Assembler(form).feed(again) == [message]
    return "waiting" if left else "whole"


# -- look-ups --------------------------------------------------------------------------------------


def read_request(payload):
    """Contract: a request that its client would have sent so, or BadRequest."""
    message = Message(payload, 3, 3)
    try:
        request = lookups.parse_request(Form.C, message)
    except lookups.BadRequest as error:
        return told(error)
    names.check(request.service)
    (again,) = Assembler(Form.C).feed(lookups.encode_request(Form.C, request))
    assert again == message
    try:
        found = lookups.target(request)
    except lookups.BadRequest as error:
        return "target: " + told(error)
    if found is None:
        return "elsewhere"
    return read_uri(str(found))


def read_uri(text):
    """Contract: a URI that says itself again, or BadRequest."""
    try:
        uri = lookups.Uri.parse(text)
    except lookups.BadRequest as error:
        return told(error)
    assert str(uri).isprintable()
    assert lookups.Uri.parse(str(uri)) == uri
    assert uri.scheme
    assert uri.address
    assert "/" not in uri.address
    try:
        host, port = uri.endpoint()
    except lookups.BadRequest as error:
        told(error)
        return "uri"
    assert host
    assert 0 < port < 65536
    return "endpoint"


def read_name(data):
    """Contract: a name that fits some socket's path and is no other path, or BadName."""
    try:
        name = names.parse(data)
    except names.BadName as error:
        return told(error)
    assert name.encode() == data
    assert name.isprintable()
    assert "/" not in name
    assert name not in (".", "..")
    assert names.fits("/", name)
    return "name"


# -- typed payloads --------------------------------------------------------------------------------


def read_typed(codec, payload):
    """Contract: an object of a class that is registered, made of plain values, or BadTyped."""
    registry = REGISTRIES[codec]
    try:
        value = registry.load(Form.ZIG, Message(payload))
    except BadTyped as error:
        return told(error)
    assert type(value) in (Leaf, Branch, dict)
    again, _ = registry.dump(Form.ZIG, value)
    assert repr(registry.load(Form.ZIG, Message(again))) == repr(value)
    return type(value).__name__
