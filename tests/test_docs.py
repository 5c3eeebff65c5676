import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from buswork import docs
from buswork.bus.contract import load, xml_folder
from buswork.flipper.wire import modules
from buswork.fsct.wire.terms import Field

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.stem for path in xml_folder().glob("*.xml"))


MARKS = "".join(f"<!-- {name} -->\nold\n<!-- /{name} -->\n" for name in docs.TABLES)


@pytest.fixture
def guide(tmp_path, monkeypatch):
    """Where the guide is, for this test."""
    guide = tmp_path / "guide.md"
    guide.write_text(f"Before.\n{MARKS}After.\n")
    monkeypatch.setattr(docs, "GUIDE", guide)
    return guide


@pytest.fixture
def place(tmp_path, monkeypatch, guide):
    """Where the reference is, for this test."""
    place = tmp_path / "reference.md"
    monkeypatch.setattr(docs, "BOARDS", tmp_path / "boards.md")
    monkeypatch.setattr(docs, "REFERENCE", place)
    return place


def section(name):
    """What the reference says of one interface."""
    _, _, text = docs.reference().partition(f"\n## {name}\n")
    return text.partition("\n## ")[0]


def test_the_shipped_reference_is_what_the_xml_says():
    assert (ROOT / docs.REFERENCE).read_text() == docs.reference()


def test_the_shipped_guide_has_the_tables_of_the_fields():
    text = (ROOT / docs.GUIDE).read_text()
    assert docs.with_tables(text) == text
    assert all(docs.table(fields) in text for fields in docs.TABLES.values())


def test_the_shipped_tables_of_boards_are_those_that_calls_are_checked_by():
    text = (ROOT / docs.BOARDS).read_text()
    assert text == docs.boards()
    for table in modules.TABLES.values():
        for module, function in table:
            (row, *_) = (
                line
                for line in text.splitlines()
                if line.startswith(f"| `{module.name}.{function.usage}` |")
                and f"| {module.index}, {function.number} |" in line
            )
            assert function.meaning in row
            assert all(each.range in row for each in function.parameters)


def test_every_interface_has_its_section():
    headings = [line[3:] for line in docs.reference().splitlines() if line.startswith("## ")]
    assert headings == NAMES
    assert len(NAMES) >= 3


def test_the_index_leads_to_every_interface():
    row = re.compile(r"^\| \[(\S+)\]\(#(\S+)\) \| `(\S+)` \| (.+) \|$", re.MULTILINE)
    rows = row.findall(docs.reference())
    assert [row[0] for row in rows] == NAMES == sorted(docs.PLACES)
    assert [row[1] for row in rows] == [name.lower().replace(".", "") for name in NAMES]
    assert all(path == docs.PLACES[name] for name, _, path, _ in rows)


@pytest.mark.parametrize("name", NAMES)
def test_every_member_of_every_interface_is_in_it(name):
    contract = load(name)
    text = section(name)
    members = [line for line in text.splitlines() if line.startswith("**`")]
    said = [line.removeprefix("**`").partition("`")[0].partition("(")[0] for line in members]
    assert said == [*contract.methods, *contract.properties, *contract.signals]


@pytest.mark.parametrize("name", NAMES)
def test_every_documentation_argument_and_action_is_in_it(name):
    text = section(name)
    for element in load(name).element.iter():
        if element.tag == "arg":
            assert f"{element.get('type')} {element.get('name')}" in text
        if element.tag == "property":
            assert f"**`{element.get('name')}`** `{element.get('type')}`" in text
        if element.tag != "annotation" or element.get("name") == docs.EMITS_CHANGED:
            continue
        value = element.get("value")
        assert ("open" if value == docs.OPEN_TO_ALL else value) in text


MADE_UP = """
<interface name="org.toy.One">
 <annotation name="org.gtk.GDBus.DocString" value="A toy."/>
 <method name="Move">
  <annotation name="org.gtk.GDBus.DocString" value="Moves."/>
  <annotation name="org.buswork.Action" value="org.toy.move"/>
  <annotation name="org.buswork.ActionForOthers" value="org.toy.move-others"/>
  <arg name="where" type="s" direction="in"/>
  <arg name="far" type="u" direction="in"/>
  <arg name="moved" type="b" direction="out"/>
 </method>
 <property name="Place" type="s" access="readwrite">
  <annotation name="org.gtk.GDBus.DocString" value="Where."/>
  <annotation name="org.buswork.Action" value="none"/>
  <annotation name="org.buswork.WriteAction" value="org.toy.place"/>
  <annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="invalidates"/>
 </property>
 <signal name="Moved">
  <annotation name="org.gtk.GDBus.DocString" value="It has moved."/>
  <arg name="where" type="s"/>
 </signal>
</interface>
"""

MADE_OF_IT = """\
## org.toy.One

A toy.

### Methods

**`Move(s where, u far)`** → `b moved`
(action `org.toy.move`, for things of others `org.toy.move-others`)  \n\
Moves.

### Properties

**`Place`** `s`
(readwrite; open, to write it `org.toy.place`; its changes are signalled without the value)  \n\
Where.

### Signals

**`Moved(s where)`**  \n\
It has moved.
"""


def test_how_an_interface_is_described():
    assert docs._interface(ET.fromstring(MADE_UP)) == MADE_OF_IT


FIELDS = {
    field.name: field
    for field in (
        Field("far", "m", -(2**31), 2**31 - 1, "how far"),
        Field("fast", "", -1.5, 2.0**100, "how fast"),
        Field("word", "bytes", 4, 4, "a word"),
        Field("kind", "", 0, 7, "which", {0: "soft", 7: "hard"}),
        Field("count", "", 1, 65535, "how many"),
    )
}

TABLE_OF_THEM = """\
| value | unit | range | what it is |
|---|---|---|---|
| `far` | m | -2^31 to 2^31 - 1 | how far |
| `fast` |  | -1.5 to 1.2676506e+30 | how fast |
| `word` | bytes | 4 | a word |
| `kind` |  | 0 soft, 7 hard | which |
| `count` |  | 1 to 65535 | how many |"""


def test_how_fields_are_described(monkeypatch):
    assert docs.table(FIELDS) == TABLE_OF_THEM
    monkeypatch.setattr(docs, "VALUES", {"org.toy.One": FIELDS})
    made = docs._interface(ET.fromstring(MADE_UP))
    assert made == f"{MADE_OF_IT}\n### Values\n\n{TABLE_OF_THEM}\n"


def test_tables_stand_between_their_marks(monkeypatch):
    monkeypatch.setattr(docs, "TABLES", {"toys": FIELDS})
    text = "a\n<!-- toys -->\nold\n<!-- /toys -->\nb\n"
    made = f"a\n<!-- toys -->\n\n{TABLE_OF_THEM}\n\n<!-- /toys -->\nb\n"
    assert docs.with_tables(text) == docs.with_tables(made) == made
    with pytest.raises(ValueError, match="substring"):
        docs.with_tables("no marks")


def test_writing_it(place, guide, capsys):
    assert docs.main([]) == 0
    assert place.read_text() == docs.reference()
    assert guide.read_text() == docs.with_tables(f"Before.\n{MARKS}After.\n")
    assert capsys.readouterr() == ("", "")


def test_a_check_of_what_is_up_to_date(place, capsys):
    docs.main([])
    before = place.stat()
    assert docs.main(["--check"]) == 0
    assert place.stat() == before
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("change", ["", "\n", "x"])
def test_a_check_of_what_is_not_writes_nothing(place, capsys, change):
    text = docs.reference() + change if change else docs.reference()[:-1]
    place.write_text(text)
    assert docs.main(["--check"]) == 1
    assert place.read_text() == text
    assert "python -m buswork.docs" in capsys.readouterr().err


def test_a_check_of_what_is_not_there(place):
    assert docs.main(["--check"]) == 1
    assert not place.exists()


def test_a_check_of_a_guide_with_an_old_table(place, guide, capsys):
    docs.main([])
    guide.write_text(guide.read_text().replace("`self_id` | bytes", "`self_id` | bits"))
    assert docs.main(["--check"]) == 1
    assert capsys.readouterr().err == f"{guide} is out of date; run: python -m buswork.docs\n"
    assert "bits" in guide.read_text()


def test_wrong_arguments(place):
    with pytest.raises(SystemExit) as caught:
        docs.main(["--chekc"])
    assert caught.value.code == 2
    assert not place.exists()
