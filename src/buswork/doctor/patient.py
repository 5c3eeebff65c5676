"""The system that is looked at: its files, its users, and its bus, which is asked in time or not.

Nothing here starts a service of ours, asks for a password or waits for long.
"""

import asyncio
import grp
import os
import pwd
import stat
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from buswork.bus.address import bus_address
from buswork.bus.message import Flag
from buswork.bus.transport import BUS, BUS_PATH, Connection
from buswork.bus.writer import close_all
from buswork.errors import FREEDESKTOP, BusworkError, Disconnected
from buswork.installation import manifest, sources
from buswork.installation.files import File, Item, below
from buswork.installation.manifest import Manifest, ManifestError
from buswork.installation.places import Layout, wanted

# A question that takes longer is as good as not answered; the slowest, polkit's list of all
# actions, takes a few milliseconds.
ASK_SECONDS = 3.0
# Nothing that is looked into is half as long.
MOST_BYTES = 1 << 20

PROPERTIES = "org.freedesktop.DBus.Properties"
NOBODY = {FREEDESKTOP + "NameHasNoOwner", FREEDESKTOP + "ServiceUnknown"}


class Patient:
    """A context manager: inside, there is a connection to its bus, or the reason why not."""

    def __init__(
        self, bus: str = "system", *, root: Path = Path("/"), timeout: float | None = None
    ) -> None:
        self.bus = bus
        self.root = root
        self.seconds = ASK_SECONDS if timeout is None else timeout
        self.why_no_bus = "it was not asked for"
        self._connection: Connection | None = None

    async def __aenter__(self) -> Self:
        try:
            async with asyncio.timeout(self.seconds):
                self._connection = await Connection.open(bus_address(self.bus))
        except TimeoutError:
            self.why_no_bus = f"it did not answer in {self.seconds:g} s"
        except (OSError, BusworkError) as error:
            self.why_no_bus = str(error)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()
            await asyncio.sleep(0)  # whoever waits for it hears of it now

    # -- the bus -------------------------------------------------------------------------------

    @property
    def has_bus(self) -> bool:
        return self._connection is not None

    async def ask(
        self,
        name: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        values: Sequence[Any] = (),
        *,
        start: bool = False,
    ) -> Any:
        """The answer's first value; BusworkError: there is none. start: whoever has the name may
        be started for it."""
        if self._connection is None:
            raise Disconnected("there is no connection to the bus")
        flags = 0 if start else Flag.NO_AUTO_START
        target = (name, path, interface, member)
        frame = await self._connection.call(
            *target, signature, values, flags=flags, timeout=self.seconds
        )
        close_all(frame.fds)
        answer = frame.values()
        return answer[0] if answer else None

    async def ask_bus(self, member: str, signature: str = "", *values: Any) -> Any:
        return await self.ask(BUS, BUS_PATH, BUS, member, signature, values)

    async def properties(
        self, name: str, path: str, interface: str, *, start: bool = False
    ) -> dict[str, Any]:
        found = await self.ask(name, path, PROPERTIES, "GetAll", "s", (interface,), start=start)
        return {key: variant.value for key, variant in found.items()}

    async def owner(self, name: str) -> str | None:
        """The unique name of who has a name."""
        try:
            return str(await self.ask_bus("GetNameOwner", "s", name))
        except BusworkError as error:
            if error.name in NOBODY:
                return None
            raise

    # -- files ---------------------------------------------------------------------------------

    def at(self, path: str) -> Path:
        return below(self.root, path)

    def facts(self, path: str) -> os.stat_result | None:
        """Of the thing itself: no link is followed. None: it is not there, or can't be seen."""
        try:
            return self.at(path).lstat()
        except OSError:
            return None

    def text(self, path: str) -> str | None:
        """What a file holds, if it is one that can be read; a pipe would never end."""
        with suppress(OSError):
            fd = os.open(self.at(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(fd, "rb") as file:
                if stat.S_ISREG(os.fstat(fd).st_mode):
                    return file.read(MOST_BYTES).decode(errors="replace")
        return None

    @cached_property
    def shipped(self) -> dict[str, File]:
        return sources.shipped()

    @cached_property
    def wanted(self) -> dict[str, Item]:
        """What is to be where, of what is shipped: not what is made of parsers."""
        return wanted(self.shipped, self.layout)

    @cached_property
    def layout(self) -> Layout:
        return Layout(self._manifest.prefix)

    @cached_property
    def _manifest(self) -> Manifest:
        with suppress(ManifestError, OSError):
            return manifest.load(self.root) or Manifest()
        return Manifest()

    def mend(self, *, changed: bool = False) -> str:
        """The command that puts things back in their places. changed: something was changed, and
        is to be overwritten."""
        if self._manifest.package:
            return "apt-get install --reinstall buswork"
        prefix = self.layout.prefix
        words = ["buswork install"]
        words += [f"--prefix {prefix}"] if prefix != "/usr" else []
        words += ["--force"] if changed else []
        return " ".join(words)

    # -- users ---------------------------------------------------------------------------------

    def user(self, name: str) -> pwd.struct_passwd | None:
        with suppress(KeyError):
            return pwd.getpwnam(name)
        return None

    def user_name(self, uid: int) -> str:
        with suppress(KeyError):
            return pwd.getpwuid(uid).pw_name
        return f"uid {uid}"

    def group(self, name: str) -> grp.struct_group | None:
        with suppress(KeyError):
            return grp.getgrnam(name)
        return None

    def group_name(self, gid: int) -> str:
        with suppress(KeyError):
            return grp.getgrgid(gid).gr_name
        return f"gid {gid}"
