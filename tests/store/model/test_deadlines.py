import pytest

from buswork.store.model.deadlines import SMALL_HEAP, Deadlines


class Ends(dict):
    """When each key goes, and the deadlines that look there."""

    def __init__(self):
        self.deadlines = Deadlines(self.get)

    def put(self, key, expires_us):
        self[key] = expires_us
        self.deadlines.add(expires_us, key)


@pytest.fixture
def ends():
    return Ends()


def test_the_earliest_is_due_first_and_not_before(ends):
    ends.put("late", 30)
    ends.put("soon", 10)
    assert ends.deadlines.next_us() == 10
    assert ends.deadlines.pop_due(9) is None
    assert [ends.deadlines.pop_due(30) for _ in range(3)] == ["soon", "late", None]
    assert ends.deadlines.next_us() is None


@pytest.mark.parametrize("now", [None, 20])
def test_what_was_put_off_is_due_then_or_never(ends, now):
    ends.put("a", 10)
    if now is None:
        ends["a"] = None
    else:
        ends.put("a", now)
    assert ends.deadlines.next_us() == now
    assert ends.deadlines.pop_due(19) is None


def test_what_is_gone_is_never_due(ends):
    ends.put("a", 10)
    del ends["a"]
    assert ends.deadlines.pop_due(10) is None
    assert len(ends.deadlines) == 0


@pytest.mark.parametrize("step_us", [0, 1])
def test_renewing_a_key_for_ever_takes_no_memory(ends, step_us):
    for number in range(100):
        ends.put(f"other{number}", 1_000_000)
    for number in range(5000):
        ends.put("a", number * step_us + 1_000_000)
        ends.put("a", number * step_us + 2_000_000)
    assert len(ends.deadlines) <= 2 * 101 + 1
    due = {ends.deadlines.pop_due(3_000_000) for _ in range(101)}
    assert due == ends.keys()


def test_renewing_ever_new_keys_takes_no_memory(ends):
    for number in range(5000):
        ends.put(f"k{number}", 1_000_000)
        del ends[f"k{number}"]
    assert len(ends.deadlines) <= SMALL_HEAP
    assert ends.deadlines.next_us() is None


def test_after_a_clear_nothing_is_due(ends):
    ends.put("a", 10)
    ends.deadlines.clear()
    assert ends.deadlines.pop_due(10) is None
