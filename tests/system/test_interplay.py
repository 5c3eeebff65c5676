"""Tier 5: what people use on D-Bus gives the same answers as everything else, on both buses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest
from support.machine import BUS_NAME, Client, Daemon, Machine, why_not
from support.places import LOG_CONTROL, STORE, check_unharmed, get_key, set_key

pytestmark = [pytest.mark.system, pytest.mark.tools]

TEXT = "grüße 🚌 with 'quotes' \"and\" $spaces"


@pytest.fixture(scope="module", params=["daemon", "broker"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    if reason := why_not(bus=request.param):
        pytest.skip(reason)
    with Machine(bus=request.param) as machine:
        yield machine


@pytest.fixture(scope="module")
def daemon(machine: Machine) -> Daemon:
    return machine.start_daemon()


@pytest.fixture(scope="module")
def bob(machine: Machine, daemon: Daemon) -> Client:
    return machine.client("bob")


@pytest.fixture(autouse=True)
def _unharmed(machine: Machine, daemon: Daemon, bob: Client) -> Iterator[None]:
    set_key(bob, "text", TEXT)
    set_key(bob, "old", "x")
    yield
    check_unharmed(machine, daemon, bob)


def busctl(machine: Machine, *words: str, user: str = "alice", check: bool = True) -> str:
    done = machine.run(["busctl", "--json=short", *words], user, check=check)
    return done.stdout if check else done.stderr


def gdbus(machine: Machine, *words: str, check: bool = True) -> str:
    command = [words[0], "--system", "--dest", BUS_NAME, *words[1:]]
    done = machine.run(["gdbus", *command], "alice", check=check)
    return done.stdout if check else done.stderr


def test_busctl_call(machine: Machine, bob: Client) -> None:
    out = json.loads(busctl(machine, "call", BUS_NAME, *STORE, "Get", "s", "text"))
    assert out == {"type": "s", "data": [TEXT]}
    busctl(machine, "call", BUS_NAME, *STORE, "Set", "ss", "by busctl", "x y")
    assert get_key(bob, "by busctl") == "x y"
    busctl(machine, "call", BUS_NAME, *STORE, "SetMany", "a{ss}", "2", "m1", "1", "m2", "2")
    out = json.loads(busctl(machine, "call", BUS_NAME, *STORE, "GetMany", "as", "2", "m1", "m2"))
    assert out["data"] == [{"m1": "1", "m2": "2"}]
    out = busctl(machine, "call", BUS_NAME, *STORE, "Clear", check=False)
    assert "ccess denied" in out, "busctl allows interaction, and there is no agent"
    out = busctl(machine, "call", BUS_NAME, *STORE, "Gett", "s", "x", check=False)
    assert "Unknown" in out or "has no method" in out


def test_a_leased_key_ends_with_busctl(machine: Machine, bob: Client) -> None:
    bob.add_match("type='signal',interface='org.mapipc.Store'")
    words = ["SetWith", "ssa{sv}", "leased", "x", "1", "until_i_leave", "b", "true"]
    busctl(machine, "call", BUS_NAME, *STORE, *words)
    while get_key(bob, "leased"):
        bob.wait_signal("Changed")


def test_busctl_looks_around(machine: Machine) -> None:
    tree = machine.run(["busctl", "tree", "--list", BUS_NAME], "alice").stdout.split()
    assert {"/", "/org/buswork", "/org/mapipc/Store", "/org/freedesktop/LogControl1"} <= set(tree)
    shown = machine.run(["busctl", "introspect", BUS_NAME, *STORE], "alice").stdout
    rows = [line.split()[:3] for line in shown.splitlines()]
    assert [".Get", "method", "s"] in rows
    assert [".Watch", "method", "st"] in rows
    assert [".MaxKeyBytes", "property", "t"] in rows
    assert [".Changed", "signal", "st"] in rows
    out = json.loads(busctl(machine, "get-property", BUS_NAME, *STORE, "MaxKeyBytes"))
    assert out == {"type": "t", "data": 1024}
    out = busctl(machine, "set-property", BUS_NAME, *STORE, "MaxKeyBytes", "t", "1", check=False)
    assert "written" in out


def test_busctl_emit_is_not_taken_for_ours(machine: Machine) -> None:
    listener = machine.client("alice")
    listener.add_match(f"type='signal',sender='{BUS_NAME}',interface='{STORE[1]}'")
    machine.run(["busctl", "emit", *STORE, "Changed", "st", "forged", "1"], "alice")
    set_key(listener, "true", "x")
    assert listener.wait_signal("Changed").body[0] == "true"
    set_key(listener, "true", "")
    listener.close()


def test_systemd_sets_the_log_level(machine: Machine) -> None:
    for level in ("debug", "info"):
        busctl(machine, "set-property", BUS_NAME, *LOG_CONTROL, "LogLevel", "s", level, user="root")
        out = json.loads(busctl(machine, "get-property", BUS_NAME, *LOG_CONTROL, "LogLevel"))
        assert out["data"] == level


def test_gdbus(machine: Machine, bob: Client) -> None:
    shown = gdbus(machine, "introspect", "--object-path", STORE[0])
    for wanted in (
        "interface org.mapipc.Store {",
        "Get(in  s key,",
        '@org.buswork.Action("org.mapipc.store.read")',
        '@org.gtk.GDBus.DocString("The value of key; the empty string when it is not set.")',
        '@org.freedesktop.DBus.Property.EmitsChangedSignal("const")',
        "readonly t MaxKeyBytes = 1024;",
        "interface org.freedesktop.DBus.ObjectManager {",
    ):
        assert wanted in shown, wanted
    call = ["call", "--object-path", STORE[0], "--method"]
    gdbus(machine, *call, "org.mapipc.Store.Set", "by gdbus", TEXT)
    assert get_key(bob, "by gdbus") == TEXT
    assert gdbus(machine, *call, "org.mapipc.Store.Lookup", "none") == "(false, '', uint64 0)\n"
    assert "store.clear" in gdbus(machine, *call, "org.mapipc.Store.Clear", check=False)
    read = ["org.freedesktop.DBus.Properties.Get", STORE[1], "MaxKeyBytes"]
    assert gdbus(machine, *call, *read) == "(<uint64 1024>,)\n"


# What each library is asked for: everything a proxy does. They all print the same.
LIBRARY = """
import asyncio, json, os, sys
from {library} import BusType, Variant
from {library}.aio import MessageBus
from {library}.errors import DBusError

async def main():
    bus = await MessageBus(bus_type=BusType.SYSTEM, negotiate_unix_fd=True).connect()
    path, name = "/org/mapipc/Store", "org.mapipc.Store"
    found = await bus.introspect("org.buswork", path)
    proxy = bus.get_proxy_object("org.buswork", path, found)
    store = proxy.get_interface(name)
    heard = asyncio.get_running_loop().create_future()
    def changed(key, revision):
        if key == "by proxy" and not heard.done():
            heard.set_result(key)
    store.on_changed(changed)
    await bus.introspect("org.buswork", "/")  # the match is there now
    said = dict()
    said["get"] = await store.call_get("text")
    said["set"] = await store.call_set("by proxy", str(os.getpid())) > 0
    said["heard"] = await asyncio.wait_for(heard, 10)
    said["lookup"] = await store.call_lookup("no such key")
    said["many"] = await store.call_get_many(["text", "none"])
    await store.call_set_with("by proxy", "x", {{"ttl_ms": Variant("t", 60000)}})
    facts = await store.call_describe("by proxy")
    said["facts"] = sorted((key, fact.signature) for key, fact in facts.items())
    said["limit"] = await store.get_max_key_bytes()
    for call in (store.call_clear(), store.call_get("~0/x"), store.call_set("", "x")):
        try:
            await call
        except DBusError as error:
            said.setdefault("errors", []).append(error.type)
    watch = await store.call_watch("by proxy", 0)
    said["watched"] = json.loads(os.read(watch, 4096).split(b"\\n")[0])["key"]
    os.close(watch)
    manager = proxy.get_interface("org.freedesktop.DBus.ObjectManager")
    said["managed"] = await manager.call_get_managed_objects()
    print(json.dumps(said, sort_keys=True))
    bus.disconnect()

asyncio.run(main())
"""

GDBUS_LIBRARY = """
import json, os
from gi.repository import Gio, GLib
bus = Gio.bus_get_sync(Gio.BusType.SYSTEM)
path, name = "/org/mapipc/Store", "org.mapipc.Store"
proxy = Gio.DBusProxy.new_sync(bus, 0, None, "org.buswork", path, name)
loop = GLib.MainLoop()
said = dict()
def changed(proxy, sender, member, values):
    if member == "Changed" and values.unpack()[0] == "by proxy":
        said["heard"] = "by proxy"
        loop.quit()
proxy.connect("g-signal", changed)
call = lambda member, kind, *values: proxy.call_sync(
    member, GLib.Variant(kind, values) if kind else None, 0, -1).unpack()
said["get"] = call("Get", "(s)", "text")[0]
said["set"] = call("Set", "(ss)", "by proxy", str(os.getpid()))[0] > 0
GLib.timeout_add_seconds(10, loop.quit)
loop.run()
said["lookup"] = call("Lookup", "(s)", "no such key")
said["many"] = call("GetMany", "(as)", ["text", "none"])[0]
call("SetWith", "(ssa{sv})", "by proxy", "x", {"ttl_ms": GLib.Variant("t", 60000)})
facts = proxy.call_sync("Describe", GLib.Variant("(s)", ("by proxy",)), 0, -1).get_child_value(0)
said["facts"] = sorted(
    (facts.get_child_value(n).get_child_value(0).get_string(),
     facts.get_child_value(n).get_child_value(1).get_variant().get_type_string())
    for n in range(facts.n_children()))
said["limit"] = proxy.get_cached_property("MaxKeyBytes").unpack()
for member, kind, values in (("Clear", None, ()), ("Get", "(s)", ("~0/x",)),
                             ("Set", "(ss)", ("", "x"))):
    try:
        call(member, kind, *values)
    except GLib.Error as error:
        said.setdefault("errors", []).append(Gio.DBusError.get_remote_error(error))
out, fds = proxy.call_with_unix_fd_list_sync(
    "Watch", GLib.Variant("(st)", ("by proxy", 0)), 0, -1, None)
watch = fds.get(out.unpack()[0])
said["watched"] = json.loads(os.read(watch, 4096).split(b"\\n")[0])["key"]
manager = "org.freedesktop.DBus.ObjectManager"
said["managed"] = bus.call_sync(
    "org.buswork", path, manager, "GetManagedObjects", None, None, 0, -1).unpack()[0]
print(json.dumps(said, sort_keys=True))
"""

EXPECTED = {
    "get": TEXT,
    "set": True,
    "heard": "by proxy",
    "lookup": [False, "", 0],
    "many": {"text": TEXT},
    "facts": [
        ["expires_unix_us", "t"],
        ["revision", "t"],
        ["size", "t"],
        ["time_unix_us", "t"],
        ["uid", "u"],
    ],
    "limit": 1024,
    "errors": [
        f"org.freedesktop.DBus.Error.{name}"
        for name in ("InteractiveAuthorizationRequired", "AccessDenied", "InvalidArgs")
    ],
    "watched": "by proxy",
    "managed": {},
}


@pytest.mark.parametrize("library", ["dbus_next", "dbus_fast"])
def test_proxies_in_python(machine: Machine, library: str) -> None:
    code = textwrap.dedent(LIBRARY.format(library=library))
    command = [sys.executable, "-W", "ignore", "-c", code]
    assert json.loads(machine.run(command, "alice").stdout) == EXPECTED


def test_proxies_of_glib(machine: Machine) -> None:
    python = "/usr/bin/python3"
    probe = subprocess.run([python, "-c", "from gi.repository import Gio"], capture_output=True)
    if not shutil.which(python) or probe.returncode:
        pytest.skip("python3-gi is not installed")
    out = machine.run([python, "-c", GDBUS_LIBRARY], "alice").stdout
    assert json.loads(out) == EXPECTED
