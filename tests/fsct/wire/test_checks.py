import math
from uuid import UUID

import msgpack
import pytest
from fsct.wire.vectors import recorded
from hypothesis import given
from hypothesis import strategies as st

from buswork.fsct.wire import checks, methods
from buswork.fsct.wire.protocol import ProtocolVersion
from buswork.fsct.wire.terms import (
    FIELDS,
    MAX_RATE,
    MAX_TEXT_CHARACTERS,
    TRACK_TEXTS,
    BadValue,
    PlayerState,
    Status,
    TextId,
    Texts,
    Timeline,
)

TIMELINE = {"position_ms": 1, "update_unix_ms": -2, "duration_ms": 3, "rate": 1.5}
UUID_TEXT = "a1b2c3d4-e5f6-4789-8abc-def012345678"

HUGE = 10**5000  # more digits than Python turns into text


def repr_of(value):
    return "huge" if value == HUGE else repr(value)


# Whatever a codec may bring.
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-2, 70)
    | st.floats()
    | st.text()
    | st.binary(max_size=20)
    | st.sampled_from(["playing", "title", "rate", UUID_TEXT, "current_title"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from([*TIMELINE, *TRACK_TEXTS, "status", "timeline", "texts", 1, "\ud800"]),
            inner,
        )
    ),
    max_leaves=8,
)


# What Rust's serde makes of the plan's types, where it is what is taken.
SERDE = {row["type"]: row for row in recorded("rmp_serde_defaults")["rows"] if "type" in row}
READ = {
    "ProtocolVersion{1,0}": (
        lambda value: methods.parse_result("get_protocol_version", value),
        ProtocolVersion(1, 0),
    ),
    "FsctStatus::Playing (plain derive)": (checks.status, Status.PLAYING),
    "StatusRepr::Playing (serde_repr)": (checks.status, Status.PLAYING),
    "Option<u32>::None": (checks.optional_player_id, None),
    "Option<u32>::Some(7)": (checks.optional_player_id, 7),
    "NonZeroU32(5)": (checks.player_id, 5),
    "Option<String>::Some": (checks.text, "x"),
    "Uuid": (checks.device_id, UUID(UUID_TEXT[:-12] + "def012345678")),
    "TrackMetadata default": (checks.texts, Texts()),
    "f64 1.0": (lambda value: checks.timeline({**TIMELINE, "rate": value}).rate, 1.0),
    "f32 1.0": (lambda value: checks.timeline({**TIMELINE, "rate": value}).rate, 1.0),
}


@pytest.mark.parametrize("name", READ)
def test_what_serde_makes_of_the_same(name):
    check, term = READ[name]
    assert check(msgpack.unpackb(bytes.fromhex(SERDE[name]["to_vec_named"]))) == term


@pytest.mark.parametrize("form", ["to_vec", "to_vec_named"])
def test_what_serde_makes_of_times_is_none_of_ours(form):
    for name, check in (("TimelineInfo", checks.timeline), ("PlayerState", checks.player_state)):
        with pytest.raises(BadValue):
            check(msgpack.unpackb(bytes.fromhex(SERDE[name][form])))


def test_fields_say_what_the_checks_take():
    for name in ("position_ms", "update_unix_ms", "duration_ms", "rate"):
        field = FIELDS[name]
        for value in (field.lowest, field.highest):
            assert getattr(checks.timeline({**TIMELINE, name: value}), name) == value
        if name != "rate":
            for value in (field.lowest - 1, field.highest + 1):
                with pytest.raises(BadValue) as raised:
                    checks.timeline({**TIMELINE, name: value})
                assert raised.value.field == name
    assert checks.player_id(FIELDS["player_id"].lowest) == 1
    assert checks.player_id(FIELDS["player_id"].highest) == 2**32 - 1
    for name, check in (("status", checks.status), ("metadata_id", checks.text_id)):
        assert taken(check, range(-1, 0x40)) == [*FIELDS[name].codes]
    assert taken(checks.device_id, map(bytes, range(20))) == [UUID(int=0)]
    assert FIELDS["device_id"].lowest == FIELDS["device_id"].highest == 16


def taken(check, values):
    found = []
    for value in values:
        try:
            found.append(check(value))
        except BadValue as refusal:
            assert refusal.field  # noqa: PT017
    return found


@pytest.mark.parametrize("value", [2**32, 2**32 + 1, 2**64 - 1, HUGE], ids=repr_of)
def test_large_player_ids_are_not_wrapped_around(value):
    with pytest.raises(BadValue, match="at most 4294967295"):
        checks.player_id(value)


@pytest.mark.parametrize("value", [True, "1", 1.0, -1, None, b"1", [1]])
def test_a_player_id_is_a_whole_number(value):
    with pytest.raises(BadValue, match="player_id must be integer"):
        checks.player_id(value)


def test_a_preferred_player_may_be_none():
    assert checks.optional_player_id(None) is None
    assert checks.optional_player_id(1) == 1
    with pytest.raises(BadValue, match="non-zero"):
        checks.optional_player_id(0)


@pytest.mark.parametrize("value", ["", "vlc", "zażółć", "x" * 256, "🎵" * 64])
def test_self_ids(value):
    assert checks.self_id(value) == value


@pytest.mark.parametrize("value", [None, 1, b"x", "\udcff", "x" * 257, "x" + "🎵" * 64])
def test_other_self_ids(value):
    with pytest.raises(BadValue, match="self_id"):
        checks.self_id(value)


@pytest.mark.parametrize("value", [UUID_TEXT, UUID_TEXT.upper(), UUID(UUID_TEXT).bytes])
def test_device_ids(value):
    assert checks.device_id(value) == UUID(UUID_TEXT)
    assert checks.device_id(UUID(UUID_TEXT)) == UUID(UUID_TEXT)


@pytest.mark.parametrize(
    "value",
    [
        None, 1, "", bytes(15), bytes(17), UUID_TEXT[:-1], UUID_TEXT + "0", UUID_TEXT + "\n",
        UUID_TEXT.replace("-", ""), "{" + UUID_TEXT + "}", "urn:uuid:" + UUID_TEXT,
        UUID_TEXT.replace("a", "\N{ARABIC-INDIC DIGIT ONE}"), "x" * 16,
    ],
)  # fmt: skip
def test_other_device_ids(value):
    with pytest.raises(BadValue, match="device_id"):
        checks.device_id(value)


@pytest.mark.parametrize("status", Status)
def test_statuses_by_code_and_name(status):
    assert checks.status(int(status)) is status
    for name in (status.name, status.name.lower(), status.name.title()):
        assert checks.status(name) is status


@pytest.mark.parametrize("value", [6, 14, 16, 255, 256, 257, 2**32, HUGE], ids=repr_of)
def test_other_codes_of_statuses_are_not_wrapped_around(value):
    with pytest.raises(BadValue, match="invalid status code: "):
        checks.status(value)


@pytest.mark.parametrize("value", [None, True, -1, 1.0, "", "Playin", b"playing", [1]])
def test_other_statuses(value):
    with pytest.raises(BadValue, match="invalid FsctStatus"):
        checks.status(value)


@pytest.mark.parametrize("text_id", TRACK_TEXTS.values())
def test_text_ids_by_code_and_name(text_id):
    assert checks.text_id(int(text_id)) is text_id
    assert checks.text_id(text_id.name.lower()) is text_id


@pytest.mark.parametrize("value", [0, 5, 0x31, 0x34, 0x101, 2**32 + 1, "queue_title"])
def test_other_text_ids_and_those_of_the_queue(value):
    with pytest.raises(BadValue, match="invalid text metadata id: "):
        checks.text_id(value)


@pytest.mark.parametrize("value", [None, False, -1, 1.0, "title", ""])
def test_what_is_no_text_id(value):
    with pytest.raises(BadValue, match="invalid FsctTextMetadata"):
        checks.text_id(value)


def test_texts_are_cut_to_what_a_device_can_show():
    assert checks.text(None) is None
    assert checks.text("") == ""
    assert checks.text("a\0b") == "a\0b"
    assert checks.text("ą" * 100_000) == "ą" * MAX_TEXT_CHARACTERS


@pytest.mark.parametrize("value", [1, b"x", "\ud83d", "a\udcff", ["x"]])
def test_what_is_no_text(value):
    with pytest.raises(BadValue, match="text must be string or nil"):
        checks.text(value)


def test_a_timeline():
    assert checks.timeline(TIMELINE) == Timeline(1, -2, 3, 1.5)
    assert checks.timeline(None) is None
    assert type(checks.timeline({**TIMELINE, "rate": 2}).rate) is float


def test_keys_of_a_timeline_that_are_no_text_are_passed_over():
    assert checks.timeline({**TIMELINE, 1: 2, None: 3, "\udcff": 4}) == Timeline(1, -2, 3, 1.5)


@pytest.mark.parametrize("rate", [math.nan, math.inf, -math.inf, MAX_RATE * 2, 2**64 * 10**30])
def test_rates_that_make_no_sense(rate):
    with pytest.raises(BadValue, match="rate must be") as raised:
        checks.timeline({**TIMELINE, "rate": rate})
    assert raised.value.field == "rate"


@pytest.mark.parametrize("name", TIMELINE)
@pytest.mark.parametrize("value", [None, True, "1", b"1", [1]])
def test_members_of_another_kind_are_missing(name, value):
    with pytest.raises(BadValue, match=f"timeline missing {name}"):
        checks.timeline({**TIMELINE, name: value})


def test_a_state():
    texts = {"title": "T", "artist": None, "genre": "G"}
    state = {"status": "playing", "timeline": TIMELINE, "texts": texts, 5: 6}
    assert checks.player_state(state) == PlayerState(
        Status.PLAYING, Timeline(1, -2, 3, 1.5), Texts("T", None, None, "G")
    )
    assert checks.player_state({}) == PlayerState(Status.UNKNOWN, None, Texts())


@pytest.mark.parametrize("key", ["x" * 10**6, "ą" * 100])
def test_errors_repeat_little_of_what_they_are_about(key):
    for check in (checks.timeline, checks.player_state, checks.texts):
        with pytest.raises(BadValue) as raised:
            check({key: 1})
        assert len(str(raised.value)) < 100


@given(st.sampled_from([*dict.fromkeys(TRACK_TEXTS.values())]), st.none() | st.text())
def test_texts_by_id(text_id, text):
    texts = Texts("a", "b", "c", "d").with_text(text_id, text)
    assert texts.get(text_id) == text
    others = [other for other in TRACK_TEXTS.values() if other is not text_id]
    assert [texts.get(other) for other in others] == [
        Texts("a", "b", "c", "d").get(other) for other in others
    ]


CHECKS = [
    checks.self_id, checks.player_id, checks.optional_player_id, checks.device_id, checks.status,
    checks.text_id, checks.text, checks.timeline, checks.player_state, checks.texts,
]  # fmt: skip


@given(ANYTHING)
def test_anything_is_taken_or_refused_in_words(value):
    refusals = []
    for check in CHECKS:
        try:
            check(value)
        except BadValue as refusal:
            refusals.append(refusal)
    assert all(refusal.field for refusal in refusals)
    assert all(str(refusal).encode() for refusal in refusals)


def test_terms_are_taken_as_they_are():
    """Callers within the daemon may check what is checked already."""
    assert checks.status(Status.PAUSED) is Status.PAUSED
    assert checks.text_id(TextId.CURRENT_ALBUM) is TextId.CURRENT_ALBUM
