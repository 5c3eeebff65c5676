import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from support import reference
from support.fakebus import DRIVER, ERROR
from support.toyface import (
    ALICE,
    ALICE_UID,
    OTHER,
    ROOT,
    SECRET,
    TOY,
    OtherFace,
)

from buswork.bus import standard
from buswork.bus.library import variant

PEER = DRIVER + ".Peer"
INTROSPECTABLE = DRIVER + ".Introspectable"
PROPERTIES = DRIVER + ".Properties"
MANAGER = DRIVER + ".ObjectManager"


async def get_all(stack, interface, path=ROOT, sender=ALICE):
    answer = await stack.call(sender, "GetAll", "s", interface, path=path, interface=PROPERTIES)
    assert answer.error == ""
    return {name: value.value for name, value in answer.values[0].items()}


async def get(stack, name, interface=TOY, sender=ALICE):
    return await stack.call(sender, "Get", "ss", interface, name, interface=PROPERTIES)


async def set_(stack, name, value, sender=ALICE):
    return await stack.call(sender, "Set", "ssv", TOY, name, value, interface=PROPERTIES)


# Peer


@pytest.mark.parametrize("path", ["/", ROOT, "/nowhere/at/all"])
async def test_peer_answers_everywhere(stack, toy, path):
    answer = await stack.call(ALICE, "Ping", path=path, interface=PEER)
    assert (answer.error, answer.values) == ("", [])


async def test_the_machine_has_an_id(stack, toy, monkeypatch, tmp_path):
    file = tmp_path / "machine-id"
    file.write_text("0123456789abcdef0123456789abcdef\n")
    monkeypatch.setattr(standard, "Path", lambda name: file)
    answer = await stack.call(ALICE, "GetMachineId", interface=PEER)
    assert answer.values == ["0123456789abcdef0123456789abcdef"]
    monkeypatch.setattr(standard, "Path", lambda name: Path("/nonexistent/id"))
    answer = await stack.call(ALICE, "GetMachineId", interface=PEER)
    assert answer.error == ERROR + "Failed"


# Introspectable


async def introspect(stack, path):
    answer = await stack.call(ALICE, "Introspect", path=path, interface=INTROSPECTABLE)
    return answer if answer.error else ET.fromstring(answer.values[0])


def names(node, tag):
    return [element.get("name") for element in node.findall(tag)]


async def test_every_node_can_be_introspected(stack):
    stack.toy(f"{ROOT}/a/b", OtherFace(), manager=True)
    stack.toy(f"{ROOT}/a/c")
    assert names(await introspect(stack, "/"), "node") == ["org"]
    assert names(await introspect(stack, "/org"), "node") == ["toy"]
    assert names(await introspect(stack, f"{ROOT}/a"), "node") == ["b", "c"]
    leaf = await introspect(stack, f"{ROOT}/a/b")
    assert names(leaf, "node") == []
    assert set(names(leaf, "interface")) == {
        TOY, OTHER, PEER, INTROSPECTABLE, PROPERTIES, MANAGER,
    }  # fmt: skip
    assert MANAGER not in names(await introspect(stack, f"{ROOT}/a/c"), "interface")
    assert (await introspect(stack, "/nowhere")).error == ERROR + "UnknownObject"


async def test_09_introspection_says_what_guards_each_member(stack, toy):
    for interface in (await introspect(stack, ROOT)).findall("interface"):
        for member in [*interface.findall("method"), *interface.findall("property")]:
            annotations = {a.get("name"): a.get("value") for a in member.findall("annotation")}
            if interface.get("name") == TOY:
                assert annotations["org.buswork.Action"]
                assert annotations["org.gtk.GDBus.DocString"]


async def test_introspection_forgets_what_has_gone(stack):
    stack.toy(f"{ROOT}/a")
    stack.edge.unexport(f"{ROOT}/a")
    assert (await introspect(stack, ROOT)).error == ERROR + "UnknownObject"
    assert (await introspect(stack, "/org")).error == ERROR + "UnknownObject"


# Get and Set


async def test_open_properties_are_read_and_written(stack, toy):
    assert (await get(stack, "Public")).values == [variant("s", "open")]
    assert (await set_(stack, "Public", variant("s", "shut"))).error == ""
    assert toy.public == "shut"
    assert (await get(stack, "Constant")).values == [variant("u", 5)]


async def test_09_a_guarded_property_is_read_after_a_yes(stack, toy, polkit):
    answer = await get(stack, "Secret")
    assert answer.error == ERROR + "AccessDenied"
    assert "org.toy.read" in answer.values[0]
    polkit.rules["org.toy.read"] = "yes"
    assert (await get(stack, "Secret")).values == [variant("s", "hush")]


async def test_09_a_guarded_property_is_written_after_a_yes(stack, toy, polkit):
    for name in ("Knob", "Dial"):
        answer = await set_(stack, name, variant("u", 7))
        assert answer.error == ERROR + "AccessDenied"
        assert "org.toy.guarded" in answer.values[0]
    assert (toy.knob_turned, toy.dial) == ([], 1)
    polkit.rules["org.toy.guarded"] = "yes"
    for name in ("Knob", "Dial"):
        assert (await set_(stack, name, variant("u", 7))).error == ""
    assert (toy.knob_turned, toy.dial) == ([7], 7)
    assert (await get(stack, "Dial")).values == [variant("u", 7)]


async def test_a_property_of_others_has_its_own_action(stack, toy, polkit):
    toy.owner = ALICE_UID
    assert (await get(stack, "Theirs")).values == [variant("s", "mine")]
    toy.owner = 77
    assert (await get(stack, "Theirs")).error == ERROR + "AccessDenied"
    polkit.rules["org.toy.read-others"] = "yes"
    assert (await get(stack, "Theirs")).values == [variant("s", "mine")]


# GetAll and GetManagedObjects


async def test_19_get_all_leaves_out_what_the_caller_may_not_read(stack, toy, polkit):
    open_ones = {"Public": "open", "Constant": 5, "Silent": 6, "Large": toy.large, "Dial": 1}
    toy.owner = 77
    for _ in range(2):
        assert await get_all(stack, TOY) == open_ones
    toy.owner = ALICE_UID
    assert await get_all(stack, TOY) == open_ones | {"Theirs": "mine"}
    polkit.rules["org.toy.read"] = "yes"
    assert await get_all(stack, TOY) == open_ones | {"Theirs": "mine", "Secret": "hush"}
    assert stack.authority.denials == 0


async def test_13_get_all_never_prompts(stack, toy, polkit, bus):
    polkit.rules["org.toy.read"] = "challenge"
    call = bus.call(ALICE, ROOT, PROPERTIES, "GetAll", "s", [TOY], flags=4)
    assert "Secret" not in (await bus.answer_to(call)).values[0]
    assert [question.values[3] for question in polkit.questions] == [0]


async def test_get_all_of_all_interfaces(stack):
    stack.toy(ROOT, OtherFace())
    assert (await get_all(stack, ""))["Mood"] == "good"
    assert await get_all(stack, OTHER) == {"Mood": "good"}
    assert await get_all(stack, PEER) == {}


async def test_24_one_property_that_fails_does_not_hide_the_others(stack, toy, caplog):
    toy.broken = "public"
    values = await get_all(stack, TOY)
    assert values["Constant"] == 5
    assert "Public" not in values
    assert SECRET in caplog.text
    answer = await get(stack, "Public")
    assert answer.error == ERROR + "Failed"
    assert SECRET not in answer.values[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [("public", "a\0b"), ("public", 5), ("public", "\ud800"), ("large", None)],
)
async def test_26_one_value_that_no_message_carries_is_left_out(stack, toy, name, value, caplog):
    setattr(toy, name, value)
    values = await get_all(stack, TOY)
    names = {"Public", "Silent", "Theirs", "Large", "Dial", "Constant"} - {name.title()}
    assert set(values) == names
    assert (await get(stack, name.title())).error == ERROR + "Failed"
    assert (await get(stack, "Silent")).values == [variant("u", 6)]
    assert f"{name.title()} of {ROOT}" in caplog.text


async def test_26_managed_objects_leave_one_bad_value_out(stack):
    stack.toy(ROOT, manager=True)
    spoilt, whole = stack.toy(f"{ROOT}/a", OtherFace()), stack.toy(f"{ROOT}/b")
    spoilt.public = "a\0b"
    objects = await managed(stack)
    assert "Public" not in objects[f"{ROOT}/a"][TOY]
    assert objects[f"{ROOT}/a"][TOY]["Constant"] == variant("u", 5)
    assert objects[f"{ROOT}/a"][OTHER] == {"Mood": variant("s", "good")}
    assert objects[f"{ROOT}/b"][TOY]["Public"] == variant("s", whole.public)


async def managed(stack, sender=ALICE):
    answer = await stack.call(sender, "GetManagedObjects", interface=MANAGER)
    assert answer.error == ""
    return answer.values[0]


async def test_managed_objects_are_those_below_the_manager(stack):
    stack.toy(ROOT, manager=True)
    stack.toy(f"{ROOT}/a", OtherFace())
    stack.toy(f"{ROOT}/a/b")
    stack.toy("/org/toys")
    objects = await managed(stack)
    assert set(objects) == {f"{ROOT}/a", f"{ROOT}/a/b"}
    assert set(objects[f"{ROOT}/a"]) == {TOY, OTHER}
    assert objects[f"{ROOT}/a"][OTHER] == {"Mood": variant("s", "good")}


async def test_19_managed_objects_leave_out_what_the_caller_may_not_read(stack, polkit):
    stack.toy(ROOT, manager=True)
    mine, other = stack.toy(f"{ROOT}/mine"), stack.toy(f"{ROOT}/other")
    mine.owner, other.owner = ALICE_UID, 77
    objects = await managed(stack)
    assert "Theirs" in objects[f"{ROOT}/mine"][TOY]
    assert "Theirs" not in objects[f"{ROOT}/other"][TOY]
    assert "Secret" not in objects[f"{ROOT}/mine"][TOY]
    asked = sorted(question.values[1] for question in polkit.questions)
    assert asked == ["org.toy.read", "org.toy.read-others"]
    polkit.rules["org.toy.read"] = "yes"
    assert "Secret" in (await managed(stack))[f"{ROOT}/other"][TOY]


async def test_11_an_object_that_goes_meanwhile_is_not_in_the_answer(bus, stack, polkit):
    stack.toy(ROOT, manager=True)
    stack.toy(f"{ROOT}/a")
    stack.toy(f"{ROOT}/b")
    polkit.rules |= {"org.toy.read": "hang"}
    call = bus.call(ALICE, ROOT, MANAGER, "GetManagedObjects")
    question = await bus.asked("CheckAuthorization")
    stack.edge.unexport(f"{ROOT}/a")
    polkit.decide(question, "yes")
    assert set((await bus.answer_to(call)).values[0]) == {f"{ROOT}/b"}


async def test_a_manager_is_only_where_one_was_exported(stack, toy):
    answer = await stack.call(ALICE, "GetManagedObjects", interface=MANAGER)
    assert answer.error == ERROR + "UnknownInterface"


def test_09_every_member_of_the_standard_interfaces_is_open_and_documented():
    for contract in standard.CONTRACTS.values():
        assert all(method.guard.is_open for method in contract.methods.values())
    assert set(standard.CONTRACTS) == {PEER, INTROSPECTABLE, PROPERTIES, MANAGER}


def test_the_signatures_of_the_standard_interfaces():
    methods = {
        f"{name.rpartition('.')[2]}.{member}": (method.signature_in, method.signature_out)
        for name, contract in standard.CONTRACTS.items()
        for member, method in contract.methods.items()
    }
    assert methods == {
        "Peer.Ping": ("", ""),
        "Peer.GetMachineId": ("", "s"),
        "Introspectable.Introspect": ("", "s"),
        "Properties.Get": ("ss", "v"),
        "Properties.Set": ("ssv", ""),
        "Properties.GetAll": ("s", "a{sv}"),
        "ObjectManager.GetManagedObjects": ("", "a{oa{sa{sv}}}"),
    }


async def test_introspection_is_the_dtds(stack, toy):
    answer = await stack.call(ALICE, "Introspect", interface=INTROSPECTABLE)
    assert re.match(r"<!DOCTYPE node PUBLIC [^>]*>\n<node>", answer.values[0])
    assert answer.fields[reference.SIGNATURE] == "s"
