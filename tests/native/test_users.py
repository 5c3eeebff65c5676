import argparse

import pytest

from buswork.native.users import uid_of


def test_a_user_has_a_name_or_a_number():
    assert (uid_of("root"), uid_of("12345")) == (0, 12345)


def test_who_is_not_there_is_said():
    with pytest.raises(argparse.ArgumentTypeError, match="there is no user 'no one'"):
        uid_of("no one")
