"""buswork.store.face, where what it awaits may change what it answers."""

import os
from types import SimpleNamespace
from typing import Any

from buswork.store.face import StoreFace
from buswork.store.model.store import Store


class MovingMemory:
    """Each descriptor is of the present generation, and so are the facts."""

    generation = 1

    async def open_reader(self) -> int:
        return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    def facts(self) -> dict[str, int | str]:
        return {"generation": self.generation}


async def test_the_facts_are_those_of_the_memory_that_is_handed_out() -> None:
    memory = MovingMemory()

    async def hold(*arguments: object) -> None:
        memory.generation += 1

    lease = SimpleNamespace(release=lambda: None)
    authority: Any = SimpleNamespace(quotas=SimpleNamespace(take=lambda *_: lease))
    nothing: Any = None
    holdings: Any = SimpleNamespace(hold=hold)
    store = Store(lambda: 0)
    face = StoreFace(store, nothing, memory, authority, holdings, lambda: None)
    call: Any = SimpleNamespace(uid=7)
    fd, facts = await face.open_reader(call)
    os.close(fd)
    assert facts["generation"].value == 1
