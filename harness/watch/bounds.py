"""The bounds watch: a step outside the block is a violation, not a segmentation fault.

Runs of a patched model are watched by it: the first wild step goes to the actor's violation
record, and from then on the actor is told to STOP.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from harness.watch.words import compiled_hook, load_word, store_word, ticks
from mmu.machine.conditions import LIFETIME_OUTSIDE
from mmu.machine.cpu import Words
from mmu.machine.events import CLOCK, GO, STEP_LAST, STOP
from mmu.machine.layout import (
    VIOLATION_A,
    VIOLATION_B,
    VIOLATION_C,
    VIOLATION_CONDITION,
    VIOLATIONS,
)
from mmu.vm import Vm

# One actor's block.
H_BASE, H_WORDS, H_OWN, H_STOPPED, HEADER_WORDS = range(5)


def check_bounds(ctx: int, actor: int, kind: int, a: int, b: int, c: int) -> int:
    """The hook: note a step on a word outside, and stop this actor for good."""
    if load_word(ctx, H_STOPPED) != 0:
        return STOP
    if kind == CLOCK:
        return ticks()
    if kind > STEP_LAST or (a >= 0 and a < load_word(ctx, H_WORDS)):
        return GO
    store_word(ctx, H_STOPPED, 1)
    base, own = load_word(ctx, H_BASE), load_word(ctx, H_OWN)
    if load_word(base, own + VIOLATIONS) == 0:
        store_word(base, own + VIOLATION_CONDITION, LIFETIME_OUTSIDE)
        store_word(base, own + VIOLATION_A, a)
        store_word(base, own + VIOLATION_B, kind)
        store_word(base, own + VIOLATION_C, actor)
    store_word(base, own + VIOLATIONS, load_word(base, own + VIOLATIONS) + 1)
    return STOP


class BoundsWatch:
    """The blocks of all actors of a VM; forked actors write to their own copies."""

    def __init__(self, vm: Vm) -> None:
        self._blocks: list[Words] = []
        for actor in range(vm.config.actors):
            block = np.zeros(HEADER_WORDS, np.int64)
            block[H_BASE] = vm.words.ctypes.data
            block[H_WORDS] = len(vm.words)
            block[H_OWN] = vm.layout.actor(actor)
            self._blocks.append(block)

    @property
    def hook(self) -> int:
        """Address of the compiled callback."""
        return _hook_address()

    def ctx(self, actor: int) -> int:
        """Address of an actor's block."""
        return int(self._blocks[actor].ctypes.data)


@cache
def _hook_address() -> int:
    """Compile the callback, or load it from the cache, once per process."""
    return compiled_hook(check_bounds)
