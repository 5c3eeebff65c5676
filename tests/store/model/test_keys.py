import pytest

from buswork.errors import AccessDenied
from buswork.store.model.keys import check_access, is_foreign, is_private, visible
from buswork.store.wire.lines import Change

ME, YOU = 1000, 1001


@pytest.mark.parametrize("key", ["~1000/a", "~1000/"])
def test_a_private_key_is_its_uids_alone(key):
    assert is_private(key)
    assert not is_foreign(ME, key)
    check_access(ME, key)
    for uid in (0, 100, YOU):
        assert is_foreign(uid, key)
        with pytest.raises(AccessDenied, match="~1000/ belong to uid 1000 alone"):
            check_access(uid, key)


def test_a_uid_with_more_digits_than_a_number_may_have():
    with pytest.raises(AccessDenied) as raised:
        check_access(ME, "~" + "9" * 6000 + "/a")
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize(
    "key", ["~", "~/", "~a/b", "~01000/a", "~1000", "~-1/a", "~1\u0661/a", "a~1/"]
)
def test_other_keys_with_a_tilde_are_nobodys(key):
    assert not is_private(key)
    assert not is_foreign(YOU, key)
    check_access(YOU, key)


def test_a_watcher_sees_its_prefix_its_own_and_every_clear():
    mine = Change(1, "~1000/a", b"1")
    assert visible(mine, ME, "")
    assert visible(mine, ME, "~1000/")
    assert not visible(mine, ME, "b")
    assert not visible(mine, 0, "")
    assert not visible(mine, YOU, "~1000/")
    assert visible(Change(2, "~01/a", None), YOU, "~")
    assert visible(Change(3, None, None), YOU, "some/prefix")
