import pytest

from buswork.store.model.history import CHANGE_OVERHEAD_BYTES, History, RevisionGone
from buswork.store.wire.lines import Change

PLENTY = 1 << 20


def history_of(number, max_changes=PLENTY, max_bytes=PLENTY):
    history = History(max_changes, max_bytes)
    for n in range(number):
        history.append("a", b"%d" % n, 2)
    return history


def test_changes_are_numbered_and_found():
    history = History(PLENTY, PLENTY)
    first = history.append("a", b"1", 2)
    second = history.append("a", None, 1)
    assert (first, second) == (Change(1, "a", b"1"), Change(2, "a", None))
    assert history.revision == 2
    assert history.next_after(0) is first
    assert history.next_after(2) is None
    assert history.after(1) == [second]
    assert history.after(2) == []


@pytest.mark.parametrize(
    "kept", [{"max_changes": 2}, {"max_bytes": 3 * (CHANGE_OVERHEAD_BYTES + 2) - 1}]
)
def test_what_is_no_longer_kept_is_gone(kept):
    history = history_of(5, **kept)
    assert [change.revision for change in history.after(3)] == [4, 5]
    for ask in (history.after, history.next_after, history.check):
        with pytest.raises(RevisionGone, match="after 3"):
            ask(2)


def test_as_much_as_fits_is_kept():
    assert len(history_of(5, max_changes=3).after(2)) == 3
    assert len(history_of(5, max_bytes=3 * (CHANGE_OVERHEAD_BYTES + 2)).after(2)) == 3


def test_a_revision_that_is_yet_to_come_is_of_another_epoch():
    history = history_of(1)
    for ask in (history.after, history.next_after, history.check):
        with pytest.raises(RevisionGone, match="yet to come") as raised:
            ask(2)
        assert raised.value.name == "org.mapipc.Error.RevisionGone"


def test_a_change_larger_than_the_history_leaves_none():
    history = history_of(1, max_bytes=300)
    history.append("a", b"1" * 100, 101)
    assert history.after(2) == []
    with pytest.raises(RevisionGone):
        history.after(1)
    assert history._bytes == 0
