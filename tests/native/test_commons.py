"""buswork.native.commons: one of each for all."""

from buswork.native.commons import Commons


def test_each_daemon_has_its_own() -> None:
    one, other = Commons(), Commons()
    assert one.shares is not other.shares
    assert one.buffers is not other.buffers
