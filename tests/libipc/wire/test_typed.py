"""buswork.libipc.wire.typed"""

from dataclasses import dataclass, field
from typing import Any

import cbor2
import pytest

from buswork.libipc.wire.forms import Form, Message
from buswork.libipc.wire.typed import MAX_DEPTH, MAX_TEXT_CHARACTERS, BadTyped, Registry

C, ZIG = Form


@dataclass
class Point:
    x: int
    y: float = 0.5


@dataclass(frozen=True)
class Tree:
    name: str
    children: "list[Tree]" = field(default_factory=list)
    places: dict[str, Point] = field(default_factory=dict)
    value: int | float | str | None = None
    more: Any = None
    done: bool = False


@dataclass
class Even:
    number: int

    def __post_init__(self):
        if self.number % 2:
            raise ValueError("odd")


TREE = Tree(
    "é",
    [Tree("a", value=1.5), Tree("b", places={"here": Point(1, 2)}, value="x")],
    value=7,
    more={"a": [1, None, "x", True, {"b": 2.5}]},
    done=True,
)


def registry(codec="json"):
    made = Registry(codec)
    made.register(1, Point)
    made.register(2, Tree)
    made.register(3, dict)
    made.register(255, Even)
    return made


def loaded(made, number, value, form=C):
    payload = value if isinstance(value, bytes) else cbor2.dumps(value)
    message = Message(payload, number) if form is C else Message(bytes((number,)) + payload)
    return made.load(form, message)


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("codec", ["json", "cbor"])
@pytest.mark.parametrize("value", [Point(1, 2), TREE, {"free": ["as", {"it": "is"}]}, {}])
def test_there_and_back(codec, form, value):
    payload, user_type = registry(codec).dump(form, value)
    again = registry(codec).load(form, Message(payload, user_type))
    assert again == value
    assert type(again) is type(value)


def test_the_bytes():
    """One byte for the class where the header has none (section 2)."""
    assert registry().dump(C, Point(1, 2)) == (b'{"x":1,"y":2}', 1)
    assert registry().dump(C, {"a": "é"}) == ('{"a":"é"}'.encode(), 3)
    assert registry().dump(ZIG, Point(1, 2)) == (b'\1{"x":1,"y":2}', 0)
    assert registry("cbor").dump(C, Point(1, 2)) == (bytes.fromhex("a2 6178 01 6179 02"), 1)
    assert registry("cbor").dump(ZIG, Even(2)) == (b"\xff" + cbor2.dumps({"number": 2}), 0)


def test_bytes_in_cbor_alone():
    assert loaded(registry("cbor"), 3, {"raw": b"\0\xff"}) == {"raw": b"\0\xff"}
    with pytest.raises(BadTyped, match="can't be encoded"):
        registry().dump(C, {"raw": b"\0"})


def test_classes_may_grow():
    assert loaded(registry(), 1, b'{"x": 1, "z": [{}]}') == Point(1)


def test_a_whole_number_may_stand_for_a_fraction():
    assert type(loaded(registry(), 1, b'{"x": 1, "y": 3}').y) is float
    assert type(loaded(registry(), 2, b'{"name": "", "value": 3}').value) is int
    with pytest.raises(BadTyped, match="too large"):
        loaded(registry(), 1, b'{"x": 1, "y": 1' + b"0" * 400 + b"}")


@pytest.mark.parametrize(
    ("number", "value", "why"),
    [
        (9, b"{}", "no class is registered for the number 9"),
        (1, b"[]", "the payload must be dict, not list"),
        (1, b"{}", "Point has no x"),
        (1, b'{"x": true}', "x must be int, not bool"),
        (1, b'{"x": 1.5}', "x must be int, not float"),
        (1, b'{"x": "1"}', "x must be int, not str"),
        (1, b'{"x": null}', "x must be int, not NoneType"),
        (2, b'{"name": "", "children": [{"name": 1}]}', r"children\[\].name must be str"),
        (2, b'{"name": "", "children": {}}', "children must be list"),
        (2, b'{"name": "", "places": {"a": {}}}', "places has no x"),
        (2, b'{"name": "", "value": []}', "value must be NoneType or float or int or str"),
        (2, b'{"name": "\\ud800"}', "name is no Unicode text"),
        (3, b'{"a": "\\ud800"}', "no Unicode text"),
        (3, b'{"\\ud800": 1}', "no Unicode text"),
        (255, b'{"number": 3}', "Even: odd"),
        (3, b"", "no JSON"),
        (3, b"{", "no JSON"),
        (3, b"{} x", "no JSON"),
        (3, b"\xff", "no JSON"),
        (3, b'{"a": NaN}', "NaN is no number"),
        (3, b'{"a": 1e999}', "infinite"),
        (3, b'{"a": ' + b"9" * 5000 + b"}", "no JSON"),
        (3, b'{"a":' * 100_000, "nested too deep"),
        (3, b'{"a":' * 900 + b"1" + b"}" * 900, "nested too deep"),
    ],
)
def test_json_that_is_refused(number, value, why):
    with pytest.raises(BadTyped, match=why) as caught:
        loaded(registry(), number, value)
    assert len(str(caught.value)) <= MAX_TEXT_CHARACTERS


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"", "no CBOR"),
        (b"\xa0\0", "something after"),
        (b"\xa1\x61a", "no CBOR"),
        (b"\xbb" + b"\xff" * 8, "no CBOR"),
        (bytes.fromhex("a1 6161 c2 41 01"), "no CBOR without tags"),  # a large number
        (bytes.fromhex("a1 6161 d823 6161"), "no CBOR without tags"),  # an expression
        (bytes.fromhex("a1 6161 d81c 80"), "no CBOR without tags"),  # a reference
        (bytes.fromhex("d9d9f7 a0"), "no CBOR without tags"),
        (bytes.fromhex("a1 6161 db ffffffffffffffff a0"), "no CBOR without tags"),
        (bytes.fromhex("a2 6161 01 6161 02"), "no CBOR"),  # twice
        (bytes.fromhex("a1 4161 01"), "a key of the payload must be str, not bytes"),
        (bytes.fromhex("a1 01 01"), "no CBOR"),
        (bytes.fromhex("a1 6161 f7"), "the payload must be .*, not UndefinedType"),
        (bytes.fromhex("a1 6161 f8ff"), "the payload must be .*, not CBORSimpleValue"),
        (b"\xa1\x61a" * (MAX_DEPTH + 1) + b"\xa0", "no CBOR"),
    ],
)
def test_cbor_that_is_refused(value, why):
    with pytest.raises(BadTyped, match=why):
        loaded(registry("cbor"), 3, value)


def test_the_form_without_user_types_needs_its_byte():
    with pytest.raises(BadTyped, match="no byte for the class"):
        registry().load(ZIG, Message(b""))


@pytest.mark.parametrize("codec", ["json", "cbor"])
def test_what_can_not_be_sent(codec):
    endless = {}
    endless["me"] = endless
    for value, why in (
        (7, "int is not registered"),
        (None, "NoneType is not registered"),
        (Point, "type is not registered"),
        ({"x": object()}, "dict can't be encoded"),
        (endless, "dict can't be encoded"),
    ):
        with pytest.raises(BadTyped, match=why):
            registry(codec).dump(C, value)


def test_numbers_that_json_has_not():
    with pytest.raises(BadTyped, match="can't be encoded"):
        registry().dump(C, {"x": float("nan")})


def test_a_class_is_registered_once_and_for_one_number():
    made = Registry()
    made.register(0, dict)

    @made.typed(7)
    @dataclass
    class Mine:
        a: int

    assert made.dump(C, Mine(1)) == (b'{"a":1}', 7)
    for number, cls, error in (
        (7, Point, ValueError), (8, Mine, ValueError), (256, Point, ValueError),
        (-1, Point, ValueError), (9, str, TypeError),
    ):  # fmt: skip
        with pytest.raises(error):
            made.register(number, cls)


@pytest.mark.parametrize(
    "kind",
    [set[int], dict[int, str], complex, Point | Even, list[int] | list[str], tuple[int, ...]],
)
def test_members_that_could_not_be_told_apart_or_sent(kind):
    @dataclass
    class Odd:
        a: kind

    with pytest.raises(TypeError):
        Registry().register(1, Odd)
