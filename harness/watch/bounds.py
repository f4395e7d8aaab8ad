"""The bounds watch: a step outside the block is a violation, not a segmentation fault.

Runs of a patched model are watched by it: the first wild step goes to the actor's violation
record, and from then on the actor is told to STOP.  So does the first step on a freed table,
whatever it would read there: until the page is used again its record says that it is free.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from harness.watch.words import compiled_hook, load_word, store_word, ticks
from mmu.machine.conditions import LIFETIME_FREED, LIFETIME_OUTSIDE
from mmu.machine.cpu import Words
from mmu.machine.events import CLOCK, GO, PEEK, POKE, STEP_LAST, STOP
from mmu.machine.layout import (
    RECORD_WORDS,
    SP_FREE,
    SP_STATE,
    VIOLATION_A,
    VIOLATION_B,
    VIOLATION_C,
    VIOLATION_CONDITION,
    VIOLATIONS,
)
from mmu.vm import Vm

# One actor's block.
(
    H_BASE,
    H_WORDS,
    H_OWN,
    H_STOPPED,
    H_TABLES,  # first word of the table pages, and the one behind them
    H_TABLES_END,
    H_TABLE_BITS,  # log2 of the words of one
    H_RECORDS,
    HEADER_WORDS,
) = range(9)


def check_bounds(ctx: int, actor: int, kind: int, a: int, b: int, c: int) -> int:
    """The hook: note a step on a word outside or of a free table; stop this actor for good."""
    if load_word(ctx, H_STOPPED) != 0:
        return STOP
    if kind == CLOCK:
        return ticks()
    if kind > STEP_LAST:
        return GO
    base, own = load_word(ctx, H_BASE), load_word(ctx, H_OWN)
    condition, who = LIFETIME_OUTSIDE, actor
    if a >= 0 and a < load_word(ctx, H_WORDS):
        if a < load_word(ctx, H_TABLES) or a >= load_word(ctx, H_TABLES_END):
            return GO
        who = (a - load_word(ctx, H_TABLES)) >> load_word(ctx, H_TABLE_BITS)
        state = load_word(base, load_word(ctx, H_RECORDS) + who * RECORD_WORDS + SP_STATE)
        # The allocator alone fills a free page with poison, and takes it out again.
        if state != SP_FREE or kind in (PEEK, POKE):
            return GO
        condition = LIFETIME_FREED
    store_word(ctx, H_STOPPED, 1)
    if load_word(base, own + VIOLATIONS) == 0:
        store_word(base, own + VIOLATION_CONDITION, condition)
        store_word(base, own + VIOLATION_A, a)
        store_word(base, own + VIOLATION_B, kind)
        store_word(base, own + VIOLATION_C, who)
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
            tables = vm.layout.regions["tables"]
            block[H_TABLES], block[H_TABLES_END] = tables.start, tables.end
            block[H_TABLE_BITS] = vm.config.bits
            block[H_RECORDS] = vm.layout.start("records")
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
