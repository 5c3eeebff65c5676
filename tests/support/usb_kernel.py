"""An emulated kernel with USB devices, and programs that see no other.

    CASES = Path(__file__).with_name("real_cases.py")

    @pytest.mark.usb
    @pytest.mark.parametrize("case", usb_kernel.cases(CASES))
    def test_real_libusb(case):
        usb_kernel.run(CASES, case)

The kernel is usb_umockdev.py, which needs the system's Python. A case is a coroutine that takes
the kernel; it runs in a process of its own with this interpreter, because libraries are put
between a program and its kernel only when it starts:

    python usb_kernel.py FD FILE CASE
"""

import ast
import asyncio
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

SUPPORT = Path(__file__).resolve().parent
SOURCE = SUPPORT.parents[1] / "src"
PRELOAD = "libumockdev-preload.so.0"
SECONDS = 60.0


class Kernel:
    """The commands of usb_umockdev.Kernel."""

    def __init__(self, sock):
        self._stream = sock.makefile("rw")
        self.root = json.loads(self._stream.readline())["root"]

    def do(self, what, **arguments):
        self._stream.write(json.dumps({"do": what, **arguments}) + "\n")
        self._stream.flush()
        return json.loads(self._stream.readline())["result"]

    def __getattr__(self, name):
        return lambda **arguments: self.do(name, **arguments)


def cases(path):
    """The names of the cases in a file, which is not imported."""
    functions = (n for n in ast.parse(path.read_text()).body if isinstance(n, ast.AsyncFunctionDef))
    return [each.name for each in functions if [a.arg for a in each.args.args] == ["kernel"]]


@contextmanager
def emulated():
    """The end of a kernel's socket, and what programs find in their environment that see it."""
    kernel_end, ours = socket.socketpair()
    # umockdev leaves its files in TMPDIR, which it wants without symbolic links.
    tmp = os.path.realpath(tempfile.mkdtemp(prefix="buswork-usb-"))
    environment = os.environ | {"TMPDIR": tmp}
    said = []
    command = ["umockdev-wrapper", "/usr/bin/python3", SUPPORT / "usb_umockdev.py"]
    kernel = subprocess.Popen(
        [*command, str(kernel_end.fileno())],
        pass_fds=[kernel_end.fileno()],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    kernel_end.close()
    try:
        yield ours, environment | {"LD_PRELOAD": PRELOAD}, said
    finally:
        ours.shutdown(socket.SHUT_RDWR)  # whoever has a file of it
        ours.close()
        try:
            said.append(kernel.communicate(timeout=10)[0])
        except subprocess.TimeoutExpired:
            os.killpg(kernel.pid, signal.SIGKILL)
            said.append(kernel.communicate()[0])
        shutil.rmtree(tmp, ignore_errors=True)


def run(path, case):
    """Runs one case; what it printed is the failure's text."""
    with emulated() as (ours, environment, said):
        done = subprocess.run(
            [sys.executable, __file__, str(ours.fileno()), str(path), case],
            pass_fds=[ours.fileno()],
            env=environment | {"PYTHONPATH": str(SOURCE)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=SECONDS,
            check=False,
        )
    complaint = b"".join(said)
    text = (done.stdout + complaint).decode(errors="replace")
    assert (done.returncode, complaint) == (0, b""), f"status {done.returncode}:\n{text}"


def main():
    fd, path, function = sys.argv[1:]
    sys.path.insert(0, str(SUPPORT.parent))
    kernel = Kernel(socket.socket(fileno=int(fd)))
    # The preloaded library looks here at each call.
    os.environ["UMOCKDEV_DIR"] = kernel.root
    spec = importlib.util.spec_from_file_location("cases", path)
    cases = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cases)
    asyncio.run(getattr(cases, function)(kernel))


if __name__ == "__main__":
    main()
