"""Services of callers, and the programs that connect to them."""

import asyncio
import itertools
import os
import socket

import pytest
from libipc.native.town import ME, STRANGER, UID, fill, until

from buswork.errors import InvalidArgs, LimitsExceeded
from buswork.libipc.errors import NameTaken, NoSuchClient, NotAllowed
from buswork.libipc.model.credits import MAX_CREDITS, START_CREDITS
from buswork.libipc.model.terms import Access, ClientFacts, Limits
from buswork.libipc.native.channels import TURN_MESSAGES
from buswork.libipc.wire.forms import Form, frame

PID = os.getpid()


class Owner:
    """Serves, and hears of it."""

    def __init__(self, town):
        self.town = town
        self.news = []
        self.reasons = []

    async def serve(self, name="pong", form=None, access=Access.ALL, who=ME):
        self.served = await self.town.hub.serve(who, name, form, None, access, self)
        return self.served

    def connected(self, client):
        self.news.append(("connected", client.number))

    def message(self, client, user_type, payload):
        self.news.append((client, user_type, payload))

    def disconnected(self, client):
        self.news.append(("disconnected", client))

    def ended(self, reason):
        self.reasons.append(reason)

    async def hears(self, *news):
        await until(lambda: len(self.news) >= len(news))
        assert self.news == list(news)
        self.news.clear()


@pytest.fixture
def owner(town):
    return Owner(town)


@pytest.mark.parametrize("form", Form)
async def test_a_program_comes_talks_and_goes(town, owner, form):
    served = await owner.serve(form=form)
    program = await town.join("pong", form)
    await program.send(b"hello")
    await owner.hears(("connected", 1), (1, 0, b"hello"))
    assert served.clients == [ClientFacts(1, UID, PID)]
    served.send(1, 0, b"hi")
    assert (await program.receive()).payload == b"hi"
    program.close()
    await owner.hears(("disconnected", 1))
    assert served.clients == []


async def test_where_it_is_and_how_it_looks(town, owner):
    served = await owner.serve()
    assert (served.name, served.form, served.directory) == ("pong", *town.c)
    assert served.path == f"{town.c.path}/pong"
    status = os.stat(served.path)
    assert (status.st_mode & 0o777, status.st_nlink) == (0o666, 1)
    (facts,) = await town.hub.services(ME)
    assert (facts.served, facts.alive, facts.connections) == (True, True, 0)
    await town.join("pong")
    await until(lambda: owner.news)
    assert (await town.hub.services(ME))[0].connections == 1
    served.close()
    assert os.listdir(town.c.path) == []
    assert town.quotas.used(UID, "descriptors") == 0


async def test_each_client_has_a_number_of_its_own(town, owner):
    served = await owner.serve()
    first, second = await town.join("pong"), await town.join("pong")
    await first.send(b"1")
    await until(lambda: len(owner.news) == 3)
    await second.send(b"2")
    await owner.hears(("connected", 1), ("connected", 2), (1, 0, b"1"), (2, 0, b"2"))
    first.close()
    await owner.hears(("disconnected", 1))
    await town.join("pong")
    await owner.hears(("connected", 3))
    with pytest.raises(NoSuchClient):
        served.send(1, 0, b"x")
    with pytest.raises(NoSuchClient):
        served.disconnect(1)


async def test_a_client_is_sent_away(town, owner):
    served = await owner.serve()
    program = await town.join("pong")
    await owner.hears(("connected", 1))
    served.disconnect(1)
    assert await program.ends()
    await owner.hears(("disconnected", 1))


async def test_a_client_that_talks_nonsense_goes_alone(town, owner):
    await owner.serve()
    bad, good = await town.join("pong"), await town.join("pong")
    bad.sock.send(b"\x02\xff\xff\xff\xff\x00")
    assert await bad.ends()
    await good.send(b"x")
    await owner.hears(("connected", 1), ("connected", 2), ("disconnected", 1), (2, 0, b"x"))


async def test_own_is_for_the_owners_programs_alone(town, owner):
    await owner.serve(access=Access.OWN, who=STRANGER)
    program = await town.join("pong")
    assert await program.ends()
    assert not owner.news
    with pytest.raises(NotAllowed, match="uid 54321 alone"):
        await town.hub.connect(ME, "pong")
    (await town.hub.connect(STRANGER, "pong")).close()
    await owner.hears(("connected", 1), ("disconnected", 1))


async def test_a_caller_that_is_connected_is_seen_as_himself(town, owner):
    """And not as the daemon, which connects for him."""
    served = await owner.serve()
    with await town.hub.connect(STRANGER, "pong") as sock:
        assert sock.getblocking()
        await owner.hears(("connected", 1))
        assert served.clients == [ClientFacts(1, STRANGER.uid, 0)]


async def test_a_channel_to_a_service_of_ours(town, owner):
    served = await owner.serve()
    heard = []
    channel = await town.hub.open_channel(
        ME, "pong", None, None, lambda *message: heard.append(message), heard.append
    )
    channel.send(7, b"x")
    await owner.hears(("connected", 1), (1, 7, b"x"))
    served.send(1, 8, b"y")
    await until(lambda: heard)
    served.close()
    await until(lambda: len(heard) == 2)
    assert heard == [(8, b"y"), ""]


# Credits


async def test_without_credits_nobody_is_read_and_then_each_in_turn(town, owner):
    served = await owner.serve()
    programs = [await town.join("pong") for _ in range(3)]
    await until(lambda: len(owner.news) == 3)
    owner.news.clear()
    for program in programs:
        program.sock.send(b"".join(frame(Form.C, b"%d" % number) for number in range(50)))
    await until(lambda: len(owner.news) == START_CREDITS - 3)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(owner.news) == START_CREDITS - 3
    assert served.credits == 0
    while len(owner.news) < 150:
        served.grant(1)
        for _ in range(5):
            await asyncio.sleep(0)
    for client in (1, 2, 3):
        told = [int(news[2]) for news in owner.news if news[0] == client]
        assert told == [*range(50)]
    for client in (1, 2, 3):
        places = [place for place, news in enumerate(owner.news) if news[0] == client]
        assert max(b - a for a, b in itertools.pairwise(places)) <= 5


async def test_coming_and_going_costs_too(town, owner):
    """Else who connects in circles would flood the owner, for nothing."""
    served = await owner.serve()
    for _ in range(START_CREDITS + 20):
        (await town.join("pong")).close()
    await until(lambda: served.credits == 0)
    for _ in range(10):
        await asyncio.sleep(0)
    came = [news for news in owner.news if news[0] == "connected"]
    assert len(came) == START_CREDITS
    served.grant(21)
    await until(lambda: len(owner.news) == 2 * (START_CREDITS + 20))
    assert served.clients == []


async def test_who_was_never_told_of_may_be_made_to_go(town, owner):
    served = await owner.serve()
    served.pause()
    program = await town.join("pong")
    await until(lambda: served.clients)
    served.disconnect(1)
    assert await program.ends()
    served.resume()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not owner.news


async def test_a_pause_is_none_of_credits(town, owner):
    served = await owner.serve()
    program = await town.join("pong")
    await owner.hears(("connected", 1))
    served.pause()
    served.grant(1)
    await program.send(b"x")
    for _ in range(10):
        await asyncio.sleep(0)
    assert not owner.news
    served.resume()
    await owner.hears((1, 0, b"x"))


async def test_no_more_credits_than_may_be_had(town, owner):
    served = await owner.serve()
    with pytest.raises(InvalidArgs):
        served.grant(MAX_CREDITS)


# Bounds


async def test_a_service_has_so_many_clients(town, owner):
    town.hub._limits = Limits(clients=2)
    await owner.serve()
    await town.join("pong")
    (await town.hub.connect(STRANGER, "pong")).detach()
    assert await (await town.join("pong")).ends()
    with pytest.raises(NotAllowed, match="2 clients"):
        await town.hub.connect(ME, "pong")


async def test_half_of_them_at_most_are_one_users(town, owner):
    town.hub._limits = Limits(clients=4)
    await owner.serve()
    for _ in range(2):
        await town.join("pong")
    assert await (await town.join("pong")).ends()
    with pytest.raises(NotAllowed, match=f"half .* uid {UID}"):
        await town.hub.connect(ME, "pong")
    (await town.hub.connect(STRANGER, "pong")).close()


async def test_a_service_takes_nothing_of_its_clients_users(town, owner):
    """It may never be told that they left."""
    served = await owner.serve()
    served.pause()
    for _ in range(2):
        (await town.join("pong")).close()
    assert town.quotas.used(UID, "native_connections") == 0


async def test_who_has_most_connections_makes_room_for_others(town, owner):
    town.hub._porter._crowd.most = 3
    await owner.serve()
    programs = [await town.join("pong") for _ in range(3)]
    assert await (await town.join("pong")).ends()
    await until(lambda: len(owner.news) == 3)
    with await town.hub.connect(STRANGER, "pong"):
        assert await programs[0].ends()
        await until(lambda: ("connected", 4) in owner.news)


async def test_a_client_that_reads_nothing_fills_its_queue_alone(town, owner):
    served = await owner.serve()
    rooms = []
    served.on_room = rooms.append
    slow, fast = await town.join("pong"), await town.join("pong")
    await until(lambda: len(owner.news) == 2)
    fill(lambda number: served.send(1, 0, bytes(10_000)))
    served.send(2, 0, b"x")
    assert (await fast.receive()).payload == b"x"
    while not rooms:
        await slow.receive()
    assert rooms == [1]


async def test_a_thousand_services_by_one_caller(town, owner):
    made, refused = [], 0
    for number in range(1000):
        try:
            made.append(await owner.serve(f"s{number}"))
        except LimitsExceeded:
            refused += 1
    most = town.quotas.limits.descriptors
    assert (len(made), refused) == (most, 1000 - most)


# The end


async def test_its_clients_go_with_it_and_nothing_more_is_told(town, owner):
    served = await owner.serve()
    program = await town.join("pong")
    await owner.hears(("connected", 1))
    await program.send(b"x")
    served.close()
    served.close()
    assert await program.ends()
    assert not owner.news
    assert not owner.reasons
    with pytest.raises(FileNotFoundError):
        await town.join("pong")
    (await owner.serve()).close()


@pytest.mark.parametrize("how", ["removed", "exchanged"])
async def test_a_name_that_was_taken_away_is_its_end(town, owner, how):
    """As a C server does that has the right to, without asking."""
    served = await owner.serve()
    program = await town.join("pong")
    os.unlink(served.path)
    if how == "exchanged":
        town.service("pong")
    await until(lambda: owner.reasons)
    assert owner.reasons == ["its socket was taken away"]
    assert await program.ends()
    assert os.listdir(town.c.path) == (["pong"] if how == "exchanged" else [])


async def test_its_owner_may_close_it_while_he_is_told(town, owner):
    served = await owner.serve()
    owner.connected = lambda client: served.close()
    assert await (await town.join("pong")).ends()


# Names


@pytest.mark.parametrize("name", ["network", "ipc", "tcp"])
async def test_what_answers_for_others_is_not_served(owner, name):
    for form in Form:
        with pytest.raises(InvalidArgs, match="answers for others"):
            await owner.serve(name, form)


@pytest.mark.parametrize("name", ["", "a/b", "..", "new\nline", "\x1b[2J", "x" * 120, "pong.lock"])
async def test_nor_what_is_no_name(owner, name):
    with pytest.raises(InvalidArgs):
        await owner.serve(name)


async def test_nor_what_clients_could_not_reach(town, owner):
    with pytest.raises(InvalidArgs, match="too long"):
        await owner.serve("x" * (108 - len(town.c.path)))


async def test_nor_where_the_caller_may_make_nothing(town, owner):
    """The daemon may: it would be its confused deputy."""
    os.chmod(town.c.path, 0o755)
    with pytest.raises(NotAllowed):
        await owner.serve(who=STRANGER)
    assert os.listdir(town.c.path) == []


async def test_a_name_is_served_once(town, owner):
    await owner.serve()
    with pytest.raises(NameTaken):
        await owner.serve()
    town.service("other")
    with pytest.raises(NameTaken):
        await owner.serve("other")
    assert town.quotas.used(UID, "descriptors") == 1


async def test_a_client_of_another_kind_of_socket(town, owner):
    """What is no stream does not get in."""
    served = await owner.serve()
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as wrong,
        pytest.raises(OSError, match="wrong type"),
    ):
        wrong.connect(served.path)


async def test_others_have_their_turn_while_many_come(town, owner):
    served = await owner.serve()
    served.pause()
    for _ in range(START_CREDITS):
        await town.join("pong")
    await until(lambda: len(served.clients) == START_CREDITS)
    served.resume()
    assert len(owner.news) == TURN_MESSAGES < START_CREDITS
    await until(lambda: len(owner.news) == START_CREDITS)


async def test_a_message_that_waits_to_be_told_is_charged_to_the_client(town, owner):
    served = await owner.serve()
    first, second = await town.join("pong"), await town.join("pong")
    await until(lambda: len(owner.news) == 2)
    served.pause()
    for program in (first, second):
        await program.send(bytes(10_000))
    served._credits.left = 1
    served.resume()  # both are read before anything is told
    await until(lambda: len(owner.news) == 3)
    assert town.quotas.used(UID, "waiting_bytes") >= 10_000
    served.grant(10)
    await until(lambda: len(owner.news) == 4)
    await until(lambda: not town.quotas.used(UID, "waiting_bytes"))


async def test_a_client_with_too_much_waiting_goes(town, owner):
    await owner.serve()
    bad = await town.join("pong")
    await owner.hears(("connected", 1))
    town.authority.quotas.limits = type(town.quotas.limits)(waiting_bytes=300_000)
    sending = asyncio.create_task(bad.send(bytes(1_000_000)))
    await owner.hears(("disconnected", 1))
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        await sending


async def test_who_took_the_name_away_is_who_is_connected_to(town, owner):
    """Also before we have heard of it."""
    served = await owner.serve()
    os.unlink(served.path)
    other = town.service("pong")
    with await town.hub.connect(ME, "pong"):
        await other.accept()


async def test_42_a_mode_that_the_administrator_set_is_kept_to(town, owner):
    os.chmod((await owner.serve()).path, 0o600)
    with pytest.raises(NotAllowed):
        await town.hub.connect(STRANGER, "pong")
