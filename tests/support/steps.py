"""Counts work instead of time: what a busy machine makes slow has no more steps for it."""

import sys
from collections.abc import Callable
from typing import Any


def steps(function: Callable[[], Any]) -> int:
    """How many calls, of Python's functions and of built-in ones, it takes."""
    count = 0

    def profile(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += 1

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(before)
    return count
