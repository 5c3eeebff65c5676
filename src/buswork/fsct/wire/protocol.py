"""What the two protocols of the socket share: their version, how to tell them apart, their end."""

import enum
from typing import NamedTuple


class ProtocolVersion(NamedTuple):
    """Majors that differ don't understand each other; a higher minor has something more."""

    major: int
    minor: int

    def is_compatible(self, other: "ProtocolVersion") -> bool:
        return self.major == other.major


VERSION = ProtocolVersion(1, 0)

# Says where the driver's socket is; the plan's.
ENDPOINT_VARIABLE = "FSCT_IPC_ENDPOINT"

# In both protocols, what the newer one says a line may have. The longest message of sense, four
# texts of the length that a device can show at all, has a quarter of it; three quarters where JSON
# is written without any letter beyond ASCII.
MAX_MESSAGE_BYTES = 1 << 20


class Protocol(enum.Enum):
    MSGPACK_RPC = "msgpack-rpc"
    JSON_RPC = "json-rpc"


# A request in MessagePack begins with 0x9X or 0xdc; of these bytes it makes whole numbers, which
# no client begins with. An array (a batch) is answered in JSON that there are none.
_JSON_BEGINS = frozenset(b"{[ \t\r\n")


def protocol_of(first_byte: int) -> Protocol:
    """Which protocol a connection speaks whose first byte is this."""
    return Protocol.JSON_RPC if first_byte in _JSON_BEGINS else Protocol.MSGPACK_RPC


class Broken(Exception):
    """Nothing more can be read from this connection: send `answer`, if any, then end it."""

    def __init__(self, text: str, answer: bytes = b"") -> None:
        super().__init__(text)
        self.answer = answer
