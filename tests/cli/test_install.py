"""Into a root of its own. What is run in the system itself, tests/system/test_package.py has."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from buswork.cli import install, main
from buswork.cli.exits import Exit
from buswork.installation import activation, sources
from buswork.installation.activation import Outcome

MANIFEST = "usr/share/buswork/manifest.json"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def install_into(root, *more):
    """Without pages: they take a second."""
    return main(["install", "--root", str(root), "--python", sys.executable, "--no-pages", *more])


def uninstall_from(root, *more):
    return main(["uninstall", "--root", str(root), *more])


def document(capsys):
    return json.loads(capsys.readouterr().out)


def tree(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_in_and_out(root, capsys):
    assert install_into(root) == Exit.OK
    said = capsys.readouterr().out
    assert "new     /usr/lib/systemd/system/buswork.service\n" in said
    assert said.splitlines()[-1].startswith("files: ")
    assert said.splitlines()[-1].endswith(" new")
    assert "ran " not in said
    before = tree(root)
    assert install_into(root) == Exit.OK
    assert capsys.readouterr().out.endswith(" same\n")
    assert tree(root) == before
    assert uninstall_from(root) == Exit.OK
    assert tree(root) == []


def test_one_system_has_it_once(root, capsys):
    """Whatever the prefix is: most of the files are those of every other one."""
    install_into(root, "--prefix", "/opt/bus/")
    assert (root / "opt/bus/bin/busworkd").exists()
    assert json.loads((root / MANIFEST).read_text())["prefix"] == "/opt/bus"
    install_into(root)
    assert uninstall_from(root) == Exit.OK
    assert tree(root) == []


def test_a_dry_run_does_nothing(root, capsys):
    assert install_into(root, "--dry-run", "--json") == Exit.OK
    found = document(capsys)
    assert found["dry_run"]
    assert "/usr/bin/busworkd" in found["files"]["new"]
    assert tree(root) == []
    install_into(root)
    before = tree(root)
    assert uninstall_from(root, "-n") == Exit.OK
    assert capsys.readouterr().out.endswith("(a dry run: nothing was done)\n")
    assert tree(root) == before


def test_a_dry_run_shows_the_commands_of_the_running_system(capsys):
    """Anybody may look."""
    words = ["install", "--dry-run", "--no-pages", "--python", sys.executable]
    assert main(words) in (Exit.OK, Exit.FAILED)
    assert "\nto run  systemd-sysusers buswork.conf\n" in capsys.readouterr().out


def test_what_somebody_changed(root, capsys):
    install_into(root)
    policy = root / "usr/share/dbus-1/system.d/org.buswork.conf"
    policy.write_text("mine")
    capsys.readouterr()
    assert install_into(root) == Exit.FAILED
    assert f"kept    /{policy.relative_to(root)} (somebody changed it)\n" in capsys.readouterr().out
    assert install_into(root, "--json") == Exit.FAILED
    found = document(capsys)
    assert found["files"]["kept"] == list(found["why_kept"]) == [f"/{policy.relative_to(root)}"]
    assert install_into(root, "--force") == Exit.OK
    assert policy.read_text() != "mine"


def test_pages(root, capsys):
    words = ["install", "--root", str(root), "--no-programs"]
    assert main(words) == Exit.OK
    assert (root / "usr/share/man/man1/buswork.1.gz").exists()
    assert (root / "usr/share/zsh/site-functions/_buswork").exists()
    assert not (root / "usr/bin").exists()


def test_pages_stay_where_their_makers_went(root, capsys, monkeypatch):
    main(["install", "--root", str(root), "--python", sys.executable])
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "shtab" else find(name)
    )
    assert main(["install", "--root", str(root), "--python", sys.executable]) == Exit.OK
    assert "for want of shtab" in capsys.readouterr().err
    assert (root / "usr/share/man/man1/buswork.1.gz").exists()


def test_debians_zsh_looks_elsewhere(root):
    (root / "usr/share/zsh/vendor-completions").mkdir(parents=True)
    main(["install", "--root", str(root), "--no-programs"])
    assert (root / "usr/share/zsh/vendor-completions/_buswork").exists()


def test_apparmor_is_left_out_where_it_would_do_harm(root, monkeypatch, capsys):
    monkeypatch.setattr(sources, "out_of_apparmors_reach", lambda *_: None)
    assert install_into(root) == Exit.OK
    assert (root / "etc/apparmor.d/busworkd").exists()
    monkeypatch.setattr(sources, "out_of_apparmors_reach", lambda *_: Path("/srv/venv"))
    capsys.readouterr()
    install_into(root)
    assert "no AppArmor profiles: they would keep the daemon from reading /srv/venv" in (
        capsys.readouterr().err
    )
    assert main(["install", "--root", str(root), "--python", sys.executable]) == Exit.OK
    assert not (root / "etc/apparmor.d/busworkd").exists()
    assert install_into(root, "--package") == Exit.OK
    assert (root / "etc/apparmor.d/busworkd").exists()


def test_another_globstash(root, tmp_path):
    (tmp_path / "globstash").write_bytes(b"\x7fELF")
    assert install_into(root, "--globstash", str(tmp_path / "globstash")) == Exit.OK
    assert (root / "usr/bin/globstash").read_bytes() == b"\x7fELF"
    assert (root / "usr/bin/globstash").stat().st_mode & 0o777 == 0o755


def test_a_program_that_was_placed(root):
    lib = Path(install.__file__).parents[2]
    install_into(root, "--lib", str(lib))
    done = subprocess.run(
        [root / "usr/bin/buswork", "--version"], env={}, capture_output=True, text=True
    )
    assert done.stdout.startswith("buswork ")


def test_what_a_package_has(root, capsys):
    assert install_into(root, "--package") == Exit.OK
    assert uninstall_from(root) == Exit.FAILED
    assert install_into(root) == Exit.FAILED
    assert capsys.readouterr().err.count("a package has installed it") == 2
    assert (root / "usr/bin/busworkd").exists()
    assert install_into(root, "--package") == Exit.OK


@pytest.mark.parametrize(
    ("words", "status", "why"),
    [
        (("--prefix", "opt"), Exit.USAGE, "no absolute path"),
        (("--prefix", "/a b"), Exit.USAGE, "no absolute path"),
        (("--prefix", "/"), Exit.USAGE, "no absolute path"),
        (("--prefix", "/\udcff"), Exit.USAGE, "no absolute path"),
        (("--root", "/no/such"), Exit.FAILED, "/no/such is no directory"),
        (("--root", os.devnull), Exit.FAILED, "is no directory"),
        (("--globstash", "/no/such"), Exit.FAILED, "No such file"),
    ],
)
def test_what_is_not_as_it_must_be(words, status, why, root, capsys):
    assert install_into(root, *words) == status
    said = capsys.readouterr().err
    assert why in said
    assert "Traceback" not in said


def test_nothing_to_undo(root, capsys):
    assert uninstall_from(root) == Exit.FAILED
    assert "manifest.json is not there" in capsys.readouterr().err
    (root / MANIFEST).parent.mkdir(parents=True)
    (root / MANIFEST).write_text("{")
    assert uninstall_from(root) == install_into(root) == Exit.FAILED
    assert capsys.readouterr().err.count("manifest.json is no manifest") == 2


def test_a_link_out_of_the_root(root, tmp_path, capsys):
    (tmp_path / "outside").mkdir()
    (root / "usr").symlink_to(tmp_path / "outside")
    assert install_into(root) == Exit.FAILED
    assert "leads out of" in capsys.readouterr().err
    assert not list((tmp_path / "outside").iterdir())


def test_only_root_may(monkeypatch, capsys):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["install"]) == main(["uninstall"]) == Exit.DENIED
    assert capsys.readouterr().err.count("only root") == 2


def test_a_home_is_no_place_for_the_daemon(root, monkeypatch, capsys):
    monkeypatch.setattr(sources, "hidden_from_the_daemon", lambda: Path("/home/alice/venv"))
    assert main(["install", "--root", str(root), "--no-pages"]) == Exit.FAILED
    assert "/home/alice/venv is out of the reach of the daemon" in capsys.readouterr().err
    assert tree(root) == []


def test_commands_and_how_they_ended(root, monkeypatch, capsys):
    """As if the other root were the system that runs."""
    outcomes = [Outcome(("a", "b c")), Outcome(("d",), missing="/e"), Outcome(("f",), failure="no")]
    told = []

    def run(steps):
        told.append([step.words for step in steps])
        return outcomes if len(told) == 1 else []

    monkeypatch.setattr(activation, "run", run)
    monkeypatch.setattr(install, "SYSTEM", root)
    assert install_into(root) == Exit.FAILED
    said = capsys.readouterr()
    assert "ran     a 'b c'\nleft out d: no /e here\n" in said.out
    assert said.err.endswith("\nbuswork: f: no\n")
    assert ("systemctl", "enable", *activation.SOCKETS) in told[0]

    assert install_into(root) == Exit.OK
    assert told[1] == [step.words for step in activation.AFTER_INSTALL]
    capsys.readouterr()
    assert uninstall_from(root, "--purge", "--json") == Exit.OK
    steps = activation.BEFORE_REMOVAL, activation.AFTER_REMOVAL, activation.PURGE
    assert told[2:] == [[step.words for step in group] for group in steps]
    assert document(capsys)["commands"] == []


def test_sockets_may_stay_off(root, monkeypatch):
    told = []
    monkeypatch.setattr(activation, "run", lambda steps: told.extend(steps) or [])
    monkeypatch.setattr(install, "SYSTEM", root)
    assert install_into(root, "--no-enable") == Exit.OK
    assert told == list(activation.AFTER_INSTALL)
