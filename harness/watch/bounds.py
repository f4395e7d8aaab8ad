"""The bounds watch: a step outside the block is a violation, not a segmentation fault.

Runs of a patched model are watched by it: the first wild step goes to the actor's violation
record, and from then on the actor is told to STOP.  So does the first step on a freed table,
whatever it would read there: until the page is used again its record says that it is free.
"""

from __future__ import annotations

from harness.watch.block import (
    STOPPING,
    W_ASKED,
    W_BASE,
    W_OWN,
    W_RECORDS,
    W_TABLE_BITS,
    W_TABLES,
    W_TABLES_END,
    W_WORDS,
)
from harness.watch.words import get, load_word, put, store_word
from mmu.machine.conditions import LIFETIME_FREED, LIFETIME_OUTSIDE
from mmu.machine.events import PEEK, POKE
from mmu.machine.kernel import array_kernel, inlined_array_kernel
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


@inlined_array_kernel
def broken_bound(ctx: int, kind: int, a: int) -> int:
    """The condition that a step on word `a` breaks: outside the block, on a freed table; or 0."""
    if a < 0 or a >= get(ctx, W_WORDS):
        return LIFETIME_OUTSIDE
    if a < get(ctx, W_TABLES) or a >= get(ctx, W_TABLES_END):
        return 0
    page = (a - get(ctx, W_TABLES)) >> get(ctx, W_TABLE_BITS)
    state = load_word(get(ctx, W_BASE), get(ctx, W_RECORDS) + page * RECORD_WORDS + SP_STATE)
    # The allocator alone fills a free page with poison, and takes it out again.
    return LIFETIME_FREED if state == SP_FREE and kind not in (PEEK, POKE) else 0


@array_kernel
def note_broken_bound(ctx: int, condition: int, actor: int, kind: int, a: int) -> None:
    """Note it in the actor's violation record, and stop this actor for good."""
    put(ctx, W_ASKED, get(ctx, W_ASKED) | STOPPING)
    base, own = get(ctx, W_BASE), get(ctx, W_OWN)
    who = actor
    if condition == LIFETIME_FREED:
        who = (a - get(ctx, W_TABLES)) >> get(ctx, W_TABLE_BITS)
    if load_word(base, own + VIOLATIONS) == 0:
        store_word(base, own + VIOLATION_CONDITION, condition)
        store_word(base, own + VIOLATION_A, a)
        store_word(base, own + VIOLATION_B, kind)
        store_word(base, own + VIOLATION_C, who)
    store_word(base, own + VIOLATIONS, load_word(base, own + VIOLATIONS) + 1)
