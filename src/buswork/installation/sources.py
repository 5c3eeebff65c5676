"""What we have to place: the shipped files, and the programs."""

import sys
from importlib.metadata import entry_points
from pathlib import Path

from buswork.installation.files import File

PROGRAM_MODE = 0o755

_PACKAGE = Path(__file__).parents[1]
_FOLDERS = ("dbus", "polkit", "systemd", "apparmor", "src/include")

# What the units hide from the daemon (ProtectHome=).
_HIDDEN = ("/home", "/root", "/run/user")
# What the AppArmor profiles let programs and code be in.
_CONFINED = ("/usr", "/opt/buswork")

_LAUNCHER = """\
#!{python} -I
import sys
{path}from {module} import {function}

sys.exit({function}())
"""


def shipped() -> dict[str, File]:
    """The files beside the code: inside the installed package, or at the top of the source tree."""
    data = _PACKAGE / "data"
    top = data if data.is_dir() else _PACKAGE.parents[1]
    return {
        str(path.relative_to(top)): File(path.read_bytes())
        for folder in _FOLDERS
        for path in (top / folder).rglob("*")
        if path.is_file()
    }


def programs(python: str, lib: str | None) -> dict[str, File]:
    """They take nothing from their caller's environment: root and services run them, too."""
    path = f"\nsys.path.insert(0, {lib!r})\n" if lib else "\n"
    return {
        f"bin/{entry.name}": File(
            _LAUNCHER.format(
                python=python, path=path, module=entry.module, function=entry.attr
            ).encode(),
            PROGRAM_MODE,
        )
        for entry in entry_points(group="console_scripts")
        if entry.module.partition(".")[0] == "buswork"
    }


def out_of_apparmors_reach(python: str, lib: str | None) -> Path | None:
    """What of Python or of us the profiles would not let the daemon read."""
    for path in (Path(python), Path(python).resolve(), Path(lib or _PACKAGE).resolve()):
        if not any(path.is_relative_to(folder) for folder in _CONFINED):
            return path
    return None


def hidden_from_the_daemon() -> Path | None:
    """What of Python or of us the daemon's user would not find, as it is in somebody's home."""
    for path in (Path(sys.executable), Path(sys.executable).resolve(), _PACKAGE.resolve()):
        if any(path.is_relative_to(folder) for folder in _HIDDEN):
            return path
        for folder in path.parents:
            if not folder.stat().st_mode & 0o001:
                return folder
    return None
