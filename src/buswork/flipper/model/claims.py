"""Who has a board to itself, by the board's place: unplugging it ends no claim.

Rules
* A claim lasts until its lease runs out, its owner releases it or leaves. It is the owner who
  may do something with it, not whoever knows its token.
* What others learn of it is its reason.
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field

from buswork.errors import InvalidArgs
from buswork.flipper.errors import NotOwner
from buswork.flipper.wire.terms import shown

Owner = Hashable

# One that its owner forgot holds a board for an hour at the most; longer work renews it.
MIN_LEASE_SECONDS = 1
MAX_LEASE_SECONDS = 3600
# It is for people to read, in an error.
MAX_REASON_CHARACTERS = 64


@dataclass(eq=False, slots=True)
class Claim:
    key: str  # the board's place
    owner: Owner
    uid: int
    reason: str
    lease_seconds: int
    token: str = field(repr=False)
    expires: float = 0.0  # its lease begins when it is granted
    # Whether its owner may do what disturbs the calls of others, or alters the board for good.
    service: bool = False
    lent: bool = False  # to a program that talks with the board itself

    def __post_init__(self) -> None:
        if not MIN_LEASE_SECONDS <= self.lease_seconds <= MAX_LEASE_SECONDS:
            raise InvalidArgs(f"A lease lasts {MIN_LEASE_SECONDS} to {MAX_LEASE_SECONDS} seconds.")
        self.reason = shown("".join([c if c.isprintable() else "\ufffd" for c in self.reason]))
        if not self.reason:
            raise InvalidArgs("Others are told the reason: it must not be empty.")

    def renew(self, now: float) -> None:
        self.expires = now + self.lease_seconds


class Claims:
    """All that were granted. `on_change` is called with the place, when all is as it will be."""

    def __init__(self, on_change: Callable[[str], None]) -> None:
        self._on_change = on_change
        self._by_key: dict[str, Claim] = {}

    def at(self, key: str) -> Claim | None:
        return self._by_key.get(key)

    def grant(self, claim: Claim, now: float) -> None:
        claim.renew(now)
        self._by_key[claim.key] = claim
        self._on_change(claim.key)

    def renew(self, token: str, owner: Owner, now: float) -> None:
        self._find(token, owner).renew(now)
        # Nothing that others see has changed.

    def lend(self, token: str, owner: Owner) -> None:
        claim = self._find(token, owner)
        claim.lent = True
        self._on_change(claim.key)

    def release(self, token: str, owner: Owner) -> None:
        self.end([self._find(token, owner)])

    def next_expiry(self) -> float | None:
        return min((claim.expires for claim in self._by_key.values()), default=None)

    def expire(self, now: float) -> None:
        self.end(claim for claim in self._by_key.values() if claim.expires <= now)

    def end(self, claims: Iterable[Claim]) -> None:
        ended = [*claims]
        for claim in ended:
            del self._by_key[claim.key]
        for claim in ended:
            self._on_change(claim.key)

    def _find(self, token: str, owner: Owner) -> Claim:
        for claim in self._by_key.values():
            if claim.token == token and claim.owner == owner:
                return claim
        # Whether it is another's is nobody's business.
        raise NotOwner("You have no claim with this token; its lease may have run out.")
