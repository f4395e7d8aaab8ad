"""Who is stuck where: wall time decides only here, since only here nothing moves at all."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from harness.oracles.sentences import held_text
from harness.run.measure import actor_matrix
from mmu.machine import layout as at
from mmu.machine.blocking import EXCLUSIVE, WAITING_MASK
from mmu.machine.cpu import Words
from mmu.vm import Vm

_WORD_NAMES = {
    at.MMU_LOCK: "mmu_lock",
    at.PAGES_LOCK: "tdp_mmu_pages_lock",
    at.SLOTS_LOCK: "slots_lock",
    at.POOL_LOCK: "the page allocator's lock",
    at.HOST_LOCK: "mmap_lock",
}


class Watchdog:
    """Notices when no unfinished actor has moved for `limit_s` seconds."""

    def __init__(self, vm: Vm, names: Sequence[str], limit_s: float) -> None:
        self._vm = vm
        self._names = names
        self._limit_s = limit_s
        self._moved_at = np.full(vm.config.actors, time.monotonic())
        self._seen = self._signature()

    def restart(self) -> None:
        """A new phase begins."""
        self._moved_at[:] = time.monotonic()
        self._seen = self._signature()

    def stuck(self, unfinished: Sequence[int]) -> list[str]:
        """A sentence for each unfinished actor that has not moved for too long."""
        now = time.monotonic()
        signature = self._signature()
        self._moved_at[(signature != self._seen).any(axis=1)] = now
        self._seen = signature
        late = [actor for actor in unfinished if now - self._moved_at[actor] > self._limit_s]
        return [self._describe(actor) for actor in late]

    def _signature(self) -> Words:
        rows = actor_matrix(self._vm)
        return np.concatenate(
            [
                rows[:, at.COUNTERS : at.COUNTERS + len(at.COUNTER_NAMES)],
                rows[:, [at.WAITING_FOR, at.PHASE_FINISHED, at.WORK_DONE, at.HELD]],
            ],
            axis=1,
        )

    def _describe(self, actor: int) -> str:
        words = self._vm.actor_words(actor)
        waiting, held = int(words[at.WAITING_FOR]), held_text(int(words[at.HELD]))
        doing = f"waits for {self._word_text(waiting)}" if waiting else "runs without progress"
        return f"{self._names[actor]} {doing}, holding {held}, for {self._limit_s:.0f} s"

    def _word_text(self, word: int) -> str:
        name = _WORD_NAMES.get(word)
        if name is not None:
            value = int(self._vm.words[word])
            owner = int(self._vm.words[word + at.OWNER])
            by = f" by {self._names[owner - 1]}" if owner else ""
            mode = f"exclusively{by}" if value & EXCLUSIVE else f"shared by {value >> 16}"
            return f"{name} (held {mode}, {(value & WAITING_MASK) >> 1} writers wait)"
        region = self._vm.layout.regions["actors"]
        if region.start <= word < region.end:
            actor = (word - region.start) // self._vm.layout.actor_stride
            return f"{self._names[actor]} to leave the guest"
        return f"word {word}"
