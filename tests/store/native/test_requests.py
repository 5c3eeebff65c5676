import json
import os
import random

import pytest
from support.store_sockets import MEGA, UID, error_of, setting

from buswork.bus.caller import Peer
from buswork.log import Sparing
from buswork.native.peers import Known
from buswork.store.native.requests import GET_NAME
from buswork.store.wire.requests import NULL_REPLY
from buswork.store.wire.values import EMPTY, Json

# One model for all


async def test_what_is_set_here_is_read_there(house):
    told = []
    house.store.on_change.append(told.append)
    await house.set(setting("k", "v"))
    assert house.store.lookup(UID, "k") == (True, b"v", 1)
    await house.set(setting("k", "v"))
    assert [(change.revision, change.value) for change in told] == [(1, b"v")]
    await house.set(setting("k", None))
    assert house.store.lookup(UID, "k")[0] is False
    assert [change.revision for change in told] == [1, 2]


@pytest.mark.parametrize(
    ("value", "kept"),
    [("", EMPTY), ("a\0b", Json(b'"a\\u0000b"')), (5, Json(b"5")), ([], Json(b"[]"))],
)
async def test_values_that_are_no_text(house, value, kept):
    await house.set(setting("k", value))
    assert house.store.get(UID, "k") == kept
    assert json.loads(await house.get(b"k")) == {"value": value}


async def test_a_uids_private_keys_are_its_own(house, caplog):
    own, foreign = f"~{UID}/k", f"~{UID + 1}/k"
    assert await house.set(setting(own, "v"))
    assert json.loads(await house.get(own.encode())) == {"value": "v"}
    assert await house.set(setting(foreign, "v")) == b""
    assert error_of(await house.get(foreign.encode())) == "AccessDenied"


async def test_the_stores_quotas_hold_here_too(house, caplog):
    assert await house.set(setting("k" * 1025, "v")) == b""
    assert await house.set(setting("k", "v" * (MEGA + 1))) == b""
    assert await house.set(setting("a\0b", "v")) == b""
    assert "MaxValueBytes" in caplog.text
    assert house.store.count == 0


# Bad input


@pytest.mark.parametrize("key", [b"\0", b"\0foo", b"k" * 1025, b"cl\xe9", b"k" * 70_000])
async def test_keys_that_nothing_can_have_are_null_and_logged(house, caplog, key):
    assert await house.get(key) == NULL_REPLY
    assert f"uid {UID}, pid {os.getpid()}" in caplog.text


@pytest.mark.parametrize("request_", [b'{"value":"x"}', b'{"key":5,"value":"x"}', b'{"key":""}'])
async def test_a_set_without_a_key_is_acknowledged_and_logged(house, caplog, request_):
    assert await house.set(request_) == request_
    assert "key" in caplog.text
    assert house.store.count == 0


@pytest.mark.parametrize(
    "bomb",
    [
        b'{"key":"k","value":' + b"[" * 200_000,
        b'{"key":"k","value":' + b"[" * 90_000 + b"]" * 90_000 + b"}",
        b'{"key":"k","value":' + b"9" * 100_000 + b"}",
        b'{"key":"k","value":[' + b"[]," * MEGA + b"1]}",
        b'{"key":"k","value":"' + b"\\" * 8 * MEGA,
    ],
    ids=["open", "deep", "digits", "many", "endless"],
)
async def test_bombs(house, bomb):
    assert await house.set(bomb, half_close=True) == b""
    assert house.store.count == 0
    assert house.authority.quotas.used(UID, "waiting_bytes") == 0


async def test_random_bytes_do_no_harm(house):
    chance = random.Random(1)
    for _ in range(200):
        data = chance.randbytes(chance.randrange(1, 200))
        await house.set(b"{" + data, half_close=True)
        assert await house.get(data)
    assert await house.set(setting("k", "v")) == setting("k", "v")


async def test_complaints_are_escaped_and_sparing(house, caplog):
    for _ in range(50):
        await house.set(b"\x1b[31mnonsense\n")
    assert len(caplog.records) == Sparing.LINES
    await house.get(b"~%d/\x1b[2J" % (UID + 1))
    assert "\x1b" not in "".join(map(module_line, caplog.records))


def module_line(record):
    from buswork.log import escaped

    return escaped(record.getMessage())


async def test_the_complaints_about_one_hide_none_about_another(house, caplog):
    for uid in (1, 2):
        for _ in range(2 * Sparing.LINES):
            known = Known(Peer(uid, 1, house.listener_fd), b"")
            house.doors._doors[GET_NAME].requests.complain(known, "a complaint")
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "uid 1," in line]) == Sparing.LINES
    assert len([line for line in lines if "uid 2," in line]) == Sparing.LINES
