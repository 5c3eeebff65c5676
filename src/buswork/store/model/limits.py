"""How much the store takes, of each thing and in all."""

from dataclasses import dataclass

# Names, not data: four times the longest file name. All the keys of a uid are 10 MiB at most,
# which one reply (16 MiB) to List can carry.
MAX_KEY_BYTES = 1024

# Five times what the original mapipcd takes in one message (212,000 bytes); short enough that
# encoding one value holds nobody up.
MAX_VALUE_BYTES = 1024 * 1024

# One reply to GetMany carries about as much; larger things belong into files.
MAX_BYTES_PER_UID = 16 * 1024 * 1024

# List sorts them all while others wait; 10,000 take a few milliseconds.
MAX_KEYS_PER_UID = 10_000

# Sixteen users with full quotas, and no more of the machine's memory than that.
MAX_BYTES = 256 * 1024 * 1024

# A watcher may be away for a minute at a thousand changes a second.
MAX_HISTORY_CHANGES = 65_536

# The past may cost as much as one user's present.
MAX_HISTORY_BYTES = 16 * 1024 * 1024

# A hundred years: nothing in memory lives longer, and the end still fits D-Bus's `t`.
MAX_TTL_MS = 100 * 366 * 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Limits:
    """How much fits; a bench may lift them."""

    key_bytes: int = MAX_KEY_BYTES
    value_bytes: int = MAX_VALUE_BYTES
    bytes_per_uid: int = MAX_BYTES_PER_UID
    keys_per_uid: int = MAX_KEYS_PER_UID
    total_bytes: int = MAX_BYTES
    history_changes: int = MAX_HISTORY_CHANGES
    history_bytes: int = MAX_HISTORY_BYTES
    ttl_ms: int = MAX_TTL_MS
