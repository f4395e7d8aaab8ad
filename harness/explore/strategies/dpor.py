"""dpor: every trace once, by source-DPOR with sleep sets.

After each execution every new step is compared with the earlier ones that it races with; where
the reversed order is not yet sure to be explored, one actor is added to what must be tried at
the earlier step (its source set).  An actor that was tried at a step sleeps in what follows,
until a step that conflicts with its own.  When only sleepers could go on, the execution is cut
("blocked"): all its continuations were seen in another order.

Abdulla, Aronis, Jonsson, Sagonas: Source Sets (2017), with locks and waits as race windows.
"""

from __future__ import annotations

from harness.explore import block as at
from harness.explore.block import (
    R_ACTOR,
    R_BACKTRACK,
    R_DONE,
    R_ENABLED,
    R_NEW,
    R_OLD,
    R_PREEMPTIONS,
    R_RACE,
    R_SLEEP,
    lowest,
    row_at,
)
from harness.explore.races import find_races, remove, stamp_up_to
from harness.explore.reversal import initials, write_pending_row
from harness.explore.schedule import drop_row, is_preemption, survey
from harness.explore.sleep import inherited_sleep
from harness.explore.steps import is_answer
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


@array_kernel
def within_preemptions(ctx: int, depth: int, actor: int) -> int:
    """Whether going on with `actor` keeps to the bound on preemptions."""
    bound = get(ctx, at.H_PREEMPTIONS_MAX)
    if bound < 0 or depth == 0:
        return 1
    before = get(row_at(ctx, depth - 1), R_PREEMPTIONS)
    if before + is_preemption(ctx, depth, actor) <= bound:
        return 1
    put(ctx, at.H_BOUND_HIT, get(ctx, at.H_BOUND_HIT) | at.BOUND_PREEMPTIONS)
    return 0


@array_kernel
def pick(ctx: int, depth: int, awake: int) -> int:
    """Who goes on if it does not matter: who is running, so that there are few switches."""
    if depth > 0:
        current = get(row_at(ctx, depth - 1), R_ACTOR)
        if (awake >> current) & 1 != 0:
            return current
    while awake != 0:
        actor = lowest(awake)
        if within_preemptions(ctx, depth, actor):
            return actor
        awake &= awake - 1
    return at.HUB


def choose(ctx: int, runnable: int) -> int:
    """A step that no other execution has shown: the first one found, others by races."""
    depth = get(ctx, at.H_DEPTH)
    row = row_at(ctx, depth)
    sleep = inherited_sleep(ctx, depth)
    actor = pick(ctx, depth, runnable & ~sleep)
    put(row, R_SLEEP, sleep)
    put(row, R_DONE, 0)
    put(row, R_BACKTRACK, 1 << actor if actor >= 0 else 0)
    return actor


@array_kernel
def _add_sources(ctx: int, late: int) -> None:
    """Have the races of row `late` explored the other way round."""
    entries = row_at(ctx, late) + 8 * R_RACE
    for i in range(find_races(ctx, late)):
        early = get(entries, 2 * i)
        remove(ctx, early, get(entries, 2 * i + 1), late)
        row = row_at(ctx, early)
        first = initials(ctx, early, late)
        if first & get(row, R_BACKTRACK) == 0:
            actor = get(row_at(ctx, late), R_ACTOR)
            if (first >> actor) & 1 == 0:
                actor = lowest(first)
            put(row, R_BACKTRACK, get(row, R_BACKTRACK) | 1 << actor)


@array_kernel
def _add_waiting(ctx: int, depth: int) -> None:
    """The same for steps that were never done: who waits at the end could have been earlier."""
    status = get(ctx, at.H_STATUS)
    if status != at.STATUS_DEADLOCK and status != at.STATUS_CUT:
        return
    waiting = get(ctx, at.H_LIVE) & ~survey(ctx, depth, get(ctx, at.H_LIVE))
    while waiting != 0:
        write_pending_row(ctx, depth, lowest(waiting))
        waiting &= waiting - 1
        _add_sources(ctx, depth)


@array_kernel
def next_answer(ctx: int, depth: int, row: int) -> int:
    """Try the next answer of a draw; 0 if there is none left."""
    if get(row, R_NEW) + 1 >= get(row, R_OLD):
        return 0
    put(ctx, at.H_PREFIX, depth)
    put(ctx, at.H_FORCED, get(row, R_NEW) + 1)
    put(ctx, at.H_STAMPED, depth)
    return 1


@array_kernel
def _next_source(ctx: int, depth: int, row: int) -> int:
    """Try another actor at row `depth`; 0 if none is left."""
    put(row, R_DONE, get(row, R_DONE) | 1 << get(row, R_ACTOR))
    todo = get(row, R_BACKTRACK) & ~get(row, R_DONE) & ~get(row, R_SLEEP)
    while todo != 0:
        actor = lowest(todo)
        todo &= todo - 1
        if (get(row, R_ENABLED) >> actor) & 1 != 0 and within_preemptions(ctx, depth, actor):
            put(ctx, at.H_PREFIX, depth)
            put(ctx, at.H_FORCED, actor)
            put(ctx, at.H_STAMPED, depth)
            return 1
    return 0


def finish(ctx: int, _: int) -> int:
    """Learn from the execution, take back rows until something is left to try; 0 at the end."""
    depth = get(ctx, at.H_DEPTH)
    stamp_up_to(ctx, depth)
    for late in range(get(ctx, at.H_PREFIX), depth):
        _add_sources(ctx, late)
    _add_waiting(ctx, depth)
    while depth > 0:
        depth -= 1
        row = row_at(ctx, depth)
        drop_row(ctx, depth)
        more = next_answer(ctx, depth, row) if is_answer(row) else _next_source(ctx, depth, row)
        if more:
            return 1
    return 0
