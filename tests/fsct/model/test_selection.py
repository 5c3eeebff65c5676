"""The order of players, against the original's own comparator and against a slow way to choose."""

import os
import random
import sys
from itertools import count

import pytest
from support.displays import device, device_id, vectors

from buswork.fsct.model.driver import Driver
from buswork.fsct.model.selection import ORDER, Reason, Standing
from buswork.fsct.wire.terms import PlayerState, Status

# Short in a normal run; BUSWORK_FUZZ_EXAMPLES=1000000 makes it long.
EVENTS = max(10_000, int(os.environ.get("BUSWORK_FUZZ_EXAMPLES", "0")))

MATRIX = vectors("selection_matrix")
HERE, PREFERRED, FREE, ELSEWHERE = (standing.value for standing in Standing)
ME, OTHER = device_id(1), device_id(2)


def test_the_order_is_the_originals():
    order = [[standing.value, playing] for standing, playing in ORDER]
    assert order == MATRIX["best_to_worst"]


def stand(driver, player, standing):
    """Gives the player this standing to the first device."""
    if standing == HERE:
        driver.assign(player.id, ME)
    elif standing == ELSEWHERE:
        driver.assign(player.id, OTHER)
    elif standing == PREFERRED:
        driver.prefer(player.id)


def play(driver, player, playing):
    driver.update_status(player.id, Status.PLAYING if playing else Status.PAUSED)


def shown_of_two(first, second):
    """Which of two players the first device shows after it was plugged in: 0 or 1.

    Each is given as its standing, whether it plays, and whether the device showed it before.
    """
    driver = Driver()
    driver.add_device(device(2))
    players = [driver.register(name, 1000, "me") for name in "ab"]
    last = [at for at, (_, _, was_shown) in enumerate((first, second)) if was_shown]
    if last:
        driver.add_device(device(1))
        driver.assign(players[last[0]].id, ME)
        play(driver, players[last[0]], True)
        assert driver.displays[ME].active is players[last[0]]
    # The one that is shown leaves its place when the other has found its own.
    for at in sorted((0, 1), key=last.__contains__):
        standing, playing, _ = (first, second)[at]
        play(driver, players[at], playing)
        if standing != HERE and players[at].device == ME:
            driver.unassign(players[at].id, ME)
        stand(driver, players[at], standing)
    if not last:
        driver.add_device(device(1))
    return players.index(driver.displays[ME].active)


@pytest.mark.parametrize("row", MATRIX["rows"], ids=lambda row: f"{row['cand']}-{row['current']}")
def test_all_of_the_originals_matrix(row):
    candidate, current = row["cand"], row["current"]
    if current is None:
        # Whoever is alone is shown.
        driver = Driver()
        for number in (1, 2):
            driver.add_device(device(number))
        player = driver.register("", 1000, "me")
        play(driver, player, candidate[1])
        stand(driver, player, candidate[0])
        assert driver.displays[ME].active is player
        return
    if candidate[2] and current[2]:
        return  # no device shows two players; the original's answers for that follow no rule
    order = MATRIX["best_to_worst"]
    places = [order.index(who[:2]) for who in (candidate, current)]
    assert row["better"] == (places[0] < places[1] or (places[0] == places[1] and candidate[2]))
    if candidate[0] == current[0] == PREFERRED:
        return  # only one is preferred
    # The candidate comes second, as it does in the original's loop.
    assert shown_of_two(current, candidate) == int(row["better"])


# Reasons


@pytest.fixture
def driver():
    driver = Driver()
    driver.add_device(device(1))
    driver.add_device(device(2))
    return driver


def reason(driver):
    return driver.displays[ME].reason


def test_why_a_player_is_shown(driver):
    assert reason(driver) is Reason.NONE
    player = driver.register("a", 1000, "me")
    assert reason(driver) is Reason.ONLY
    play(driver, player, True)
    assert reason(driver) is Reason.PLAYING
    driver.prefer(player.id)
    assert reason(driver) is Reason.PREFERRED
    driver.assign(player.id, ME)
    assert reason(driver) is Reason.ASSIGNED
    driver.assign(player.id, OTHER)
    assert reason(driver) is Reason.ELSEWHERE
    driver.unassign(player.id, OTHER)
    driver.prefer(None)
    play(driver, player, False)
    driver.register("b", 1000, "me")
    assert reason(driver) is Reason.IDLE


def test_the_seat_is_a_reason_only_where_it_decides(driver):
    away = driver.register("away", 1001, "me")
    here = driver.register("here", 1000, "me")
    play(driver, away, True)
    assert (driver.displays[ME].active, reason(driver)) == (away, Reason.PLAYING)
    driver.set_active_uids(frozenset({1000}))
    assert (driver.displays[ME].active, reason(driver)) == (here, Reason.SEAT)
    play(driver, here, True)
    assert (driver.displays[ME].active, reason(driver)) == (here, Reason.PLAYING)
    driver.assign(away.id, ME)
    assert (driver.displays[ME].active, reason(driver)) == (here, Reason.SEAT)
    driver.set_active_uids(None)
    assert (driver.displays[ME].active, reason(driver)) == (away, Reason.ASSIGNED)


# The seat


def test_players_of_those_who_sit_here_come_before_any_order(driver):
    away = driver.register("away", 1001, "me")
    here = driver.register("here", 1000, "me")
    driver.assign(away.id, ME)
    driver.prefer(away.id)
    play(driver, away, True)
    driver.assign(here.id, OTHER)
    driver.set_active_uids(frozenset({1000}))
    assert [display.active for display in driver.displays.values()] == [here, here]
    driver.set_active_uids(frozenset({1000, 1001}))
    assert [display.active for display in driver.displays.values()] == [away, here]


def test_while_nobody_sits_here_all_are_equal(driver):
    player = driver.register("", 1000, "me")
    driver.set_active_uids(frozenset())
    assert driver.displays[ME].active is player
    assert reason(driver) is Reason.ONLY


def test_a_player_that_registers_later_has_its_users_seat(driver):
    driver.set_active_uids(frozenset({1000}))
    driver.register("away", 1001, "me")
    here = driver.register("here", 1000, "me")
    assert driver.displays[ME].active is here


# Ties


def test_of_equal_players_the_one_that_is_shown_stays(driver):
    first, second = (driver.register(name, 1000, "me") for name in "ab")
    play(driver, second, True)
    play(driver, first, True)
    assert driver.displays[ME].active is second
    play(driver, second, False)
    assert driver.displays[ME].active is first
    play(driver, second, True)
    assert driver.displays[ME].active is first


def test_of_equal_players_the_first_is_chosen(driver):
    players = [driver.register(name, 1000, "me") for name in "abc"]
    driver.assign(players[0].id, ME)
    # They become equal in another order than they registered in.
    for player in players[:0:-1]:
        driver.assign(player.id, OTHER)
    for player in players[:0:-1]:
        driver.unassign(player.id, OTHER)
    driver.unregister(players[0].id)
    driver.add_device(device(3))
    assert driver.displays[device_id(3)].active is players[1]


def test_ids_that_begin_anew_do_not_change_the_order_of_registration(driver):
    driver._last_id = 2**32 - 2
    first = driver.register("a", 1000, "me")
    second = driver.register("b", 1000, "me")
    assert (first.id, second.id) == (2**32 - 1, 1)
    driver.add_device(device(3))
    assert driver.displays[device_id(3)].active is first


# A slow way to choose


RANKS = {(standing, playing): at for at, (standing, playing) in enumerate(MATRIX["best_to_worst"])}


class Slow:
    """All of section b.4 by looking at every player for every device, each time."""

    def __init__(self):
        self.players = {}  # by id: uid, playing, device; in order of registration
        self.devices = {}  # by id: the player that is shown
        self.preferred = None
        self.uids = None

    def rank(self, device_id, player_id):
        uid, playing, assigned = self.players[player_id]
        if assigned == device_id:
            standing = HERE
        elif assigned in self.devices:
            standing = ELSEWHERE
        else:
            standing = PREFERRED if player_id == self.preferred else FREE
        return (self.uids is not None and uid not in self.uids, RANKS[standing, playing])

    def choose(self):
        for id_, shown in self.devices.items():
            ranks = {player_id: self.rank(id_, player_id) for player_id in self.players}
            best = min(ranks.values(), default=None)
            equal = [player_id for player_id, rank in ranks.items() if rank == best]
            if shown not in equal:
                self.devices[id_] = equal[0] if equal else None


class Events:
    """Does the same to a driver and to the slow way."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.driver = Driver()
        self.slow = Slow()
        self.ids = [device_id(number) for number in range(1, 7)]

    def run(self, events):
        kinds = {
            self.status: 10,
            self.state: 4,
            self.assign: 4,
            self.unassign: 3,
            self.prefer: 2,
            self.register: 3,
            self.unregister: 2,
            self.release: 1,
            self.plug: 3,
            self.seat: 1,
        }
        for event in self.random.choices(list(kinds), list(kinds.values()), k=events):
            event()
            self.slow.choose()
            shown = {
                id_: display.active and display.active.id
                for id_, display in self.driver.displays.items()
            }
            assert shown == self.slow.devices, event.__name__
            assert self.driver.preferred == self.slow.preferred

    def any_player(self):
        return self.random.choice(list(self.slow.players)) if self.slow.players else None

    def register(self):
        if len(self.slow.players) < 12:
            uid, owner = self.random.choice([1000, 1001, 1002]), self.random.randrange(4)
            player = self.driver.register("", uid, owner)
            self.slow.players[player.id] = [uid, False, None]

    def unregister(self):
        if (player_id := self.any_player()) is not None:
            self.driver.unregister(player_id)
            self.forget(player_id)

    def release(self):
        owner = self.random.randrange(4)
        for player in self.driver.owned_by(owner):
            self.forget(player.id)
        self.driver.release(owner)

    def forget(self, player_id):
        del self.slow.players[player_id]
        if self.slow.preferred == player_id:
            self.slow.preferred = None

    def status(self):
        if (player_id := self.any_player()) is not None:
            status = self.random.choice([Status.PLAYING, Status.PAUSED, Status.UNKNOWN])
            self.driver.update_status(player_id, status)
            self.slow.players[player_id][1] = status is Status.PLAYING

    def state(self):
        if (player_id := self.any_player()) is not None:
            status = self.random.choice([Status.PLAYING, Status.STOPPED])
            self.driver.update_state(player_id, PlayerState(status))
            self.slow.players[player_id][1] = status is Status.PLAYING

    def assign(self):
        if (player_id := self.any_player()) is not None:
            device_id = self.random.choice(self.ids)
            self.driver.assign(player_id, device_id)
            self.slow.players[player_id][2] = device_id

    def unassign(self):
        player_id = self.any_player()
        if player_id is not None and (device_id := self.slow.players[player_id][2]):
            self.driver.unassign(player_id, device_id)
            self.slow.players[player_id][2] = None

    def prefer(self):
        player_id = self.random.choice([None, self.any_player()])
        self.driver.prefer(player_id)
        self.slow.preferred = player_id

    def plug(self):
        number = self.random.randrange(6)
        if self.ids[number] in self.slow.devices:
            self.driver.remove_device(self.ids[number])
            del self.slow.devices[self.ids[number]]
        else:
            self.driver.add_device(device(number + 1))
            self.slow.devices[self.ids[number]] = None

    def seat(self):
        uids = self.random.choice([None, {1000}, {1000, 1002}, {1001}, set(), {5}])
        self.driver.set_active_uids(None if uids is None else frozenset(uids))
        self.slow.uids = uids


@pytest.mark.parametrize("seed", range(4))
def test_it_chooses_as_the_slow_way_does(seed):
    events = Events(seed)
    events.run(EVENTS // 4)
    assert not events.driver._changes


# What a change costs


class Counted(int):
    """A number that counts how often it is compared."""

    compared = 0

    def __lt__(self, other):
        Counted.compared += 1
        return int(self) < int(other)

    def __gt__(self, other):
        Counted.compared += 1
        return int(self) > int(other)


def crowd(players, devices):
    driver = Driver()
    for number in range(1, devices + 1):
        driver.add_device(device(number))
    numbers = count(1)
    for at in range(players):
        player = driver.register(str(at), 1000 + at % 3, at % 7)
        # Orders that count: taken out, renumbered and put back.
        driver._take(player)
        player.order = Counted(next(numbers))
        driver._put(player)
        if at % 3 == 0:
            driver.assign(player.id, device_id(1 + at % devices))
        play(driver, player, at % 2 == 0)
    driver.set_active_uids(frozenset({1000, 1001}))
    return driver


def work_of(call):
    """The lines of the model that run during a call, and the comparisons of players in it."""
    lines = 0

    def trace(frame, event, _):
        nonlocal lines
        if "buswork/fsct/model/" not in frame.f_code.co_filename:
            return None
        lines += event == "line"
        return trace

    Counted.compared = 0
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return lines, Counted.compared


def worst_status_change(players, devices):
    """The most work that a status of any of the players makes."""
    driver = crowd(players, devices)
    most = [0, 0]
    for player in list(driver.players.values())[:: players // 20]:
        for status in (Status.PLAYING, Status.PAUSED):
            work = work_of(lambda p=player, s=status: driver.update_status(p.id, s))
            most = [max(pair) for pair in zip(most, work, strict=True)]
    return most


def test_a_status_change_costs_a_few_looks_at_each_device_however_many_players_there_are():
    # What one device takes when its player is found at the last look, and what is done once.
    lines_of_one, comparisons_of_one, once = 80, 4, 80
    for devices in (5, 20):
        few, many = (worst_status_change(players, devices) for players in (200, 2000))
        assert few[0] <= lines_of_one * devices + once
        assert many[0] <= few[0] + once
        # A place is found by halves: 8 comparisons among 200 players, 3 more among 2,000.
        assert few[1] <= 8 * (comparisons_of_one * devices + 8)
        assert many[1] <= 11 * (comparisons_of_one * devices + 8)


def test_a_text_costs_a_look_at_each_device():
    few, many = (crowd(players, 20) for players in (20, 2000))
    work = [work_of(lambda d=driver: d.update_text(7, 1, "text"))[0] for driver in (few, many)]
    assert work[1] <= work[0] + 2
    assert work_of(lambda: many.update_text(7, 1, "other"))[1] == 0
