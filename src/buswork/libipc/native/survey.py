"""What services there are: a look into all run directories."""

import asyncio
import logging
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

from buswork.errors import BusworkError
from buswork.libipc.model.access import READ, SEARCH, FileFacts, may
from buswork.libipc.model.terms import RunDirectory, ServiceFacts, Who
from buswork.libipc.native.opening import OpenDirectory, Unsafe, open_directory
from buswork.libipc.native.unix_sockets import File, Sockets, all_sockets
from buswork.libipc.wire.names import BadName, check
from buswork.log import Sparing
from buswork.native.rounds import Rounds

log = logging.getLogger(__name__)

# Everybody may fill the directories: so many files are looked at, and so many sockets of one owner
# told. Who asks for a service by its name finds it nevertheless.
MOST_FILES: Final = 65_536
MOST_OF_ONE_OWNER: Final = 256
MOST_SERVICES: Final = 1024
# The longest rest between two looks: who asks all the time has half of the loop's time at the most.
MOST_REST_SECONDS: Final = 0.25
# Files that are looked at before others have their turn, some tenths of a millisecond.
TURN_FILES: Final = 64


class _Found(NamedTuple):
    """What is in one directory, and who may know it."""

    facts: FileFacts
    above: Sequence[FileFacts]
    services: list[ServiceFacts]

    def is_open_to(self, who: Who) -> bool:
        return all(may(who, facts, SEARCH) for facts in self.above) and may(
            who, self.facts, READ | SEARCH
        )


class Survey:
    """Those who ask while somebody else is being answered are answered together, afterwards."""

    def __init__(
        self,
        directories: Sequence[RunDirectory],
        own_uid: int,
        served: Callable[[RunDirectory, str], int | None],
    ) -> None:
        """served: how many clients a service of ours has."""
        self._directories = directories
        self._own_uid = own_uid
        self._served = served
        self._found: list[_Found] = []
        self._looks = Rounds(self._look, most_rest=MOST_REST_SECONDS)
        self._answering = asyncio.Lock()
        self._unsafe = Sparing("complaints about run directories")

    async def stop(self) -> None:
        await self._looks.stop()

    async def services(self, who: Who) -> list[ServiceFacts]:
        await self._looks.next()
        found = self._found
        async with self._answering:
            # One in each turn of the loop: to bring it on the bus takes milliseconds.
            await asyncio.sleep(0)
        return [each for place in found if place.is_open_to(who) for each in place.services]

    async def _look(self) -> None:
        sockets = await all_sockets()
        found = []
        for directory in self._directories:
            try:
                with open_directory(directory, self._own_uid) as opened:
                    found.append(await self._look_into(opened, sockets))
            except Unsafe as error:
                if self._unsafe.allows(log):
                    log.warning("a run directory is left out: %s", error)
            except (BusworkError, OSError) as error:
                log.debug("a run directory is left out: %s", error)
        self._found = found

    async def _look_into(self, opened: OpenDirectory, sockets: Sockets) -> _Found:
        services: list[ServiceFacts] = []
        of_owner: Counter[int] = Counter()
        for number, service in enumerate(_files(opened)):
            if number % TURN_FILES == 0:
                await asyncio.sleep(0)
            if service is None or of_owner[service[1].st_uid] == MOST_OF_ONE_OWNER:
                continue
            of_owner[service[1].st_uid] += 1
            services.append(self._described(opened.directory, *service, sockets))
            if len(services) == MOST_SERVICES:
                break
        services.sort()
        return _Found(opened.facts, opened.above, services)

    def _described(
        self, directory: RunDirectory, name: str, status: os.stat_result, sockets: Sockets
    ) -> ServiceFacts:
        state = sockets.of(File(directory.path, name, status.st_dev, status.st_ino))
        clients = self._served(directory, name)
        return ServiceFacts(
            name,
            directory.form,
            directory.path,
            state.listens or clients is not None,
            status.st_uid,
            stat.S_IMODE(status.st_mode),
            state.connections if clients is None else clients,
            clients is not None,
        )


def _files(opened: OpenDirectory) -> Iterator[tuple[str, os.stat_result] | None]:
    """The sockets that may be services; None for each other file."""
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=opened.fd)
    try:
        with os.scandir(fd) as entries:
            for entry in islice(entries, MOST_FILES):
                yield _service(entry)
    finally:
        os.close(fd)


def _service(entry: os.DirEntry[str]) -> tuple[str, os.stat_result] | None:
    try:
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISSOCK(status.st_mode):
            return check(entry.name), status
    except (BadName, OSError):  # what went meanwhile is none either
        pass
    return None
