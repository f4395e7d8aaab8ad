"""Sleep sets: who need not be tried here, since an execution that was seen did it already."""

from __future__ import annotations

from harness.explore.block import R_ACTOR, R_DONE, R_SLEEP, lowest, row_at
from harness.explore.steps import disturbs, is_answer
from harness.watch.words import get
from mmu.machine.kernel import array_kernel


@array_kernel
def inherited_sleep(ctx: int, depth: int) -> int:
    """Who was tried before instead of the row below, and would do now what it did then."""
    if depth == 0:
        return 0
    row = row_at(ctx, depth - 1)
    if is_answer(row):
        return get(row, R_SLEEP)
    candidates = (get(row, R_SLEEP) | get(row, R_DONE)) & ~(1 << get(row, R_ACTOR))
    sleep = candidates
    while candidates != 0:
        actor = lowest(candidates)
        candidates &= candidates - 1
        if disturbs(row, actor):
            sleep &= ~(1 << actor)
    return sleep
