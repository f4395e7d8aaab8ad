"""The bounds watch: a step outside the block is a violation, not a segmentation fault.

Runs of a patched model are watched by it: the first wild step goes to the actor's violation
record, and from then on the actor is told to STOP.
"""

from __future__ import annotations

from harness.watch.block import STOPPING, W_ASKED, W_BASE, W_OWN, W_WORDS
from harness.watch.words import get, load_word, put, store_word
from mmu.machine.conditions import LIFETIME_OUTSIDE
from mmu.machine.kernel import array_kernel, inlined_array_kernel
from mmu.machine.layout import (
    VIOLATION_A,
    VIOLATION_B,
    VIOLATION_C,
    VIOLATION_CONDITION,
    VIOLATIONS,
)


@inlined_array_kernel
def is_wild(ctx: int, a: int) -> int:
    """Whether the word of a step lies outside the block."""
    return int(a < 0 or a >= get(ctx, W_WORDS))


@array_kernel
def note_wild_step(ctx: int, actor: int, kind: int, a: int) -> None:
    """Note it in the actor's violation record, and stop this actor for good."""
    put(ctx, W_ASKED, get(ctx, W_ASKED) | STOPPING)
    base, own = get(ctx, W_BASE), get(ctx, W_OWN)
    if load_word(base, own + VIOLATIONS) == 0:
        store_word(base, own + VIOLATION_CONDITION, LIFETIME_OUTSIDE)
        store_word(base, own + VIOLATION_A, a)
        store_word(base, own + VIOLATION_B, kind)
        store_word(base, own + VIOLATION_C, actor)
    store_word(base, own + VIOLATIONS, load_word(base, own + VIOLATIONS) + 1)
