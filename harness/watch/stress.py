"""The stress watch: one hook that injects, keeps rings and looks at bounds, as each is asked for.

All that is not asked for is answered as nobody would answer it: loops go on, sleepers sleep, draws
are 0, probes succeed, and the clock is the clock.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from functools import cache

import numpy as np

from harness.watch import block as at
from harness.watch.block import ASK_BOUNDS, ASK_DELAY, ASK_RING, ASK_STEPS, STOPPING, W_ASKED
from harness.watch.bounds import is_wild, note_wild_step
from harness.watch.inject import (
    Injection,
    answer_probe,
    delay_step,
    first_state,
    threshold,
)
from harness.watch.ring import (
    Event,
    merged,
    read_ring,
    rows_for,
    take_down,
    take_down_event,
    take_down_step,
    take_down_violation,
    watch_events,
)
from harness.watch.words import compiled_hook, get, ticks
from mmu.machine.clock import read_ticks, ticks_per_ns
from mmu.machine.conditions import LIFETIME_OUTSIDE
from mmu.machine.cpu import Words
from mmu.machine.events import (
    AGAIN,
    BLOCK,
    CLOCK,
    COST,
    EMIT,
    GO,
    PEEK,
    PROBE,
    STEP_LAST,
    STOP,
    WARN,
)
from mmu.machine.kernel import inlined_array_kernel
from mmu.vm import Vm

PAGE_WORDS = mmap.PAGESIZE // 8


@dataclass(frozen=True)
class Watching:
    """What a stress run asks its observers for."""

    bounds: bool = False
    inject: Injection | None = None
    ring: int = 0
    ring_steps: bool = False
    seed: int = 0

    def __bool__(self) -> bool:
        return self.every_step or self.ring > 0

    @property
    def every_step(self) -> bool:
        """Whether each step must ask; tracepoints alone cost next to nothing."""
        return self.bounds or self.inject is not None or (self.ring > 0 and self.ring_steps)


@inlined_array_kernel
def _step(ctx: int, asked: int, actor: int, kind: int, a: int, b: int, c: int) -> int:
    """Before a step."""
    if asked & ASK_BOUNDS != 0 and is_wild(ctx, a):
        if asked & ASK_RING != 0:
            take_down_violation(ctx, WARN + LIFETIME_OUTSIDE, a, kind, actor)
        note_wild_step(ctx, actor, kind, a)
        return STOP
    if asked & ASK_DELAY != 0 and kind < PEEK:
        delay_step(ctx)
    if asked & (ASK_RING | ASK_STEPS) == ASK_RING | ASK_STEPS:
        take_down_step(ctx, kind, a, b, c)
    return GO


def watch_stress(ctx: int, actor: int, kind: int, a: int, b: int, c: int) -> int:
    """The hook of who is asked about every step."""
    asked = get(ctx, W_ASKED)
    if asked & STOPPING != 0:
        return STOP
    if kind <= STEP_LAST:
        return _step(ctx, asked, actor, kind, a, b, c)
    if kind == CLOCK:
        return ticks()
    ring = asked & ASK_RING != 0
    if kind == PROBE:
        answer = answer_probe(ctx, a)
        if answer != 0 and ring:
            take_down(ctx, kind, a, answer, 0)
        return answer
    if ring and (EMIT <= kind < COST or kind >= WARN):
        take_down_event(ctx, kind, a, b, c)
    elif ring and asked & ASK_STEPS != 0 and kind in (AGAIN, BLOCK):
        take_down(ctx, kind, a, b, c)
    return GO


class StressWatch:
    """The blocks of all actors of a VM, in shared memory that forked actors inherit."""

    def __init__(self, vm: Vm, watching: Watching) -> None:
        self._watching = watching
        self._rows = rows_for(watching.ring)
        words = at.HEADER_WORDS + self._rows * at.ROW_WORDS
        self._stride = -(-words // PAGE_WORDS) * PAGE_WORDS
        self._actors = vm.config.actors
        memory = mmap.mmap(-1, (PAGE_WORDS + self._actors * self._stride) * 8)
        self._words: Words = np.frombuffer(memory, dtype=np.int64)
        self._words[at.CONTROL_LAST] = at.NEVER
        self.began = read_ticks(vm.cpu(0))
        for actor in range(self._actors):
            self._set_up(vm, actor)

    def _set_up(self, vm: Vm, actor: int) -> None:
        watching, block = self._watching, self._block(actor)
        address = self.ctx(actor)
        asked = ASK_BOUNDS * watching.bounds | ASK_RING * (watching.ring > 0)
        asked |= ASK_STEPS * watching.ring_steps
        block[at.W_BASE] = vm.words.ctypes.data
        block[at.W_WORDS] = len(vm.words)
        block[at.W_OWN] = vm.layout.actor(actor)
        block[at.W_CONTROL] = self._words.ctypes.data
        block[at.W_BEGAN] = self.began
        block[at.W_ROWS] = address + 8 * at.HEADER_WORDS
        block[at.W_ROW_MASK] = max(self._rows - 1, 0)
        inject = watching.inject
        if inject is not None:
            block[at.W_DELAY_TICKS] = round(inject.delay_ns * ticks_per_ns())
            asked |= ASK_DELAY * (inject.delay > 0)
            for kind, probability in enumerate(inject.probabilities()):
                block[at.W_THRESHOLD + kind] = threshold(probability)
                block[at.W_RANDOM + kind] = first_state(watching.seed, actor, kind)
        block[at.W_ASKED] = asked

    def _block(self, actor: int) -> Words:
        first = PAGE_WORDS + actor * self._stride
        return self._words[first : first + self._stride]

    @property
    def hook(self) -> int:
        """What a `Cpu` takes: the compiled callback's address, negated for tracepoints only."""
        return _hook_address(True) if self._watching.every_step else -_hook_address(False)

    def ctx(self, actor: int) -> int:
        """Address of an actor's block."""
        return int(self._block(actor).ctypes.data)

    def stand_still(self) -> None:
        """Rings take nothing from now on, unless they stand still already."""
        if int(self._words[at.CONTROL_LAST]) == at.NEVER:
            self._words[at.CONTROL_LAST] = 0

    def injected(self) -> dict[str, dict[str, int]]:
        """{kind: {chances, injected}} of all actors together, for what is injected at all."""
        if self._watching.inject is None:
            return {}
        blocks = [self._block(actor) for actor in range(self._actors)]
        return {
            name: {
                "chances": sum(int(block[at.W_CHANCES + kind]) for block in blocks),
                "injected": sum(int(block[at.W_INJECTED + kind]) for block in blocks),
            }
            for kind, name in enumerate(at.KINDS)
            if self._watching.inject.probabilities()[kind] > 0
        }

    def ring(self, actor: int) -> list[Event]:
        """An actor's last events, oldest first."""
        block = self._block(actor)
        end = at.HEADER_WORDS + self._rows * at.ROW_WORDS
        rows = block[at.HEADER_WORDS : end].reshape(-1, at.ROW_WORDS)
        return read_ring(actor, rows, int(block[at.W_COUNT]), self._watching.ring)

    def events(self) -> list[Event]:
        """All actors' last events by time."""
        return merged([self.ring(actor) for actor in range(self._actors)])

    def moment(self) -> int | None:
        """When the first rule was broken, in ticks since the run began; None if none was."""
        found = int(self._words[at.CONTROL_MOMENT])
        return found - self.began if found else None


@cache
def _hook_address(every_step: bool) -> int:
    """Compile the callback, or load it from the cache, once per process."""
    return compiled_hook(watch_stress if every_step else watch_events)
