"""Who may do what, with the real polkit, and with one that the test speaks for itself.

Many of these are cases of what attackers do to D-Bus services; those have their number.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from support import toywing
from support.agent import Agent
from support.machine import (
    OPEN_POLICY,
    POLKIT_NAME,
    CallError,
    Client,
    Daemon,
    Machine,
    Variant,
    why_not,
)
from support.places import (
    BUSY,
    CLEAR,
    DAEMON,
    DBUS_ERROR,
    FORCE,
    FROM_NOW,
    LOG_CONTROL,
    OBSERVE,
    PROPERTIES,
    READ,
    SET_LEVEL,
    STORE,
    WRITE,
    Lines,
    check_unharmed,
    deny,
    eventually,
    get_key,
    refused,
    set_key,
    store,
)
from support.raw import INTERACTIVE, Crowd, Heard, Raw

pytestmark = pytest.mark.system

AUTHORITY = ("/org/freedesktop/PolicyKit1/Authority", f"{POLKIT_NAME}.Authority")
TOYS = (toywing.PATH, toywing.INTERFACE)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine() as machine:
        machine.add_policy(OPEN_POLICY)
        yield machine


@pytest.fixture(scope="module")
def daemon(machine: Machine) -> Daemon:
    return machine.start_daemon(command=toywing.COMMAND)


@pytest.fixture
def alice(machine: Machine, daemon: Daemon) -> Iterator[Client]:
    """A new one for each test: what polkit keeps, it keeps for a process."""
    client = machine.client("alice")
    yield client
    client.hang_up()
    check_unharmed(machine, daemon)


@pytest.fixture(scope="module")
def bob(machine: Machine, daemon: Daemon) -> Client:
    return machine.client("bob")


@pytest.fixture(scope="module")
def root(machine: Machine, daemon: Daemon) -> Client:
    return machine.client("root")


# --- Rules ----------------------------------------------------------------------------------------


def test_a_rule_takes_effect_at_once(
    machine: Machine, daemon: Daemon, alice: Client, bob: Client
) -> None:
    set_key(alice, "x", "1")  # and so there is a kept yes
    rule = machine.add_rule(deny(WRITE))
    for member, signature, values in (
        ("Set", "ss", ["x", "2"]),
        ("SetWith", "ssa{sv}", ["x", "2", {}]),
        ("SetMany", "a{ss}", [{"x": "2"}]),
        ("CompareAndSet", "sts", ["x", 0, "2"]),
        ("Delete", "s", ["x"]),
        ("Mark", "s", ["2"]),
    ):
        with refused("AccessDenied", WRITE):
            store(alice, member, signature, *values)
    assert get_key(alice, "x") == "1"
    assert alice.get(*STORE, "LastMark") != "2"
    set_key(bob, "x", "3")
    machine.remove_rule(rule)
    set_key(alice, "x", "4")

    line = next(line for line in daemon.says("denied").splitlines() if "denied" in line)
    for fact in (f"action={WRITE}", f"uid={machine.uid('alice')}", f"client={alice.name}"):
        assert fact in line
    assert alice.get(*DAEMON, "Statistics")["denied"] >= 6


def test_who_may_not_read_is_shown_nothing(machine: Machine, alice: Client, bob: Client) -> None:
    set_key(bob, "seen", "by some")
    rule = machine.add_rule(deny(READ))
    for member, signature, values in (
        ("Get", "s", ["seen"]),
        ("Lookup", "s", ["seen"]),
        ("Describe", "s", ["seen"]),
        ("GetMany", "as", [["seen"]]),
        ("List", "s", [""]),
        ("Watch", "st", ["", FROM_NOW]),
    ):
        with refused("AccessDenied", READ):
            store(alice, member, signature, *values)
    for name in ("Count", "Bytes", "Revision", "LastMark"):
        with refused("AccessDenied", READ):
            alice.get(*STORE, name)
    assert alice.get(*STORE, "MaxKeyBytes") == 1024
    shown = alice.call(STORE[0], PROPERTIES, "GetAll", "s", STORE[1]).value
    assert set(shown) == {
        "MaxKeyBytes",
        "MaxValueBytes",
        "MaxBytesPerUid",
        "MaxKeysPerUid",
        "MaxBytes",
        "MaxHistoryChanges",
        "MaxHistoryBytes",
    }
    assert set(bob.call(STORE[0], PROPERTIES, "GetAll", "s", STORE[1]).value) - set(shown) == {
        "Count",
        "Bytes",
        "Revision",
        "LastMark",
    }
    machine.remove_rule(rule)
    assert get_key(alice, "seen") == "by some"


def test_a_rule_that_throws_means_no(machine: Machine, alice: Client, bob: Client) -> None:
    rule = machine.add_rule(
        'polkit.addRule(function (a, s) { if (s.user == "alice") throw "up"; });'
    )
    with refused("AccessDenied", WRITE):
        set_key(alice, "x", "1")
    set_key(bob, "x", "2")
    machine.remove_rule(rule)
    set_key(alice, "x", "3")


def test_a_rule_that_loops_holds_up_only_its_own(
    machine: Machine, daemon: Daemon, alice: Client, bob: Client
) -> None:
    """polkit answers nobody for 15 s then; who has an answer already, and what is open to all,
    is served meanwhile."""
    rule = machine.add_rule(
        f'polkit.addRule(function (a, s) {{ if (s.user == "alice" && a.id == "{WRITE}") '
        "while (true) {} });"
    )
    assert get_key(bob, "x") is not None
    ticket = alice.begin(*STORE, "Set", "ss", "x", "looped")
    eventually(lambda: bob.get(*DAEMON, "Statistics")["questions"])
    for _ in range(20):
        get_key(bob, "x")
        assert alice.get(*DAEMON, "ApiVersion") == 1
    with refused("AccessDenied", WRITE):
        alice.end(ticket)
    assert get_key(bob, "x") != "looped"
    machine.remove_rule(rule)


# --- Prompts --------------------------------------------------------------------------------------


@pytest.mark.attack(13)
def test_attack_13_no_prompt_without_the_flag(machine: Machine, alice: Client) -> None:
    with Agent(machine, alice.pid, answer="yes") as agent:
        for call in (
            lambda: store(alice, "Clear"),
            lambda: alice.call(*DAEMON, "ListClients"),
            lambda: alice.call(*DAEMON, "ForceRelease", "o", "/x"),
            lambda: alice.call(
                LOG_CONTROL[0],
                PROPERTIES,
                "Set",
                "ssv",
                LOG_CONTROL[1],
                "LogLevel",
                Variant("s", "debug"),
            ),
        ):
            with refused("InteractiveAuthorizationRequired", "org."):
                call()
        assert agent.asked == []
        store(alice, "Clear", interactive=True)
        assert agent.wait_asked().action == CLEAR


def test_clear_without_an_agent(alice: Client, root: Client) -> None:
    set_key(alice, "x", "1")
    with refused("InteractiveAuthorizationRequired", CLEAR):
        store(alice, "Clear")
    with refused("AccessDenied", CLEAR):
        store(alice, "Clear", interactive=True)
    assert get_key(alice, "x") == "1"
    store(root, "Clear")
    assert get_key(alice, "x") == ""


def test_clear_with_an_agent(machine: Machine, alice: Client, bob: Client) -> None:
    with Agent(machine, alice.pid, answer="no") as agent:
        set_key(alice, "x", "1")
        for answer in ("no", "fail"):
            agent.answer(answer)
            with refused("AccessDenied", CLEAR):
                store(alice, "Clear", interactive=True)
            assert agent.wait_asked().action == CLEAR
        assert get_key(bob, "x") == "1"
        agent.answer("hang")
        ticket = alice.begin(*STORE, "Clear", flags=Client.INTERACTIVE)
        agent.wait_asked()
        assert get_key(bob, "x") == "1", "others are served meanwhile"
        later = alice.begin(*STORE, "Get", "s", "x")
        assert not alice.answered(later), "one's own later calls keep their order"
        set_key(bob, "y", "2")
        agent.answer("yes")
        alice.end(ticket)
        assert alice.end(later).value == ""
        assert get_key(bob, "y") == ""


def test_attack_12_who_leaves_takes_the_prompt_along(
    machine: Machine, daemon: Daemon, bob: Client
) -> None:
    set_key(bob, "x", "1")
    victim = machine.client("alice")
    with Crowd(machine, "alice", 1) as crowd, Agent(machine, crowd.pid, answer="hang") as agent:
        serial = crowd[0].call(*STORE, "Clear", flags=INTERACTIVE)
        asked = agent.wait_asked()
        crowd[0].close()
        agent.wait_cancelled(asked.cookie)
        assert serial
        agent.answer("yes")
    victim.close()
    assert get_key(bob, "x") == "1"
    check_unharmed(machine, daemon, bob)


@pytest.mark.attack(38)
def test_attack_38_a_password_once_is_not_a_password_for_ever(
    machine: Machine, alice: Client
) -> None:
    """auth_admin without keep: what polkit says then looks exactly like a rule's yes."""
    rule = machine.add_rule(
        "polkit.addRule(function (action, subject) {\n"
        f'  if (action.id == "{CLEAR}") return polkit.Result.AUTH_ADMIN;\n'
        "});"
    )
    with Agent(machine, alice.pid, answer="yes") as agent:
        for count in range(1, 4):
            store(alice, "Clear", interactive=True)
            agent.wait_asked()
            assert len(agent.asked) == count
        with refused("InteractiveAuthorizationRequired"):
            store(alice, "Clear")
    machine.remove_rule(rule)


def test_what_polkit_keeps_ends_when_polkit_says(machine: Machine, alice: Client) -> None:
    with Agent(machine, alice.pid, answer="yes") as agent:
        store(alice, "Clear", interactive=True)
        agent.wait_asked()
        store(alice, "Clear")
        store(alice, "Clear", interactive=True)
        assert len(agent.asked) == 1, "auth_admin_keep"
    machine.restart_polkit()  # revoking by name needs a session, which nobody has here
    with refused("InteractiveAuthorizationRequired"):
        store(alice, "Clear")
    with Agent(machine, alice.pid, answer="yes") as agent:
        store(alice, "Clear", interactive=True)
        assert agent.wait_asked().action == CLEAR


@pytest.mark.attack(13)
def test_four_prompts_for_one_uid(machine: Machine, daemon: Daemon, bob: Client) -> None:
    """More at once are refused, before polkit is asked for them."""
    with Crowd(machine, "alice", 6) as crowd, Agent(machine, crowd.pid, answer="hang") as agent:
        serials = [one.call(*STORE, "Clear", flags=INTERACTIVE) for one in crowd]
        answers: dict[int, Heard] = {}

        def refused_ones() -> bool:
            for number, one in enumerate(crowd):
                if number not in answers and one.has_answer(serials[number]):
                    answers[number] = one.answer(serials[number])
            return len(answers) == 2

        eventually(refused_ones)
        assert {answer.error for answer in answers.values()} == {BUSY}
        for _ in range(4):
            agent.wait_asked()
        set_key(bob, "x", "1")
        agent.answer("yes")
        for number, one in enumerate(crowd):
            if number not in answers:
                assert one.answer(serials[number]).error == ""
    check_unharmed(machine, daemon, bob)


# --- Things of one's own and of others ------------------------------------------------------------


def test_list_clients_and_force_release(
    machine: Machine, daemon: Daemon, alice: Client, bob: Client, root: Client
) -> None:
    lines = Lines.watch(alice, "x")
    store(alice, "SetWith", "ssa{sv}", "leased", "x", {"until_i_leave": Variant("b", True)})
    for member, signature, values, action in (
        ("ListClients", "", [], OBSERVE),
        ("ForceRelease", "o", ["/org/mapipc/Store/watches/1"], FORCE),
    ):
        with refused("InteractiveAuthorizationRequired", action):
            bob.call(*DAEMON, member, signature, *values)
    held = root.call(*DAEMON, "ListClients").value
    ours = {entry["what"].value: entry for entry in held if entry["client"].value == alice.name}
    assert set(ours) == {"a watch on 'x'", "keys that go with this client"}
    for entry in ours.values():
        assert entry["uid"] == Variant("u", machine.uid("alice"))
        assert entry["wing"] == Variant("s", "store")
        assert entry["path"].signature == "o"
        root.call(*DAEMON, "ForceRelease", "o", entry["path"].value)
        with refused("UnknownObject"):
            root.call(*DAEMON, "ForceRelease", "o", entry["path"].value)
    with lines:
        assert lines.rest() == []
    assert get_key(alice, "leased") == ""
    daemon.says("taken away")
    with Agent(machine, alice.pid, answer="yes") as agent:
        assert alice.call(*DAEMON, "ListClients", interactive=True).value is not None
        assert agent.wait_asked().action == OBSERVE


@pytest.mark.attack(34)
def test_attack_34_release_and_touch_by_others(alice: Client, bob: Client, root: Client) -> None:
    path = alice.call(*TOYS, "Make", "s", "hers").value
    thing = (path, toywing.THING)
    assert "touched" in alice.call(*thing, "Touch").value
    with refused("InteractiveAuthorizationRequired", FORCE):
        bob.call(*thing, "Touch")
    with refused("org.buswork.Error.NotOwner"):
        bob.call(*thing, "Drop")
    assert alice.get(*thing, "Secret").startswith("secret of")
    with refused("InteractiveAuthorizationRequired", OBSERVE):
        bob.get(*thing, "Secret")
    assert set(alice.call(path, PROPERTIES, "GetAll", "s", thing[1]).value) == {"Name", "Secret"}
    assert set(bob.call(path, PROPERTIES, "GetAll", "s", thing[1]).value) == {"Name"}
    manager = ("org.freedesktop.DBus.ObjectManager", "GetManagedObjects")
    assert set(bob.call(TOYS[0], *manager).value[path][thing[1]]) == {"Name"}
    assert set(alice.call(TOYS[0], *manager).value[path][thing[1]]) == {"Name", "Secret"}
    assert set(root.call(TOYS[0], *manager).value[path][thing[1]]) == {"Name", "Secret"}
    alice.call(*thing, "Drop")
    with refused("UnknownObject"):
        alice.call(*thing, "Touch")


@pytest.mark.attack(19)
def test_attack_19_what_not_everybody_may_read_is_not_broadcast(alice: Client, bob: Client) -> None:
    bob.add_match("type='signal',sender='org.buswork'")
    path = alice.call(*TOYS, "Make", "s", "hers").value
    added = bob.wait_signal("InterfacesAdded")
    assert added.path == TOYS[0]
    assert set(added.body[1][toywing.THING]) == {"Name"}
    alice.call(path, toywing.THING, "HandOver", "u", 4321)
    changed = bob.wait_signal("PropertiesChanged").body
    assert changed == [toywing.THING, {"Name": Variant("s", "hers")}, ["Secret"]]


@pytest.mark.attack(11)
def test_attack_11_the_thing_goes_while_the_prompt_is_open(
    machine: Machine, alice: Client, bob: Client
) -> None:
    path = bob.call(*TOYS, "Make", "s", "his").value
    thing = (path, toywing.THING)
    with Agent(machine, alice.pid, answer="hang") as agent:
        ticket = alice.begin(*thing, "Touch", flags=Client.INTERACTIVE)
        assert agent.wait_asked().action == FORCE
        bob.call(*thing, "Drop")
        agent.answer("yes")
        with refused("UnknownObject", path):
            alice.end(ticket)


@pytest.mark.attack(11)
def test_attack_11_the_thing_changes_hands_while_the_prompt_is_open(
    machine: Machine, alice: Client, bob: Client
) -> None:
    """Asked for the action of one's own thing, it must not be done to another's."""
    path = alice.call(*TOYS, "Make", "s", "hers").value
    thing = (path, toywing.THING)
    rule = machine.add_rule(
        "polkit.addRule(function (action, subject) {\n"
        f'  if (action.id == "{WRITE}") return polkit.Result.AUTH_ADMIN;\n'
        "});"
    )
    with Agent(machine, alice.pid, answer="hang") as agent:
        ticket = alice.begin(*thing, "Touch", flags=Client.INTERACTIVE)
        assert agent.wait_asked().action == WRITE
        bob.call(*thing, "HandOver", "u", 4321)
        agent.answer("yes")
        with refused("AccessDenied", "changed hands"):
            alice.end(ticket)
    machine.remove_rule(rule)
    assert bob.call(*thing, "Count").value == 0


@pytest.mark.attack(39)
def test_attack_39_hanging_prompts_use_up_no_slots(
    machine: Machine, daemon: Daemon, bob: Client
) -> None:
    """300 callers, each with a prompt that nobody answers: a new caller is served all the same."""
    with (
        Crowd(machine, "alice", 150) as some,
        Crowd(machine, "bob", 150) as others,
        Agent(machine, some.pid, answer="hang"),
        Agent(machine, others.pid, answer="hang"),
    ):
        everybody = [*some, *others]
        serials = [one.call(*STORE, "Clear", flags=INTERACTIVE) for one in everybody]
        waiting = list(zip(everybody, serials, strict=True))
        answers: list[Heard] = []

        def all_but_eight() -> bool:
            for entry in list(waiting):
                one, serial = entry
                if one.has_answer(serial):
                    answers.append(one.answer(serial))
                    waiting.remove(entry)
            return len(waiting) == 8

        eventually(all_but_eight, timeout=25)
        assert {answer.error for answer in answers} <= {BUSY, DBUS_ERROR + "LimitsExceeded"}
        newcomer = machine.client("alice")  # nothing is kept for this one: polkit is asked
        set_key(newcomer, "x", "served")
        assert get_key(bob, "x") == "served"
        newcomer.close()
    check_unharmed(machine, daemon, bob)


# --- polkit is not well ---------------------------------------------------------------------------


@pytest.mark.attack(7)
def test_attack_07_polkit_absent_means_no(machine: Machine, alice: Client, root: Client) -> None:
    set_key(alice, "x", "1")
    machine.stop_polkit()
    with refused("AccessDenied", WRITE, "polkit can't be asked"):
        set_key(alice, "x", "2")
    with refused("AccessDenied", CLEAR):
        store(alice, "Clear", interactive=True)
    assert alice.get(*DAEMON, "ApiVersion") == 1
    set_key(root, "x", "3")
    store(root, "Clear")
    machine.start_polkit()
    set_key(alice, "x", "4")
    machine.restart_polkit()
    set_key(alice, "x", "5")


def test_attack_07_a_restart_with_other_rules_is_noticed(machine: Machine, alice: Client) -> None:
    set_key(alice, "x", "1")
    machine.stop_polkit()
    (machine.base / "rules" / "00-late.rules").write_text(deny(WRITE))
    (machine.base / "rules" / "00-late.rules").chmod(0o644)
    machine.start_polkit()
    with refused("AccessDenied", WRITE):
        set_key(alice, "x", "2")
    machine.remove_rule("00-late.rules")


@pytest.fixture
def hasty() -> Iterator[tuple[Machine, Daemon]]:
    """A daemon that waits for polkit for a second only."""
    with Machine() as machine:
        machine.add_policy(OPEN_POLICY)
        env = {"TOY_PLAIN_SECONDS": "0.5", "TOY_INTERACTIVE_SECONDS": "1"}
        yield machine, machine.start_daemon(command=toywing.COMMAND, env=env)


def test_polkit_frozen(hasty: tuple[Machine, Daemon]) -> None:
    machine, daemon = hasty
    alice, bob, root = (machine.client(user) for user in ("alice", "bob", "root"))
    set_key(bob, "x", "1")
    machine.freeze_polkit()
    with refused("Timeout", WRITE):
        set_key(alice, "x", "2")
    ticket = alice.begin(*STORE, "Set", "ss", "x", "3")
    assert bob.get(*DAEMON, "ApiVersion") == 1
    machine.thaw_polkit()
    alice.end(ticket)
    machine.freeze_polkit()
    # Who leaves while the question is open is no burden, and nobody hears of it.
    with Crowd(machine, "alice", 100) as crowd:
        for one in crowd:
            one.call(*STORE, "Set", "ss", "left", "behind")
    machine.thaw_polkit()
    assert get_key(root, "left") == ""
    check_unharmed(machine, daemon, alice, bob)


def test_nobody_answers_the_prompt(hasty: tuple[Machine, Daemon]) -> None:
    machine, daemon = hasty
    alice = machine.client("alice")
    with Agent(machine, alice.pid, answer="hang") as agent:
        with refused("Timeout", CLEAR, "nobody answered"):
            store(alice, "Clear", interactive=True)
        agent.wait_cancelled(agent.wait_asked().cookie)
    check_unharmed(machine, daemon, alice)


def test_the_mock_hangs() -> None:
    if reason := why_not(polkit="mock"):
        pytest.skip(reason)
    with Machine(polkit="mock") as machine:
        machine.add_policy(OPEN_POLICY)
        env = {"TOY_PLAIN_SECONDS": "0.3"}
        daemon = machine.start_daemon(command=toywing.COMMAND, env=env)
        alice = machine.client("alice")
        with refused("AccessDenied", WRITE):
            set_key(alice, "x", "1")
        machine.mock_polkit("SimulateHang", "b", "true")
        with refused("Timeout", WRITE):
            set_key(alice, "x", "1")
        machine.mock_polkit("SimulateHang", "b", "false")
        machine.mock_polkit("AllowUnknown", "b", "true")
        set_key(alice, "x", "1")
        check_unharmed(machine, daemon, alice)


# --- What is said to polkit, word by word ---------------------------------------------------------


class Puppet:
    """A polkit whose every answer the test gives itself."""

    def __init__(self, machine: Machine) -> None:
        self._crowd = Crowd(machine, "polkitd", 1)
        self.line: Raw = self._crowd[0]
        assert self.line.answer(self.line.call_bus("RequestName", "su", POLKIT_NAME, 4)).value == 1

    def question(self) -> Heard:
        """The next question, with its five parts as body."""
        while (call := self.line.next_call()).member != "CheckAuthorization":
            pass
        return call

    def answer(self, to: Heard, yes: bool, challenge: bool = False, **details: str) -> None:
        self.line.reply(to, "(bba{ss})", [yes, challenge, details])

    def close(self) -> None:
        self._crowd.close()


@pytest.fixture
def puppet_machine() -> Iterator[tuple[Machine, Daemon, Puppet]]:
    with Machine(polkit="none") as machine:
        machine.add_policy(OPEN_POLICY)
        daemon = machine.start_daemon(command=toywing.COMMAND)
        puppet = Puppet(machine)
        yield machine, daemon, puppet
        puppet.close()


@pytest.mark.attack(1)
def test_attack_01_the_subject_is_the_unique_name(
    puppet_machine: tuple[Machine, Daemon, Puppet],
) -> None:
    """Attacks 1 to 4: no pid, no uid that somebody told us; the bus's own name for the caller."""
    machine, _, puppet = puppet_machine
    with Crowd(machine, "alice", 2) as (one, two):
        for caller, flags in itertools.product((one, two), (0, INTERACTIVE)):
            serial = caller.call(*STORE, "Clear", flags=flags)
            asked = puppet.question()
            assert asked.fields[8] == "(sa{sv})sa{ss}us"
            subject, action, details, interaction, _ = asked.body
            assert subject == ["system-bus-name", {"name": Variant("s", caller.name)}]
            assert (action, details, interaction) == (CLEAR, {}, 0), "asked without a prompt first"
            puppet.answer(asked, False, True)
            if flags:
                again = puppet.question()
                assert again.body[:4] == [subject, CLEAR, {}, 1]
                puppet.answer(again, False, False)
            error = "AccessDenied" if flags else "InteractiveAuthorizationRequired"
            assert caller.answer(serial).error == DBUS_ERROR + error


@pytest.mark.attack(38)
def test_attack_38_only_a_plain_yes_is_kept(
    puppet_machine: tuple[Machine, Daemon, Puppet],
) -> None:
    machine, _, puppet = puppet_machine
    with Crowd(machine, "alice", 1) as (one,):

        def set_and_be_asked(**details: str) -> None:
            serial = one.call(*STORE, "Set", "ss", "x", "1")
            puppet.answer(puppet.question(), True, **details)
            _ = one.answer(serial).value

        # By a temporary authorization: polkit may end it any time.
        details = {"polkit.temporary_authorization_id": "tmpauthz1"}
        for _ in range(2):
            set_and_be_asked(**details)
        # By a prompt.
        for _ in range(2):
            serial = one.call(*STORE, "Set", "ss", "x", "1", flags=INTERACTIVE)
            puppet.answer(puppet.question(), False, True)
            puppet.answer(puppet.question(), True)
            _ = one.answer(serial).value
        # By a rule or default: kept, for this caller and this action, until Changed.
        set_and_be_asked()
        _ = one.ask(*STORE, "Set", "ss", "x", "2")
        serial = one.call(*STORE, "Get", "s", "x")
        asked = puppet.question()
        assert asked.body[1] == READ
        puppet.answer(asked, False)
        assert one.answer(serial).error == DBUS_ERROR + "AccessDenied"
        puppet.line.emit(*AUTHORITY, "Changed")
        set_and_be_asked()


def test_a_yes_that_changed_while_it_was_on_its_way(
    puppet_machine: tuple[Machine, Daemon, Puppet],
) -> None:
    machine, _, puppet = puppet_machine
    with Crowd(machine, "alice", 1) as (one,):
        serial = one.call(*STORE, "Set", "ss", "x", "1")
        asked = puppet.question()
        puppet.line.emit(*AUTHORITY, "Changed")
        puppet.answer(asked, True)
        _ = one.answer(serial).value
        serial = one.call(*STORE, "Set", "ss", "x", "1")
        puppet.answer(puppet.question(), False)
        assert one.answer(serial).error == DBUS_ERROR + "AccessDenied"


def test_attack_37_a_forged_changed_makes_no_questions(
    puppet_machine: tuple[Machine, Daemon, Puppet],
) -> None:
    """Anybody could have every decision asked anew, and keep polkit busy."""
    machine, _, puppet = puppet_machine
    owner = machine.owner("org.buswork")
    with Crowd(machine, "alice", 1) as (one,), Crowd(machine, "bob", 1) as (forger,):
        serial = one.call(*STORE, "Set", "ss", "x", "1")
        puppet.answer(puppet.question(), True)
        _ = one.answer(serial).value
        forger.emit(*AUTHORITY, "Changed", destination=owner)
        forger.emit(*AUTHORITY, "Changed")
        # The bus keeps one sender's order, and this is answered after what was sent before.
        assert forger.ask("/", "org.freedesktop.DBus.Peer", "Ping") is None
        before = one.ask(DAEMON[0], PROPERTIES, "Get", "ss", DAEMON[1], "Statistics")
        _ = one.ask(*STORE, "Set", "ss", "x", "2")
        after = one.ask(DAEMON[0], PROPERTIES, "Get", "ss", DAEMON[1], "Statistics")
        assert after.value["questions"] == before.value["questions"]


@pytest.mark.attack(5)
def test_attack_05_an_error_means_no(puppet_machine: tuple[Machine, Daemon, Puppet]) -> None:
    machine, daemon, puppet = puppet_machine
    with Crowd(machine, "alice", 1) as (one,), Crowd(machine, "root", 1) as (root,):
        for signature, values, error in (
            ("s", ["no"], f"{POLKIT_NAME}.Error.Failed"),
            ("s", ["no"], f"{POLKIT_NAME}.Error.NotAuthorized"),
            ("s", ["no"], DBUS_ERROR + "NameHasNoOwner"),
            ("", [], ""),
            ("b", [True], ""),
            ("(bbs)", [[True, True, "x"]], ""),
            ("(bba{sv})", [[False, False, {}]], ""),
            ("as", [["x"]], ""),
            ("(bba{ss}b)", [[True, False, {}, True]], ""),
            ("(sssss)", [["y"] * 5], ""),
        ):
            serial = one.call(*STORE, "Set", "ss", "x", "1")
            puppet.line.reply(puppet.question(), signature, *values, error=error)
            assert one.answer(serial).error == DBUS_ERROR + "AccessDenied", (signature, error)
        serial = root.call(*STORE, "Get", "s", "x")
        puppet.answer(puppet.question(), True)
        assert root.answer(serial).value == ""
    check_unharmed(machine, daemon)


def test_attack_05_a_caller_who_leaves_during_the_question(
    puppet_machine: tuple[Machine, Daemon, Puppet],
) -> None:
    """Before it, during it and after it: nothing happens in its name, nothing is left behind."""
    machine, daemon, puppet = puppet_machine
    with Crowd(machine, "root", 1) as (root,), Crowd(machine, "alice", 3) as crowd:
        crowd[0].call(*STORE, "Set", "ss", "before", "1")
        crowd[0].close()  # maybe gone before we look
        crowd[1].call(*STORE, "Set", "ss", "during", "1")
        asked = puppet.question()
        while asked.body[0][1]["name"].value != crowd[1].name:
            puppet.answer(asked, False)
            asked = puppet.question()
        crowd[1].close()
        cancelled = puppet.line.next_call()
        assert (cancelled.member, cancelled.body) == ("CancelCheckAuthorization", [asked.body[4]])
        puppet.answer(asked, True)
        serial = crowd[2].call(*STORE, "Set", "ss", "after", "1")
        asked = puppet.question()
        puppet.answer(asked, True)
        _ = crowd[2].answer(serial).value
        serial = root.call(*STORE, "List", "s", "")
        puppet.answer(puppet.question(), True)
        assert "during" not in root.answer(serial).value
    check_unharmed(machine, daemon)


@pytest.mark.attack(10)
def test_attack_10_nothing_is_done_before_the_question(
    puppet_machine: tuple[Machine, Daemon, Puppet],
) -> None:
    machine, daemon, puppet = puppet_machine
    with Crowd(machine, "alice", 1) as (one,):
        serial = one.call(*STORE, "Mark", "s", "too early")
        asked = puppet.question()
        assert "too early" not in daemon.log()
        puppet.answer(asked, False)
        assert one.answer(serial).error == DBUS_ERROR + "AccessDenied"
        assert "too early" not in daemon.log()
        # What can be refused without a question is refused without one.
        for member, signature, *values in (("Set", "s", "x"), ("Sett", "ss", "x", "y")):
            with pytest.raises(CallError):
                one.ask(*STORE, member, signature, *values)


# --- Attack 9: everything has an action -----------------------------------------------------------

# All that anybody may do without polkit's word. Whatever is new and open has to be put here.
OPEN_TO_ALL = {
    ("org.buswork.Daemon", name)
    for name in (
        *("Version", "ApiVersion", "Epoch", "Wings", "Statistics", "MaxCallsPerUid"),
        *("MaxObjectsPerUid", "MaxWatchesPerUid", "MaxDescriptorsPerUid"),
    )
} | {
    ("org.freedesktop.LogControl1", name) for name in ("LogLevel", "LogTarget", "SyslogIdentifier")
}
OPEN_TO_ALL |= {
    ("org.mapipc.Store", name)
    for name in (
        *("MaxKeyBytes", "MaxValueBytes", "MaxBytesPerUid", "MaxKeysPerUid", "MaxBytes"),
        *("MaxHistoryChanges", "MaxHistoryBytes"),
    )
}
OPEN_TO_ALL |= {("org.libipc.Hub", name) for name in ("MaxPayload", "StartCredits", "MaxCredits")}
OPEN_TO_ALL |= {
    ("org.fsct.Driver", name)
    for name in (
        *("GetProtocolVersion", "SeatedUsersFirst"),
        *("MaxPlayers", "MaxDevices", "MaxTextBytes"),
    )
}
OPEN_TO_ALL |= {
    ("org.flipper.Hub", name) for name in ("MaxBoards", "MaxImageBytes", "MaxTransferBytes")
}
STANDARD = {
    f"org.freedesktop.DBus.{name}"
    for name in ("Peer", "Introspectable", "Properties", "ObjectManager")
}


@pytest.mark.attack(9)
def test_attack_09_every_member_asks_or_is_on_the_list(
    puppet_machine: tuple[Machine, Daemon, Puppet],
) -> None:
    """What introspection shows is called, all of it, with a polkit that says no to everything."""
    import xml.etree.ElementTree as ET

    samples = {"s": "x", "t": 0, "u": 0, "o": "/x", "a{ss}": {}, "a{sv}": {}, "as": []}
    machine, daemon, puppet = puppet_machine
    open_members = set()
    seen = set()
    with Crowd(machine, "alice", 1) as (one,):

        def asks(path: str, interface: str, member: str, signature: str, *values: object) -> bool:
            serial = one.call(path, interface, member, signature, *values)
            questions = 0
            while not one.has_answer(serial):
                puppet.line.answer(puppet.line.call_bus("GetId"))
                for call in puppet.line.calls:
                    assert call.member == "CheckAuthorization"
                    questions += 1
                    puppet.answer(call, False)
                puppet.line.calls.clear()
            answer = one.answer(serial)
            assert bool(questions) == (answer.error == DBUS_ERROR + "AccessDenied"), answer
            return bool(questions)

        def look(path: str) -> None:
            xml = one.ask(path, "org.freedesktop.DBus.Introspectable", "Introspect")
            node = ET.fromstring(xml)
            for interface in node.iterfind("interface"):
                name = str(interface.get("name"))
                if name in STANDARD or name == toywing.INTERFACE:
                    continue
                seen.add(name)
                for method in interface.iterfind("method"):
                    types = [a.get("type", "") for a in method.iterfind("arg[@direction='in']")]
                    values = [samples[type_] for type_ in types]
                    member = str(method.get("name"))
                    if not asks(path, name, member, "".join(types), *values):
                        open_members.add((name, member))
                for member in (str(p.get("name")) for p in interface.iterfind("property")):
                    if not asks(path, PROPERTIES, "Get", "ss", name, member):
                        open_members.add((name, member))
                for writable in interface.iterfind("property[@access='readwrite']"):
                    assert asks(
                        *(path, PROPERTIES, "Set", "ssv", name, str(writable.get("name"))),
                        Variant(str(writable.get("type")), "debug"),
                    ), "writing is open to nobody"
            for child in node.iterfind("node"):
                look(f"{path.rstrip('/')}/{child.get('name')}")

        look("/")
    wings = {"org.mapipc.Store", "org.fsct.Driver", "org.flipper.Hub", "org.libipc.Hub"}
    assert seen == {"org.buswork.Daemon", "org.freedesktop.LogControl1"} | wings
    assert open_members == OPEN_TO_ALL
    check_unharmed(machine, daemon)


def test_the_log_level_is_for_administrators(machine: Machine, alice: Client, root: Client) -> None:
    level = (LOG_CONTROL[0], PROPERTIES, "Set", "ssv", LOG_CONTROL[1], "LogLevel")
    with refused("InteractiveAuthorizationRequired", SET_LEVEL):
        alice.call(*level, Variant("s", "debug"))
    with refused("InvalidArgs"):
        root.call(*level, Variant("s", "loud"))
    with refused("InvalidArgs"):
        root.call(*level, Variant("u", 1))
    root.call(*level, Variant("s", "debug"))
    assert alice.get(*LOG_CONTROL, "LogLevel") == "debug"
    root.call(*level, Variant("s", "info"))
    with refused("PropertyReadOnly"):
        root.call(
            LOG_CONTROL[0], PROPERTIES, "Set", "ssv", LOG_CONTROL[1], "LogTarget", Variant("s", "x")
        )
