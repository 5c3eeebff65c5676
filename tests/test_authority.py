import asyncio
import gc
import os

import pytest
from support.fakebus import ERROR, FakeBus, FakePolkit, Refused

from buswork import authority as module
from buswork.authority import Authority, Limits, Quotas
from buswork.bus import polkit as polkit_module
from buswork.bus.caller import Callers, Peer
from buswork.bus.polkit import Polkit
from buswork.errors import (
    AccessDenied,
    Busy,
    Gone,
    InteractiveAuthorizationRequired,
    LimitsExceeded,
    TimedOut,
)
from buswork.log import DENIED

ALICE, BOB = ":1.7", ":1.8"
UID = 1000
OWN_UID = 500
ACTION = "org.toy.act"


class Clock:
    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
async def bus():
    async with FakeBus() as bus:
        bus.uids.update({ALICE: UID, BOB: UID + 1})
        yield bus


@pytest.fixture
def polkit(bus):
    return FakePolkit(bus)


@pytest.fixture
async def authority(bus, polkit):
    connection = await bus.connect()
    authority = Authority(Polkit(connection), Callers(connection), OWN_UID, Limits())
    await authority.start()
    return authority


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def require(authority, sender=ALICE, uid=UID, interactive=False, action=ACTION):
    return authority.require(sender, uid, action, interactive=interactive)


def begin(*arguments, **keywords):
    return asyncio.create_task(require(*arguments, **keywords))


def flags(polkit):
    return [question.values[3] for question in polkit.questions]


# Two steps (ATTACKS 12, 13)


async def test_a_yes_is_a_yes(authority, polkit):
    polkit.rules[ACTION] = "yes"
    await require(authority)
    assert flags(polkit) == [0]
    assert authority.questions == 1


async def test_a_no_names_the_action_and_is_logged(authority, polkit, caplog):
    caplog.set_level(0)
    with pytest.raises(AccessDenied, match=ACTION):
        await require(authority, interactive=True)
    assert flags(polkit) == [0]
    (record,) = [record for record in caplog.records if hasattr(record, "message_id")]
    assert record.message_id == DENIED
    assert record.fields["action"] == ACTION
    assert record.fields["uid"] == UID
    assert authority.denials == 1


@pytest.mark.attack(13)
async def test_13_a_challenge_without_the_flag_opens_no_prompt(authority, polkit):
    polkit.rules[ACTION] = "challenge"
    with pytest.raises(InteractiveAuthorizationRequired, match=ACTION):
        await require(authority)
    assert flags(polkit) == [0]


async def test_13_a_challenge_with_the_flag_asks_the_person(authority, polkit):
    polkit.rules[ACTION] = "challenge"
    await require(authority, interactive=True)
    assert flags(polkit) == [0, 1]


async def test_13_a_yes_asks_no_person(authority, polkit):
    polkit.rules[ACTION] = "yes"
    await require(authority, interactive=True)
    assert flags(polkit) == [0]


async def test_a_person_who_says_no(authority, polkit, bus):
    polkit.rules[ACTION] = "challenge-hang"
    task = begin(authority, interactive=True)
    question = await bus.asked("CheckAuthorization", 2)
    polkit.decide(question, "no")
    with pytest.raises(AccessDenied):
        await task


# What is kept (ATTACKS 38)


async def test_a_plain_yes_is_kept_for_its_sender_and_action(authority, polkit, clock):
    polkit.rules |= {ACTION: "yes", "org.toy.other": "yes"}
    assert authority.allowed_until(ALICE, ACTION) == 0
    for _ in range(3):
        await require(authority)
    assert len(polkit.questions) == 1
    await require(authority, BOB, UID + 1)
    await require(authority, action="org.toy.other")
    assert len(polkit.questions) == 3


async def test_38_a_yes_is_kept_for_five_seconds(authority, polkit, clock):
    polkit.rules[ACTION] = "yes"
    await require(authority)
    clock.now += module.KEEP_SECONDS + 0.1
    assert authority.allowed_until(ALICE, ACTION) == 0
    polkit.rules[ACTION] = "no"
    with pytest.raises(AccessDenied):
        await require(authority)


async def test_38_nobody_is_told_to_believe_it_for_longer(authority, polkit, clock):
    polkit.rules[ACTION] = "yes"
    await require(authority)
    asked_at = clock.now
    while until := authority.allowed_until(ALICE, ACTION):
        assert clock.now <= until <= asked_at + module.KEEP_SECONDS
        polkit.rules[ACTION] = "hang"
        clock.now += 0.3
    assert clock.now > asked_at + module.KEEP_SECONDS - 0.3


async def test_a_yes_that_is_used_is_renewed_before_it_ends(bus, authority, polkit, clock):
    polkit.rules[ACTION] = "yes"
    await require(authority)
    clock.now += module.KEEP_SECONDS - 0.5
    await require(authority)
    await bus.settle()
    assert len(polkit.questions) == 2
    clock.now += module.KEEP_SECONDS - 1.5
    await require(authority)
    assert len(polkit.questions) == 2


async def test_who_calls_while_a_yes_is_renewed_does_not_wait(bus, authority, polkit, clock):
    polkit.rules[ACTION] = "yes"
    await require(authority)
    ends_at = clock.now + module.KEEP_SECONDS
    clock.now = ends_at - module.RENEW_SECONDS - 0.01
    assert authority.allowed_until(ALICE, ACTION) == ends_at - module.RENEW_SECONDS
    await bus.settle()
    assert len(polkit.questions) == 1
    polkit.rules[ACTION] = "hang"
    clock.now = ends_at - module.RENEW_SECONDS
    for _ in range(3):
        assert authority.allowed_until(ALICE, ACTION) == ends_at
        await require(authority)  # polkit is silent, and nobody waits for it
    question = await bus.asked("CheckAuthorization", 2)
    await bus.settle()
    assert len(polkit.questions) == 2
    polkit.decide(question, "yes")
    await bus.settle()
    clock.now = ends_at + 0.01
    await require(authority)
    assert len(polkit.questions) == 2


@pytest.mark.parametrize("rule", [Refused("org.freedesktop.PolicyKit1.Error.Failed"), "hang"])
async def test_38_a_renewal_that_fails_is_asked_for_anew_and_makes_no_noise(
    bus, authority, polkit, clock, monkeypatch, rule
):
    complaints = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
    polkit.rules[ACTION] = "yes"
    await require(authority)
    monkeypatch.setattr(module, "PLAIN_SECONDS", 0.0)
    clock.now += module.KEEP_SECONDS - 0.5
    polkit.rules[ACTION] = rule
    await require(authority)
    await bus.settle()
    assert authority._plain == {}
    gc.collect()
    assert complaints == []
    monkeypatch.setattr(module, "PLAIN_SECONDS", 60.0)
    clock.now += 1.0
    polkit.rules[ACTION] = "no"
    with pytest.raises(AccessDenied):
        await require(authority)


async def test_39_renewals_do_not_crowd_out_questions(authority, polkit, clock, monkeypatch):
    polkit.rules[ACTION] = "yes"
    await require(authority)
    monkeypatch.setattr(module, "MAX_WAITING_PLAIN", 0)
    clock.now += module.KEEP_SECONDS - 0.5
    assert authority.allowed_until(ALICE, ACTION) > 0
    assert authority._plain == {}


@pytest.mark.parametrize("rule", ["no", "challenge", "temporary"])
async def test_38_a_renewal_that_is_no_yes_lets_it_end(bus, authority, polkit, clock, rule):
    polkit.rules[ACTION] = "yes"
    await require(authority)
    clock.now += module.KEEP_SECONDS - 0.5
    polkit.rules[ACTION] = rule
    authority.allowed_until(ALICE, ACTION)
    await bus.settle()
    clock.now += 1.0
    assert authority.allowed_until(ALICE, ACTION) == 0


@pytest.mark.attack(38)
@pytest.mark.parametrize("rule", ["temporary", "challenge"])
async def test_38_a_password_is_never_kept(authority, polkit, rule):
    polkit.rules[ACTION] = rule
    for number in range(3):
        await require(authority, interactive=True)
        assert authority.allowed_until(ALICE, ACTION) == 0
        assert len(polkit.questions) == (number + 1) * (2 if rule == "challenge" else 1)


@pytest.mark.attack(38)
async def test_38_a_change_at_polkit_ends_what_is_kept(bus, authority, polkit):
    told = []
    authority.on_change(lambda: told.append(1))
    polkit.rules[ACTION] = "yes"
    await require(authority)
    polkit.change()
    await bus.settle()
    assert told == [1]
    assert authority.allowed_until(ALICE, ACTION) == 0


async def test_38_a_restart_of_polkit_ends_what_is_kept(bus, authority, polkit):
    polkit.rules[ACTION] = "yes"
    await require(authority)
    bus.own(polkit.NAME, ":1.4")
    await bus.settle()
    assert authority.allowed_until(ALICE, ACTION) == 0


async def test_37_a_forged_change_ends_nothing(bus, authority, polkit):
    polkit.rules[ACTION] = "yes"
    await require(authority)
    polkit.change(":1.66")
    await bus.settle()
    assert authority.allowed_until(ALICE, ACTION) > 0


async def test_38_an_answer_to_a_question_from_before_the_change_is_not_kept(
    bus, authority, polkit
):
    polkit.rules[ACTION] = "hang"
    task = begin(authority)
    question = await bus.asked("CheckAuthorization")
    polkit.change()
    await bus.settle()
    polkit.decide(question, "yes")
    await task
    assert authority.allowed_until(ALICE, ACTION) == 0


async def test_29_what_is_kept_is_bounded(authority, polkit, monkeypatch):
    monkeypatch.setattr(module, "MAX_KEPT", 5)
    for number in range(20):
        polkit.rules[f"{ACTION}{number}"] = "yes"
        await require(authority, action=f"{ACTION}{number}")
        assert len(authority._kept) <= 5


# Errors mean no (ATTACKS 5, 7)


@pytest.mark.attack(7)
@pytest.mark.parametrize("uid", [0, OWN_UID, UID])
async def test_07_without_polkit_only_root_and_our_own_user_may(authority, polkit, uid):
    polkit.absent()
    if uid == UID:
        with pytest.raises(AccessDenied, match=ACTION):
            await require(authority, uid=uid)
        assert authority.allowed_until(ALICE, ACTION) == 0
    else:
        await require(authority, uid=uid)


async def test_07_polkit_that_comes_back_is_asked(bus, authority, polkit):
    polkit.absent()
    await require(authority, uid=OWN_UID)
    FakePolkit(bus, ":1.5")
    bus.own(polkit.NAME, ":1.5")
    await bus.settle()
    with pytest.raises(AccessDenied):
        await require(authority, uid=OWN_UID)


@pytest.mark.parametrize("uid", [0, OWN_UID, UID])
@pytest.mark.parametrize("interactive", [False, True])
async def test_07_a_polkit_that_refuses_to_judge_means_no(
    bus, authority, polkit, uid, interactive, caplog
):
    polkit.rules[ACTION] = Refused("org.freedesktop.PolicyKit1.Error.Failed", "not owner")
    with pytest.raises(AccessDenied) as caught:
        await require(authority, uid=uid, interactive=interactive)
    assert "not owner" not in str(caught.value)


async def test_07_a_polkit_that_fails_at_the_prompt_means_no(bus, authority, polkit):
    polkit.rules[ACTION] = "challenge-hang"
    task = begin(authority, interactive=True)
    bus.refuse(await bus.asked("CheckAuthorization", 2), "org.freedesktop.PolicyKit1.Error.Failed")
    with pytest.raises(AccessDenied):
        await task
    assert authority.allowed_until(ALICE, ACTION) == 0


async def test_12_a_question_without_answer_times_out_and_is_cancelled(
    bus, authority, polkit, monkeypatch
):
    monkeypatch.setattr(module, "PLAIN_SECONDS", 0.0)
    polkit.rules[ACTION] = "hang"
    with pytest.raises(TimedOut, match=ACTION):
        await require(authority)
    await bus.settle()
    assert polkit.cancelled == [question.values[4] for question in polkit.questions]
    assert authority._plain == {}


@pytest.mark.attack(12)
async def test_12_a_prompt_without_answer_times_out_and_is_cancelled(
    bus, authority, polkit, monkeypatch
):
    monkeypatch.setattr(polkit_module, "INTERACTIVE_SECONDS", 0.0)
    polkit.rules[ACTION] = "challenge-hang"
    with pytest.raises(TimedOut, match=ACTION):
        await require(authority, interactive=True)
    await bus.settle()
    assert polkit.cancelled == [polkit.questions[1].values[4]]
    assert authority._interactive.total() == 0


# Leaving (ATTACKS 12, 35)


@pytest.mark.parametrize("rule", ["hang", "challenge-hang"])
async def test_35_who_leaves_takes_its_question_along(bus, authority, polkit, rule):
    polkit.rules[ACTION] = rule
    task = begin(authority, interactive=True)
    question = await bus.asked("CheckAuthorization", 1 if rule == "hang" else 2)
    await bus.settle()
    bus.leave(ALICE)
    with pytest.raises(Gone):
        await task
    await bus.settle()
    assert polkit.cancelled == [question.values[4]]
    assert authority._plain == {}
    assert authority._interactive.total() == 0
    assert authority.denials == 0


async def test_35_who_left_before_the_question_is_gone_without_noise(bus, authority, polkit):
    complaints = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: complaints.append(context))
    del bus.uids[ALICE]
    for rule in ("no", "hang", "challenge", "yes"):
        polkit.rules[ACTION] = rule
        with pytest.raises(Gone):
            await require(authority)
        await bus.settle()
    gc.collect()
    assert complaints == []


async def test_12_one_question_for_equal_ones_and_it_lives_while_one_waits(bus, authority, polkit):
    polkit.rules[ACTION] = "hang"
    tasks = [begin(authority) for _ in range(5)]
    question = await bus.asked("CheckAuthorization")
    await bus.settle()
    assert len(polkit.questions) == 1
    for task in tasks[:4]:
        task.cancel()
    await bus.settle()
    assert polkit.cancelled == []
    polkit.decide(question, "yes")
    await tasks[4]
    await asyncio.gather(*tasks[:4], return_exceptions=True)


async def test_12_who_asks_when_the_last_one_gives_up_asks_anew(bus, authority, polkit):
    polkit.rules[ACTION] = "hang"
    first = asyncio.create_task(authority.may(ALICE, UID, ACTION))
    await bus.asked("CheckAuthorization")
    first.cancel()
    await asyncio.sleep(0)
    polkit.rules[ACTION] = "yes"
    second = asyncio.create_task(authority.may(ALICE, UID, ACTION))
    assert await second
    with pytest.raises(asyncio.CancelledError):
        await first
    assert authority._plain == {}


# Places (ATTACKS 12, 39)


async def test_39_prompts_have_four_places_for_each_uid(bus, authority, polkit):
    names = [f":2.{number}" for number in range(6)]
    bus.uids.update(dict.fromkeys(names, UID))
    polkit.rules[ACTION] = "challenge-hang"
    tasks = [begin(authority, name, interactive=True) for name in names[:4]]
    await bus.asked("CheckAuthorization", 8)
    with pytest.raises(Busy, match=ACTION):
        async with asyncio.timeout(10):  # one prompt more would hang for ever
            await require(authority, names[4], interactive=True)
    other = begin(authority, BOB, UID + 1, interactive=True)
    question = await bus.asked("CheckAuthorization", 11)
    polkit.decide(question, "yes")
    await other
    polkit.decide(polkit.questions[7], "yes")
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    tasks.append(begin(authority, names[5], interactive=True))
    await bus.asked("CheckAuthorization", 13)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert authority._interactive.total() == 0


@pytest.mark.attack(39)
async def test_39_prompts_have_64_places_in_all_and_plain_questions_go_on(bus, authority, polkit):
    names = [f":2.{number}" for number in range(70)]
    bus.uids.update({name: 2000 + number // 4 for number, name in enumerate(names)})
    polkit.rules |= {ACTION: "challenge-hang", "org.toy.other": "yes"}
    tasks = [begin(authority, name, bus.uids[name], interactive=True) for name in names[:64]]
    await bus.asked("CheckAuthorization", 128)
    with pytest.raises(Busy):
        await require(authority, names[66], bus.uids[names[66]], interactive=True)
    await require(authority, BOB, UID + 1, action="org.toy.other")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.attack(39)
async def test_39_plain_questions_have_32_places_and_wait_for_them(bus, authority, polkit):
    polkit.rules |= {f"{ACTION}{number}": "hang" for number in range(40)}
    tasks = [begin(authority, uid=number % 3, action=f"{ACTION}{number}") for number in range(40)]
    await bus.asked("CheckAuthorization", module.PLACES_PLAIN)
    await bus.settle()
    assert len(polkit.questions) == module.PLACES_PLAIN
    for number in range(40):
        polkit.decide(await bus.asked("CheckAuthorization", number + 1), "yes")
    await asyncio.gather(*tasks)


async def test_39_questions_of_one_user_leave_half_of_the_places_to_others(bus, authority, polkit):
    polkit.rules |= {f"{ACTION}{number}": "hang" for number in range(100)}
    tasks = [begin(authority, uid=7, action=f"{ACTION}{number}") for number in range(50)]
    await bus.asked("CheckAuthorization", module.PLACES_PLAIN_PER_UID)
    await bus.settle()
    assert len(polkit.questions) == module.PLACES_PLAIN_PER_UID
    polkit.rules["org.toy.other"] = "yes"
    await require(authority, action="org.toy.other")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_39_those_who_wait_for_a_place_are_bounded(bus, authority, polkit, monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING_PLAIN", 3)
    polkit.rules |= {f"{ACTION}{number}": "hang" for number in range(3)}
    tasks = [begin(authority, action=f"{ACTION}{number}") for number in range(3)]
    await bus.asked("CheckAuthorization", 3)
    with pytest.raises(Busy):
        await require(authority, action="org.toy.other")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# What one may read


@pytest.mark.parametrize(
    ("rule", "allowed"), [("yes", True), ("no", False), ("challenge", False), ("temporary", True)]
)
async def test_13_may_is_a_question_without_prompt_and_without_event(
    authority, polkit, rule, allowed, caplog
):
    polkit.rules[ACTION] = rule
    assert await authority.may(ALICE, UID, ACTION) is allowed
    assert flags(polkit) == [0]
    assert authority.denials == 0


# Native peers (ATTACKS 1, 2)


@pytest.fixture
def process():
    """A process that ends when its end of a pipe is closed."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    pidfd = os.pidfd_open(pid)
    ended = []

    def end():
        if not ended:
            ended.append(1)
            os.close(write)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    yield Peer(UID, pid, pidfd), end
    end()
    os.waitpid(pid, 0)
    os.close(pidfd)


async def test_a_peer_is_asked_for_once(authority, polkit, process):
    peer, _ = process
    polkit.rules[ACTION] = "yes"
    for _ in range(3):
        await authority.require_peer(peer, ACTION)
    assert len(polkit.questions) == 1
    assert polkit.questions[0].values[0][0] == "unix-process"


async def test_13_nobody_asks_a_peer_for_a_password(authority, polkit, process):
    polkit.rules[ACTION] = "challenge"
    with pytest.raises(InteractiveAuthorizationRequired):
        await authority.require_peer(process[0], ACTION)
    assert flags(polkit) == [0]
    assert authority.denials == 1


async def test_01_a_process_that_ended_is_denied_whatever_was_kept(authority, polkit, process):
    peer, end = process
    polkit.rules[ACTION] = "yes"
    await authority.require_peer(peer, ACTION)
    end()
    with pytest.raises(AccessDenied):
        await authority.require_peer(peer, ACTION)


@pytest.mark.attack(1)
async def test_01_a_process_that_ends_during_the_question_is_denied(
    bus, authority, polkit, process
):
    peer, end = process
    polkit.rules[ACTION] = "hang"
    task = asyncio.create_task(authority.require_peer(peer, ACTION))
    question = await bus.asked("CheckAuthorization")
    end()
    polkit.decide(question, "yes")
    with pytest.raises(AccessDenied):
        await task
    assert authority._kept == {}


async def test_01_the_next_process_of_a_pid_is_asked_for_anew(authority, polkit, process):
    """What one process was granted is not the next one's, though all its numbers be the same."""
    peer, _ = process
    polkit.rules[ACTION] = "yes"
    await authority.require_peer(peer, ACTION)
    again = Peer(peer.uid, peer.pid, peer.pidfd)
    assert authority.peer_is_known(peer, ACTION)
    assert not authority.peer_is_known(again, ACTION)
    polkit.rules[ACTION] = "no"
    with pytest.raises(AccessDenied):
        await authority.require_peer(again, ACTION)
    await authority.require_peer(peer, ACTION)


async def test_a_peer_is_known_for_its_action_and_its_time(authority, polkit, process, clock):
    peer, _ = process
    polkit.rules[ACTION] = "yes"
    assert not authority.peer_is_known(peer, ACTION)
    await authority.require_peer(peer, ACTION)
    assert authority.peer_is_known(peer, ACTION)
    assert not authority.peer_is_known(peer, "org.toy.other")
    clock.now += module.KEEP_SECONDS + 0.1
    assert not authority.peer_is_known(peer, ACTION)


async def test_a_peer_that_is_forgotten_is_asked_for_anew(authority, polkit, process):
    peer, _ = process
    polkit.rules |= {ACTION: "yes", "org.toy.other": "yes"}
    await require(authority)
    for action in (ACTION, "org.toy.other"):
        await authority.require_peer(peer, action)
    authority.forget_peer(peer)
    assert not authority.peer_is_known(peer, ACTION)
    assert list(authority._kept) == [(ALICE, ACTION)]


async def test_38_a_peers_yes_ends_as_well(authority, polkit, process, clock):
    peer, _ = process
    polkit.rules[ACTION] = "yes"
    await authority.require_peer(peer, ACTION)
    clock.now += module.KEEP_SECONDS + 0.1
    polkit.rules[ACTION] = "no"
    with pytest.raises(AccessDenied):
        await authority.require_peer(peer, ACTION)


# Quotas (ATTACKS 29, 30)


@pytest.mark.attack(29)
@pytest.mark.parametrize("kind", ["calls", "waiting_bytes", "objects", "watches", "descriptors"])
def test_29_one_uid_has_what_the_limits_say_and_no_more(kind):
    quotas = Quotas(Limits())
    limit = getattr(Limits(), kind)
    lease = quotas.take(UID, kind, limit)
    with pytest.raises(LimitsExceeded, match=str(limit)):
        quotas.take(UID, kind)
    quotas.take(UID + 1, kind)
    quotas.take(UID, "calls" if kind != "calls" else "objects")
    lease.release()
    assert quotas.used(UID, kind) == 0
    quotas.take(UID, kind, limit)


def test_29_root_is_counted_too():
    quotas = Quotas(Limits(objects=1))
    quotas.take(0, "objects")
    with pytest.raises(LimitsExceeded):
        quotas.take(0, "objects")


def test_giving_back_twice_counts_once():
    quotas = Quotas(Limits())
    leases = [quotas.take(UID, "calls") for _ in range(3)]
    leases[0].release()
    leases[0].release()
    assert quotas.used(UID, "calls") == 2


def test_29_a_count_of_nothing_takes_no_memory():
    quotas = Quotas(Limits(calls=1))
    for uid in range(100):
        lease = quotas.take(uid, "calls")
        with pytest.raises(LimitsExceeded):
            quotas.take(uid, "calls")
        lease.release()
        with pytest.raises(LimitsExceeded):
            quotas.take(uid, "calls", 2)
    assert len(quotas._used) == 0


def test_errors_are_named():
    assert Busy.name == "org.buswork.Error.Busy"
    assert AccessDenied.name == ERROR + "AccessDenied"
