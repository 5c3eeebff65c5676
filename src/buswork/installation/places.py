"""What goes where. There is no other list: docs/packaging.md and the tests are held against this.

A folder that begins with {prefix} is where the programs are. The others are the only ones that the
bus, polkit, systemd and udev all look into, on every distribution and in every version that we
know; so they stay where they are, whatever the prefix is.
"""

import fnmatch
import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from buswork import __version__
from buswork.installation.files import File, Item, Link

# Sources by their names: "dbus/org.buswork.conf" is a shipped file, "bin/busworkd" a program.
Sources = Mapping[str, File]


class Place(NamedTuple):
    what: str
    sources: str
    folder: str


PLACES = (
    Place("users", "systemd/sysusers.d/*.conf", "/usr/lib/sysusers.d"),
    Place("run directories", "systemd/tmpfiles.d/*.conf", "/usr/lib/tmpfiles.d"),
    Place("bus policies", "dbus/*.conf", "/usr/share/dbus-1/system.d"),
    Place("D-Bus activation", "dbus/*.service", "/usr/share/dbus-1/system-services"),
    Place("D-Bus interfaces", "dbus/org.*.xml", "{prefix}/share/dbus-1/interfaces"),
    Place("polkit actions", "polkit/*.policy", "/usr/share/polkit-1/actions"),
    Place("services", "systemd/buswork*.service", "/usr/lib/systemd/system"),
    Place("sockets", "systemd/buswork*.socket", "/usr/lib/systemd/system"),
    Place("units of users' sessions", "systemd/user/*", "/usr/lib/systemd/user"),
    Place("udev rules", "systemd/*.rules", "/usr/lib/udev/rules.d"),
    Place("messages of the journal", "systemd/*.catalog", "/usr/lib/systemd/catalog"),
    Place("AppArmor profiles", "apparmor/*", "/etc/apparmor.d"),
    Place("programs", "bin/*", "{prefix}/bin"),
    Place("C and C++ header", "src/include/*.h", "{prefix}/include"),
    Place("for pkg-config", "src/include/*.pc.in", "{prefix}/share/pkgconfig"),
    Place("manual pages: commands", "man/*.1", "{prefix}/share/man/man1"),
    Place("manual pages: daemons", "man/*.8", "{prefix}/share/man/man8"),
    Place("completions for bash", "bash/*", "{prefix}/share/bash-completion/completions"),
    Place("completions for zsh", "zsh/*", "{prefix}/share/zsh/{zsh}"),
    Place("completions for fish", "fish/*", "{prefix}/share/fish/vendor_completions.d"),
    Place("example rules", "polkit/examples/*.rules", "{prefix}/share/doc/buswork/examples"),
)

# The daemon's other names. Alias= would give it to them only while it is enabled.
LINKS = {
    f"/usr/lib/systemd/system/{name}.service": "buswork.service"
    for name in ("globstashd", "mapipcd")
}

# systemd's own, which we implement: its packages may have it.
_NOT_OURS = "dbus/org.freedesktop.*"
_NEVER_A_SOURCE = "*/.*"

ZSH = "site-functions"
DEBIANS_ZSH = "vendor-completions"


@dataclass(frozen=True, slots=True)
class Layout:
    """What differs from one system to another."""

    prefix: str = "/usr"
    zsh: str = ZSH

    def folder(self, place: Place) -> str:
        return place.folder.format(prefix=self.prefix, zsh=self.zsh)


def wanted(sources: Sources, layout: Layout) -> dict[str, Item]:
    """What is to be where, in the table's order."""
    found: dict[str, Item] = {}
    for place in PLACES:
        for name in sorted(sources):
            if _belongs(name, place):
                target, item = _placed(name, sources[name], layout)
                found[f"{layout.folder(place)}/{target}"] = item
    return found | {path: Link(target) for path, target in LINKS.items()}


def _belongs(name: str, place: Place) -> bool:
    """Whether the source is one of the place's; a * stands for no slash."""
    return (
        name.count("/") == place.sources.count("/")
        and fnmatch.fnmatchcase(name, place.sources)
        and not fnmatch.fnmatchcase(name, _NOT_OURS)
        and not fnmatch.fnmatchcase(name, _NEVER_A_SOURCE)
    )


def _placed(source: str, file: File, layout: Layout) -> tuple[str, File]:
    """The name and the content that a source has in the system."""
    folder, _, name = source.rpartition("/")
    prefix = layout.prefix.encode()
    content = file.content
    if folder.startswith("systemd"):
        content = content.replace(b"/usr/bin/buswork", prefix + b"/bin/buswork")
    if name.endswith(".in"):
        name = name.removesuffix(".in")
        content = content.replace(b"@prefix@", prefix)
        content = content.replace(b"@version@", __version__.encode())
    if folder == "man":
        name += ".gz"
        content = gzip.compress(content, mtime=0)
    return name, File(content, file.mode)
