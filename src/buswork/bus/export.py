"""Everything that we have on one bus: objects, the calls to them, the signals from them."""

import logging
from typing import Any

from buswork.bus.caller import Callers
from buswork.bus.dispatch import MAX_REPLY, Dispatcher, Judge
from buswork.bus.message import SignalTemplate
from buswork.bus.objects import OBJECT_MANAGER, PROPERTIES, Exported, Face, ObjectTree, bind
from buswork.bus.standard import CONTRACTS
from buswork.bus.transport import Connection

log = logging.getLogger(__name__)

# Signal headers that are kept ready made, one for each path and member that was emitted.
MAX_TEMPLATES = 4096

__all__ = ["Edge", "Exported", "Face"]


class Edge:
    """The edge between the wings and the bus."""

    def __init__(self, connection: Connection, callers: Callers, judge: Judge) -> None:
        self.connection = connection
        self.signals = 0
        self.dropped_signals = 0
        self._tree = ObjectTree()
        self.dispatcher = Dispatcher(connection, callers, judge, self._tree)
        self._templates: dict[tuple[str, str, str], SignalTemplate] = {}

    def export(self, path: str, *faces: Face, wing: str, manager: bool = False) -> Exported:
        """Puts an object on the bus; `wing` is the path of the wing's root, which keeps order.

        A manager answers GetManagedObjects for what is below it. A face that does not keep its
        contract is refused here, not when somebody calls.
        """
        exported = Exported(path, wing, {face.interface: bind(face) for face in faces})
        self._tree.add(exported, manager=manager)
        above = self._tree.manager_of(path)
        if above is not None:
            facts = {name: bound.public_properties(path) for name, bound in exported.faces.items()}
            self.emit(above, OBJECT_MANAGER, "InterfacesAdded", path, facts)
        return exported

    def unexport(self, path: str) -> None:
        exported = self._tree.remove(path)
        above = self._tree.manager_of(path)
        if above is not None:
            self.emit(above, OBJECT_MANAGER, "InterfacesRemoved", path, list(exported.faces))

    def emit(
        self, path: str, interface: str, member: str, *values: Any, to: str | None = None
    ) -> None:
        """Sends a signal of the contract: to one unique name, or to all who listen.

        When more waits to be sent than the bus carries off, or too much lies there unread,
        signals are what is dropped.
        """
        if self.connection.writer.is_overfull or self.dispatcher.backlog.silent:
            self.dropped_signals += 1
            return
        template = self._template(path, interface, member, to)
        message = template.message(self.connection.next_serial(), values)
        if len(message) > MAX_REPLY:
            log.error("a signal %s of %d bytes is not sent", member, len(message))
            self.dropped_signals += 1
            return
        self.signals += 1
        self.connection.send(message)

    def changed(self, path: str, interface: str, *names: str) -> None:
        """Tells that properties changed: with values where everybody may read them."""
        exported = self._tree.get(path)
        if exported is None:
            return
        bound = exported.faces[interface]
        told = [bound.contract.properties[name] for name in names]
        values = bound.readable(
            path,
            lambda property_: (
                property_ in told and property_.emits_changed == "true" and property_.read.is_open
            ),
        )
        invalidated = [
            property_.name
            for property_ in told
            if property_.name not in values and property_.emits_changed in ("true", "invalidates")
        ]
        if values or invalidated:
            self.emit(path, PROPERTIES, "PropertiesChanged", interface, values, invalidated)

    def _template(self, path: str, interface: str, member: str, to: str | None) -> SignalTemplate:
        key = (path, interface, member)
        template = self._templates.get(key) if to is None else None
        if template is None:
            signature = self._signal_signature(path, interface, member)
            template = SignalTemplate(path, interface, member, signature, to)
            if to is None:  # names to unicast to are ever new, so those are not kept
                if len(self._templates) >= MAX_TEMPLATES:
                    self._templates.clear()
                self._templates[key] = template
        return template

    def _signal_signature(self, path: str, interface: str, member: str) -> str:
        exported = self._tree.get(path)
        if exported is not None and interface in exported.faces:
            return exported.faces[interface].contract.signals[member].signature
        return CONTRACTS[interface].signals[member].signature

    async def drain(self, seconds: float) -> None:
        """Lets calls in flight end, for so long at the most, and sends what is queued."""
        await self.dispatcher.drain(seconds)
        await self.connection.writer.drain(seconds)
