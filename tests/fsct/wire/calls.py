"""Every call that a client may make, with arguments of any kind that the driver takes."""

from uuid import UUID

from hypothesis import strategies as st

from buswork.fsct.wire.methods import METHODS
from buswork.fsct.wire.terms import TRACK_TEXTS, PlayerState, Status, Texts, Timeline

DEVICE = UUID("a1b2c3d4-e5f6-4789-8abc-def012345678")

TEXTS = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
TIMELINES = st.none() | st.builds(
    Timeline,
    st.integers(0, 2**63 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 2**64 - 1),
    st.floats(allow_nan=False, width=32, allow_infinity=False),
)
PLAYERS = st.integers(1, 2**32 - 1)
ARGUMENTS = {
    "self_id": TEXTS.filter(lambda text: text is not None),
    "player_id": PLAYERS,
    "preferred_player_id": st.none() | PLAYERS,
    "device_id": st.uuids(),
    "state": st.builds(
        PlayerState, st.sampled_from(Status), TIMELINES, st.builds(Texts, *[TEXTS] * 4)
    ),
    "status": st.sampled_from(Status),
    "timeline": TIMELINES,
    "metadata_id": st.sampled_from(list(TRACK_TEXTS.values())),
    "text": TEXTS,
}
CALLS = st.sampled_from(list(METHODS.values())).flatmap(
    lambda method: st.tuples(
        st.just(method.name), st.tuples(*(ARGUMENTS[name] for name in method.params))
    )
)
