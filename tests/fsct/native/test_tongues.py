import json

import pytest
from fsct.wire.test_msgpackrpc import ENDS, OURS, SKIPPED
from fsct.wire.vectors import recorded, vectors
from support.rpc_clients import (
    DEVICE,
    VERSION,
    VERSION_ANSWER,
    VERSION_REQUEST,
    a_client,
    clients,
)

from buswork.fsct.wire import jsonrpc

# The older protocol


async def test_the_recorded_methods_byte_for_byte(house, client):
    for vector in vectors("msgpack_rpc_methods"):
        if vector["label"].endswith("again"):  # the first time was not recorded
            assert await client.call(vector["method"], *vector["params"]) is None
        client.send(bytes.fromhex(vector["request_hex"]))
        expected = bytes.fromhex(vector["response_hex"])
        found = await client.read(len(expected))
        assert found == expected, vector["label"]


async def test_the_recorded_malformed_messages_each_on_a_connection(house, client):
    cases = recorded("msgpack_rpc_malformed")["cases"]
    first, *rest = cases
    assert await client.call("register_player", "p") == first["response"][3] == 1
    for case in rest:
        async with a_client(house) as other:
            await check(other, case)
    assert await client.call("get_protocol_version") == VERSION


async def check(client, case):
    label = case["label"]
    client.send(bytes.fromhex(case["request_hex"]))
    if label in ENDS:
        assert await client.reader.read() == ENDS[label], label
        return
    client.send(VERSION_REQUEST)
    expected = case["response"]
    if label in OURS:
        ours = OURS[label]
        expected = ours if ours is SKIPPED else [1, *ours[:2], ours[2] if ours[2:] else None]
    if expected is not None:
        assert await client.answer() == expected, label
    assert await client.answer() == VERSION_ANSWER, label


# The newer protocol


async def test_the_recorded_lines(house, client, dac):
    house.driver.add_device(dac)
    for vector in vectors("jsonrpc_later_protocol"):
        answer = await client.line(vector["request"])
        if vector["method"] == "get_timesync":
            result = json.loads(answer)["result"]
            assert {*result} == {"wall_ns", "mono_ns"}
        else:
            assert answer == vector["response"]


async def test_a_client_of_the_newer_protocol_is_told_of_devices(house, client, dac):
    async with a_client(house) as old, a_client(house) as silent:
        assert json.loads(await client.line(jsonrpc.encode_request(1, "get_protocol_version")))
        await old.call("get_protocol_version")
        house.driver.add_device(dac)
        assert await client.line() == recorded("jsonrpc_later_protocol")["notification"]
        house.driver.remove_device(dac.id)
        assert json.loads(await client.line())["params"]["event"] == "removed"
        # The others hear of nothing.
        assert await old.call("get_protocol_version") == VERSION
        silent.send(VERSION_REQUEST)
        assert await silent.answer() == VERSION_ANSWER


@pytest.mark.parametrize("line", [b"{}\n", b"[]\n", b"{\n", b"\t{}\n", b" x\n"])
async def test_lines_that_are_no_request_are_answered_and_harm_nothing(client, line):
    assert json.loads(await client.line(line))["error"]["code"] in (-32700, -32600)
    answer = await client.line(jsonrpc.encode_request(1, "get_protocol_version"))
    assert json.loads(answer)["result"] == VERSION


async def test_errors_of_the_driver_in_json(house, client):
    answer = await client.line(jsonrpc.encode_request(1, "set_preferred_player", 7))
    error = {"code": -32000, "message": "player_id 7 not registered for this connection"}
    assert json.loads(answer)["error"] == error
    answer = await client.line(jsonrpc.encode_request(2, "get_device_info", DEVICE))
    assert json.loads(answer)["error"] == {"code": -32000, "message": "Device not found"}
    answer = await client.line(b'{"jsonrpc":"2.0","id":3,"method":"get_device_info"}\n')
    assert json.loads(answer)["error"] == {"code": -32000, "message": "missing device_id"}


# Which protocol


async def test_the_first_byte_tells_the_protocol_of_a_connection(house):
    async with clients(house, 4) as (old, new, spaced, garbage):
        assert await old.call("get_protocol_version") == VERSION
        line = jsonrpc.encode_request(1, "get_protocol_version")
        assert json.loads(await new.line(line))["result"] == VERSION
        assert json.loads(await spaced.line(b"\r\n \n" + line))["result"] == VERSION
        # In the older protocol, what a line is made of is numbers, and skipped.
        garbage.send(b"\xff" + line.replace(b"\n", b"") + VERSION_REQUEST)
        assert await garbage.answer() == VERSION_ANSWER
