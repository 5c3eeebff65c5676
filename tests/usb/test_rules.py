"""The shipped udev rules, read by a real udevadm, with the probe on an emulated kernel."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
RULES = REPOSITORY / "systemd/60-buswork.rules"
CASES = Path(__file__).with_name("rules_cases.py")

IN_NAMESPACE = """
set -e
mount -t tmpfs tmpfs /usr/lib/udev
mount -t tmpfs tmpfs /run
mkdir /run/udev /usr/lib/udev/rules.d
cp "$1" /usr/lib/udev/rules.d/60-buswork.rules
exec "$2" -c '
import sys
from pathlib import Path
from support import usb_kernel
usb_kernel.run(Path(sys.argv[1]), "rules")
' "$3"
"""


@pytest.mark.usb
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to have mount namespaces of its own")
@pytest.mark.skipif(shutil.which("udevadm") is None, reason="not installed: udevadm (udev)")
def test_rules(tmp_path):
    root = tmp_path / "root"
    probe = tmp_path / "probe"
    probe.write_text(
        "#!/bin/sh\n"
        "export LD_PRELOAD=libumockdev-preload.so.0\n"
        f"export UMOCKDEV_DIR=$(cat {root}) PYTHONPATH={REPOSITORY}/src\n"
        f'exec {sys.executable} -m buswork.fsct.probe "$@"\n'
    )
    probe.chmod(0o755)
    rules = tmp_path / "rules"
    shipped = RULES.read_text()
    # Group 0 is there on every machine.
    text = shipped.replace("/usr/bin/buswork-probe-fsct", str(probe))
    text = text.replace('GROUP="buswork"', 'GROUP="root"')
    assert text.count(str(probe)) == 1
    assert text.count('GROUP="root"') == 2
    rules.write_text(text)
    unshare = ["unshare", "--mount", "--propagation", "private"]
    done = subprocess.run(
        [*unshare, "sh", "-c", IN_NAMESPACE, "sh", rules, sys.executable, CASES],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY / "tests"), "PROBE_ROOT": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
