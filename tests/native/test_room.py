"""buswork.native.room: who must go, and who is refused."""

import sys
from dataclasses import dataclass

import pytest

from buswork.authority import Limits, Quotas
from buswork.errors import LimitsExceeded
from buswork.native.room import Buffers, Charges, Crowd, size_of


@dataclass(frozen=True)
class Client:
    uid: int
    number: int = 0


def test_the_oldest_of_the_uid_that_has_most_goes_first() -> None:
    crowd: Crowd[Client] = Crowd(6)
    clients = [Client(uid, number) for number, uid in enumerate((1, 2, 2, 3, 2, 1))]
    for client in clients:
        assert not crowd.is_full
        crowd.add(client)
    assert crowd.is_full
    assert crowd.oldest_of_most() == clients[1]
    assert crowd.remove(clients[1])
    assert not crowd.remove(clients[1])
    assert crowd.oldest_of_most() == clients[0]
    assert (len(crowd), sorted(crowd.all, key=lambda client: client.number)) == (
        5,
        [clients[0], *clients[2:]],
    )


def test_who_has_said_something_is_not_silent() -> None:
    crowd: Crowd[Client] = Crowd()
    for number in range(3):
        crowd.add(Client(1, number))
    crowd.heard(Client(1, 0))
    assert crowd.oldest_silent(1) == Client(1, 1)
    crowd.remove(Client(1, 1))
    crowd.heard(Client(1, 1))
    assert crowd.oldest_silent(1) == Client(1, 2)
    crowd.heard(Client(1, 2))
    assert crowd.oldest_silent(1) is None
    assert crowd.oldest_silent(2) is None
    assert crowd.oldest_of_most() == Client(1, 0)


def test_no_uid_has_more_than_is_left_free() -> None:
    buffers = Buffers(100)
    buffers.take(1, 50)
    with pytest.raises(LimitsExceeded, match="50 bytes"):
        buffers.take(1, 1)
    buffers.take(2, 25)
    buffers.take(3, 12)
    with pytest.raises(LimitsExceeded):
        buffers.take(2, 1)
    buffers.give_back(1, 50)
    buffers.take(2, 5)
    buffers.give_back(2, 30)
    buffers.give_back(3, 12)
    with pytest.raises(LimitsExceeded):
        buffers.take(1, 51)
    buffers.take(1, 50)


def test_what_waits_is_charged_in_steps() -> None:
    quotas, buffers = Quotas(Limits(waiting_bytes=100)), Buffers(1000)
    charges = Charges(quotas, buffers, 1, 10)

    def used() -> tuple[int, dict[int, int]]:
        return quotas.used(1, "waiting_bytes"), buffers._used

    charges.adjust(10)
    assert used() == (0, {})
    charges.adjust(11)
    assert used() == (11, {1: 11})
    charges.adjust(21)
    assert used() == (11, {1: 11})
    charges.cover(22)
    assert used() == (33, {1: 33})
    charges.cover(1)
    charges.adjust(11)  # not given back and taken again all the time
    assert used() == (33, {1: 33})
    charges.adjust(10)
    assert used() == (0, {})
    charges.adjust(11)
    assert used() == (11, {1: 11})
    charges.release()
    charges.release()
    assert used() == (0, {})


@pytest.mark.parametrize(("own", "all_"), [(100, 1000), (1000, 200)])
def test_what_is_refused_is_not_charged(own: int, all_: int) -> None:
    quotas, buffers = Quotas(Limits(waiting_bytes=own)), Buffers(all_)
    charges = Charges(quotas, buffers, 1, 10)
    charges.cover(60)
    with pytest.raises(LimitsExceeded):
        charges.cover(150)
    assert quotas.used(1, "waiting_bytes") == 60
    assert buffers._used == {1: 60}
    charges.release()
    assert quotas.used(1, "waiting_bytes") == 0
    assert buffers._used == {}


def test_what_a_request_takes_is_what_all_its_values_take() -> None:
    text, number = "x" * 1000, 2**4000
    parts = [text, number, [], {}, [text], {text: [number]}]
    assert size_of(text) == sys.getsizeof(text)
    whole = sum(map(sys.getsizeof, (parts, *parts, text, text, [number], number)))
    assert size_of(parts) == whole
    assert size_of((parts,)) == sys.getsizeof((parts,)) + whole
    assert size_of(bytes(10_000)) > 10_000
