"""Builds the C programs of the tests with every compiler that is here."""

import functools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEADERS = ROOT / "src/include"
STRICT = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-O1", "-g", f"-I{HEADERS}"]

Build = Callable[..., Path]


@functools.cache
def why_not(compiler: str, *flags: str) -> str | None:
    """Why nothing can be compiled with these flags here, in one line; None if it can."""
    if shutil.which(compiler) is None:
        return f"not installed: {compiler}"
    command = [compiler, *flags, "-xc", "-", "-o", "/dev/null"]
    done = subprocess.run(command, input=b"int main(void) { return 0; }", capture_output=True)
    return f"{compiler} can't do {' '.join(flags)} here" if done.returncode else None


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Compiles a program of this folder (or a path); the same one only once."""
    folder = tmp_path_factory.mktemp("programs")
    built: dict[tuple[str, ...], Path] = {}

    def build(name: str | Path, *flags: str, compiler: str = "gcc") -> Path:
        if reason := why_not(compiler, *(flag for flag in flags if "sanitize" in flag)):
            pytest.skip(reason)
        source = Path(__file__).parent / name
        command = (compiler, *STRICT, *flags, str(source), "-pthread")
        if command not in built:
            program = folder / f"{len(built)}-{source.stem}"
            done = subprocess.run([*command, "-o", program], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            built[command] = program
        return built[command]

    return build


@pytest.fixture
def descriptors() -> Iterator[list[int]]:
    """Closed in the end."""
    opened: list[int] = []
    yield opened
    for fd in opened:
        os.close(fd)
