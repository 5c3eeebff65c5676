import subprocess
import sys
import tomllib
from pathlib import Path

import buswork
from buswork.installation import sources

REPOSITORY = Path(__file__).parents[2]


def test_shipped_files_are_found_beside_the_code():
    found = sources.shipped()
    assert b"ExecStart=" in found["systemd/buswork.service"].content
    assert "src/include/mapipc.h" in found
    assert not [name for name in found if name.startswith("src/buswork")]


def test_the_wheel_carries_them():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert {name.split("/")[0] for name in sources.shipped()} <= {
        name.split("/")[0] for name in included
    }
    assert all(target == f"buswork/data/{name}" for name, target in included.items())


def test_all_programs():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    found = sources.programs(sys.executable, None)
    assert set(found) == {f"bin/{name}" for name in project["scripts"]}
    assert {file.mode for file in found.values()} == {0o755}


def test_a_program_runs_whatever_its_caller_wants(tmp_path):
    lib = Path(buswork.__file__).parents[1]
    program = tmp_path / "globstash"
    program.write_bytes(sources.programs(sys.executable, str(lib))["bin/globstash"].content)
    program.chmod(0o755)
    (tmp_path / "buswork.py").write_text("print('hijacked')")
    environment = {"PYTHONPATH": str(tmp_path), "PYTHONSTARTUP": "/nonexistent"}
    done = subprocess.run(
        [program, "--help"], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.startswith("usage: globstash set")
    assert (done.returncode, done.stderr) == (0, "")


def test_apparmor_knows_some_places(monkeypatch):
    found = sources.out_of_apparmors_reach
    assert found("/usr/bin/env", "/usr/lib/buswork") is None
    assert found("/usr/bin/env", "/srv/buswork") == Path("/srv/buswork")
    assert found("/srv/venv/bin/python3", "/usr/lib/buswork") == Path("/srv/venv/bin/python3")
    monkeypatch.setattr(sources, "_PACKAGE", Path("/opt/buswork/lib/buswork"))
    assert found("/opt/buswork/bin/python3", None) is None
    monkeypatch.setattr(sources, "_PACKAGE", Path("/opt/buswork2"))
    assert found("/usr/bin/env", None) == Path("/opt/buswork2")


def test_homes_are_hidden_from_the_daemon(monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "_PACKAGE", Path("/"))
    monkeypatch.setattr(sys, "executable", "/usr/bin/env")
    assert sources.hidden_from_the_daemon() is None
    monkeypatch.setattr(sys, "executable", "/home/alice/venv/bin/python3")
    assert sources.hidden_from_the_daemon() == Path("/home/alice/venv/bin/python3")
    (tmp_path / "private/bin").mkdir(parents=True)
    (tmp_path / "private").chmod(0o700)
    (tmp_path / "private/bin/python3").touch()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "private/bin/python3"))
    hidden = sources.hidden_from_the_daemon()
    assert hidden is not None
    assert hidden in (tmp_path / "private/bin/python3").parents
