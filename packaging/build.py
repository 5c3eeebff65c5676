"""Builds dist/buswork_VERSION_ARCH.deb, for the release of Debian or Ubuntu that it runs on.

`buswork install` fills the tree, and its steps are in the package's scripts: there is no second
list of what goes where. The network is not needed: what Debian has not, or has too old, is carried
as it is in this Python's environment, in a folder of our own.
"""

import argparse
import gzip
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from email.utils import formatdate
from hashlib import md5
from importlib.metadata import Distribution, distribution
from pathlib import Path

from buswork import __version__
from buswork.installation import activation
from buswork.installation.activation import Step
from buswork.installation.places import DEBIANS_ZSH

HERE = Path(__file__).parent
REPOSITORY = HERE.parent
PYTHON, LIB = "/usr/bin/python3", "/usr/lib/buswork"

# What Debian's own packages are good enough for, and from which version on.
DEBIANS = {
    "dbus-next": "python3-dbus-next (>= 0.2.3), python3-dbus-next (<< 0.2.4~)",
    "msgpack": "python3-msgpack (>= 1.0.3)",
    "pyudev": "python3-pyudev (>= 0.24.0)",
    "pyusb": "python3-usb (>= 1.2.1)",
}
OTHERS = (
    "default-dbus-system-bus | dbus-system-bus",
    "libusb-1.0-0",
    "polkitd | policykit-1",
    "systemd",
    "udev",
)
MAINTAINER = "The buswork authors <buswork@localhost.invalid>"
FLAGS = "-O2 -fPIE -pie -fstack-protector-strong -D_FORTIFY_SOURCE=2 -Wl,-z,relro,-z,now -s"
NEVER_COPIED = {"__pycache__", "..", "RECORD", "INSTALLER", "REQUESTED"}


class BuildError(Exception):
    """It can't be built here; the text says why."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--output", type=Path, default=REPOSITORY / "dist", metavar="DIR")
    options = parser.parse_args()
    os.umask(0o022)
    os.environ.setdefault("SOURCE_DATE_EPOCH", str(_date_of_the_source()))
    try:
        with tempfile.TemporaryDirectory(prefix="buswork-deb-") as folder:
            print(build(Path(folder), options.output))
    except (BuildError, OSError) as error:
        print(f"build.py: {error}", file=sys.stderr)
        return 69
    return 0


def build(scratch: Path, output: Path) -> Path:
    tree = scratch / "tree"
    lib = tree / LIB.lstrip("/")
    lib.mkdir(parents=True)
    _unpack_wheel(scratch, lib)
    carried = [distribution(name) for name in _carried()]
    for other in carried:
        _copy(other, lib)
    _install(tree, scratch)
    _add_documents(tree / "usr/share/doc/buswork", carried)
    overrides = tree / "usr/share/lintian/overrides"
    overrides.mkdir(parents=True)
    shutil.copyfile(HERE / "lintian-overrides", overrides / "buswork")
    architecture = _said("dpkg", "--print-architecture")
    _add_control(tree, architecture)
    output.mkdir(parents=True, exist_ok=True)
    package = output / f"buswork_{__version__}_{architecture}.deb"
    _run("dpkg-deb", "--root-owner-group", "--build", tree, package)
    return package


# -- what is in it -----------------------------------------------------------------------------


def _unpack_wheel(scratch: Path, lib: Path) -> None:
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", scratch, cwd=REPOSITORY)
    (wheel,) = scratch.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        files.extractall(lib)
    (*_, record) = lib.glob("buswork-*.dist-info/RECORD")
    record.unlink()


def _carried() -> Iterator[str]:
    """The dependencies that are not Debian's. They are here as they are pinned."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    for pinned in project["dependencies"]:
        name, _, version = pinned.partition("==")
        if name in DEBIANS:
            continue
        if distribution(name).version != version:
            raise BuildError(f"{name} is {distribution(name).version} here, and not {version}")
        yield name


def _copy(package: Distribution, lib: Path) -> None:
    for file in package.files or ():
        source = Path(str(package.locate_file(file)))
        if NEVER_COPIED.intersection(file.parts) or file.suffix in (".c", ".pyi"):
            continue
        if file.suffix == ".so" and _debians_python() != platform.python_version_tuple()[:2]:
            raise BuildError(
                f"{package.name} is compiled, and for another Python than {PYTHON}: "
                f"make .venv with that one (rm -r .venv; PATH=/usr/bin:$PATH ./dev package)"
            )
        target = lib / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        if file.suffix == ".so":
            _run("strip", "--strip-unneeded", target)


def _debians_python() -> tuple[str, ...]:
    code = "import platform; print(*platform.python_version_tuple()[:2])"
    return tuple(_said(PYTHON, "-I", "-c", code).split())


def _install(tree: Path, scratch: Path) -> None:
    source = REPOSITORY / "src/globstash/globstash.c"
    header = REPOSITORY / "src/include"
    _run("cc", *FLAGS.split(), "-I", header, source, "-o", scratch / "globstash")
    (tree / "usr/share/zsh" / DEBIANS_ZSH).mkdir(parents=True)
    words = ("--root", tree, "--package", "--python", PYTHON, "--lib", LIB)
    compiled = ("--globstash", scratch / "globstash")
    _run(sys.executable, "-m", "buswork.cli", "install", *words, *compiled)


def _add_documents(folder: Path, carried: Iterable[Distribution]) -> None:
    parts = [(REPOSITORY / "NOTICE").read_text()]
    parts.append("The whole licence: /usr/share/common-licenses/Apache-2.0\n")
    for other in carried:
        licence = next(f for f in other.files or () if f.name.upper().startswith("LICENSE"))
        parts.append(
            f"{LIB}/{other.name} is {other.name} {other.version}:\n\n{licence.read_text()}"
        )
    (folder / "copyright").write_text(f"\n{'-' * 78}\n\n".join(parts))
    date = formatdate(int(os.environ["SOURCE_DATE_EPOCH"]))
    entry = f"buswork ({__version__}) unstable; urgency=medium\n\n  * See NEWS.gz.\n\n"
    _write_smaller(folder / "changelog.gz", f"{entry} -- {MAINTAINER}  {date}\n")
    _write_smaller(folder / "NEWS.gz", (REPOSITORY / "CHANGELOG.md").read_text())
    if (licence_of_fsct := REPOSITORY / "LICENSE-FSCT.md").exists():
        shutil.copyfile(licence_of_fsct, folder / "LICENSE-FSCT.md")
    else:
        print("build.py: to pass the package on, add LICENSE-FSCT.md (see NOTICE)", file=sys.stderr)


def _write_smaller(path: Path, text: str) -> None:
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


# -- what dpkg has to know ---------------------------------------------------------------------


def _add_control(tree: Path, architecture: str) -> None:
    files = sorted(path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    names = {path: str(path.relative_to(tree)) for path in files}
    size = sum(path.stat().st_size for path in files) // 1024
    folder = tree / "DEBIAN"
    folder.mkdir()
    (folder / "control").write_text(_control(architecture, size))
    # What is in /etc is the administrator's.
    configuration = [f"/{name}\n" for name in names.values() if name.startswith("etc/")]
    if configuration:
        (folder / "conffiles").write_text("".join(configuration))
    sums = [
        f"{md5(path.read_bytes()).hexdigest()}  {name}\n"
        for path, name in names.items()
        if not name.startswith("etc/")
    ]
    (folder / "md5sums").write_text("".join(sums))
    for name in ("postinst", "prerm", "postrm"):
        (folder / name).write_text(script(name))
        (folder / name).chmod(0o755)


def _control(architecture: str, size: int) -> str:
    major, minor = _debians_python()
    python = (f"python3 (>= {major}.{minor})", f"python3 (<< {major}.{int(minor) + 1})")
    libc = f"libc6 (>= {platform.libc_ver()[1]})"
    template = (HERE / "control").read_text()
    return template.format(
        version=__version__,
        architecture=architecture,
        maintainer=MAINTAINER,
        size=size,
        depends=", ".join((*python, libc, *DEBIANS.values(), *OTHERS)),
    )


def script(name: str) -> str:
    """One of those that dpkg runs. What they do to units goes by Debian's own helpers."""
    before_removal = (step for step in activation.BEFORE_REMOVAL if step.words[0] != "systemctl")
    words = {
        "enabled": " ".join(activation.SOCKETS),
        "other_units": " ".join(activation.ENABLED_BY_HAND),
        "units_of_users": " ".join(activation.OF_SESSIONS),
        "services": " ".join(activation.SERVICES),
        "lib": LIB,
        "after_install": _shell(activation.AFTER_INSTALL),
        "before_removal": _shell(before_removal),
        "after_removal": _shell(activation.AFTER_REMOVAL),
        "purge": _shell(activation.PURGE),
    }
    text = (HERE / f"{name}.sh").read_text()
    return re.sub(r"@(\w+)@", lambda found: words[found[1]], text)


def _shell(steps: Iterable[Step]) -> str:
    return "\n".join(_shell_of(step) for step in steps)


def _shell_of(step: Step) -> str:
    """What `buswork install` does with a step: one that fails does not hold back the next."""
    conditions = [f"[ -e {shlex.quote(path)} ]" for path in step.needs]
    conditions.append(f"command -v {step.words[0]} >/dev/null")
    command = shlex.join(step.words)
    complaint = shlex.quote(f"buswork: failed: {command}")
    return (
        f"    if {' && '.join(conditions)}; then\n        {command} || echo {complaint} >&2\n    fi"
    )


# -- helpers -----------------------------------------------------------------------------------


def _date_of_the_source() -> int:
    try:
        return int(_said("git", "-C", str(REPOSITORY), "log", "-1", "--format=%ct"))
    except (BuildError, OSError, ValueError):  # unpacked from an archive
        return int((REPOSITORY / "CHANGELOG.md").stat().st_mtime)


def _run(*words: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(words, cwd=cwd, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise BuildError(f"{shlex.join(map(str, words))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def _said(*words: str) -> str:
    return _run(*words).strip()


if __name__ == "__main__":
    sys.exit(main())
