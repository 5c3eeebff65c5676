import gzip
import re
import stat
import tomllib
from pathlib import Path

import pytest

from buswork import __version__
from buswork.installation import activation, places, sources
from buswork.installation.files import File, Link
from buswork.installation.places import LINKS, PLACES, Layout

REPOSITORY = Path(__file__).parents[2]
FOLDERS = ("dbus", "polkit", "systemd", "apparmor", "src/include")


def wanted(more=None, **layout):
    return places.wanted(sources.shipped() | (more or {}), Layout(**layout))


def test_every_shipped_file_has_a_place():
    placed = len(wanted()) - len(LINKS)
    files = [
        path
        for folder in FOLDERS
        for path in (REPOSITORY / folder).rglob("*")
        if path.is_file() and not path.is_symlink()
    ]
    elsewhere = [
        path for path in files if path.parent.name == "examples" and path.suffix != ".rules"
    ]
    systemds = [path for path in files if path.name.startswith("org.freedesktop.")]
    assert elsewhere
    assert systemds
    assert placed == len(files) - len(elsewhere) - len(systemds)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.what)
def test_every_place_gets_something(place):
    made = {"man/a.1", "man/a.8", "bash/a", "zsh/_a", "fish/a.fish", "bin/a"}
    names = [*sources.shipped(), *made]
    found = places.wanted({name: File(b"") for name in names}, Layout())
    assert any(path.startswith(Layout().folder(place) + "/") for path in found)


def test_only_programs_can_be_run():
    modes = {path: item.mode for path, item in wanted().items() if isinstance(item, File)}
    assert set(modes.values()) == {0o644}
    found = wanted({"bin/busworkd": File(b"", 0o755)})
    assert stat.S_IMODE(found["/usr/bin/busworkd"].mode) == 0o755


def test_the_old_names_are_links():
    found = wanted()
    assert found["/usr/lib/systemd/system/globstashd.service"] == Link("buswork.service")
    for path in LINKS:
        shipped = REPOSITORY / "systemd" / Path(path).name
        assert shipped.readlink() == Path(LINKS[path])


def test_what_names_a_program_follows_the_prefix():
    usual, moved = wanted(), wanted(prefix="/opt/bus")
    for path, item in usual.items():
        if isinstance(item, File) and b"/usr/bin/buswork" in item.content:
            assert path.endswith((".service", ".rules"))
            assert b"/usr/bin" not in moved[path].content
            assert b"/opt/bus/bin/buswork" in moved[path].content
    assert b"ExecStart=/opt/bus/bin/busworkd" in (
        moved["/usr/lib/systemd/system/buswork.service"].content
    )
    text = moved["/opt/bus/share/pkgconfig/mapipc.pc"].content.decode()
    assert text.startswith("prefix=/opt/bus\n")
    assert f"\nVersion: {__version__}\n" in text
    assert "@" not in text


def test_no_program_is_named_that_would_not_be_there():
    units = b"".join(item.content for item in wanted().values() if isinstance(item, File)).decode(
        errors="replace"
    )
    named = set(re.findall(r"/usr/bin/(buswork[\w-]*)", units))
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert named
    assert named <= set(project["scripts"])


def test_pages_are_made_smaller():
    page = wanted({"man/buswork.1": File(b"page")})["/usr/share/man/man1/buswork.1.gz"]
    assert gzip.decompress(page.content) == b"page"


def test_editors_leave_nothing_in_the_system():
    names = ["dbus/org.buswork.conf~", "dbus/.org.buswork.conf", "dbus/deep/org.buswork.conf"]
    assert list(places.wanted({name: File(b"") for name in names}, Layout())) == list(LINKS)


def test_the_commands_name_what_is_shipped():
    units = {Path(path).name for path in wanted()}
    for names in ("SOCKETS", "OFF_AT_FIRST", "SERVICES", "OF_SESSIONS"):
        assert set(getattr(activation, names)) <= units, names
    sockets = {unit for unit in units if unit.endswith(".socket")}
    named = {*activation.SOCKETS, *activation.OFF_AT_FIRST, *activation.OF_SESSIONS}
    assert sockets <= named
    services = {unit for unit in units if unit.startswith("buswork") and unit.endswith(".service")}
    assert services == {*activation.SERVICES, activation.OF_SESSIONS[0]}
    assert set(activation.ENABLED_BY_HAND) <= units - set(activation.SOCKETS)
    profiles = {path for path in wanted() if path.startswith("/etc/apparmor.d/")}
    assert set(activation.PROFILES) == profiles
    made = re.findall(
        r"^d +(\S+)", (REPOSITORY / "systemd/tmpfiles.d/buswork.conf").read_text(), re.MULTILINE
    )
    assert sorted(activation.RUN_FOLDERS) == sorted(made)
