"""Who may do what by where he sits: people at the screen, others who were there before them, and
people who come from elsewhere, with a real logind, a real polkit and the shipped units."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import Any

import pytest
from support.container import HOME, REPOSITORY, Container
from support.machine import Client, Variant
from support.places import CLEAR, LOG_CONTROL, STORE, get_key, refused, set_key, store
from support.seats import SEAT, Caller, Person, PromptedAgent, session_command

pytestmark = pytest.mark.systemd

AUTHORITY = ("/org/freedesktop/PolicyKit1/Authority", "org.freedesktop.PolicyKit1.Authority")
POLKIT = "org.freedesktop.PolicyKit1"
DRIVER = ("/org/fsct/Driver", "org.fsct.Driver")
HUB = ("/org/libipc", "org.libipc.Hub")
INSPECTOR = ("/org/appview", "org.appview.Inspector")
ROUTE, SERVE, INSPECT = "org.fsct.driver.route", "org.libipc.serve", "org.appview.inspect"
ASKS = "InteractiveAuthorizationRequired"

# Chooses its player over the driver's own socket, which knows who it is by its process.
NATIVE = """\
import msgpack, socket
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect("/run/fsct/fsct.sock")
    for request in ([0, 1, "register_player", ["mine"]], [0, 2, "set_preferred_player", [1]]):
        sock.sendall(msgpack.packb(request))
        _, _, error, _ = msgpack.unpackb(sock.recv(65536))
print(error or "chosen")
"""


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    with Container(users=("alice", "bob", "carol")) as container:
        # Before that, nobody but root may log in.
        container.run(["systemctl", "start", "systemd-user-sessions"])
        yield container


@pytest.fixture(scope="module")
def root(container: Container) -> Iterator[Client]:
    client = Caller(container)
    yield client
    client.close()


@pytest.fixture(scope="module")
def people(container: Container) -> Iterator[dict[str, Person]]:
    """By polkit's words: Bob was here before Alice, who sits here; Carol is elsewhere."""
    people = {
        "inactive": Person(container, "bob", SEAT),
        "active": Person(container, "alice", SEAT),
        "any": Person(container, "carol"),
    }
    yield people
    for person in people.values():
        person.close()


@pytest.fixture
def alice(people: dict[str, Person]) -> Person:
    return people["active"]


@pytest.fixture
def bob(people: dict[str, Person]) -> Person:
    return people["inactive"]


@pytest.fixture
def carol(people: dict[str, Person]) -> Person:
    return people["any"]


def defaults() -> dict[str, dict[str, str]]:
    """What the shipped actions allow, by action and seat."""
    return {
        action.attrib["id"]: {
            each.tag.removeprefix("allow_"): (each.text or "").strip()
            for each in action.findall("defaults/*")
        }
        for policy in sorted((REPOSITORY / "polkit").glob("*.policy"))
        for action in ET.parse(policy).getroot().findall("action")
    }


def answer(root: Client, person: Person, action: str) -> str:
    """polkit's, in the words of its policies."""
    subject = ["system-bus-name", {"name": Variant("s", person.name)}]
    question = ("CheckAuthorization", "(sa{sv})sa{ss}us", subject, action, {}, 0, "")
    is_yes, is_challenge, details = root.call(*AUTHORITY, *question, destination=POLKIT).value
    if is_yes or not is_challenge:
        return "yes" if is_yes else "no"
    keeps = "polkit.retains_authorization_after_challenge" in details
    return "auth_admin_keep" if keeps else "auth_admin"


def test_polkit_has_all_actions_as_they_are_shipped(
    root: Client, people: dict[str, Person]
) -> None:
    found = {
        action: {seat: answer(root, person, action) for seat, person in people.items()}
        for action in defaults()
    }
    assert found == defaults()
    assert {each for seats in found.values() for each in seats.values()} == {
        "yes",
        "auth_admin_keep",
    }


def choose(person: Client) -> Any:
    return person.call(*DRIVER, "SetPreferredPlayer", "u", 0)


def serve(person: Client) -> Any:
    return person.call(*HUB, "Serve", "sa{sv}", f"of-{person.user}", {})


def inspect(person: Client) -> Any:
    return person.call(*INSPECTOR, "ScanAll", destination="org.buswork.AppView")


def quieten(person: Client) -> Any:
    return person.call(
        LOG_CONTROL[0],
        "org.freedesktop.DBus.Properties",
        "Set",
        "ssv",
        LOG_CONTROL[1],
        "LogLevel",
        Variant("s", "info"),
    )


def test_what_everybody_may(people: dict[str, Person]) -> None:
    for person in people.values():
        set_key(person, "last", person.user)
        assert get_key(person, "last") == person.user
        person.call(*DRIVER, "ListPlayers")
        person.call(*HUB, "ListServices")


@pytest.mark.parametrize(("what", "action"), [(choose, ROUTE), (serve, SERVE)])
def test_what_is_for_who_sits_here(people: dict[str, Person], what: Any, action: str) -> None:
    what(people["active"])
    for seat in ("inactive", "any"):
        with refused(ASKS, action):
            what(people[seat])


@pytest.mark.parametrize(
    ("what", "action"),
    [
        (lambda person: store(person, "Clear"), CLEAR),
        (inspect, INSPECT),
        (quieten, "org.buswork.set-log-level"),
    ],
    ids=["clear", "inspect", "quieten"],
)
def test_what_is_for_nobody_without_a_password(
    people: dict[str, Person], what: Any, action: str
) -> None:
    for person in people.values():
        with refused(ASKS, action):
            what(person)


def take_the_seat(root: Client, person: Person) -> None:
    """Returns when polkit has told everybody."""
    root.signals()
    person.take_the_seat()
    root.wait_signal("Changed")


def test_who_takes_the_seat_takes_its_rights(root: Client, alice: Person, bob: Person) -> None:
    """What was kept of polkit's answers for one who sat here is forgotten."""
    root.add_match(f"type='signal',interface='{AUTHORITY[1]}',member='Changed'")
    choose(alice)
    take_the_seat(root, bob)
    try:
        with refused(ASKS, ROUTE):
            choose(alice)
        choose(bob)
    finally:
        take_the_seat(root, alice)
    with refused(ASKS, ROUTE):
        choose(bob)
    choose(alice)


def test_programs_at_the_socket_are_known_by_their_session(
    container: Container, alice: Person
) -> None:
    def said(user: str, seat: str | None) -> str:
        command = [*session_command("native", seat), "--pipe", "--wait", f"--property=User={user}"]
        done = container.run([*command, f"{HOME}/bin/python", "-c", NATIVE])
        return done.stdout.strip()

    assert said("alice", SEAT) == "chosen"
    alice.take_the_seat()
    assert ROUTE in said("carol", None)


# --- Passwords ------------------------------------------------------------------------------------


def clear(person: Client, *, interactive: bool = True) -> None:
    person.call(*STORE, "Clear", interactive=interactive)


@pytest.fixture
def newcomer(container: Container, alice: Person) -> Iterator[Person]:
    """Of whom polkit remembers nothing."""
    person = Person(container, "bob")
    yield person
    person.close()


@pytest.fixture
def agent(container: Container, newcomer: Person) -> Iterator[PromptedAgent]:
    with PromptedAgent(container, newcomer.pid) as agent:
        yield agent


def test_a_password_is_kept_for_its_process(
    container: Container, newcomer: Person, agent: PromptedAgent
) -> None:
    with refused(ASKS, CLEAR):
        clear(newcomer, interactive=False)
    assert agent.asked == []
    clear(newcomer)
    asked = agent.wait_asked()
    assert (asked.action, asked.uids) == (CLEAR, [0])
    assert "store" in asked.message
    clear(newcomer)
    clear(newcomer, interactive=False)
    # Neither for another action, nor for another process of the same user.
    with refused(ASKS, ROUTE):
        choose(newcomer)
    other = Person(container, "bob")
    with refused(ASKS, CLEAR):
        clear(other, interactive=False)
    other.close()
    assert len(agent.asked) == 1
    # polkit has it in its memory alone.
    container.run(["systemctl", "restart", "polkit"])
    with refused(ASKS, CLEAR):
        clear(newcomer, interactive=False)


def test_one_password_for_many_uses_of_an_action(newcomer: Person, agent: PromptedAgent) -> None:
    """Of what polkit asks who does not sit here."""
    for number in range(3):
        newcomer.call(*HUB, "Serve", "sa{sv}", f"kept-{number}", {}, interactive=True)
    assert agent.wait_asked().action == SERVE
    assert len(agent.asked) == 1


@pytest.mark.parametrize("how", ["no", "fail"])
def test_a_prompt_that_is_dismissed_or_answered_wrongly(
    newcomer: Person, agent: PromptedAgent, how: Any
) -> None:
    set_key(newcomer, "key", "value")
    agent.answer(how)
    for _ in range(2):
        with refused("AccessDenied", CLEAR):
            clear(newcomer)
        assert agent.wait_asked().action == CLEAR
    assert get_key(newcomer, "key") == "value"
    agent.answer("yes")
    clear(newcomer)
    assert get_key(newcomer, "key") == ""


def test_who_logs_out_takes_the_prompt_along(
    container: Container, root: Client, agent: PromptedAgent, newcomer: Person
) -> None:
    set_key(newcomer, "key", "value")
    agent.answer("hang")
    newcomer.begin(*STORE, "Clear", flags=Client.INTERACTIVE)
    asked = agent.wait_asked()
    container.run(["systemctl", "stop", newcomer.unit])
    agent.wait_cancelled(asked.cookie)
    assert get_key(root, "key") == "value"


def test_nothing_went_wrong(container: Container) -> None:
    for unit in ("buswork", "buswork-appview"):
        assert "Traceback" not in container.journal(f"{unit}.service")
        assert container.show(f"{unit}.service", "NRestarts") == "0"
