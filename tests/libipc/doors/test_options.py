"""What is said about the doors, and what of it would let strangers in."""

import os
import ssl
from ipaddress import ip_network

import pytest
from libipc.doors.house import parsed, settled
from libipc.doors.tls import certificate

from buswork.libipc.doors.options import Place, Unsafe
from buswork.libipc.wire.forms import Form

TOKEN = "0123456789abcdefABCD_-"
BEYOND = "192.0.2.1"


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    return certificate(tmp_path_factory.mktemp("tls"))


def test_by_default_there_is_nothing():
    found = settled()
    assert (found.tcp, found.websockets, found.services, found.uids) == ((), (), set(), set())
    assert (found.dialled, found.origins, found.remote_uid) == (set(), set(), None)


def test_what_was_said():
    found = settled(
        *("--ipc-tcp", "9000=zig", "--ipc-tcp", "127.0.0.2:9000=c", "--ipc-ws", "[::1]:80"),
        *("--ipc-ws", "localhost:9001", "--ipc-service", "pong", "--ipc-service", "a b"),
        *("--ipc-host", "Board.Local", "--ipc-dial", "Far:9000", "--ipc-dial", "[fe80::1]:1"),
        *("--ipc-peer", "192.0.2.0/24", "--ipc-peer", "::1", "--serve-uid", "7"),
    )
    assert found.tcp == (
        (Place("127.0.0.1", 9000), Form.ZIG),
        (Place("127.0.0.2", 9000), Form.C),
    )
    assert found.websockets == (Place("::1", 80), Place("127.0.0.1", 9001))
    assert [str(place) for place in found.websockets] == ["[::1]:80", "127.0.0.1:9001"]
    assert found.services == {"pong", "a b"}
    assert found.hosts == {"board.local"}
    assert found.dialled == {("far", 9000), ("fe80::1", 1)}
    assert found.peers == (ip_network("192.0.2.0/24"), ip_network("::1"))
    assert found.uids == {7}


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--ipc-tcp", "9000"),
        ("--ipc-tcp", "9000=d"),
        ("--ipc-tcp", "65536=c"),
        ("--ipc-tcp", "host:9000=c"),
        ("--ipc-tcp", "127.0.0.256:9000=c"),
        ("--ipc-ws", "x"),
        ("--ipc-ws", "[::g]:1"),
        ("--ipc-service", "a/b"),
        ("--ipc-service", ""),
        ("--ipc-origin", "localhost:8000"),
        ("--ipc-origin", "http://a/page"),
        ("--ipc-peer", "192.0.2.1/24"),
        ("--ipc-dial", "far"),
        ("--ipc-remote-user", "no such user"),
    ],
)
def test_words_that_are_not_understood(option, text, capsys):
    with pytest.raises(SystemExit):
        parsed(option, text)
    assert option in capsys.readouterr().err


def test_browsers_need_a_token(token_file):
    with pytest.raises(Unsafe, match="--ipc-token-file"):
        settled("--ipc-origin", "null")
    found = settled("--ipc-origin", "null", "--ipc-token-file", token_file)
    assert found.token == TOKEN.encode()


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o620])
def test_a_token_that_others_may_read(token_file, mode):
    token_file.chmod(mode)
    with pytest.raises(Unsafe, match="chmod 600"):
        settled("--ipc-token-file", token_file)


def test_a_token_as_systemd_hands_it_over(token_file):
    token_file.chmod(0o440)
    assert settled("--ipc-token-file", token_file).token == TOKEN.encode()


@pytest.mark.parametrize("text", ["", "short", "x" * 257, "with a blank in it, of 22", "ä" * 30])
def test_a_token_that_is_none(token_file, text):
    token_file.write_text(text)
    with pytest.raises(Unsafe, match="22 to 256"):
        settled("--ipc-token-file", token_file)


def test_a_token_that_is_not_there(tmp_path):
    with pytest.raises(Unsafe, match="No such file"):
        settled("--ipc-token-file", tmp_path / "none")


def test_tls_has_a_certificate_and_its_key(tls, tmp_path):
    cert, key = tls
    assert isinstance(settled("--ipc-cert", cert, "--ipc-key", key).tls, ssl.SSLContext)
    for words in (("--ipc-key", key), ("--ipc-cert", key), ("--ipc-cert", tmp_path / "none")):
        with pytest.raises(Unsafe, match="certificate"):
            settled(*words)


def test_other_hosts_are_let_in_only_with_all_that_it_takes(token_file, tls):
    cert, key = tls
    user = ("--ipc-remote-user", os.geteuid())
    tcp = ("--ipc-tcp", f"{BEYOND}:1=c")
    websocket = ("--ipc-ws", f"{BEYOND}:1")
    secret = ("--ipc-token-file", token_file)
    sealed = ("--ipc-cert", cert, "--ipc-key", key)
    for words, missing in (
        (tcp, "--ipc-remote-user"),
        ((*tcp, *user), "--ipc-peer"),
        ((*websocket, *secret, *sealed), "--ipc-remote-user"),
        ((*websocket, *user, *sealed), "--ipc-token-file"),
        ((*websocket, *user, *secret), "--ipc-cert"),
        (("--ipc-ws", "0.0.0.0:1"), "--ipc-remote-user"),
        (("--ipc-ws", "[::]:1"), "--ipc-remote-user"),
    ):
        with pytest.raises(Unsafe, match=missing):
            settled(*words)
    settled(*tcp, *user, "--ipc-peer", BEYOND)
    settled(*websocket, *user, *secret, *sealed)
