"""A simulated process under AppView: real queues, and the habits of the real library.

It looks for its queue about every millisecond and does one request each time; waits 70 ms for the
next frame of a request and for room for each frame of an answer; reads its file of commands once
in a period; and is as easily killed as the real one. With a fault, it does what a broken one might.

    python -m buswork.sim.viewed [--state STATE] [--period SECONDS] [--fault FAULT] [--uid UID]

says its pid in a line once it can be asked, and ends with its standard input.
"""

import argparse
import ctypes
import mmap
import os
import select
import signal
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, Final

from buswork.appview.native import mqueue
from buswork.appview.wire import requests
from buswork.appview.wire.configuration import DEFAULTS, Died
from buswork.appview.wire.frames import (
    Joined,
    RequestJoiner,
    Status,
    answer_frames,
    fault_frames,
)

JSON = dict[str, Any]

# Measured of the real library (protocol sections 1 and 2).
TICK_SECONDS: Final = 0.0011
PATIENCE_SECONDS: Final = 0.07
_TRY_SECONDS: Final = 50e-6
CONNECT_SECONDS: Final = 0.2

STATES: Final = ("active", "latent", "setup", "inert")
COMMANDS: Final = Path("/dev/shm")


class Knowledge:
    """What the process knows of itself; the requests are about this."""

    def __init__(self, *, viewed: bool = True) -> None:
        self.viewed = viewed
        self.configuration: JSON = deepcopy(DEFAULTS)
        self._uuid = str(uuid.uuid4())  # a child keeps it
        self._attempts: dict[str, int] = {}

    @property
    def details(self) -> JSON:
        return {
            "pid": os.getpid(),
            "uuid": self._uuid,
            "id": f"{socket.gethostname()}-{_name()}-{_command()[-32:]}",
            "machine_id": _machine_id(),
        }

    def configure(self, configuration: JSON) -> None:
        self.configuration = configuration
        self._attempts.clear()

    @property
    def interfaces(self) -> list[JSON]:
        return [self._interface(name, transport) for name, transport in self._transports()]

    def _transports(self) -> Iterator[tuple[str, JSON]]:
        has = self.configuration
        yield "log", has["libappview"]["log"]["transport"]
        if has["payload"]["enable"] == "true":
            yield "payload", {"type": "dir", "path": has["payload"]["dir"]}
        if has["cribl"]["enable"] == "true":
            yield "cribl", has["cribl"]["transport"]
            return
        for name, part in (("events", "event"), ("metrics", "metric")):
            if has[part]["enable"] == "true":
                yield name, has[part]["transport"]

    def _interface(self, name: str, transport: JSON) -> JSON:
        found = {"name": name, "config": _address(transport), "connected": _connects(transport)}
        if not found["connected"]:
            self._attempts[name] = self._attempts.get(name, 0) + 1
            found["attempts"] = self._attempts[name]
            if transport["type"] in ("tcp", "udp"):
                found["failure_details"] = "Socket connection failed"
        return found


def _address(transport: JSON) -> str:
    match transport["type"]:
        case "tcp" | "udp":
            return f"{transport['type']}://{transport['host']}:{transport['port']}"
        case "edge":
            return "edge"
        case kind:
            return f"{kind}://{transport['path']}"


def _connects(transport: JSON) -> bool:
    kind: str = transport["type"]
    try:
        if kind == "tcp":
            # As bytes: of a text, Python would make an international name, by a module that another
            # user may not read, and end with an error of its own where it is none.
            address = (transport["host"].encode(), int(transport["port"]))
            socket.create_connection(address, CONNECT_SECONDS).close()
        elif kind == "unix":
            path = transport["path"]
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(f"\0{path[1:]}" if path.startswith("@") else path)
        elif kind == "file":
            os.close(os.open(transport["path"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666))
    except OSError:
        return False
    return kind != "edge"


# -- what a broken one does ------------------------------------------------------------------------

Spoil = Callable[[list[bytes]], list[bytes]]


def _dies(frames: list[bytes]) -> list[bytes]:
    os.kill(os.getpid(), signal.SIGKILL)
    return frames


def _other_uniq(frames: list[bytes]) -> list[bytes]:
    return [frame.replace(b'"uniq":', b'"uniq":1', 1) for frame in frames]


def _no_uniq(frames: list[bytes]) -> list[bytes]:
    return fault_frames(Joined(-1, fault=Status.BAD), len(frames[0]))


def _grows(frames: list[bytes]) -> list[bytes]:
    """remain of the second frame is larger than that of the first."""
    first = frames[0].replace(b'"status":200', b'"status":206', 1)
    head, _, part = first.partition(b"\0")
    return [head + b"\0" + part[:1], head.replace(b'"remain":', b'"remain":9', 1) + b"\0" + part]


def _never_ends(frames: list[bytes]) -> list[bytes]:
    return [frames[0].replace(b'"status":200', b'"status":206', 1)[:-1]]


FAULTS: Final[dict[str, Spoil]] = {
    "mute": lambda frames: [],
    "dies": _dies,
    "other-uniq": _other_uniq,
    "no-uniq": _no_uniq,
    "remain-grows": _grows,
    "never-ends": _never_ends,
    "cut": lambda frames: [frame[:-1] for frame in frames],
    "garbage": lambda frames: [b"\xff" * 40],
    "empty": lambda frames: [b""],
}


# -- the thread of the library -------------------------------------------------------------------


class Library:
    """Looks for queues and answers what is there; the process calls `tick` all the time."""

    def __init__(
        self, knowledge: Knowledge, *, period: float | None = None, spoil: Spoil | None = None
    ) -> None:
        """period: that, whatever it is configured to."""
        self._knowledge = knowledge
        self._period = period
        self._spoil = spoil
        self._reported_at = time.monotonic()
        self._handled_second = 0

    def tick(self) -> None:
        self._look_for_queues()
        now = time.monotonic()
        if now >= self._reported_at + self._seconds_between_reports:
            self._reported_at = now
            self._look_for_commands()

    @property
    def _seconds_between_reports(self) -> float:
        configured: int = self._knowledge.configuration["libappview"]["summaryperiod"]
        return configured if self._period is None else self._period

    def _look_for_queues(self) -> None:
        own = os.getpid()
        with (
            suppress(OSError),
            closing(mqueue.open_queue(f"AppViewIPCIn.{own}", os.O_RDONLY)) as asked,
        ):
            if not mqueue.attributes(asked.fileno()).waiting:
                return
            with closing(mqueue.open_queue(f"AppViewIPCOut.{own}", os.O_WRONLY)) as answers:
                self._answer(_read(asked), answers)

    def _answer(self, request: Joined, answers: mqueue.Queue) -> None:
        size = answers.attributes.message_bytes
        if request.fault:
            frames = fault_frames(request, size)
        else:
            payload = requests.answer(self._knowledge, request.payload)
            frames = answer_frames(payload, request.uniq, size)
        for frame in self._spoil(frames) if self._spoil else frames:
            if _patiently(partial(_sent, answers, frame)) is None:
                return  # the rest is lost, and nobody is told

    def _look_for_commands(self) -> None:
        """A file with the name of the process; one of the same second as the last is lost."""
        path = COMMANDS / f"appview_dconf.{os.getpid()}"
        try:
            second = int(path.stat().st_mtime)
            lines = path.read_text().splitlines()
        except OSError:
            return
        path.unlink()
        if second != self._handled_second:
            self._handled_second = second
            for line in lines:
                self._command(*line.partition("=")[::2])

    def _command(self, name: str, value: str) -> None:
        if name == "APPVIEW_CMD_ATTACH":
            self._knowledge.viewed = value.lower() == "true"
        elif name == "APPVIEW_TAG_SIMULATED":
            self._knowledge.configuration["tags"]["SIMULATED"] = value


def _read(asked: mqueue.Queue) -> Joined:
    """One request, with all its frames."""
    joiner = RequestJoiner()
    request = joiner.feed(asked.receive())
    while request is None:
        frame = _patiently(asked.receive)
        request = joiner.failed(Status.FAILED) if frame is None else joiner.feed(frame)
    return request


def _sent(answers: mqueue.Queue, frame: bytes) -> bool:
    answers.send(frame)
    return True


def _patiently(what: Callable[[], Any]) -> Any:
    """None: not within the time that the library has for it."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return what()
        except BlockingIOError:
            if time.monotonic() > until:
                return None
            time.sleep(_TRY_SECONDS)


# -- the process ---------------------------------------------------------------------------------


def _map_library() -> mmap.mmap:
    """A file with this name, as whoever looks for viewed processes finds it in their maps."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "libappview.so"
        path.write_bytes(bytes(mmap.PAGESIZE))
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)


def _become(uid: int, *, is_dumpable: bool) -> None:
    """Another user's process, as if that user had started it: who changes its uid may no longer be
    traced by anybody, until it says otherwise (prctl(2), PR_SET_DUMPABLE)."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    ctypes.CDLL(None).prctl(4, int(is_dumpable), 0, 0, 0)


def _name() -> str:
    return Path("/proc/self/comm").read_text().strip()


def _command() -> str:
    return Path("/proc/self/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()


def _machine_id() -> str:
    with suppress(OSError):
        return Path("/etc/machine-id").read_text().strip()
    return uuid.uuid4().hex


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m buswork.sim.viewed")
    parser.add_argument("--state", choices=STATES, default="active")
    parser.add_argument("--period", type=float, help="not the one that it is configured to")
    parser.add_argument("--fault", choices=sorted(FAULTS))
    parser.add_argument("--uid", type=int)
    parser.add_argument("--name", help="what the process is called")
    parser.add_argument("--not-dumpable", action="store_true", help="as a setuid program")
    options = parser.parse_args()
    if options.name is not None:
        ctypes.CDLL(None).prctl(15, options.name.encode(), 0, 0, 0)  # PR_SET_NAME
    if options.uid is not None:
        _become(options.uid, is_dumpable=not options.not_dumpable)
    library_file = _map_library()
    answers = options.state in ("active", "latent")
    if options.state == "setup":
        os.memfd_create("appview_anon")
    knowledge = Knowledge(viewed=options.state == "active")
    library = Library(knowledge, period=options.period, spoil=FAULTS.get(options.fault or ""))
    os.write(sys.stdout.fileno(), b"%d\n" % os.getpid())
    with library_file:
        while not select.select([sys.stdin], [], [], TICK_SECONDS)[0]:
            if answers:
                try:
                    library.tick()
                except Died:
                    os.kill(os.getpid(), signal.SIGSEGV)
    return 0


if __name__ == "__main__":
    sys.exit(main())
