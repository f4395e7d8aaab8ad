"""Who does the next step: write the trace's rows, and take them back.

Rows below H_PREFIX stand from an earlier execution and are only repeated; from there on the
strategy chooses among those who can go on.
"""

from __future__ import annotations

from harness.explore import attempts
from harness.explore import block as at
from harness.explore.block import (
    A_ADDR,
    A_ATTEMPT,
    A_B,
    A_C,
    A_KIND,
    A_LAST,
    HUB,
    R_ACTOR,
    R_ADDR,
    R_ATTEMPT,
    R_B,
    R_C,
    R_CLASS,
    R_ENABLED,
    R_KIND,
    R_NEW,
    R_OLD,
    R_PENDING,
    R_PREEMPTIONS,
    R_PREV_ACTOR,
    R_PREV_WORD,
    actor_at,
    lowest,
    row_at,
    word_now,
)
from harness.explore.coroutines import call
from harness.explore.faults import break_off
from harness.explore.steps import NO_WORD, READ, class_of, guard_holds, summary, value_after
from harness.watch.words import get, put
from mmu.machine.events import AGAIN
from mmu.machine.kernel import array_kernel, inlined_array_kernel


@array_kernel
def schedule(ctx: int) -> int:
    """Write the next row; who does that step, or HUB if the execution is over."""
    depth = get(ctx, at.H_DEPTH)
    if depth < get(ctx, at.H_PREFIX):
        row = row_at(ctx, depth)
        actor = get(row, R_ACTOR)
        handle = actor_at(ctx, actor)
        if get(handle, A_KIND) != get(row, R_KIND) or get(handle, A_ADDR) != get(row, R_ADDR):
            break_off(ctx, at.FAULT_DIVERGED, actor, depth, get(handle, A_ADDR))
            return HUB
        put(ctx, at.H_DEPTH, depth + 1)
        return actor
    return _schedule_new(ctx, depth)


@array_kernel
def _schedule_new(ctx: int, depth: int) -> int:
    """The trace's next row is not known yet: see what is possible, ask the strategy."""
    live = get(ctx, at.H_LIVE)
    if live == 0:
        put(ctx, at.H_STATUS, at.STATUS_COMPLETE)
        return HUB
    runnable = survey(ctx, depth, live)
    if get(ctx, at.H_STOP_AT) != 0 and (runnable == 0 or depth >= get(ctx, at.H_STOP_AT)):
        put(ctx, at.H_STOPPING, 1)
    if get(ctx, at.H_STOPPING) != 0:
        return lowest(live)
    if runnable == 0:
        put(ctx, at.H_STATUS, at.STATUS_DEADLOCK)
        return HUB
    if depth >= get(ctx, at.H_STEPS_MAX):
        put(ctx, at.H_STATUS, at.STATUS_BOUNDED)
        put(ctx, at.H_BOUND_HIT, get(ctx, at.H_BOUND_HIT) | at.BOUND_STEPS)
        return HUB
    put(row_at(ctx, depth), R_ENABLED, runnable)
    if get(ctx, at.H_FORCED) >= 0 and depth == get(ctx, at.H_PREFIX):
        actor = get(ctx, at.H_FORCED)
        put(ctx, at.H_FORCED, -1)
        if (runnable >> actor) & 1 == 0:
            break_off(ctx, at.FAULT_DIVERGED, actor, depth, -1)
            return HUB
    else:
        actor = call(get(ctx, at.H_CHOOSE), ctx, runnable)
    if actor < 0:
        if get(ctx, at.H_STATUS) == at.STATUS_RUNNING:
            put(ctx, at.H_STATUS, at.STATUS_CUT)
        return HUB
    _take(ctx, depth, actor)
    return actor


@array_kernel
def survey(ctx: int, depth: int, live: int) -> int:
    """Note what each live actor is about to do; the mask of those who can."""
    row = row_at(ctx, depth)
    runnable = 0
    rest = live
    while rest != 0:
        actor = lowest(rest)
        rest &= rest - 1
        handle = actor_at(ctx, actor)
        kind, addr, b = get(handle, A_KIND), get(handle, A_ADDR), get(handle, A_B)
        if kind == AGAIN:
            enabled = attempts.is_helped(ctx, actor)
            access = READ
        else:
            word = word_now(ctx, addr)
            enabled = guard_holds(kind, word, b)
            access = class_of(kind, word, b, get(handle, A_C))
        put(row, R_PENDING + actor, summary(addr, kind, access, enabled))
        runnable |= enabled << actor
    return runnable


@inlined_array_kernel
def _take(ctx: int, depth: int, actor: int) -> None:
    """Write the row of the step that `actor` does next."""
    row, handle = row_at(ctx, depth), actor_at(ctx, actor)
    kind, addr = get(handle, A_KIND), get(handle, A_ADDR)
    b, c = get(handle, A_B), get(handle, A_C)
    put(row, R_PREEMPTIONS, preemptions_before(ctx, depth) + is_preemption(ctx, depth, actor))
    put(row, R_ACTOR, actor)
    put(row, R_KIND, kind)
    put(row, R_ADDR, addr)
    put(row, R_B, b)
    put(row, R_C, c)
    put(row, R_PREV_ACTOR, get(handle, A_LAST))
    put(handle, A_LAST, depth + 1)
    if kind == AGAIN:
        put(row, R_CLASS, NO_WORD)
        put(row, R_PREV_WORD, 0)
        put(row, R_ATTEMPT, get(handle, A_ATTEMPT))
        put(ctx, at.H_AGAINS, get(ctx, at.H_AGAINS) + 1)
    else:
        word = word_now(ctx, addr)
        put(row, R_OLD, word)
        put(row, R_NEW, value_after(kind, word, b, c))
        put(row, R_CLASS, class_of(kind, word, b, c))
        last = get(ctx, at.H_LAST)
        put(row, R_PREV_WORD, get(last, addr))
        put(last, addr, depth + 1)
    put(ctx, at.H_DEPTH, depth + 1)


@inlined_array_kernel
def preemptions_before(ctx: int, depth: int) -> int:
    """Preemptions in the rows below."""
    return get(row_at(ctx, depth - 1), R_PREEMPTIONS) if depth > 0 else 0


@inlined_array_kernel
def is_preemption(ctx: int, depth: int, actor: int) -> int:
    """Whether going on with `actor` leaves somebody who could go on."""
    if depth == 0:
        return 0
    before = get(row_at(ctx, depth - 1), R_ACTOR)
    return int(before != actor and (get(row_at(ctx, depth), R_ENABLED) >> before) & 1 != 0)


@array_kernel
def drop_row(ctx: int, depth: int) -> None:
    """Take back the last row of the trace."""
    row = row_at(ctx, depth)
    addr = get(row, R_ADDR)
    if addr >= 0:
        put(get(ctx, at.H_LAST), addr, get(row, R_PREV_WORD))
    elif get(row, R_KIND) == AGAIN:
        put(ctx, at.H_AGAINS, get(ctx, at.H_AGAINS) - 1)
    put(actor_at(ctx, get(row, R_ACTOR)), A_LAST, get(row, R_PREV_ACTOR))


@array_kernel
def drop_rows(ctx: int) -> int:
    """Forget the whole trace: the next execution is free from its first step."""
    depth = get(ctx, at.H_DEPTH)
    while depth > 0:
        depth -= 1
        drop_row(ctx, depth)
    put(ctx, at.H_PREFIX, 0)
    put(ctx, at.H_FORCED, -1)
    put(ctx, at.H_STAMPED, 0)
    return 1
