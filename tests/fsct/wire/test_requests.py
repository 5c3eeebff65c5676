import math
import struct
from fractions import Fraction

import pytest
from fsct.wire.vectors import recorded, vectors
from hypothesis import given
from hypothesis import strategies as st

from buswork.fsct.wire import requests
from buswork.fsct.wire.requests import BadAnswer, ControlRequest, Progress, progress_payload
from buswork.fsct.wire.terms import Status, TextId, Timeline

SCENARIOS = recorded("usb_transfers")["scenarios"]

U32, I32, U64 = 2**32 - 1, 2**31 - 1, 2**64 - 1


def captured(transfer):
    """A recorded transfer as a request, and what the device answered."""
    data = bytes.fromhex(transfer.get("data_out", ""))
    numbers = [int(transfer[name], 16) for name in ("bmRequestType", "bRequest")]
    value, index = int(transfer["wValue"], 16), int(transfer["wIndex"], 16)
    is_in = bool(numbers[0] & 0x80)
    assert is_in or transfer["wLength"] == len(data)
    request = ControlRequest(*numbers, value, index, data, transfer["wLength"] if is_in else 0)
    return request, bytes.fromhex(transfer.get("data_in", ""))


def same(progress, decoded):
    if isinstance(rate := decoded["rate"], dict):
        decoded = decoded | {"rate": float(rate["$float"])}
    return repr(progress._asdict()) == repr(decoded)


def ours(theirs):
    """The same request as this package makes it."""
    interface, text_id = theirs.index & 0xFF, theirs.index >> 8
    match theirs.request_type, theirs.request:
        case 0x80, 0x06:
            return requests.read_bos()
        case 0x81, 0x06 if theirs.length == 5:
            return requests.read_set_header(interface)
        case 0x81, 0x06:
            return requests.read_set(interface, theirs.length)
        case 0xC1, 0x02:
            return requests.read_timestamp(interface)
        case 0x41, 0x01:
            return requests.enable(interface, theirs.value == 1)
        case 0x41, 0x03 if theirs.data:
            return requests.progress(interface, Progress.decode(theirs.data).encode())
        case 0x41, 0x03:
            return requests.progress(interface)
        case 0x41, 0x04:
            return requests.status(interface, Status(theirs.value))
        case 0x41, 0x10:
            return requests.text(interface, TextId(text_id), theirs.data)
    raise AssertionError(theirs)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_recorded_transfer_is_one_that_we_make(scenario):
    transfers = [item for item in SCENARIOS[scenario]["transfers"] if "bRequest" in item]
    assert transfers
    for transfer in transfers:
        request, answer = captured(transfer)
        assert ours(request) == request
        if (request.request_type, request.request) == (0xC1, 0x02) and answer:
            assert requests.parse_timestamp(answer) == int.from_bytes(answer, "little")
        if "decoded" in transfer:
            assert same(Progress.decode(request.data), transfer["decoded"])


def test_answers_are_checked():
    for answer in (b"", bytes(7), bytes(9)):
        with pytest.raises(BadAnswer, match="8 bytes"):
            requests.parse_timestamp(answer)
    for payload in (b"", bytes(19), bytes(21)):
        with pytest.raises(BadAnswer, match="20 bytes"):
            Progress.decode(payload)


def test_the_difference_of_the_clocks_may_be_negative():
    assert requests.clock_difference_ms(1000, 1003, 200) == 801
    assert requests.clock_difference_ms(0, 0, 5) == -5


@pytest.mark.parametrize("vector", vectors("progress_payload"), ids=lambda v: v["hex"])
def test_progress_is_laid_out_as_recorded(vector):
    fields = ("duration_s", "position_ms", "device_timestamp_ms", "rate")
    progress = Progress(*(vector[name] for name in fields))
    assert progress.encode().hex() == vector["hex"]
    assert Progress.decode(bytes.fromhex(vector["hex"])) == progress


def test_a_payload_that_was_recorded():
    """Of 12.345 s set 17 ms ago, at the rate 1; the device had been on for 4057 ms."""
    timeline = Timeline(12_345, 1_000_000, 240_500, 1.0)
    payload = progress_payload(timeline, 1_000_017, 1_000_017 - 4057)
    assert payload.hex() == "f10000004a300000d90f0000000000000000803f"


def payload_of(position=0, update=0, duration=0, rate=0.0, now=0, difference=0):
    return Progress.decode(
        progress_payload(Timeline(position, update, duration, rate), now, difference)
    )


@pytest.mark.parametrize(
    ("duration_ms", "seconds"),
    [
        (0, 0), (499, 0), (500, 1), (1499, 1), (1500, 2), (2500, 3), (240_500, 241),
        (U32 * 1000, U32), (U32 * 1000 + 499, U32), (U64, U32),
    ],
)  # fmt: skip
def test_durations_are_rounded_half_up_and_saturate(duration_ms, seconds):
    assert payload_of(duration=duration_ms).duration_s == seconds


@pytest.mark.parametrize(
    ("position", "elapsed", "rate", "expected"),
    [
        (0, 1, 0.5, 1),
        (0, 3, 0.5, 2),
        (0, 5, 0.5, 3),
        (0, 1, -0.5, -1),
        (0, 5, -0.5, -3),
        (1000, 5000, -1.0, -4000),
        (0, 1, 0.49999999999999994, 0),
        (1000, 0, 1.0, 1000),
        (0, 2500, 2.0, 5000),
        (I32, 0, 0.0, I32),
        (I32, 1, 1.0, I32),
        (2**63 - 1, 0, 0.0, I32),
        (0, 10, 1e300, I32),
        (0, 10, -1e300, -I32 - 1),
        (0, 10, math.inf, I32),
        (0, 10, -math.inf, -I32 - 1),
        (7, 0, math.inf, 0),  # infinity times nothing is no number
        (7, 10, math.nan, 0),
        (0, 2**63, 1.0, I32),
    ],
)
def test_positions_move_round_and_saturate(position, elapsed, rate, expected):
    assert payload_of(position, 0, rate=rate, now=elapsed).position_ms == expected


def test_a_timeline_of_the_future_stands_at_its_beginning():
    progress = payload_of(position=5000, update=1000, rate=1.0, now=400, difference=300)
    assert (progress.position_ms, progress.device_timestamp_ms) == (5000, 100)


@pytest.mark.parametrize(
    ("now", "difference", "expected"),
    [(1000, 900, 100), (1000, -900, 1900), (1000, 1001, 0), (2**70, 0, U64)],
)
def test_device_timestamps_saturate(now, difference, expected):
    assert payload_of(now=now, difference=difference).device_timestamp_ms == expected


@pytest.mark.parametrize(
    ("rate", "bits"),
    [
        (1.0, "0000803f"),
        (math.nan, "0000c07f"),
        (struct.unpack("<d", bytes.fromhex("010000000000f8ff"))[0], "0000c07f"),
        (math.inf, "0000807f"),
        (-math.inf, "000080ff"),
        (1e300, "0000807f"),
        (-1e300, "000080ff"),
        (1e-300, "00000000"),
    ],
)
def test_rates_are_floats_of_32_bits(rate, bits):
    assert Progress(0, 0, 0, rate).encode()[16:].hex() == bits


@given(
    st.integers(0, 2**63 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, U64),
    st.floats(),
    st.integers(0, 2**63),
    st.integers(-(2**65), 2**65),
)
def test_every_timeline_has_a_payload(position, update, duration, rate, now, difference):
    progress = payload_of(position, update, duration, rate, now, difference)
    assert progress.duration_s == min((duration + 500) // 1000, U32)
    elapsed = max(now - update, 0)
    if math.isfinite(rate) and abs(position) + elapsed * (1 + abs(rate)) < 2**31:
        exact = position + elapsed * Fraction(rate)
        assert abs(progress.position_ms - exact) <= Fraction(1, 2) + Fraction(1, 2**20)
