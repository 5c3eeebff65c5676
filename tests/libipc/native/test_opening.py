"""Services' sockets, looked at and connected to; and what is tried with their files."""

import asyncio
import os
import socket
import struct

import pytest
from libipc.native.town import ME, STRANGER, UID, Service, let_others_in, nobody

from buswork.errors import Busy
from buswork.libipc.errors import NoSuchService, NotAllowed
from buswork.libipc.model.terms import RunDirectory, Who
from buswork.libipc.native import opening as module
from buswork.libipc.native.opening import Unsafe, open_directory, open_service
from buswork.libipc.wire.forms import Form

# What `setfacl -m u:4711:rw` makes of a socket of mode 0700.
LET_4711_IN = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in (
        (0x01, 7, 0xFFFFFFFF),
        (0x02, 6, 4711),
        (0x04, 0, 0xFFFFFFFF),
        (0x10, 6, 0xFFFFFFFF),
        (0x20, 0, 0xFFFFFFFF),
    )
)


@pytest.fixture
def place(tmp_path):
    path = tmp_path / "ipc"
    path.mkdir()
    path.chmod(0o1777)
    let_others_in(tmp_path)
    return RunDirectory(Form.C, str(path))


@pytest.fixture
def serve(place):
    made = []

    def serve(name="pong", mode=0o777):
        made.append(Service(place, name, mode))
        return made[-1]

    yield serve
    for service in made:
        service.close()


async def connected(place, who=ME, name="pong"):
    with open_service(place, name, who, UID) as service:
        service.check(who)
        return await service.connect()


async def test_a_service_is_connected_to(place, serve):
    service = serve()
    with await connected(place) as sock:
        theirs = await service.accept()
        sock.send(b"hello")
        assert theirs.sock.recv(10) == b"hello"


async def test_there_is_none(place):
    with pytest.raises(NoSuchService):
        await connected(place)


async def test_nobody_listens_any_more(place, serve):
    serve().close()
    with pytest.raises(NoSuchService):
        await connected(place)


@pytest.mark.attack(42)
async def test_42_whom_the_mode_refuses_the_daemon_does_not_connect(place, serve):
    serve(mode=0o755)
    with pytest.raises(NotAllowed, match=rf"mode 0755, uid {UID}.*uid {STRANGER.uid}"):
        await connected(place, STRANGER)


@pytest.mark.attack(42)
async def test_42_whom_the_access_list_refuses_neither(place, serve):
    """That of the group says nothing, where there is a list: its bits are the mask."""
    service = serve(mode=0o760)
    os.setxattr(service.path, "system.posix_acl_access", LET_4711_IN)
    (await connected(place, Who(4711))).close()
    with pytest.raises(NotAllowed):
        await connected(place, Who(4712, frozenset((os.stat(service.path).st_gid,))))


@pytest.mark.attack(42)
async def test_42_nor_whom_a_directory_above_refuses(place, serve, tmp_path):
    serve()
    tmp_path.chmod(0o700)
    with pytest.raises(NotAllowed, match="no way into"):
        await connected(place, STRANGER)
    tmp_path.chmod(0o711)
    (await connected(place, STRANGER)).close()


@pytest.mark.attack(22)
async def test_who_has_no_way_into_a_directory_does_not_learn_what_is_there(place):
    os.chmod(place.path, 0o1770)
    with pytest.raises(NotAllowed):
        await connected(place, STRANGER, "no-such-service")


async def test_what_the_daemon_itself_may_not_is_not_allowed(place, serve):
    service = serve(mode=0o400)
    with open_service(place, "pong", Who(0), UID) as opened, nobody():
        opened.check(Who(0))
        with pytest.raises(NotAllowed, match="setfacl"):
            await opened.connect()
    assert not service.accepted


@pytest.mark.attack(22)
async def test_no_link_is_followed(place, tmp_path):
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "other"))
        other.listen()
        os.symlink(tmp_path / "other", f"{place.path}/pong")
        with pytest.raises(NoSuchService):
            await connected(place)


async def test_a_second_name_of_another_ones_socket_is_none(place, tmp_path):
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "other"))
        other.listen()
        os.link(tmp_path / "other", f"{place.path}/pong")
        with pytest.raises(NotAllowed, match="another name"):
            await connected(place)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: open(path, "w").close()])
async def test_what_is_no_socket_is_no_service(place, make):
    make(f"{place.path}/pong")
    with pytest.raises(NoSuchService, match="no socket"):
        await connected(place)


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
async def test_a_socket_for_something_else_is_no_service(place, kind):
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(f"{place.path}/pong")
        if kind == socket.SOCK_SEQPACKET:
            other.listen()
        with pytest.raises(NoSuchService, match="streams"):
            await connected(place)


async def test_a_socket_that_is_exchanged_after_the_look_is_not_connected_to(place, serve):
    """Who was looked at is connected to, under whatever name."""
    honest = serve()
    with open_service(place, "pong", ME, UID) as opened:
        os.rename(honest.path, f"{place.path}/away")
        evil = serve()
        with await opened.connect():
            await honest.accept()
            with pytest.raises(BlockingIOError):
                evil.listener.accept()


async def test_a_directory_of_a_stranger_is_not_used(place):
    if UID == 0:
        os.chown(place.path, STRANGER.uid, 0)
    owner = os.stat(place.path).st_uid
    with pytest.raises(Unsafe, match=f"uid {owner}"), open_directory(place, owner + 1):
        pytest.fail("it was opened")


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
async def test_a_directory_where_others_may_exchange_files_is_not_used(place, mode):
    os.chmod(place.path, mode)
    with pytest.raises(Unsafe, match="sticky"), open_directory(place, UID):
        pytest.fail("it was opened")


async def test_nor_one_to_which_others_may_exchange_the_way(place, tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(Unsafe, match="sticky"), open_directory(place, UID):
        pytest.fail("it was opened")


async def test_a_strangers_link_leads_nowhere(place, serve, tmp_path):
    """In /tmp anybody may make one, before us: say, to where the system bus listens."""
    serve()
    link = RunDirectory(Form.C, str(tmp_path / "link"))
    os.symlink(place.path, link.path)
    (await connected(link)).close()
    if UID == 0:
        os.chown(link.path, STRANGER.uid, STRANGER.uid, follow_symlinks=False)
    owner = os.lstat(link.path).st_uid
    with pytest.raises(Unsafe, match=f"link of uid {owner}"), open_directory(link, owner + 1):
        pytest.fail("it was opened")


async def test_a_link_on_the_way_is_followed_if_it_is_ours(place, serve, tmp_path):
    serve()
    os.symlink("../" + tmp_path.name, tmp_path / "link")
    (await connected(RunDirectory(Form.C, f"{tmp_path}/link/ipc"))).close()


async def test_a_link_to_itself(tmp_path):
    os.symlink("loop", tmp_path / "loop")
    loop = RunDirectory(Form.C, str(tmp_path / "loop"))
    with pytest.raises(NoSuchService), open_directory(loop, UID):
        pytest.fail("it was opened")


async def test_a_directory_that_is_not_there(tmp_path):
    gone = RunDirectory(Form.C, str(tmp_path / "none"))
    with pytest.raises(NoSuchService), open_directory(gone, UID):
        pytest.fail("it was opened")


async def test_a_service_without_room_is_waited_for(place, serve):
    service = serve()
    service.listener.listen(0)
    with socket.socket(socket.AF_UNIX) as first:
        first.connect(service.path)
        waiting = asyncio.create_task(connected(place))
        await asyncio.sleep(0)
        await service.accept()
        with await waiting:
            pass


async def test_but_not_for_ever(place, serve, monkeypatch):
    monkeypatch.setattr(module, "CONNECT_SECONDS", 0.01)
    service = serve()
    service.listener.listen(0)
    with socket.socket(socket.AF_UNIX) as first:
        first.connect(service.path)
        with pytest.raises(Busy):
            await connected(place)


async def test_nothing_stays_open(place, serve):
    serve(mode=0o755)
    before = os.listdir("/proc/self/fd")
    for name in ("pong", "none"):
        with pytest.raises((NotAllowed, NoSuchService)):
            await connected(place, STRANGER, name)
    assert os.listdir("/proc/self/fd") == before
