import random

from buswork.client.backoff import Backoff


def test_pauses_double_up_to_a_limit_and_none_is_like_another():
    backoff = Backoff(0.1, 15.0, random.Random(1).uniform)
    pauses = [backoff.next() for _ in range(12)]
    for n, pause in enumerate(pauses):
        longest = min(0.1 * 2**n, 15.0)
        assert longest / 2 <= pause <= longest
    assert len(set(pauses)) == len(pauses)
    backoff.reset()
    assert backoff.next() <= 0.1
