"""Draws and probes: questions of the model, answered within the actor's turn.

An answer is a row of the trace, so that it is repeated, enumerated and recorded as steps are.
"""

from __future__ import annotations

from harness.explore import block as at
from harness.explore.block import (
    A_ANSWERED,
    A_FAILURES,
    A_LAST,
    A_PROBED,
    ALONE,
    R_ACTOR,
    R_ADDR,
    R_CLASS,
    R_DONE,
    R_KIND,
    R_NEW,
    R_OLD,
    R_PREEMPTIONS,
    R_PREV_ACTOR,
    R_PREV_WORD,
    R_SLEEP,
    actor_at,
    random_below,
    row_at,
)
from harness.explore.faults import break_off
from harness.explore.schedule import preemptions_before
from harness.explore.sleep import inherited_sleep
from harness.explore.steps import NO_WORD
from harness.watch.words import get, put
from mmu.machine.events import PROBE
from mmu.machine.kernel import array_kernel, inlined_array_kernel


@inlined_array_kernel
def _count_failure(handle: int, kind: int, answer: int) -> None:
    if kind == PROBE and answer != 0:
        put(handle, A_FAILURES, get(handle, A_FAILURES) + 1)
        put(handle, A_PROBED, 1)


@array_kernel
def answer(ctx: int, actor: int, kind: int, alternatives: int) -> int:
    """A draw or a probe: a row of its own, within the actor's turn."""
    if get(ctx, at.H_STOPPING) != 0 or get(ctx, at.H_PHASE) == ALONE or alternatives < 1:
        return 0
    if kind == PROBE and get(actor_at(ctx, actor), A_FAILURES) >= at.FAILURES_MAX:
        return 0
    if get(ctx, at.H_SYSTEMATIC) == at.NO_DRAWS:
        break_off(ctx, at.FAULT_DRAWS, actor, alternatives, 0)
        return 0
    depth = get(ctx, at.H_DEPTH)
    if depth >= get(ctx, at.H_STEPS_MAX):
        return 0
    row = row_at(ctx, depth)
    if depth < get(ctx, at.H_PREFIX):
        put(ctx, at.H_DEPTH, depth + 1)
        _count_failure(actor_at(ctx, actor), kind, get(row, R_NEW))
        return get(row, R_NEW)
    answer = 0
    if get(ctx, at.H_FORCED) >= 0 and depth == get(ctx, at.H_PREFIX):
        answer = get(ctx, at.H_FORCED)
        put(ctx, at.H_FORCED, -1)
    elif get(ctx, at.H_ANSWERS) != 0:
        answer = min(_recorded_answer(ctx, actor), alternatives - 1)
    elif get(ctx, at.H_SYSTEMATIC) == at.RANDOM_DRAWS:
        answer = random_below(ctx, alternatives)
    handle = actor_at(ctx, actor)
    _count_failure(handle, kind, answer)
    put(row, R_ACTOR, actor)
    put(row, R_KIND, kind)
    put(row, R_ADDR, -1)
    put(row, R_CLASS, NO_WORD)
    put(row, R_OLD, alternatives)
    put(row, R_NEW, answer)
    put(row, R_PREV_WORD, 0)
    put(row, R_PREV_ACTOR, get(handle, A_LAST))
    put(row, R_PREEMPTIONS, preemptions_before(ctx, depth))
    put(row, R_SLEEP, inherited_sleep(ctx, depth) if get(ctx, at.H_SYSTEMATIC) != 0 else 0)
    put(row, R_DONE, 0)
    put(handle, A_LAST, depth + 1)
    put(ctx, at.H_DEPTH, depth + 1)
    return answer


@array_kernel
def _recorded_answer(ctx: int, actor: int) -> int:
    """The actor's next answer in the recording that is followed; 0 behind its end."""
    handle = actor_at(ctx, actor)
    for i in range(get(handle, A_ANSWERED), get(ctx, at.H_ANSWER_COUNT)):
        pair = get(ctx, at.H_ANSWERS) + 16 * i
        if get(pair, 0) == actor:
            put(handle, A_ANSWERED, i + 1)
            return get(pair, 1)
    return 0
