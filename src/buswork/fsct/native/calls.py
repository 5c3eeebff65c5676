"""What may be asked of the driver on its socket: what polkit has to allow for it, and what it does.

Who may alter a player is decided by its user: whoever is the same user may, others need `manage`.
"""

import time
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from buswork.authority import Authority
from buswork.bus.caller import Peer
from buswork.fsct.model.driver import Driver
from buswork.fsct.model.players import Player
from buswork.fsct.wire import jsonrpc
from buswork.fsct.wire.protocol import VERSION
from buswork.fsct.wire.terms import DeviceInfo, TimeSync
from buswork.native.peers import Known

OBSERVE = "org.fsct.driver.observe"
REGISTER = "org.fsct.driver.register"
ROUTE = "org.fsct.driver.route"
MANAGE = "org.fsct.driver.manage"


class _Right(NamedTuple):
    """What is asked for one's own player, or for no player at all, and for those of others."""

    own: str
    others: str


# A method that is not here needs no right: it tells what everybody may know.
RIGHTS = {
    "register_player": _Right(REGISTER, REGISTER),
    "unregister_player": _Right(REGISTER, MANAGE),
    "assign_player_to_device": _Right(ROUTE, MANAGE),
    "unassign_player_from_device": _Right(ROUTE, MANAGE),
    "update_player_state": _Right(REGISTER, MANAGE),
    "update_player_status": _Right(REGISTER, MANAGE),
    "update_player_timeline": _Right(REGISTER, MANAGE),
    "update_player_metadata": _Right(REGISTER, MANAGE),
    "set_preferred_player": _Right(ROUTE, MANAGE),
    "get_preferred_player": _Right(OBSERVE, OBSERVE),
    "get_player_assigned_device": _Right(OBSERVE, OBSERVE),
    "get_detected_devices": _Right(OBSERVE, OBSERVE),
    "get_device_info": _Right(OBSERVE, OBSERVE),
}
_ABOUT_A_PLAYER = frozenset(
    name
    for name, method in jsonrpc.METHODS.items()
    if method.params and method.params[0] in ("player_id", "preferred_player_id")
)

# The driver's, with what a player costs its user.
Register = Callable[[str, Peer, Hashable], Player]


class Owner(Hashable, Protocol):
    """A connection, with which its players go."""

    known: Known


class Calls:
    def __init__(self, driver: Driver, authority: Authority, register: Register) -> None:
        self.driver = driver
        self.authority = authority
        self.register = register

    def action(self, known: Known, method: str, arguments: tuple[Any, ...]) -> str | None:
        """What must be allowed for this; None: nothing."""
        right = RIGHTS.get(method)
        if right is None:
            return None
        if method in _ABOUT_A_PLAYER:
            player = self.driver.players.get(arguments[0])
            if player is not None and player.uid != known.peer.uid:
                return right.others
        return right.own

    def may(self, known: Known, action: str) -> bool:
        """Whether it is allowed without asking anybody."""
        return self.authority.peer_is_known(known.peer, action)

    def carry_out(self, owner: Owner, method: str, arguments: tuple[Any, ...]) -> Any:
        return METHODS[method](self, owner, *arguments)


def _register_player(calls: Calls, owner: Owner, self_id: str) -> int:
    return calls.register(self_id, owner.known.peer, owner).id


def _assigned_device(calls: Calls, owner: Owner, player_id: int) -> UUID | None:
    device = calls.driver.player(player_id).device
    return None if device is None else UUID(device)


def _device_info(calls: Calls, owner: Owner, device_id: UUID) -> DeviceInfo:
    device = calls.driver.display(str(device_id)).device
    return DeviceInfo(
        device_id,
        device.product or None,
        device.vendor or None,
        device.vendor_id,
        device.product_id,
        device.serial or None,
    )


# Called with these, the connection and the arguments.
METHODS: dict[str, Callable[..., Any]] = {
    "get_protocol_version": lambda calls, owner: VERSION,
    "register_player": _register_player,
    "unregister_player": lambda calls, owner, *args: calls.driver.unregister(*args),
    "assign_player_to_device": lambda calls, owner, player_id, device: calls.driver.assign(
        player_id, str(device)
    ),
    "unassign_player_from_device": lambda calls, owner, player_id, device: calls.driver.unassign(
        player_id, str(device)
    ),
    "update_player_state": lambda calls, owner, *args: calls.driver.update_state(*args),
    "update_player_status": lambda calls, owner, *args: calls.driver.update_status(*args),
    "update_player_timeline": lambda calls, owner, *args: calls.driver.update_timeline(*args),
    "update_player_metadata": lambda calls, owner, *args: calls.driver.update_text(*args),
    "set_preferred_player": lambda calls, owner, *args: calls.driver.prefer(*args),
    "get_preferred_player": lambda calls, owner: calls.driver.preferred,
    "get_player_assigned_device": _assigned_device,
    "get_timesync": lambda calls, owner: TimeSync(time.time_ns(), time.monotonic_ns()),
    "get_detected_devices": lambda calls, owner: [UUID(known) for known in calls.driver.displays],
    "get_device_info": _device_info,
}
