"""Every recorded byte both ways: a host sends and reads it, a board reads and sends it."""

from collections import Counter

import pytest
from flipper.wire.boards import over_bridge
from flipper.wire.vectors import FRAMINGS, VECTORS, recorded, vector, vectors

from buswork.flipper.wire import packets
from buswork.flipper.wire.crc import crc16
from buswork.flipper.wire.errors import Error
from buswork.flipper.wire.exchanges import (
    Answer,
    AnswerReader,
    Exchange,
    RequestReader,
    answering,
    outgoing,
)
from buswork.flipper.wire.modules import TABLES
from buswork.flipper.wire.packets import (
    Argument,
    Call,
    Event,
    Pull,
    Push,
    encode_request,
    parse_header,
    parse_request,
)
from buswork.flipper.wire.plans import bind, bridged
from buswork.flipper.wire.results import RESULT_BYTES, Result, failed
from buswork.flipper.wire.terms import BadPacket, Framing, Generation, Processor, Type

ALL = vectors()
TYPES = {f"{code.name.lower()}": code for code in Type}

# Made by hand, so that no board should understand them; by what they are refused with.
DAMAGED = {
    "gen1_4s_uart/4s.err.checksum": Error.E_CHECKSUM,
    "gen1_udp_errors/err.checksum": Error.E_CHECKSUM,
    "gen1_udp_errors/err.magic": Error.E_CHECKSUM,
    "gen1_udp_errors/err.type.5": Error.E_TYPE,
    "gen1_usb_errors/u2.err.checksum": Error.E_CHECKSUM,
    "gen1_usb_errors/u2.err.magic": Error.E_CHECKSUM,
    "gen2_udp_errors/err.checksum": Error.E_CHECKSUM,
    "gen2_udp_errors/err.magic": Error.E_CHECKSUM,
    "gen2_usb_u2/u2.err.checksum": Error.E_CHECKSUM,
}
# Made by hand, with another length in the header; and the client that forgot a value.
OTHER_LENGTH = {
    "gen1_udp_errors/load.on.fvm",
    "gen1_udp_errors/send.on.fvm",
    "gen1_udp_errors/err.class.9",
    "gen2_udp/arg.int",
    "gen2_udp_errors/ok.exactlen",
}
# Bytes that the header leaves out, which nobody reads.
TRAILING = "gen1_udp_errors/ok.trailing"
# Nothing was answered, or too late for this.
UNANSWERED = {
    "gen1_4s_uart/4s.err.module.18",
    "gen1_udp_errors/err.module.18",
    "gen1_udp_errors/err.function.gpio.200",
    "gen1_udp_errors/err.push.malloc",
    "gen1_usb_errors/u2.err.type.uint64",
    "gen1_usb_types/u2.args.5",
    "gen1_usb_types/u2.args.6",
}
# Told apart by tests of their own.
SPECIAL = {
    "gen1_usb_errors/u2.err.pull.2000",
    "gen1_usb_errors/u2.dead.client",
    "gen1_usb_errors/u2.err.push.2000",
    "gen2_udp_errors/err.dyld.unknown",
    "gen2_udp_errors/err.dyld.unknown.answered",
}
NESTED_ANSWER = bytes.fromhex("ffffffffffffffff11")


def test_nothing_recorded_is_left_out():
    files = {path.stem for path in VECTORS.glob("*.json")}
    assert files == {*FRAMINGS, "crc", "usb_descriptors"}
    assert len(ALL) == 230


def sent_packets():
    """Everything that was sent and is no data."""
    for found in ALL:
        for sent, _ in found.turns:
            reader = RequestReader(found.framing, found.generation)
            for chunk in sent:
                if reader.pending is None:
                    yield found, chunk
                reader.feed(chunk)


def test_every_packet_is_read_and_made_again_byte_for_byte():
    read = Counter()
    for found, packet in sent_packets():
        name, generation = found.name, found.generation
        if name in DAMAGED:
            with pytest.raises(BadPacket) as caught:
                parse_request(packet, generation)
            assert caught.value.error is DAMAGED[name]
            continue
        if packet in (bytes(64), NESTED_ANSWER):  # no packet, but where one would be
            assert name in SPECIAL
            continue
        request = parse_request(packet, generation)
        read[type(request)] += 1
        length = parse_header(packet).length if name in OTHER_LENGTH else None
        if name == TRAILING:
            packet = packet[:18] + bytes(46)
        assert encode_request(request, generation, length) == packet, name
    assert set(read) == set(packets.Request.__args__)
    assert read.total() > 240


def test_every_packet_is_understood_as_those_who_recorded_it_did():
    compared = 0
    for found in ALL:
        for step in found.all_steps:
            decoded = step.get("decoded")
            if decoded is None or found.name == "gen1_udp_errors/err.type.5":
                continue
            packet = bytes.fromhex(step["hex"])
            header, request = parse_header(packet), parse_request(packet, found.generation)
            assert header.request_class == decoded["class"]
            assert header.length == decoded["length"]
            assert header.checksum == int(decoded["checksum"], 16)
            if "transfer_length" in decoded:
                assert request.length == decoded["transfer_length"]
            if "module_index" in decoded:
                assert request.module == decoded["module_index"]
                assert request.function == decoded["function_index"]
            if isinstance(request, Call):
                returns = TYPES.get(decoded["ret"])
                assert request.returns == (returns if returns is not None else 5)
                theirs = [(TYPES[each["type"]], each["value"]) for each in decoded["args"]]
                ours = [(code, value % (1 << 8 * code.width)) for code, value in request.arguments]
                assert ours == theirs, found.name
            if isinstance(request, Push | Pull):
                assert request.pointer == decoded["args"][0]["value"]
            compared += 1
    assert compared > 150


WHOLE = [
    found
    for found in ALL
    if found.turns and found.name not in UNANSWERED | SPECIAL | DAMAGED.keys()
]


@pytest.mark.parametrize("found", WHOLE, ids=lambda found: found.name)
def test_every_exchange_from_both_ends(found):
    line = found.framing, found.generation
    for sent, received in found.turns:
        # A board reads the exchange in what was sent; a host makes the same bytes of it.
        board = RequestReader(*line)
        (exchange,) = [complete for chunk in sent for complete in board.feed(chunk)]
        if found.name not in OTHER_LENGTH | {TRAILING}:
            assert outgoing(exchange, *line) == sent
        # The host reads the answer in what was received; the board makes the same bytes of it.
        host = AnswerReader(exchange, *line)
        *none, answer = [host.feed(chunk) for chunk in received]
        assert not any(none)
        assert not host.wanted
        again = answering(answer, *line)
        if found.framing is Framing.UART:
            again, received = [b"".join(again)], [b"".join(received)]
        assert again == received
    check_what_the_client_said(found, answer)


@pytest.mark.parametrize("name", DAMAGED)
def test_every_damaged_packet_is_refused_as_it_was(name):
    found = vector(name)
    ((sent, received),) = found.turns
    (refused,) = RequestReader(found.framing, found.generation).feed(sent[0])
    assert refused.error is DAMAGED[name]
    result = AnswerReader(Exchange(Event()), found.framing, found.generation).feed(received[0])
    if refused.error is Error.E_TYPE or found.file == "gen2_usb_u2":
        # To the first, boards don't say why; that U2 was built without errors.
        assert result.result == failed(found.generation)
        return
    ours = answering(refused, found.framing, found.generation)
    at = RESULT_BYTES[found.generation] - 1
    # The value is whatever it was before.
    assert [ours[0][at:]] == [received[0][at:]]


def check_what_the_client_said(found, answer):
    if "client_error" not in found.content or found.framing is not Framing.UDP:
        return
    content = found.content
    assert answer.result.error == content["client_error"]
    returned = content["client_return"]
    if found.generation is Generation.G2 and isinstance(returned, list):
        returned = returned[1]
    elif found.generation is Generation.G2:
        return  # of those, only whether it went well
    assert answer.result.value & 0xFFFFFFFF == returned & 0xFFFFFFFF
    if "pulled" in content:
        assert answer.data.hex() == content["pulled"]


def test_calls_are_the_recorded_ones_when_made_from_what_was_asked():
    """From the module's name, with the types that the original's library asks for."""
    made = 0
    for found in ALL:
        asked = found.content.get("call")
        if not asked or "args" not in asked or found.framing is not Framing.UDP:
            continue
        table = TABLES[found.generation, Processor.FVM]
        user = asked["module"] == "types"
        if not user:
            module, function = table.find(asked["module"], asked["function"])
            assert function.number == asked["function_index"]
            index = module.index
            wanted = function.original if function.original is not None else function.returns
            if not found.content["id"].startswith("arg."):
                assert TYPES[asked["ret"]] is wanted, found.name
        arguments = tuple(Argument(TYPES[a["type"]], a["value"]) for a in asked["args"])
        if not user and not found.content["id"].startswith("arg."):
            assert [a.type for a in arguments] == [p.type for p in function.parameters]
        call = Call(
            0 if user else index, asked["function_index"], TYPES[asked["ret"]], arguments, user
        )
        if found.name != "gen2_udp/arg.int":
            assert found.turns[-1][0] == outgoing(Exchange(call), found.framing, found.generation)
        made += 1
    assert made > 60


# -- the bridge --------------------------------------------------------------------------------


def without_pointer(packet):
    """The original sends where its buffer is; 0 does as well, and tells nothing."""
    request = parse_request(packet)
    return request._replace(pointer=0) if isinstance(request, Push | Pull) else request


def replayed(plan, turns):
    """Runs a plan with the answers of a recording, which has to have asked the same."""
    answer = None
    try:
        for sent, received in turns:
            exchange = plan.send(answer)
            out = outgoing(exchange, Framing.USB)
            assert parse_request(out[0]) == without_pointer(sent[0])
            if exchange.data[:1] == b"\xfe":  # a packet for the 4S
                assert parse_request(out[1]) == without_pointer(sent[1])
            else:
                assert out[1:] == sent[1:]
            host = AnswerReader(exchange, Framing.USB)
            *_, answer = [host.feed(packet) for packet in received]
        plan.send(answer)
    except StopIteration as done:
        return done.value
    raise AssertionError("the plan wants more than was recorded")


def inner_exchange(found):
    """What the 4S got: the first packet that went through the bridge, and its data."""
    pushed = []
    for sent, _ in found.turns:
        request = parse_request(sent[0])
        if isinstance(request, Push):
            pushed.append(b"".join(sent[1:])[: request.length])
    return Exchange(without_pointer(pushed[0]), b"".join(pushed[1:]))


BRIDGED = [
    found
    for found in vectors("gen1_usb_board", "gen1_usb_load")
    if found.content["id"].startswith("4s.") and "bind" not in found.content["id"]
]


@pytest.mark.parametrize("found", BRIDGED, ids=lambda found: found.content["id"])
def test_the_bridge_asks_what_the_original_asked(found):
    answer = replayed(bridged(inner_exchange(found)), found.turns)
    assert answer.result.error == found.content["client_error"]
    assert answer.result.value == found.content["client_return"] & 0xFFFFFFFF
    assert answer.data == b""


def test_binding_a_module_asks_what_the_original_asked():
    found = vector("gen1_usb_load/4s.bind.armtest")
    image = bytes.fromhex(found.content["image"])
    assert replayed(over_bridge(bind("armtest", image)), found.turns) == 0
    again = vector("gen1_usb_load/4s.bind.again")
    assert replayed(over_bridge(bind("armtest", image)), again.turns) == 0


def test_the_virtual_machine_is_asked_for_modules_in_the_same_way():
    plan = bind("types", None, Processor.FVM)
    exchange = plan.send(None)
    (sent, received) = vector("gen1_udp_lookup/bind.types").turns[0]
    assert outgoing(exchange, Framing.UDP) == sent
    with pytest.raises(StopIteration) as done:
        plan.send(AnswerReader(exchange, Framing.UDP).feed(received[0]))
    assert done.value.value == 0


# -- what goes wrong -----------------------------------------------------------------------------


def test_a_pull_without_memory_has_its_result_where_data_should_be():
    ((sent, received),) = vector("gen1_usb_errors/u2.err.pull.2000").turns
    (exchange,) = RequestReader(Framing.USB).feed(sent[0])
    reader = AnswerReader(exchange, Framing.USB)
    assert reader.feed(received[0]) is None
    assert reader.give_up() == Answer(Result(0xFFFFFFFF, 1))


def test_a_push_whose_client_died_is_made_of_zeros():
    ((sent, received),) = vector("gen1_usb_errors/u2.dead.client").turns
    reader = RequestReader(Framing.USB)
    assert reader.feed(sent[0]) == []
    assert reader.pending == Push(3, 2, 128, 0x1122334455667788)
    exchange = reader.abandon()
    assert exchange == Exchange(Push(3, 2, 128, 0x1122334455667788), bytes(128))
    assert reader.pending is None
    assert answering(Answer(Result(0)), Framing.USB) == received


def test_an_oversized_push_is_refused_and_its_data_are_taken_for_packets():
    found = vector("gen1_usb_errors/u2.err.push.2000")
    reader = RequestReader(Framing.USB, max_data=256)
    for sent, received in found.turns:
        (refused,) = reader.feed(sent[0])
        assert answering(refused, Framing.USB) == received
    assert len(found.turns) == 4


def test_a_board_that_asks_back_is_told_that_nobody_knows():
    steps = vector("gen2_udp_errors/err.dyld.unknown.answered").steps
    (exchange,) = RequestReader(Framing.UDP, Generation.G2).feed(steps[0][1])
    reader = AnswerReader(exchange, Framing.UDP, Generation.G2)
    assert reader.feed(steps[1][1]) is None
    assert reader.data_to_send() == [steps[2][1]]
    assert reader.data_to_send() == []
    assert reader.feed(steps[3][1]) == Answer(Result(0xFFFFFFFFFFFFFFFF, 11))


def test_checksums_as_recorded():
    for found in recorded("crc")["vectors"]:
        data = bytes.fromhex(found["input_hex"])
        assert crc16(data) == int(found["crc"], 16)
        assert crc16(data).to_bytes(2, "little").hex() == found["crc_on_wire_le"]
