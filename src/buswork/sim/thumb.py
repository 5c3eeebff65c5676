"""The few instructions of a Cortex-M that hosts put into the RAM of a simulated 4S and start."""

from collections.abc import Callable
from typing import Final, Protocol

from buswork.sim.fmr import Crash

# What lr is while a program runs: going there ends it.
_BACK: Final = 0xFFFFFFFF
_MAX_INSTRUCTIONS: Final = 1_000_000
_WORD: Final = 0xFFFFFFFF


class Memory(Protocol):
    def read(self, address: int, length: int) -> bytes: ...

    def write(self, address: int, data: bytes) -> None: ...


def start(memory: Memory, vectors: int) -> None:
    """What two words say: a stack, which nothing here needs, and an entry."""
    entry = int.from_bytes(memory.read(vectors + 4, 4), "little")
    if not entry & 1:
        raise Crash("there is no Thumb code")
    _Run(memory, entry & ~1).to_its_end()


class _Run:
    def __init__(self, memory: Memory, entry: int) -> None:
        self._memory = memory
        self._pc = entry
        self._registers = [0] * 16
        self._registers[14] = _BACK
        self._is_zero = False

    def to_its_end(self) -> None:
        for _ in range(_MAX_INSTRUCTIONS):
            if self._pc == _BACK:
                return
            code = int.from_bytes(self._memory.read(self._pc, 2), "little")
            at, self._pc = self._pc, self._pc + 2
            self._step(code, at)
        raise Crash("it does not come back")

    def _step(self, code: int, at: int) -> None:
        steps: dict[int, Callable[[int, int], None]] = {
            0x38: self._subtract, 0x48: self._load, 0xC0: self._store_next, 0xC8: self._load_next,
        }  # fmt: skip
        step = steps.get(code >> 8 & 0xF8) or self._others(code)
        step(code, at)

    def _others(self, code: int) -> Callable[[int, int], None]:
        high = code >> 8
        if high in (0x45, 0x46, 0x47):
            return {0x45: self._compare, 0x46: self._move, 0x47: self._go}[high]
        if high == 0xD1:
            return self._branch
        if high >> 3 == 0x60 >> 3:
            return self._store
        if code == 0xBF00:
            return lambda code, at: None
        raise Crash(f"{code:#06x} is nothing that it knows")

    def _load(self, code: int, at: int) -> None:
        place = (at + 4 & ~3) + 4 * (code & 0xFF)
        self._registers[code >> 8 & 7] = self._word(place)

    def _load_next(self, code: int, at: int) -> None:
        base = code >> 8 & 7
        self._registers[self._listed(code)] = self._word(self._registers[base])
        self._registers[base] += 4

    def _store_next(self, code: int, at: int) -> None:
        base = code >> 8 & 7
        self._write(self._registers[base], self._registers[self._listed(code)])
        self._registers[base] += 4

    def _store(self, code: int, at: int) -> None:
        place = self._registers[code >> 3 & 7] + 4 * (code >> 6 & 0x1F)
        self._write(place, self._registers[code & 7])

    def _subtract(self, code: int, at: int) -> None:
        register = code >> 8 & 7
        value = self._registers[register] - (code & 0xFF) & _WORD
        self._registers[register] = value
        self._is_zero = value == 0

    def _compare(self, code: int, at: int) -> None:
        self._is_zero = self._registers[_low(code)] == self._registers[code >> 3 & 15]

    def _move(self, code: int, at: int) -> None:
        self._registers[_low(code)] = self._registers[code >> 3 & 15]

    def _go(self, code: int, at: int) -> None:
        self._pc = self._registers[code >> 3 & 15]

    def _branch(self, code: int, at: int) -> None:
        if not self._is_zero:
            offset = code & 0xFF
            self._pc = at + 4 + 2 * (offset - 0x100 if offset & 0x80 else offset)

    def _listed(self, code: int) -> int:
        """Of a list of registers, which has one here."""
        listed = code & 0xFF
        if listed.bit_count() != 1:
            raise Crash("a list of several registers")
        return listed.bit_length() - 1

    def _word(self, address: int) -> int:
        return int.from_bytes(self._memory.read(address, 4), "little")

    def _write(self, address: int, value: int) -> None:
        self._memory.write(address, value.to_bytes(4, "little"))


def _low(code: int) -> int:
    return code >> 4 & 8 | code & 7
