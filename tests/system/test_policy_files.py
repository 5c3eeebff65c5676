"""The shipped bus policy, actions and units, each proven by what will read it."""

from __future__ import annotations

import configparser
import os
import pathlib
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import pytest
from support.machine import (
    APPVIEW_CAPABILITIES,
    APPVIEW_NAME,
    APPVIEW_USER,
    BUS_NAME,
    SERVICE_USER,
    CallError,
    Client,
    Machine,
    MachineError,
    why_not,
)

from buswork.appview.model import MAX_PROCESSES
from buswork.appview.native import conversations, mqueue
from buswork.appview.wire.frames import FRAME_BYTES

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONTRACTS = sorted((ROOT / "dbus").glob("*.xml"))
POLICIES = sorted((ROOT / "polkit").glob("*.policy"))
UNIT = ROOT / "systemd" / "buswork.service"
DOORS = UNIT.with_name("buswork-doors.service")
APPVIEW = UNIT.with_name("buswork-appview.service")
SERVICES = [UNIT, DOORS, APPVIEW]

BUS_NAMES = [BUS_NAME, APPVIEW_NAME]
DBUS_ERROR = "org.freedesktop.DBus.Error."
# The wing that has a name of its own, and what its process has besides.
OF_APPVIEW = {"org.appview.Inspector", "org.appview.Process"}
OF_ALL = {"org.buswork.Daemon", "org.freedesktop.LogControl1"}
STANDARD = {
    "org.freedesktop.DBus.Introspectable",
    "org.freedesktop.DBus.ObjectManager",
    "org.freedesktop.DBus.Peer",
    "org.freedesktop.DBus.Properties",
}


def contract_interfaces() -> list[ET.Element]:
    return [element for path in CONTRACTS for element in ET.parse(path).iterfind("interface")]


def interfaces_of(bus_name: str) -> set[str]:
    """Those of a process, without the standard ones."""
    there = {str(interface.get("name")) for interface in contract_interfaces()}
    return OF_APPVIEW | OF_ALL if bus_name == APPVIEW_NAME else there - OF_APPVIEW


def annotation(element: ET.Element, name: str) -> str | None:
    found = element.find(f"annotation[@name='{name}']")
    return None if found is None else found.get("value")


def members(kind: str) -> list[tuple[str, ET.Element]]:
    return [
        (f"{interface.get('name')}.{member.get('name')}", member)
        for interface in contract_interfaces()
        for member in interface.iterfind(kind)
    ]


def actions() -> dict[str, ET.Element]:
    found: dict[str, ET.Element] = {}
    for path in POLICIES:
        for action in ET.parse(path).iterfind("action"):
            name = str(action.get("id"))
            assert name not in found, f"{name} is there twice"
            found[name] = action
    return found


def named_actions() -> set[str]:
    """Every action that a contract names."""
    names = {
        str(element.get("value"))
        for path in CONTRACTS
        for element in ET.parse(path).iter("annotation")
        if re.fullmatch(r"org\.buswork\.(\w*Action|ActionForOthers)", str(element.get("name")))
    }
    return names - {"none"}


# --- Contracts and actions agree ------------------------------------------------------------------


@pytest.mark.parametrize(("name", "member"), [pytest.param(*m, id=m[0]) for m in members("method")])
def test_every_method_has_an_action_and_a_text(name: str, member: ET.Element) -> None:
    assert annotation(member, "org.buswork.Action")
    assert annotation(member, "org.gtk.GDBus.DocString")
    for argument in member.iterfind("arg"):
        assert argument.get("name"), f"{name} has an argument without a name"
        assert argument.get("direction") in ("in", "out")


@pytest.mark.parametrize(
    ("name", "member"), [pytest.param(*m, id=m[0]) for m in members("property")]
)
def test_every_property_says_who_may_read_and_write_it(name: str, member: ET.Element) -> None:
    access = member.get("access")
    assert access in ("read", "readwrite", "write"), name
    assert annotation(member, "org.gtk.GDBus.DocString")
    emits = annotation(member, "org.freedesktop.DBus.Property.EmitsChangedSignal")
    assert emits in ("true", "false", "const", "invalidates")
    action = annotation(member, "org.buswork.Action")
    write_action = annotation(member, "org.buswork.WriteAction")
    assert action
    assert bool(write_action) is ("write" in str(access)), name
    assert write_action != "none", "writing is open to nobody by default"
    if action != "none":
        assert emits != "true", "a value that not everybody may read is not broadcast"


@pytest.mark.parametrize(("name", "member"), [pytest.param(*m, id=m[0]) for m in members("signal")])
def test_every_signal_has_a_text(name: str, member: ET.Element) -> None:
    assert annotation(member, "org.gtk.GDBus.DocString"), name


@pytest.mark.parametrize("name", BUS_NAMES)
def test_every_interface_has_a_text_and_is_let_through(name: str) -> None:
    everybody = ET.parse(ROOT / "dbus" / f"{name}.conf").find("policy[@context='default']")
    assert everybody is not None
    allowed = {str(rule.get("send_interface")) for rule in everybody.iter("allow")}
    for interface in contract_interfaces():
        assert annotation(interface, "org.gtk.GDBus.DocString"), interface.get("name")
    assert allowed == interfaces_of(name) | STANDARD


@pytest.mark.attack(8)
def test_the_named_actions_are_the_shipped_ones() -> None:
    assert named_actions() == set(actions())


# Whose process asks; two have an org.buswork.Daemon and a log.
OWNERS = {
    "": "unix-user:buswork",
    **dict.fromkeys(("org.appview.inspect", "org.appview.configure"), "unix-user:buswork-appview"),
    **dict.fromkeys(
        ("org.buswork.observe-others", "org.buswork.force-release", "org.buswork.set-log-level"),
        "unix-user:buswork unix-user:buswork-appview",
    ),
}


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.name)
def test_action_files_are_complete(path: pathlib.Path) -> None:
    tree = ET.parse(path)
    assert tree.findtext("vendor")
    assert str(tree.findtext("vendor_url")).startswith("https://")
    for action in tree.iterfind("action"):
        name = action.get("id")
        assert action.findtext("description"), name
        message = str(action.findtext("message"))
        assert message.startswith("Authentication is required to "), name
        assert not message.endswith("."), "a prompt has no full stop"
        for default in ("allow_any", "allow_inactive", "allow_active"):
            assert action.findtext(f"defaults/{default}") in ("yes", "auth_admin_keep"), name
        owner = action.findtext("annotate[@key='org.freedesktop.policykit.owner']")
        assert owner == OWNERS.get(str(name), OWNERS[""]), name


def test_what_is_open_by_default() -> None:
    """A change here is a change of what every local process may do; it wants to be looked at."""
    is_open = {
        name
        for name, action in actions().items()
        if "yes" in {default.text for default in action.iterfind("defaults/*")}
    }
    assert is_open == {
        "org.mapipc.store.read",
        "org.mapipc.store.write",
        "org.fsct.driver.observe",
        "org.fsct.driver.observe-others",
        "org.fsct.driver.register",
        "org.fsct.driver.route",
        "org.flipper.device.observe",
        "org.flipper.device.use",
        "org.libipc.list",
        "org.libipc.connect",
        "org.libipc.serve",
        "org.buswork.simulate",  # which only a daemon that simulates devices asks for
    }


def test_what_is_for_those_who_sit_here() -> None:
    """Open to active sessions, and to nobody else without a password."""
    seated = {
        name
        for name, action in actions().items()
        if [default.text for default in action.iterfind("defaults/*")]
        == ["auth_admin_keep", "auth_admin_keep", "yes"]
    }
    assert seated == {
        "org.fsct.driver.observe-others",
        "org.fsct.driver.route",
        "org.flipper.device.use",
        "org.libipc.connect",
        "org.libipc.serve",
        "org.buswork.simulate",
    }


# --- The bus policy, on a real bus (attacks 16 and 17) --------------------------------------------


@pytest.fixture(scope="module", params=["daemon", "broker"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    if reason := why_not(bus=request.param):
        pytest.skip(reason)
    with Machine(bus=request.param, polkit="none") as machine:
        yield machine


@pytest.fixture(scope="module")
def owner(machine: Machine) -> Client:
    """A stand-in that has the daemon's name, and knows no method."""
    owner = machine.client("buswork")
    assert owner.request_name(BUS_NAME) == 1
    return owner


@pytest.fixture(scope="module")
def alice(machine: Machine, owner: Client) -> Client:
    return machine.client("alice")


@pytest.fixture(scope="module")
def inspector(machine: Machine) -> Client:
    """The same for the process that looks into viewed ones."""
    inspector = machine.client(APPVIEW_USER)
    assert inspector.request_name(APPVIEW_NAME) == 1
    return inspector


def arrived(
    owner: Client, sender: Client, interface: str | None, destination: str = BUS_NAME
) -> bool:
    """Whether a call of sender reaches the owner of our name: it answers UnknownMethod then."""
    assert sender.name != owner.name
    with pytest.raises(CallError) as refused:
        sender.call("/", interface, "NoSuchMember", destination=destination)
    if refused.value.name == f"{DBUS_ERROR}AccessDenied":
        return False
    assert refused.value.name.startswith(f"{DBUS_ERROR}Unknown"), refused.value
    return True


@pytest.mark.system
def test_the_bus_accepts_the_policy(machine: Machine, alice: Client) -> None:
    assert alice.bus("GetId").value
    assert machine.complaints() == []


@pytest.mark.attack(17)
@pytest.mark.system
@pytest.mark.parametrize("user", ["alice", "messagebus", "nobody"])
def test_an_ordinary_user_cannot_have_the_name(machine: Machine, user: str) -> None:
    stranger = machine.client(user)
    with pytest.raises(CallError) as denied:
        stranger.request_name(BUS_NAME)
    assert denied.value.name == f"{DBUS_ERROR}AccessDenied"
    stranger.close()


@pytest.mark.system
def test_root_may_have_the_name_but_not_take_it_away(machine: Machine, owner: Client) -> None:
    root = machine.client()
    replace = 0x2
    assert root.request_name(BUS_NAME, replace | 0x4) == 3
    assert machine.owner(BUS_NAME) == owner.name
    root.close()


@pytest.mark.system
def test_no_other_name_comes_with_ours(machine: Machine, owner: Client) -> None:
    """dbus-broker 33 takes own="NAME" for the names below NAME too (bus1/dbus-broker#462)."""
    below = ["org.buswork.Other"] if machine.bus_kind == "daemon" else []
    for name in ["org.mapipc.Store", "org.busworks", "org.freedesktop.PolicyKit1", *below]:
        with pytest.raises(CallError) as denied:
            owner.request_name(name)
        assert denied.value.name == f"{DBUS_ERROR}AccessDenied"


@pytest.mark.system
@pytest.mark.parametrize("interface", [*sorted(interfaces_of(BUS_NAME)), *sorted(STANDARD)])
def test_our_interfaces_get_through(owner: Client, alice: Client, interface: str) -> None:
    assert arrived(owner, alice, interface)


@pytest.mark.system
@pytest.mark.parametrize(
    "interface",
    [
        None,
        "org.mapipc.Stor",
        "org.appview.Process",
        "org.mapipc.Store2",
        "org.mapipc",
        "org.buswork",
        "org.freedesktop.DBus",
        "org.freedesktop.DBus.Debug.Stats",
        "org.freedesktop.systemd1.Manager",
    ],
)
def test_other_interfaces_do_not(owner: Client, alice: Client, interface: str | None) -> None:
    assert not arrived(owner, alice, interface)


@pytest.mark.system
@pytest.mark.parametrize("user", ["alice", SERVICE_USER])
def test_nobody_passes_for_what_looks_into_processes(machine: Machine, user: str) -> None:
    """Not even the daemon, on a bus that gives it all names below its own."""
    stranger = machine.client(user)
    with pytest.raises(CallError) as denied:
        stranger.request_name(APPVIEW_NAME)
    assert denied.value.name == f"{DBUS_ERROR}AccessDenied"
    stranger.close()


@pytest.mark.system
def test_what_looks_into_processes_is_asked_for_that_alone(
    inspector: Client, alice: Client
) -> None:
    for interface in interfaces_of(APPVIEW_NAME) | STANDARD:
        assert arrived(inspector, alice, interface, APPVIEW_NAME), interface
    for other in (None, "org.mapipc.Store", "org.freedesktop.DBus.Debug.Stats"):
        assert not arrived(inspector, alice, other, APPVIEW_NAME), other


@pytest.mark.system
def test_an_address_by_unique_name_is_no_way_around(owner: Client, alice: Client) -> None:
    for interface in (None, "org.example.Other"):
        with pytest.raises(CallError) as denied:
            alice.call("/", interface, "NoSuchMember", destination=owner.name)
        assert denied.value.name == f"{DBUS_ERROR}AccessDenied"


@pytest.mark.attack(16)
@pytest.mark.system
def test_our_rules_open_nothing_else(machine: Machine, owner: Client, alice: Client) -> None:
    """Attack 16: with our policy there, calls to others are refused as they are without it."""
    other = machine.client("bob")
    for interface in ("org.mapipc.Store", "org.freedesktop.DBus.Properties"):
        with pytest.raises(CallError) as denied:
            alice.call("/", interface, "NoSuchMember", destination=other.name)
        assert denied.value.name == f"{DBUS_ERROR}AccessDenied"
        with pytest.raises(CallError) as denied:
            owner.call("/", interface, "NoSuchMember", destination=other.name)
        assert denied.value.name == f"{DBUS_ERROR}AccessDenied"
    other.close()


@pytest.mark.attack(16)
@pytest.mark.parametrize(("name", "user"), [(BUS_NAME, SERVICE_USER), (APPVIEW_NAME, APPVIEW_USER)])
def test_every_rule_is_tied_to_our_name_or_to_our_user(name: str, user: str) -> None:
    for policy in ET.parse(ROOT / "dbus" / f"{name}.conf").iter("policy"):
        for rule in policy:
            ours = name in (rule.get("own"), rule.get("send_destination"))
            assert ours or policy.get("user") == user, rule.attrib
            assert "*" not in rule.attrib.values()


@pytest.mark.system
def test_broadcasts_reach_us_and_forgeries_do_not(
    machine: Machine, owner: Client, alice: Client
) -> None:
    """Attack 37. What the daemon makes of a forgery that does arrive has tests of its own."""
    owner.add_match("type='signal',path='/forged'")
    owner.signals()
    interface = "org.freedesktop.DBus"
    for destination in (owner.name, BUS_NAME, None):
        alice.emit("/forged", interface, "NameLost", "s", str(destination), destination=destination)
    assert owner.wait_signal("NameLost").body == ["None"]
    assert [s for s in owner.signals() if s.member == "NameLost"] == []


@pytest.mark.system
def test_we_can_send_a_signal_to_one_caller(owner: Client, alice: Client) -> None:
    alice.signals()
    owner.emit("/", "org.mapipc.Store", "Hint", "s", "only for you", destination=alice.name)
    heard = alice.wait_signal("Hint")
    assert (heard.sender, heard.body) == (owner.name, ["only for you"])


@pytest.mark.system
def test_a_bad_policy_would_show() -> None:
    """The trap behind test_the_bus_accepts_the_policy: a real bus only complains in its log."""
    rule = "<policy context='default'><deny send_member='X'/></policy>"
    with Machine(polkit="none") as machine:
        machine.add_policy("<busconfig/>")
        with pytest.raises(MachineError, match="must specify an interface"):
            machine.add_policy(f"<busconfig>{rule}</busconfig>")


@pytest.mark.system
@pytest.mark.parametrize("name", BUS_NAMES)
def test_the_activation_file_starts_nothing_without_systemd(name: str) -> None:
    file = f"{name}.service"
    text = (ROOT / "dbus" / file).read_text()
    with Machine(polkit="none", activation={file: text}) as machine:
        alice = machine.client("alice")
        with pytest.raises(CallError) as failed:
            alice.call("/", "org.freedesktop.DBus.Peer", "Ping", destination=name)
        assert failed.value.name == f"{DBUS_ERROR}Spawn.ChildExited"


@pytest.mark.parametrize(
    ("name", "user", "unit"),
    [(BUS_NAME, SERVICE_USER, UNIT), (APPVIEW_NAME, APPVIEW_USER, APPVIEW)],
)
def test_the_activation_file_names_the_unit(name: str, user: str, unit: pathlib.Path) -> None:
    parsed = configparser.ConfigParser(interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read(ROOT / "dbus" / f"{name}.service")
    assert dict(parsed["D-BUS Service"]) == {
        "Name": name,
        "Exec": "/bin/false",
        "User": user,
        "SystemdService": unit.name,
    }


# --- The unit -------------------------------------------------------------------------------------

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def settings(path: pathlib.Path) -> dict[str, list[str]]:
    """The settings of a unit, each with all its values in order."""
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if line and line[0] not in "#;[":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def with_a_program(unit: pathlib.Path) -> str:
    """The unit with a program that exists here: what is verified need not be installed."""
    return re.sub(r"(?<=^ExecStart=)\S+", "/bin/true", unit.read_text(), flags=re.MULTILINE)


@pytest.mark.attack(28)
def test_the_unit_says_what_the_design_says() -> None:
    unit = settings(UNIT)
    for name, value in {
        "Type": "notify",
        "NotifyAccess": "main",
        "BusName": BUS_NAME,
        "User": "buswork",
        "ExecStart": "/usr/bin/busworkd",
        "Restart": "on-failure",
        "CapabilityBoundingSet": "",
        "AmbientCapabilities": "",
        "UMask": "0077",
        "StateDirectory": "buswork",
        "StateDirectoryMode": "0700",
        "RestrictAddressFamilies": "AF_UNIX AF_NETLINK",
        "DevicePolicy": "closed",
        "DeviceAllow": "char-usb_device rw",
    }.items():
        assert unit[name] == [value], name
    for name in ("WatchdogSec", "TimeoutStopSec", "FileDescriptorStoreMax"):
        assert unit[name], name
    for name in ("MemoryMax", "TasksMax", "LimitNOFILE", "LimitMSGQUEUE"):
        assert re.fullmatch(r"\d+[KMG]?", unit[name][0]), name


@pytest.mark.attack(40)
def test_the_unit_has_not_what_would_break_us() -> None:
    """Each hides something that a wing needs; the unit says what."""
    assert not {"PrivateUsers", "PrivateNetwork", "PrivateDevices"} & set(settings(UNIT))


@pytest.mark.parametrize(
    ("name", "passed", "places", "mode"),
    [
        ("store", "store", ["/run/buswork/mapipc_set", "/run/buswork/mapipc_get"], "0755"),
        ("fsct", "fsct", ["/run/fsct/fsct.sock"], "0755"),
        ("fmr", "fmr", ["/run/buswork/fmr.sock"], "0755"),
        ("ipc", "ipc-c", ["/run/ipc/network"], "1777"),
    ],
)
def test_the_sockets_are_open_to_all_in_a_directory_of_root(
    name: str, passed: str, places: list[str], mode: str
) -> None:
    """And are there by default, before the daemon is."""
    path = UNIT.with_name(f"buswork-{name}.socket")
    socket = settings(path)
    assert socket["ListenSequentialPacket" if name == "fmr" else "ListenStream"] == places
    assert socket["FileDescriptorName"] == [passed]
    assert socket["Service"] == [UNIT.name]
    assert (socket["SocketMode"], socket["DirectoryMode"]) == (["0666"], [mode])
    assert socket["WantedBy"] == ["sockets.target"]
    for setting in ("Wants", "After", "Also"):
        assert path.name in " ".join(settings(UNIT)[setting]).split(), setting


def test_the_doors_alone_reach_services_for_others() -> None:
    path = UNIT.with_name("buswork-ipc-doors.socket")
    socket = settings(path)
    assert socket["ListenSequentialPacket"] == ["/run/buswork/ipc.sock"]
    assert socket["FileDescriptorName"] == ["ipc"]
    assert (socket["SocketUser"], socket["SocketMode"]) == (["buswork-doors"], ["0600"])
    for setting in ("Wants", "After", "Also"):
        assert path.name in " ".join(settings(UNIT)[setting]).split(), setting


def test_look_ups_in_tmp_are_off_by_default() -> None:
    path = UNIT.with_name("buswork-ipc-tmp.socket")
    socket = settings(path)
    assert socket["ListenStream"] == ["/tmp/libipc-run/ipc", "/tmp/.libipc-run/ipc"]
    assert (socket["FileDescriptorName"], socket["SocketMode"]) == (["ipc-zig"], ["0666"])
    for setting in ("Wants", "Also"):
        assert path.name not in " ".join(settings(UNIT)[setting]).split(), setting


@needs_systemd
@pytest.mark.parametrize("path", sorted(UNIT.parent.glob("*.socket")), ids=lambda path: path.name)
def test_systemd_accepts_the_sockets(tmp_path: pathlib.Path, path: pathlib.Path) -> None:
    for unit in SERVICES:
        (tmp_path / unit.name).write_text(with_a_program(unit))
    shutil.copy(path, tmp_path)
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"}
    command = ["systemd-analyze", "verify", tmp_path / path.name]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    ours = [line for line in done.stderr.splitlines() if path.name in line]
    assert (done.returncode, ours) == (0, [])


@needs_systemd
@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_systemd_accepts_the_unit(tmp_path: pathlib.Path, unit: pathlib.Path) -> None:
    for path in sorted(UNIT.parent.glob("buswork*.socket")):
        shutil.copy(path, tmp_path)
    copy = tmp_path / unit.name
    copy.write_text(with_a_program(unit))
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"}
    command = ["systemd-analyze", "verify", copy]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    ours = [line for line in done.stderr.splitlines() if unit.name in line]
    assert (done.returncode, ours) == (0, [])


def test_the_doors_are_the_only_ones_with_ip_sockets() -> None:
    """And nobody but the daemon may ask them for one."""
    doors = settings(DOORS)
    assert doors["RestrictAddressFamilies"] == ["AF_UNIX AF_INET AF_INET6 AF_NETLINK"]
    assert doors["User"] == ["buswork-doors"]
    assert doors["CapabilityBoundingSet"] == doors["AmbientCapabilities"] == [""]
    assert (doors["IPAddressDeny"], doors["IPAddressAllow"]) == (["any"], ["localhost"])
    assert doors["Environment"] == ["DOORS="]  # by default, it opens nothing
    assert "PrivateUsers" not in doors
    asked = settings(DOORS.with_suffix(".socket"))
    assert asked["ListenSequentialPacket"] == ["/run/buswork/doors.sock"]
    assert (asked["SocketUser"], asked["SocketMode"]) == (["buswork"], ["0600"])
    assert DOORS.stem not in " ".join(settings(UNIT)["Also"])


def test_what_looks_into_processes_has_what_it_needs_for_that_and_no_more() -> None:
    unit = settings(APPVIEW)
    capabilities = " ".join(f"CAP_{name.upper()}" for name in APPVIEW_CAPABILITIES)
    for name, value in {
        "Type": "notify",
        "BusName": APPVIEW_NAME,
        "User": APPVIEW_USER,
        "ExecStart": "/usr/bin/buswork-appview",
        "CapabilityBoundingSet": capabilities,
        "AmbientCapabilities": capabilities,
        "NoNewPrivileges": "yes",
        "RestrictNamespaces": "ipc",
        "RestrictAddressFamilies": "AF_UNIX",
        "ProtectProc": "default",
    }.items():
        assert unit[name] == [value], name
    # Each hides something that it needs; the last one takes openat2 away.
    assert not {"PrivateUsers", "PrivateIPC", "RestrictSUIDSGID"} & set(unit)
    # Nothing enables it: the first call starts it.
    assert "WantedBy" not in unit
    assert APPVIEW.name not in UNIT.read_text()


def test_there_is_room_for_the_queues_of_all_conversations() -> None:
    queue = mqueue.Attributes(conversations.MOST_LONG_MESSAGES, FRAME_BYTES, 0)
    room = int(settings(APPVIEW)["LimitMSGQUEUE"][0])
    assert room == conversations.CONVERSATIONS * 2 * queue.charged


def test_there_is_room_for_a_descriptor_of_every_process() -> None:
    assert int(settings(APPVIEW)["LimitNOFILE"][0]) > MAX_PROCESSES + 64 * 8


# How much `systemd-analyze security` may find open, of 10. A user's manager can shut off less.
EXPOSURE = {
    "buswork.service": 1.2,
    "buswork-doors.service": 1.5,
    "buswork-appview.service": 2.7,
    "user/buswork-agent.service": 6.0,
}


def test_no_sandbox_is_forgotten() -> None:
    units = (path for path in UNIT.parent.rglob("*.service") if not path.is_symlink())
    assert {str(path.relative_to(UNIT.parent)) for path in units} == EXPOSURE.keys()


@needs_systemd
@pytest.mark.parametrize(("unit", "most"), EXPOSURE.items(), ids=EXPOSURE)
def test_the_sandbox_is_tight(unit: str, most: float) -> None:
    threshold = f"--threshold={round(most * 10)}"
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", threshold]
    done = subprocess.run([*command, UNIT.parent / unit], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_guide_says_so_too() -> None:
    guide = (ROOT / "docs/security.md").read_text()
    *others, last = EXPOSURE.values()
    words = f"{', '.join(map(str, others))} and {last}"
    assert f"below {words}" in " ".join(guide.split())


# --- AppArmor -------------------------------------------------------------------------------------

PROFILES = sorted((ROOT / "apparmor").iterdir())


def capabilities_of(profile: pathlib.Path) -> set[str]:
    return set(re.findall(r"^  capability (\w+),$", profile.read_text(), re.MULTILINE))


def test_each_service_has_a_profile_of_its_programs_name() -> None:
    programs = {settings(unit)["ExecStart"][0].split()[0].rpartition("/")[2] for unit in SERVICES}
    assert {profile.name for profile in PROFILES} == programs


@pytest.mark.skipif(shutil.which("apparmor_parser") is None, reason="no apparmor_parser")
@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_apparmor_accepts_the_profile(profile: pathlib.Path) -> None:
    command = ["apparmor_parser", "--quiet", "--skip-kernel-load", "--skip-cache", profile]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_a_profile_allows_what_the_unit_allows(profile: pathlib.Path) -> None:
    text = profile.read_text()
    is_doors, is_appview = profile.name == DOORS.stem, profile.name == APPVIEW.stem
    assert capabilities_of(profile) == (set(APPVIEW_CAPABILITIES) if is_appview else set())
    assert ("network inet" in text) is is_doors
    assert ("ptrace" in text) is is_appview
    assert f"include if exists <local/{profile.name}>" in text


# --- What else is installed -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mapipcd.service", "globstashd.service"])
def test_the_old_names_lead_to_the_unit(name: str) -> None:
    link = UNIT.with_name(name)
    assert link.is_symlink()
    assert os.readlink(link) == UNIT.name


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="no systemd-sysusers")
def test_sysusers_makes_our_users(tmp_path: pathlib.Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("systemd-sysusers needs root")
    (tmp_path / "etc").mkdir()
    file = ROOT / "systemd" / "sysusers.d" / "buswork.conf"
    command = ["systemd-sysusers", f"--root={tmp_path}"]
    subprocess.run([*command, "--inline", *_entries(file)], check=True, capture_output=True)
    lines = (tmp_path / "etc" / "passwd").read_text().splitlines()
    users = {line.split(":")[0]: line.split(":")[6] for line in lines}
    assert users.keys() == {"buswork", "buswork-doors", "buswork-appview"}
    assert all(shell.endswith("nologin") for shell in users.values())
    groups = (tmp_path / "etc" / "group").read_text().splitlines()
    assert {line.split(":")[0] for line in groups} == users.keys()


@pytest.mark.skipif(shutil.which("systemd-tmpfiles") is None, reason="no systemd-tmpfiles")
def test_tmpfiles_makes_directories_of_root(tmp_path: pathlib.Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("systemd-tmpfiles gives files to root")
    file = ROOT / "systemd" / "tmpfiles.d" / "buswork.conf"
    subprocess.run(["systemd-tmpfiles", "--create", f"--root={tmp_path}", file], check=True)
    for name, mode in {
        "run/buswork": 0o755,
        "run/fsct": 0o755,
        "run/ipc": 0o1777,
        "tmp/libipc-run": 0o1777,
        "tmp/.libipc-run": 0o1777,
    }.items():
        made = (tmp_path / name).stat()
        assert (made.st_mode & 0o7777, made.st_uid, made.st_gid) == (mode, 0, 0), name


@pytest.mark.skipif(shutil.which("journalctl") is None, reason="no journalctl")
def test_the_journal_accepts_the_catalog(tmp_path: pathlib.Path) -> None:
    file = ROOT / "systemd" / "buswork.catalog"
    place = tmp_path / "usr" / "lib" / "systemd" / "catalog"
    place.mkdir(parents=True)
    (tmp_path / "var" / "lib" / "systemd" / "catalog").mkdir(parents=True)
    shutil.copy(file, place)
    command = ["journalctl", f"--root={tmp_path}"]
    done = subprocess.run([*command, "--update-catalog"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    listed = subprocess.run([*command, "--list-catalog"], capture_output=True, text=True).stdout
    written = re.findall(r"^-- ([0-9a-f]{32})$", file.read_text(), re.MULTILINE)
    assert sorted(line.split()[0] for line in listed.splitlines()) == sorted(written)
    assert len(written) == 5


def _entries(path: pathlib.Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line and line[0] != "#"]
