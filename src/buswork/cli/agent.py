"""Who asks for the password on a terminal: pkttyagent, for as long as the command runs."""

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType

# It registers within milliseconds; without it, the call tells what is missing.
START_SECONDS = 5.0


class Agent:
    """Started only when a call needs a password, and only where somebody can type one."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Returns when polkit knows the agent. A desktop that has its own goes before it."""
        program = shutil.which("pkttyagent")
        if self._process is not None or program is None or not sys.stdin.isatty():
            return
        signal.signal(signal.SIGTERM, _end)  # or it would be left alone with the terminal
        told, tell = os.pipe()
        try:
            self._process = await _spawn(program, tell)
            await _wait_closed(told)
        finally:
            os.close(told)

    async def stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()


async def _spawn(program: str, tell: int) -> asyncio.subprocess.Process:
    command = [program, f"--process={os.getpid()}", f"--notify-fd={tell}"]
    if _has_session():
        command.append("--fallback")
    try:
        return await asyncio.create_subprocess_exec(*command, pass_fds=[tell])
    finally:
        os.close(tell)


def _has_session() -> bool:
    """Whether a desktop's own agent may be there, which then goes first.

    Outside of any session there is none, and polkit (122) finds no agent that only fills in.
    """
    return Path(f"/run/systemd/users/{os.getuid()}").exists()


async def _wait_closed(fd: int) -> None:
    """The agent closes its end when it is ready, and when it dies."""
    loop = asyncio.get_running_loop()
    closed = asyncio.Event()
    loop.add_reader(fd, closed.set)
    try:
        async with asyncio.timeout(START_SECONDS):
            await closed.wait()
    except TimeoutError:
        pass
    finally:
        loop.remove_reader(fd)


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
