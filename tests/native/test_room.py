"""buswork.native.room: who must go, and who is refused."""

from dataclasses import dataclass

import pytest

from buswork.errors import LimitsExceeded
from buswork.native.room import Buffers, Crowd


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
    buffers.take(1, 50)
