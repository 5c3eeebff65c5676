"""One exchange with a processor, and both its ends: a packet, data either way, a result.

How the bytes travel depends on the line (sections 2, 7, 9 and 13):

    USB   packets of 64 bytes; the first generation pads all of them, the second none
    UDP   a datagram each for packet, data and result, and for local sockets a message
    UART  just bytes; a packet has 64 of them

The readers take what comes and hold no more than one exchange.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from buswork.flipper.wire.errors import Error
from buswork.flipper.wire.packets import (
    Lookup,
    Request,
    data_to_board,
    data_to_host,
    encode_request,
    parse_request,
)
from buswork.flipper.wire.results import (
    RESULT_BYTES,
    Result,
    encode_result,
    parse_result,
    refused,
)
from buswork.flipper.wire.terms import (
    PACKET_BYTES,
    UDP_TRANSFER_BYTES,
    BadAnswer,
    BadPacket,
    BadValue,
    Framing,
    Generation,
)

# A board that asks back asks once for each name that it was asked for.
MAX_NESTED_LOOKUPS: Final = 4


class Exchange(NamedTuple):
    request: Request
    data: bytes = b""  # as much as the request announces


class Answer(NamedTuple):
    result: Result
    data: bytes = b""  # as much as was asked for; none if the board had no memory for it


class Refused(NamedTuple):
    """What a board answers to what is no request, or announces too much; `reason` says why."""

    error: Error
    reason: str


def blocks(data: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def packet_count(length: int) -> int:
    """How many packets of USB carry this much data."""
    return -(-length // PACKET_BYTES)


def frame(data: bytes, framing: Framing, generation: Generation = Generation.G1) -> list[bytes]:
    """Data or a result as the line carries it; nothing is never sent."""
    if framing is not Framing.USB:
        return [data] if data else []
    packets = list(blocks(data, PACKET_BYTES))
    if packets and generation is Generation.G1:
        # With zeros: the original sends what happens to lie behind it (section 15, pitfall 11).
        packets[-1] = packets[-1].ljust(PACKET_BYTES, b"\0")
    return packets


# -- a host's side -----------------------------------------------------------------------------


def outgoing(
    exchange: Exchange, framing: Framing, generation: Generation = Generation.G1
) -> list[bytes]:
    """All that goes to the board, in order."""
    request, data = exchange
    if len(data) != data_to_board(request):
        text = f"the request announces {data_to_board(request)} bytes, and {len(data)} are there"
        raise BadValue("data", text)
    return [encode_request(request, generation), *frame(data, framing, generation)]


class AnswerReader:
    """Reads the answer to one exchange from what comes; BadAnswer if that is none."""

    def __init__(
        self, exchange: Exchange, framing: Framing, generation: Generation = Generation.G1
    ) -> None:
        self._framing = framing
        self._generation = generation
        self._padded = framing is Framing.USB and generation is Generation.G1
        self._data_bytes = data_to_host(exchange.request)
        self._result_bytes = RESULT_BYTES[generation]
        # How much the data and the result have on the line.
        self._data_framed, self._result_framed = self._data_bytes, self._result_bytes
        if self._padded:
            self._data_framed = packet_count(self._data_bytes) * PACKET_BYTES
            self._result_framed = PACKET_BYTES
        self._buffer = bytearray()
        self._to_send: list[bytes] = []
        self._nested = 0
        self._done = False

    @property
    def wanted(self) -> int:
        """The bytes that are still to come; over USB, a read may ask for all of them at once."""
        if self._done:
            return 0
        return self._data_framed + self._result_framed - len(self._buffer)

    def data_to_send(self) -> list[bytes]:
        """What the board is to get before it answers; second generation only."""
        sending, self._to_send = self._to_send, []
        return sending

    def feed(self, chunk: bytes) -> Answer | None:
        """One packet, datagram or piece; over USB, several whole packets at once as well."""
        if self._done:
            raise BadAnswer("there is more after the result")
        if self._is_nested_lookup(chunk):
            return None
        if self._is_result_alone(chunk):
            return self._answer(parse_result(chunk, self._generation), b"")
        self._check(chunk)
        self._buffer += chunk
        if self.wanted:
            return None
        result = parse_result(bytes(self._buffer[self._data_framed :]), self._generation)
        return self._answer(result, bytes(self._buffer[: self._data_bytes]))

    def give_up(self) -> Answer | None:
        """Nothing more comes: whether what came instead of the data was the result.

        So it is when a board of the first generation on USB has no memory for a pull
        (section 15, pitfall 4); data alone that look the same are told apart by an error.
        """
        if self._done or not self._padded or len(self._buffer) != PACKET_BYTES:
            return None
        result = parse_result(bytes(self._buffer))
        if not result.error or any(self._buffer[self._result_bytes :]):
            return None
        return self._answer(result, b"")

    def _answer(self, result: Result, data: bytes) -> Answer:
        self._done = True
        return Answer(result, data)

    def _check(self, chunk: bytes) -> None:
        size = len(chunk)
        if size > self.wanted:
            raise BadAnswer(f"{size} bytes came where {self.wanted} were to come")
        if self._padded:
            if not size or size % PACKET_BYTES:
                raise BadAnswer(f"a packet has {PACKET_BYTES} bytes, not {size}")
            return
        if self._framing is Framing.UART:
            return
        left = self._data_framed - len(self._buffer)
        if self._framing is Framing.USB:
            left = min(left, PACKET_BYTES)
        expected = left or self._result_framed
        if size != expected:
            raise BadAnswer(f"{size} bytes came where {expected} were to come")

    def _is_result_alone(self, chunk: bytes) -> bool:
        """Without data: there was no memory for them. Where the length does not tell, it's data."""
        return (
            not self._padded
            and self._framing is not Framing.UART
            and not self._buffer
            and self._data_framed not in (0, len(chunk))
            and len(chunk) == self._result_bytes
            and parse_result(chunk, self._generation).error != 0
        )

    def _is_nested_lookup(self, chunk: bytes) -> bool:
        """A board that does not know a name asks the host for it, which does not either."""
        if self._generation is Generation.G1 or len(self._buffer) < self._data_framed:
            return False
        if len(chunk) != PACKET_BYTES:
            return False
        try:
            if not isinstance(parse_request(chunk, self._generation), Lookup):
                return False
        except BadPacket:
            return False
        self._nested += 1
        if self._nested > MAX_NESTED_LOOKUPS:
            raise BadAnswer("the board asks for names again and again")
        answer = refused(Error.E_RESOLUTION, self._generation)
        self._to_send.append(encode_result(answer, self._generation))
        return True


# -- a board's side ----------------------------------------------------------------------------


def answering(
    answer: Answer | Refused, framing: Framing, generation: Generation = Generation.G1
) -> list[bytes]:
    """All that goes to the host, in order."""
    if isinstance(answer, Refused):
        answer = Answer(refused(answer.error, generation))
    result = encode_result(answer.result, generation)
    return [*frame(answer.data, framing, generation), *frame(result, framing, generation)]


class RequestReader:
    """Reads exchanges from what a host sends.

    More data than `max_data` are refused without being kept. Of datagrams the data are then
    passed over, so that each request has one answer; on a stream they are taken for packets, as
    the U2 does (section 15, pitfall 3).
    """

    def __init__(
        self,
        framing: Framing,
        generation: Generation = Generation.G1,
        max_data: int = UDP_TRANSFER_BYTES,
    ) -> None:
        self._framing = framing
        self._generation = generation
        self._max_data = max_data
        self._buffer = bytearray()
        self._pending: Request | None = None
        # What is to be refused once so much has come.
        self._skipping: tuple[Refused, int] | None = None

    @property
    def pending(self) -> Request | None:
        """The request whose data are on their way."""
        return self._pending

    def abandon(self) -> Exchange | None:
        """The data don't come any more: the request with what came, and zeros."""
        request, self._pending, self._skipping = self._pending, None, None
        data = bytes(self._buffer)
        self._buffer.clear()
        if request is None:
            return None
        length = data_to_board(request)
        return Exchange(request, data[:length].ljust(length, b"\0"))

    def feed(self, chunk: bytes) -> list[Exchange | Refused]:
        """One packet, datagram or piece; over USB, several packets at once as well."""
        match self._framing:
            case Framing.UDP:
                found = [self._datagram(chunk)]
            case Framing.USB:
                found = [self._usb_packet(packet) for packet in blocks(chunk, PACKET_BYTES)]
            case Framing.UART:
                self._buffer += chunk
                found = [self._received(piece) for piece in iter(self._piece, None)]
        return [each for each in found if each is not None]

    def _piece(self) -> bytes | None:
        """The next packet of a stream, or all data of the pending request."""
        size = PACKET_BYTES if self._pending is None else data_to_board(self._pending)
        if len(self._buffer) < size:
            return None
        piece = bytes(self._buffer[:size])
        del self._buffer[:size]
        return piece

    def _datagram(self, chunk: bytes) -> Exchange | Refused | None:
        if self._skipping is not None:
            refusal, length = self._skipping
            self._skipping = None
            if len(chunk) == length:
                return refusal
        elif self._pending is not None and len(chunk) != data_to_board(self._pending):
            text = f"{len(chunk)} bytes came for {data_to_board(self._pending)}"
            refusal = Refused(Error.E_BOUNDARY, text)
            self._pending = None
        else:
            return self._received(chunk)
        # The data were lost; what came instead may be the next request.
        found = self._packet(chunk)
        return refusal if isinstance(found, Refused) else found

    def _usb_packet(self, packet: bytes) -> Exchange | Refused | None:
        if self._pending is None:
            return self._packet(packet)
        length = data_to_board(self._pending)
        left = length - len(self._buffer)
        expected = PACKET_BYTES
        if self._generation is Generation.G2:
            expected = min(left, PACKET_BYTES)
        if len(packet) != expected:
            self.abandon()
            return Refused(Error.E_BOUNDARY, f"{len(packet)} bytes came for {expected}")
        self._buffer += packet[:left]
        if len(self._buffer) < length:
            return None
        data = bytes(self._buffer)
        self._buffer.clear()
        return self._received(data)

    def _received(self, piece: bytes) -> Exchange | Refused | None:
        """A packet, or all data of the pending request."""
        if self._pending is None:
            return self._packet(piece)
        request, self._pending = self._pending, None
        return Exchange(request, piece)

    def _packet(self, packet: bytes) -> Exchange | Refused | None:
        try:
            request = parse_request(packet, self._generation)
        except BadPacket as error:
            return Refused(error.error, str(error))
        length = data_to_board(request)
        if max(length, data_to_host(request)) > self._max_data:
            refusal = Refused(Error.E_MALLOC, f"one request may transfer {self._max_data} bytes")
            # What fits into no datagram will not come.
            if self._framing is Framing.UDP and 0 < length <= UDP_TRANSFER_BYTES:
                self._skipping = refusal, length
                return None
            return refusal
        if not length:
            return Exchange(request)
        self._pending = request
        return None
