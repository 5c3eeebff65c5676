"""The interfaces that objects have without a face of their own: Peer, Introspectable,
Properties and ObjectManager."""

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from buswork.bus.caller import Call
from buswork.bus.codec import Parts
from buswork.bus.contract import OPEN_TO_ALL, Guard, Interface, Property, introspection, parse
from buswork.bus.library import Variant
from buswork.bus.managed import ManagedObjects
from buswork.bus.objects import (
    INTROSPECTABLE,
    OBJECT_MANAGER,
    PEER,
    PROPERTIES,
    BoundFace,
    Exported,
    ObjectTree,
    Route,
    Values,
)
from buswork.bus.readable import PropertyJudge, Readable
from buswork.errors import (
    BusworkError,
    InvalidArgs,
    PropertyReadOnly,
    UnknownInterface,
    UnknownProperty,
)

_OPEN = '<annotation name="org.buswork.Action" value="none"/>'


def _doc(text: str) -> str:
    return f'<annotation name="org.gtk.GDBus.DocString" value="{text}"/>'


_XML = f"""
<node>
 <interface name="{PEER}">{_doc("Is anybody there, and on which machine?")}
  <method name="Ping">{_OPEN}{_doc("Answers.")}</method>
  <method name="GetMachineId">{_OPEN}{_doc("The id of this machine.")}
   <arg type="s" name="machine_uuid" direction="out"/>
  </method>
 </interface>
 <interface name="{INTROSPECTABLE}">{_doc("What is here?")}
  <method name="Introspect">{_OPEN}{_doc("This object as XML, with documentation.")}
   <arg type="s" name="xml_data" direction="out"/>
  </method>
 </interface>
 <interface name="{PROPERTIES}">{_doc("The properties of the other interfaces.")}
  <method name="Get">{_OPEN}{_doc("One property, if you may read it.")}
   <arg type="s" name="interface_name" direction="in"/>
   <arg type="s" name="property_name" direction="in"/>
   <arg type="v" name="value" direction="out"/>
  </method>
  <method name="Set">{_OPEN}{_doc("Writes one property, if you may.")}
   <arg type="s" name="interface_name" direction="in"/>
   <arg type="s" name="property_name" direction="in"/>
   <arg type="v" name="value" direction="in"/>
  </method>
  <method name="GetAll">{_OPEN}{_doc("All properties that you may read.")}
   <arg type="s" name="interface_name" direction="in"/>
   <arg type="a{{sv}}" name="properties" direction="out"/>
  </method>
  <signal name="PropertiesChanged">{_doc("New values, or names where not everybody may read them.")}
   <arg type="s" name="interface_name"/>
   <arg type="a{{sv}}" name="changed_properties"/>
   <arg type="as" name="invalidated_properties"/>
  </signal>
 </interface>
 <interface name="{OBJECT_MANAGER}">{_doc("The objects below this one.")}
  <method name="GetManagedObjects">{_OPEN}{_doc("All of them, with what you may read of them.")}
   <arg type="a{{oa{{sa{{sv}}}}}}" name="objects" direction="out"/>
  </method>
  <signal name="InterfacesAdded">{_doc("An object is new; with what everybody may read of it.")}
   <arg type="o" name="object_path"/>
   <arg type="a{{sa{{sv}}}}" name="interfaces_and_properties"/>
  </signal>
  <signal name="InterfacesRemoved">{_doc("An object has gone.")}
   <arg type="o" name="object_path"/>
   <arg type="as" name="interfaces"/>
  </signal>
 </interface>
</node>
"""

CONTRACTS = parse(_XML)
_PUBLIC = Guard(OPEN_TO_ALL, OPEN_TO_ALL)


class StandardInterfaces:
    """Routes for the standard interfaces of every path."""

    def __init__(self, tree: ObjectTree, judge: PropertyJudge) -> None:
        self._tree = tree
        self._judge = judge
        self._managed = ManagedObjects(tree, judge)
        self._handlers: dict[tuple[str, str], Callable[[str], Route]] = {
            (PEER, "Ping"): lambda path: _route(PEER, "Ping", _ping),
            (PEER, "GetMachineId"): lambda path: _route(PEER, "GetMachineId", _get_machine_id),
            (INTROSPECTABLE, "Introspect"): self._introspect,
            (PROPERTIES, "Get"): self._get,
            (PROPERTIES, "Set"): self._set,
            (PROPERTIES, "GetAll"): self._get_all,
            (OBJECT_MANAGER, "GetManagedObjects"): self._get_managed_objects,
        }

    def contracts(self, path: str) -> list[Interface]:
        """The standard interfaces of what is at path; Peer answers everywhere."""
        names = [PEER]
        if self._tree.is_node(path):
            names.append(INTROSPECTABLE)
        if self._tree.get(path) is not None:
            names.append(PROPERTIES)
        if self._tree.is_manager(path):
            names.append(OBJECT_MANAGER)
        return [CONTRACTS[name] for name in names]

    def route(self, path: str, interface: str, member: str) -> Route:
        return self._handlers[interface, member](path)

    # -- Introspectable ------------------------------------------------------------------------

    def _introspect(self, path: str) -> Route:
        return _route(INTROSPECTABLE, "Introspect", lambda call: self.introspection(path))

    def introspection(self, path: str) -> str:
        exported = self._tree.get(path)
        own = [bound.contract for bound in exported.faces.values()] if exported else []
        return introspection(own + self.contracts(path), self._tree.children(path))

    # -- Properties ----------------------------------------------------------------------------

    def _get(self, path: str) -> Route:
        exported = self._exported(path)

        def guard(values: Values) -> Guard:
            property_ = _property(exported, values)[1]
            if not property_.readable:
                raise InvalidArgs(f"{property_.name} can't be read")
            return property_.read

        def get(call: Call, interface: str, name: str) -> Variant:
            bound, property_ = _property(exported, (interface, name))
            return bound.read(property_)

        return _route(PROPERTIES, "Get", get, guard, exported)

    def _set(self, path: str) -> Route:
        exported = self._exported(path)

        def guard(values: Values) -> Guard:
            property_ = _property(exported, values)[1]
            if not property_.writable:
                raise PropertyReadOnly(f"{property_.name} can't be written")
            if values[2].signature != property_.signature:
                raise InvalidArgs(f"{property_.name} is of type {property_.signature!r}")
            return property_.write

        def set_(call: Call, interface: str, name: str, value: Variant) -> Any:
            bound, property_ = _property(exported, (interface, name))
            return getattr(bound.face, "set_" + property_.attribute)(call, value.value)

        return _route(PROPERTIES, "Set", set_, guard, exported)

    def _get_all(self, path: str) -> Route:
        exported = self._exported(path)

        def get_all(call: Call, interface: str) -> Any:
            if not interface:  # the specification lets it be empty: all interfaces
                bounds = list(exported.faces.values())
            elif interface in CONTRACTS:
                bounds = []  # the interfaces here have no properties
            else:
                bounds = [_bound(exported, interface)]
            readable = Readable(call, self._judge)

            def answer() -> dict[str, Variant]:
                return {
                    name: value
                    for bound in bounds
                    for name, value in bound.readable(path, readable.of(path, bound)).items()
                }

            if readable.knows_of(path, bounds):
                return answer()
            return readable.asked_then(answer)

        return _route(PROPERTIES, "GetAll", get_all, _PUBLIC, exported)

    # -- ObjectManager -------------------------------------------------------------------------

    def _get_managed_objects(self, path: str) -> Route:
        def get_managed_objects(call: Call) -> Coroutine[Any, Any, Parts]:
            return self._managed.below(path, call)

        target = self._exported(path)
        return _route(OBJECT_MANAGER, "GetManagedObjects", get_managed_objects, _PUBLIC, target)

    def _exported(self, path: str) -> Exported:
        exported = self._tree.get(path)
        if exported is None:
            raise UnknownInterface(f"{path} has no properties")
        return exported


def _route(
    interface: str,
    member: str,
    handler: Callable[..., Any],
    guard: Guard | Callable[[Values], Guard] = _PUBLIC,
    target: Exported | None = None,
) -> Route:
    method = CONTRACTS[interface].methods[member]
    owner_uid = None if target is None else _owner_by_interface(target)
    return Route(
        method.signature_in,
        method.signature_out,
        method.outputs,
        handler,
        guard,
        target,
        owner_uid,
    )


def _owner_by_interface(target: Exported) -> Callable[[str, Values], int | None]:
    """Whose the property is: asked of the face whose interface the first argument names."""

    def owner_uid(path: str, values: Values) -> int | None:
        bound = target.faces.get(values[0]) if values else None
        return bound.face.owner_uid(path, ()) if bound is not None else None

    return owner_uid


def _bound(exported: Exported, interface: str) -> BoundFace:
    bound = exported.faces.get(interface)
    if bound is None:
        raise UnknownInterface(f"{exported.path} has no interface {interface}")
    return bound


def _property(exported: Exported, values: Values) -> tuple[BoundFace, Property]:
    interface, name = values[0], values[1]
    bound = _bound(exported, interface)
    property_ = bound.contract.properties.get(name)
    if property_ is None:
        raise UnknownProperty(f"{interface} has no property {name}")
    return bound, property_


def _ping(call: Call) -> None:
    return None


def _get_machine_id(call: Call) -> str:
    for place in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        try:
            return Path(place).read_text().strip()
        except OSError:
            continue
    raise BusworkError("this machine has no id")
