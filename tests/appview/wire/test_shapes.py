import pytest

from buswork.appview.wire.shapes import (
    BOOLEAN,
    NUMBER,
    TEXT,
    Choice,
    Each,
    complaints,
    is_deeper,
    one_of,
    whole,
)

THING = {
    "name": TEXT,
    "size?": NUMBER,
    "parts?": [{"on": BOOLEAN}],
    "marks?": Each(TEXT),
    "way?": Choice("type", {"file": {"path": TEXT}, "none": {}}),
    "level?": one_of("low", "high"),
    "share?": whole(0, 9),
}


@pytest.mark.parametrize(
    "value",
    [
        {"name": "a"},
        {"name": "a", "size": -1, "parts": [], "marks": {}, "way": {"type": "none"}},
        {"name": "a", "parts": [{"on": True}], "marks": {"any": "x"}, "level": "low", "share": 9},
        {"name": "a", "way": {"type": "file", "path": "/x"}, "unknown": 1},
    ],
)
def test_what_is_right(value):
    assert list(complaints(THING, value)) == []


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (1, "the whole is 1, and should be an object"),
        ({}, "name is missing"),
        ({"name": 1}, "name is 1, and should be a text"),
        ({"name": "a\0"}, r"name is 'a\x00', and should be a text"),
        ({"name": "a", "size": True}, "size is True, and should be a whole number"),
        ({"name": "a", "size": 1.0}, "size is 1.0, and should be a whole number"),
        ({"name": "a", "parts": {}}, "parts is an object, and should be a list"),
        ({"name": "a", "parts": [{"on": True}, []]}, "parts[1] is a list, and should be an object"),
        ({"name": "a", "parts": [{"on": 1}]}, "parts[0].on is 1, and should be true or false"),
        ({"name": "a", "marks": {"b": None}}, "marks.b is not there, and should be a text"),
        ({"name": "a", "marks": []}, "marks is a list, and should be an object"),
        ({"name": "a", "way": {}}, "way.type is not there, and should be file or none"),
        ({"name": "a", "way": {"type": "x"}}, "way.type is 'x', and should be file or none"),
        ({"name": "a", "way": {"type": ["x"]}}, "way.type is a list, and should be file or none"),
        ({"name": "a", "way": {"type": "file"}}, "way.path is missing"),
        ({"name": "a", "level": "mid"}, "level is 'mid', and should be low or high"),
        ({"name": "\ud800"}, r"name is '\ud800', and should be a text"),
        ({"name": "a", "marks": {"\0": "x"}}, r"marks.'\x00' is no name"),
        (
            {"name": "a", "marks": {"n" * 99: 1}},
            f"marks.'{'n' * 35} ... is 1, and should be a text",
        ),
        ({"name": "a", "share": 10}, "share is 10, and should be a whole number from 0 to 9"),
        ({"name": "a", "size": "x" * 99}, f"size is '{'x' * 35} ..., and should be a whole number"),
    ],
)
def test_what_is_wrong_says_where(value, complaint):
    assert list(complaints(THING, value)) == [complaint]


def test_members_that_are_not_known():
    value = {"name": "a", "way": {"type": "none", "path": "x"}, "size ": 1}
    assert list(complaints(THING, value, strict=True)) == [
        "way.path is not known; there are type",
        "size  is not known; there are name, size, parts, marks, way, level, share",
    ]


@pytest.mark.parametrize(
    ("value", "depth"), [(1, 0), ({}, 1), ([1, []], 2), ({"a": [{"b": 1}], "c": []}, 3)]
)
def test_depth(value, depth):
    assert not is_deeper(value, depth)
    assert depth == 0 or is_deeper(value, depth - 1)
