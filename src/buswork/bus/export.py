"""Everything that we have on one bus: objects, the calls to them, the signals from them."""

import logging
from collections.abc import Iterable
from typing import Any

from buswork.bus.backlog import Part
from buswork.bus.caller import Callers
from buswork.bus.dispatch import MAX_REPLY, Dispatcher, Judge
from buswork.bus.message import SignalTemplate
from buswork.bus.news import News
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
        self.callers = callers
        self.signals = 0
        self.dropped_signals = 0
        self._tree = ObjectTree()
        self.dispatcher = Dispatcher(connection, callers, judge, self._tree)
        self._news = News(self._tell_changed)
        self._templates: dict[tuple[str, str, str], tuple[SignalTemplate, Part]] = {}

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
        signals are what is dropped; those of a wing whose own lie unread before all others.
        """
        template, part = self._template(path, interface, member, to)
        if self._is_silent(part) or not self._send(template, part, member, values):
            self.dropped_signals += 1

    def tell(self, path: str, interface: str, member: str, *values: Any, to: str) -> bool:
        """A signal for one, from who can wait: returns whether it was sent.

        And who sees to it that little lies unread, of each and of all: so what others do not read
        of the wing's signals is no reason to keep it back.
        """
        template, part = self._template(path, interface, member, to)
        return not self._is_silent() and self._send(template, part, member, values)

    def _send(
        self, template: SignalTemplate, part: Part, member: str, values: tuple[Any, ...]
    ) -> bool:
        message = template.message(self.connection.next_serial(), values)
        if len(message) > MAX_REPLY:
            log.error("a signal %s of %d bytes is not sent", member, len(message))
            return False
        self.signals += 1
        part.sent += len(message)
        self.connection.send(message)
        return True

    async def unread(self, name: str) -> int:
        """What one caller leaves unread of what was sent until now, as far as the bus says."""
        return await self.dispatcher.backlog.unread(name)

    def _is_silent(self, part: Part | None = None) -> bool:
        return self.connection.writer.is_overfull or self.dispatcher.backlog.is_silent(part)

    def changed(self, path: str, interface: str, *names: str) -> None:
        """Tells that properties changed: with values where everybody may read them.

        Of what changes faster than is good for the bus, the newest is told a little later.
        """
        exported = self._tree.get(path)
        if exported is None:
            return
        bound = exported.faces[interface]
        told = [name for name in names if bound.contract.properties[name].is_told]
        if told:
            self._news.changed(bound.face.owner_uid(path, ()), path, interface, told)

    def _tell_changed(self, path: str, interface: str, names: Iterable[str]) -> bool:
        """Whether it is told; what has gone meanwhile has nothing left to tell."""
        exported = self._tree.get(path)
        bound = None if exported is None else exported.faces.get(interface)
        if exported is None or bound is None:
            return True
        if self._is_silent(self.dispatcher.backlog.part(exported.wing)):
            return False
        told = [bound.contract.properties[name] for name in names]
        values = bound.readable(path, (each for each in told if each.is_told_with_value))
        invalidated = [each.name for each in told if each.name not in values]
        self.emit(path, PROPERTIES, "PropertiesChanged", interface, values, invalidated)
        self._tree.note(path)
        return True

    def _template(
        self, path: str, interface: str, member: str, to: str | None
    ) -> tuple[SignalTemplate, Part]:
        """The signal without its values, and the part of the backlog that it belongs to."""
        key = (path, interface, member)
        found = self._templates.get(key) if to is None else None
        if found is None:
            signature = self._signal_signature(path, interface, member)
            exported = self._tree.get(path)
            part = self.dispatcher.backlog.part("" if exported is None else exported.wing)
            found = SignalTemplate(path, interface, member, signature, to), part
            if to is None:  # names to unicast to are ever new, so those are not kept
                if len(self._templates) >= MAX_TEMPLATES:
                    self._templates.clear()
                self._templates[key] = found
        return found

    def _signal_signature(self, path: str, interface: str, member: str) -> str:
        exported = self._tree.get(path)
        if exported is not None and interface in exported.faces:
            return exported.faces[interface].contract.signals[member].signature
        return CONTRACTS[interface].signals[member].signature

    async def drain(self, seconds: float) -> None:
        """Lets calls in flight end, for so long at the most, and sends what is queued."""
        await self.dispatcher.drain(seconds)
        await self.connection.writer.drain(seconds)
