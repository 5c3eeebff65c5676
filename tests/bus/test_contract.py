import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.toyface import CONTRACTS, TOY, annotation, doc, guard, method, property_

from buswork.bus import contract
from buswork.bus.contract import (
    ContractError,
    Guard,
    introspection,
    load,
    parse,
    snake_case,
    xml_folder,
)

SHIPPED = sorted(path.stem for path in xml_folder().glob("*.xml"))
EMITS = "org.freedesktop.DBus.Property.EmitsChangedSignal"


def parse_one(members="", name="org.toy.One", document=None):
    document = doc() if document is None else document
    return parse(f'<node><interface name="{name}">{document}{members}</interface></node>')[name]


@pytest.mark.parametrize(
    ("name", "snake"),
    [
        ("Get", "get"),
        ("GetMany", "get_many"),
        ("SetWith", "set_with"),
        ("GetURL", "get_url"),
        ("URLOf", "url_of"),
        ("MaxKeysPerUid", "max_keys_per_uid"),
        ("A1B2", "a1_b2"),
        ("ttl", "ttl"),
    ],
)
def test_handlers_have_the_snake_case_of_their_member(name, snake):
    assert snake_case(name) == snake


@given(st.from_regex(r"[A-Z][A-Za-z0-9]{0,20}", fullmatch=True))
def test_every_member_name_makes_a_python_name(name):
    assert snake_case(name).isidentifier()
    assert snake_case(name).replace("_", "") == name.lower()


def test_a_method():
    method_ = parse_one(method("GetIt", "s a{sv}", "u o", "org.toy.act", "org.toy.others")).methods
    (found,) = method_.values()
    assert (found.name, found.attribute) == ("GetIt", "get_it")
    assert (found.signature_in, found.signature_out, found.outputs) == ("sa{sv}", "uo", 2)
    assert found.guard == Guard("org.toy.act", "org.toy.others")


def test_without_an_action_of_their_own_things_of_others_have_the_same():
    found = parse_one(method("GetIt", action="org.toy.act")).methods["GetIt"]
    assert found.guard == Guard("org.toy.act", "org.toy.act")
    assert not found.guard.is_open
    assert Guard("none", "none").is_open
    assert not Guard("none", "org.toy.others").is_open


@pytest.mark.parametrize(
    ("emits", "told"), [("true", True), ("invalidates", True), ("const", False), ("false", False)]
)
def test_whether_changes_are_told(emits, told):
    guarded = parse_one(property_("Size", "u", "read", "org.toy.act", emits=emits))
    public = parse_one(property_("Size", "u", "read", emits=emits))
    written = parse_one(property_("Size", "u", "write", emits=emits))
    for each in (guarded, public, written):
        assert each.properties["Size"].is_told is told
    assert public.properties["Size"].is_told_with_value is (emits == "true")
    assert not guarded.properties["Size"].is_told_with_value
    assert not written.properties["Size"].is_told_with_value


@pytest.mark.parametrize("access", ["read", "write", "readwrite"])
def test_a_property(access):
    write = "org.toy.write" if access == "readwrite" else ""
    members = property_("Size", "u", access, "org.toy.act", write=write, emits="const")
    found = parse_one(members).properties["Size"]
    assert (found.attribute, found.signature, found.emits_changed) == ("size", "u", "const")
    assert (found.readable, found.writable) == ("read" in access, "write" in access)
    if found.readable:
        assert found.read.action == "org.toy.act"
    expected = {"read": "", "write": "org.toy.act", "readwrite": "org.toy.write"}
    assert found.write.action == expected[access]


def test_09_what_cannot_be_written_is_open_to_nobody():
    found = parse_one(property_("Size", "u", "read")).properties["Size"]
    assert not found.write.is_open


# What is not written out is refused (ATTACKS 9)


UNGUARDED_METHOD = f'<method name="Do">{doc()}</method>'
UNDOCUMENTED_METHOD = f'<method name="Do">{guard("none")}</method>'


def property_xml(inner, access="read", type_="u"):
    return f'<property name="Size" type="{type_}" access="{access}">{inner}</property>'


@pytest.mark.attack(9)
@pytest.mark.parametrize(
    "members",
    [
        UNGUARDED_METHOD,
        UNDOCUMENTED_METHOD,
        f'<method name="a.b">{doc()}{guard("none")}</method>',
        f"<method>{doc()}{guard('none')}</method>",
        '<signal name="Moved"><arg type="s"/></signal>',
        f'<signal name="Moved">{doc()}<arg type="ss"/></signal>',
        f'<signal name="Moved">{doc()}<arg type=""/></signal>',
        method("Do", "{sv}x").replace('type="{sv}x"', 'type="ss"'),
        property_xml(doc() + annotation(EMITS, "true")),
        property_xml(guard("none") + annotation(EMITS, "true")),
        property_xml(doc() + guard("none")),
        property_xml(doc() + guard("none") + annotation(EMITS, "maybe")),
        property_xml(doc() + guard("none") + annotation(EMITS, "true"), access=""),
        property_xml(doc() + guard("none") + annotation(EMITS, "true"), access="all"),
        property_xml(doc() + guard("none") + annotation(EMITS, "true"), access="readwrite"),
        property_xml(doc() + guard("none") + annotation(EMITS, "true"), type_="uu"),
    ],
)
def test_09_a_member_that_leaves_something_out_is_refused(members):
    with pytest.raises(ContractError):
        parse_one(members)


@pytest.mark.parametrize("name", ["", "toy", "org.1toy", "org toy"])
def test_an_interface_has_a_name_and_a_documentation(name):
    with pytest.raises(ContractError):
        parse_one(name=name)
    with pytest.raises(ContractError):
        parse_one(document="<!-- nothing -->")


def test_read_guards_are_those_of_what_can_be_read():
    members = property_("A", "u", "read", "org.toy.a") + property_("B", "u", "write", "org.toy.b")
    assert parse_one(members).read_guards == {Guard("org.toy.a", "org.toy.a")}


# What is shipped


@pytest.mark.parametrize("name", SHIPPED)
def test_09_what_is_shipped_is_whole(name):
    interface = load(name)
    assert interface.name == name
    assert load(name) is interface
    assert len({method_.attribute for method_ in interface.methods.values()}) == len(
        interface.methods
    )


@pytest.mark.attack(9)
@pytest.mark.parametrize("name", SHIPPED)
def test_09_every_shipped_member_maps_to_an_action_that_a_policy_declares(name):
    declared = set()
    for policy in (xml_folder().parent / "polkit").glob("*.policy"):
        declared |= set(re.findall(r'<action id="([^"]+)"', policy.read_text()))
    interface = load(name)
    guards = [method_.guard for method_ in interface.methods.values()]
    guards += [p.read for p in interface.properties.values() if p.readable]
    guards += [p.write for p in interface.properties.values() if p.writable]
    actions = {action for each in guards for action in (each.action, each.others)}
    assert actions - {"none"} <= declared


def test_an_interface_that_is_not_shipped_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(contract, "xml_folder", lambda: tmp_path)
    (tmp_path / "org.toy.Wrong.xml").write_text("<node/>")
    with pytest.raises(ContractError):
        load("org.toy.Wrong")
    with pytest.raises(FileNotFoundError):
        load("org.toy.No")


def test_the_xml_is_in_the_package_or_at_the_top_of_the_tree():
    assert xml_folder().is_dir()
    assert isinstance(xml_folder(), Path)


# Introspection


def test_introspection_is_the_files_own_elements():
    root = ET.fromstring(introspection([CONTRACTS[TOY]], ["b", "a"]))
    assert [node.get("name") for node in root.findall("node")] == ["a", "b"]
    found = root.find("interface")
    assert ET.tostring(found) == ET.tostring(CONTRACTS[TOY].element)


def test_introspection_does_not_alter_the_contract():
    before = ET.tostring(CONTRACTS[TOY].element)
    for _ in range(3):
        introspection([CONTRACTS[TOY]], ["a"])
    assert ET.tostring(CONTRACTS[TOY].element) == before
