from buswork.store.model.limits import Limits


def test_limits_are_those_of_the_contract():
    mib = 1024 * 1024
    assert Limits() == Limits(1024, mib, 16 * mib, 10_000, 256 * mib, 65_536, 16 * mib)
