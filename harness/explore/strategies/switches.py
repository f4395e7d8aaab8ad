"""switches: every schedule with at most so many preemptions, one by one.

Nothing is left out because it looks equivalent.  That takes long, and is what a proof needs: dpor
under a bound on preemptions gives up an order that exceeds it, also where another one of the same
trace would not have, and so may miss what the bound allows.

Musuvathi, Qadeer: Iterative Context Bounding for Systematic Testing (2007).
"""

from __future__ import annotations

from harness.explore import block as at
from harness.explore.block import R_ACTOR, R_DONE, R_ENABLED, lowest, row_at
from harness.explore.schedule import drop_row
from harness.explore.steps import is_answer
from harness.explore.strategies.dpor import next_answer, within_preemptions
from harness.watch.words import get, put
from mmu.machine.cpu import Words
from mmu.machine.kernel import array_kernel

SYSTEMATIC = at.ALL_DRAWS
WORDS = 0


def prepare(words: Words, seed: int, depth: int) -> None:
    """Nothing: it neither draws nor counts."""


def remark(words: Words, actors: int) -> str:
    """Nothing."""
    return ""


def begin(ctx: int, _: int) -> int:
    """Nothing to prepare."""
    return 0


def choose(ctx: int, runnable: int) -> int:
    """Whoever runs goes on; the others' turn comes in later executions."""
    depth = get(ctx, at.H_DEPTH)
    put(row_at(ctx, depth), R_DONE, 0)
    current = get(row_at(ctx, depth - 1), R_ACTOR) if depth > 0 else 0
    return current if (runnable >> current) & 1 != 0 else lowest(runnable)


@array_kernel
def _next_actor(ctx: int, depth: int, row: int) -> int:
    """Try another actor at row `depth`; 0 if none is left that the bound allows."""
    put(row, R_DONE, get(row, R_DONE) | 1 << get(row, R_ACTOR))
    todo = get(row, R_ENABLED) & ~get(row, R_DONE)
    while todo != 0:
        actor = lowest(todo)
        todo &= todo - 1
        if within_preemptions(ctx, depth, actor):
            put(ctx, at.H_PREFIX, depth)
            put(ctx, at.H_FORCED, actor)
            return 1
    return 0


def finish(ctx: int, _: int) -> int:
    """Take back rows until something is left to try; 0 at the end."""
    depth = get(ctx, at.H_DEPTH)
    stamped = get(ctx, at.H_STAMPED)
    while depth > 0:
        depth -= 1
        row = row_at(ctx, depth)
        drop_row(ctx, depth)
        more = next_answer(ctx, depth, row) if is_answer(row) else _next_actor(ctx, depth, row)
        if more:
            put(ctx, at.H_STAMPED, min(stamped, depth))  # clocks were kept where somebody asked
            return 1
    return 0
