"""The wheel in a virtual environment of its own, as pip and pipx make one."""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """The folder of its programs. The dependencies are those that are here."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv/bin/python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-index"]
    subprocess.run([*pip, "--no-deps", "--no-compile", wheel], check=True)
    # A path file in it does not count there: the project as it is edited here stays away.
    (packages,) = folder.glob("venv/lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "venv/bin"


def run(*words):
    done = subprocess.run(words, env={}, cwd="/", capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_its_programs_run(programs):
    assert run(programs / "buswork", "--help").startswith("usage: buswork ")
    assert run(programs / "globstash", "--help").startswith("usage: globstash ")
    assert run(programs / "busworkd", "--version").startswith("busworkd ")


def test_it_is_typed_and_stands_for_itself(programs):
    code = "import buswork.client, buswork.libipc, pathlib; p = pathlib.Path(buswork.__file__)"
    code += "; print(p.with_name('py.typed').exists(), p)"
    typed, file = run(programs / "python", "-I", "-c", code).split()
    assert typed == "True"
    assert Path(file).is_relative_to(programs.parent)


def test_the_same_is_placed_as_from_the_repository(programs, tmp_path):
    trees = []
    for number, command in enumerate(
        ([programs / "buswork"], [sys.executable, "-m", "buswork.cli"])
    ):
        root = tmp_path / str(number)
        root.mkdir()
        words = [
            "install",
            "--root",
            root,
            "--python",
            "/usr/bin/python3",
            "--no-pages",
            "--package",
        ]
        run(*command, *words)
        files = {path.relative_to(root): path for path in root.rglob("*") if path.is_file()}
        trees.append({name: path.read_bytes() for name, path in files.items()})
    assert trees[0] == trees[1]
    assert Path("usr/include/mapipc.h") in trees[0]
