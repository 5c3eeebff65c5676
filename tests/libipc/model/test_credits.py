import pytest

from buswork.errors import InvalidArgs
from buswork.libipc.model.credits import MAX_CREDITS, START_CREDITS, Credits, cost


@pytest.mark.parametrize(("length", "price"), [(0, 1), (65_535, 1), (65_536, 2), (2_000_000, 31)])
def test_a_long_message_costs_more(length, price):
    assert cost(length) == price


def test_the_last_one_may_be_overdrawn():
    left = Credits()
    for _ in range(START_CREDITS - 1):
        left.take(10)
    assert not left.are_used_up
    left.take(200_000)
    assert left.are_used_up
    left.grant(3)
    assert left.are_used_up
    left.grant(1)
    assert not left.are_used_up


def test_nobody_has_more_than_may_be_had():
    left = Credits()
    left.grant(MAX_CREDITS - START_CREDITS)
    with pytest.raises(InvalidArgs):
        left.grant(1)
    assert left.left == MAX_CREDITS
