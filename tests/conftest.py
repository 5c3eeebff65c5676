"""Which tests a machine can run, told by marker; what is skipped is summed up in one line each."""

import compileall
import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from support import vm
from support.alone import alone_with_processes

SOURCE = Path(__file__).resolve().parents[1] / "src"

# How long an example takes says nothing on a busy machine; and the same tests are the same each
# time, unless it is new examples that are wanted (--fuzz).
settings.register_profile("calm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("steady", settings.get_profile("calm"), derandomize=True)
settings.load_profile("calm" if "BUSWORK_FUZZ_EXAMPLES" in os.environ else "steady")


def _missing(*commands: str) -> str | None:
    """The reason why a tier that needs these commands can't run here."""
    lacking = [command for command in commands if shutil.which(command) is None]
    return f"not installed: {', '.join(lacking)}" if lacking else None


def _no_namespace() -> str | None:
    if os.geteuid() != 0:
        return "needs root, to have mount namespaces of its own"
    unshare = ["unshare", "--mount", "--propagation", "private", "true"]
    try:
        done = subprocess.run(unshare, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "not installed: unshare"
    return f"no mount namespaces here: {done.stderr.strip()}" if done.returncode else None


def _no_umockdev() -> str | None:
    """The emulated kernel is written for the system's own Python, where its bindings are."""
    if missing := _missing("umockdev-wrapper"):
        return missing
    test = "import gi, tomllib; gi.require_version('UMockdev', '1.0')"
    try:
        done = subprocess.run(["/usr/bin/python3", "-c", test], capture_output=True, check=False)
    except FileNotFoundError:
        return "not installed: /usr/bin/python3"
    why = "umockdev's bindings for Python (python3-gi, gir1.2-umockdev-1.0)"
    return f"/usr/bin/python3 is older than 3.11 or has not got {why}" if done.returncode else None


def _no_vm(config: pytest.Config) -> str | None:
    """Asked for and not possible is an error, not a reason to skip it."""
    if not config.getoption("--vm"):
        return "only with --vm"
    if lacking := vm.missing():
        raise pytest.UsageError(f"no virtual machine, for want of {', '.join(lacking)}")
    return None


def _tiers(config: pytest.Config) -> dict[str, tuple[str, str | None]]:
    """By marker: the tier's name, and why it can't run here (None: it can)."""
    no_namespace = _no_namespace()
    return {
        "system": ("tier 2 (bus)", no_namespace or _missing("dbus-daemon", "pkcheck")),
        "usb": ("tier 3 (USB)", _no_umockdev()),
        "systemd": (
            "tier 4 (systemd)",
            no_namespace or _missing("systemd-nspawn", "dbus-daemon", "pkcheck"),
        ),
        "tools": ("tier 5 (tools)", _missing("busctl", "gdbus")),
        "vm": ("tier 6 (virtual machine)", _no_vm(config)),
    }


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--vm", action="store_true", help="also run the tests in a virtual machine")
    parser.addoption("--fuzz", action="store_true", help="fuzz for long: a million cases each")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--fuzz"):  # the fuzzers read it when they are imported
        os.environ.setdefault("BUSWORK_FUZZ_EXAMPLES", "100000")
        settings.load_profile("calm")
    if not hasattr(config, "workerinput"):
        # Hundreds of processes are about to be started that may not write there themselves.
        compileall.compile_dir(SOURCE, quiet=1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    tiers = _tiers(config)
    for item in items:
        for marker, (tier, reason) in tiers.items():
            if reason is not None and item.get_closest_marker(marker) is not None:
                item.add_marker(pytest.mark.skip(reason=f"{tier}: {reason}"))
                break


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Of the reports, for the tests may have been other processes'."""
    skipped = (report.longrepr[2] for report in terminalreporter.stats.get("skipped", ()))
    reasons = (reason.removeprefix("Skipped: ") for reason in skipped)
    tiers = Counter(reason for reason in reasons if reason.startswith("tier "))
    for what, count in sorted(tiers.items()):
        terminalreporter.write_line(f"not run here: {what} ({count} tests)")


@pytest.fixture(scope="module", autouse=True)
def processes_of_one_file(request):
    if request.node.get_closest_marker("processes") is None:
        yield
        return
    with alone_with_processes():
        yield
