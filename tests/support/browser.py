"""Debian's chromium without a window, driven over a pipe (the DevTools protocol)."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Self

NAMES = ("chromium-headless-shell", "chromium")
# Then it is killed, and whoever waits for it is told.
SECONDS = 60.0


def command() -> str | None:
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """With an empty profile. Hosts are names that it takes for this machine."""

    def __init__(self, hosts: tuple[str, ...] = ()) -> None:
        self._hosts = ",".join(f"MAP {host} 127.0.0.1" for host in hosts)
        self._number = 0

    def __enter__(self) -> Self:
        self._profile = tempfile.TemporaryDirectory(prefix="buswork-browser-")
        questions, self._to = os.pipe()
        answers, their_answers = os.pipe()
        # It reads from 3 and writes to 4.
        ends = [_high(questions), _high(their_answers)]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{ends[0]} 4>&{ends[1]}', "bash", *self._words()],
            pass_fds=ends,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for fd in ends:
            os.close(fd)
        self._answers = os.fdopen(answers, "rb")
        self._end = threading.Timer(SECONDS, self._kill)
        self._end.start()
        return self

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _words(self) -> list[str]:
        found = command()
        assert found is not None
        return [
            found,
            "--headless",
            "--no-sandbox",  # which is for pages of others, and not for root
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--no-proxy-server",
            f"--host-resolver-rules={self._hosts}",
            f"--user-data-dir={self._profile.name}",
            "--remote-debugging-pipe",
            "about:blank",
        ]

    def __exit__(self, *_: object) -> None:
        self._end.cancel()
        os.close(self._to)
        self._kill()
        self._process.wait()
        self._answers.close()
        shutil.rmtree(self._profile.name, ignore_errors=True)
        self._profile.cleanup()

    def open(self, url: str) -> "Page":
        target = self.ask("Target.createTarget", {"url": "about:blank"})["targetId"]
        found = self.ask("Target.attachToTarget", {"targetId": target, "flatten": True})
        return Page(self, found["sessionId"], url)

    def ask(self, method: str, params: Mapping[str, object], session: str = "") -> dict[str, Any]:
        self._number += 1
        question = {"id": self._number, "method": method, "params": params}
        if session:
            question["sessionId"] = session
        os.write(self._to, json.dumps(question).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            pass
        if "error" in answer:
            raise AssertionError(answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    def _next(self) -> dict[str, Any]:
        raw = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            if not byte:
                raise AssertionError("the browser has ended")
            raw += byte
        answer: dict[str, Any] = json.loads(raw)
        return answer


def _high(fd: int) -> int:
    """The same under a number that is in nobody's way."""
    high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(fd)
    return high


class Page:
    def __init__(self, browser: Browser, session: str, url: str) -> None:
        self._browser = browser
        self._session = session
        browser.ask("Page.navigate", {"url": url}, session)
        self.run("new Promise(done => document.readyState == 'complete' ? done() : onload = done)")

    def run(self, script: str) -> Any:
        """What it comes to; promises are waited for."""
        asked = {"expression": script, "awaitPromise": True, "returnByValue": True}
        answer = self._browser.ask("Runtime.evaluate", asked, self._session)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")
