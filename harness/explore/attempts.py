"""`again()`: an attempt that failed waits until a word that it has read was written.

The attempt began where the actor's previous one ended (or the actor itself).  If a write that
helps is known to have happened before the attempt's end in every equivalent execution, nothing
has to wait: that is the usual case (a cmpxchg failed *because* somebody wrote).  Otherwise AGAIN
is a row of the trace that reads every word of the attempt.
"""

from __future__ import annotations

from harness.explore import block as at
from harness.explore.block import (
    A_ATTEMPT,
    A_LAST,
    R_ACTOR,
    R_ADDR,
    R_CLASS,
    R_CLOCK,
    R_KIND,
    R_PREV_ACTOR,
    R_PREV_WORD,
    actor_at,
    row_at,
)
from harness.explore.steps import READ, classes_conflict
from harness.watch.words import get
from mmu.machine.events import POKE, STORE_RELEASE, WRITE_ONCE
from mmu.machine.kernel import array_kernel, inlined_array_kernel

NOBODY = -1


@array_kernel
def last_before(ctx: int, actor: int, depth: int) -> int:
    """The actor's last row below `depth`, one higher (rows above may be a prefix to repeat)."""
    last = get(actor_at(ctx, actor), A_LAST)
    while last > depth:
        last = get(row_at(ctx, last - 1), R_PREV_ACTOR)
    return last


@inlined_array_kernel
def helps_with(row: int, other: int) -> bool:
    """Whether what the step at `row` saw of its word may be another since the step at `other`.

    A lock that both hold in shared mode, or a statistic that both count, tells nobody anything.
    """
    kind = get(row, R_KIND)
    if kind in (WRITE_ONCE, STORE_RELEASE, POKE) or get(other, R_CLASS) == READ:
        return False
    return classes_conflict(get(row, R_CLASS), get(other, R_CLASS)) != 0


@array_kernel
def helper(ctx: int, last: int, began: int, depth: int, clock: int) -> int:
    """First row below `depth`, one higher, that wrote what the attempt had read; 0: none.

    The attempt's rows are those of one actor from row `began` to `last`.  With a `clock` (address
    of a row) only writes that happen before that row count.
    """
    best = 0
    while last > began:
        row = row_at(ctx, last - 1)
        addr = get(row, R_ADDR)
        if addr >= 0:
            event = get(get(ctx, at.H_LAST), addr)
            while event > last:
                other = row_at(ctx, event - 1)
                writer = get(other, R_ACTOR)
                helps = event <= depth and writer != get(row, R_ACTOR) and helps_with(row, other)
                if helps and clock != 0:
                    helps = get(clock, R_CLOCK + writer) >= event
                if helps and (best == 0 or event < best):
                    best = event
                event = get(other, R_PREV_WORD)
        last = get(row, R_PREV_ACTOR)
    return best


@array_kernel
def is_helped(ctx: int, actor: int) -> int:
    """Whether anybody has written what the actor's present attempt read."""
    depth = get(ctx, at.H_DEPTH)
    last = last_before(ctx, actor, depth)
    began = get(actor_at(ctx, actor), A_ATTEMPT)
    return int(helper(ctx, last, began, depth, 0) != 0)
