"""optimal: every trace once and nothing else: no execution is ever cut.

As dpor, but what a race asks for is not one actor to try: it is the whole sequence that the
reversed order would run, kept in a *wakeup tree* of the row where it begins.  Later executions
follow the tree.  Each execution's races are all looked at again, old ones too, with sequences
taken from the whole execution: shorter sequences, or new races only, lose traces.

Abdulla, Aronis, Jonsson, Sagonas: Source Sets (2017).  Draws are not supported: use dpor.
"""

from __future__ import annotations

from harness.explore import block as at
from harness.explore import wakeup
from harness.explore.block import (
    A_ADDR,
    A_KIND,
    R_ACTOR,
    R_BACKTRACK,
    R_DONE,
    R_PENDING,
    R_RACE,
    R_RACES,
    R_SLEEP,
    actor_at,
    lowest,
    row_at,
)
from harness.explore.faults import break_off
from harness.explore.races import find_races, remove, stamp_up_to
from harness.explore.reversal import class_reversed, write_pending_row
from harness.explore.schedule import drop_row, survey
from harness.explore.sleep import inherited_sleep
from harness.explore.steps import summary_class
from harness.explore.strategies.dpor import pick, within_preemptions
from harness.watch.words import get, put
from mmu.machine.cpu import Words
from mmu.machine.events import AGAIN
from mmu.machine.kernel import array_kernel

SYSTEMATIC = at.NO_DRAWS
WORDS = wakeup.WORDS


def prepare(words: Words, seed: int, depth: int) -> None:
    """An empty pool of tree nodes."""
    wakeup.prepare(words)


def remark(words: Words, actors: int) -> str:
    """Nothing."""
    return ""


def begin(ctx: int, _: int) -> int:
    """Nothing to prepare."""
    return 0


def choose(ctx: int, runnable: int) -> int:
    """What the tree says, else anybody who is awake."""
    depth = get(ctx, at.H_DEPTH)
    row = row_at(ctx, depth)
    sleep = inherited_sleep(ctx, depth)
    put(row, R_SLEEP, sleep)
    put(row, R_DONE, 0)
    children = 0
    if depth > 0:
        children = wakeup.take_children(ctx, get(row_at(ctx, depth - 1), R_BACKTRACK))
    put(row, R_BACKTRACK, children)
    if children != 0:
        actor = wakeup.actor_of(ctx, children)
        if (runnable & ~sleep) >> actor & 1 == 0:
            break_off(ctx, at.FAULT_DIVERGED, actor, depth, 0)
            return at.HUB
        return actor
    actor = pick(ctx, depth, runnable & ~sleep)
    if actor >= 0:
        put(row, R_BACKTRACK, wakeup.new_node(ctx, actor, _place(ctx, depth, actor)))
    return actor


@array_kernel
def _place(ctx: int, depth: int, actor: int) -> int:
    """Word and class of what an actor is about to do at a row, packed."""
    handle = actor_at(ctx, actor)
    if get(handle, A_KIND) == AGAIN:
        return wakeup.ANY_WORD
    return wakeup.pack(
        get(handle, A_ADDR), summary_class(get(row_at(ctx, depth), R_PENDING + actor))
    )


@array_kernel
def _reverse(ctx: int, early: int, late: int, end: int) -> None:
    """Put "row `late` before row `early`" into the tree at `early`, unless it was seen."""
    row = row_at(ctx, early)
    wakeup.collect(ctx, early, late, end, class_reversed(ctx, early, late))
    sleeping = get(row, R_SLEEP) | get(row, R_DONE)
    while sleeping != 0:
        actor = lowest(sleeping)
        sleeping &= sleeping - 1
        pending = get(row, R_PENDING + actor)
        place = wakeup.pack(pending >> 5, summary_class(pending))
        if pending & 16 != 0:
            place = wakeup.ANY_WORD
        if wakeup.could_begin(ctx, actor, place):
            return
    put(row, R_BACKTRACK, wakeup.insert(ctx, get(row, R_BACKTRACK)))


@array_kernel
def _reverse_all(ctx: int, late: int, end: int) -> None:
    """All races of one row."""
    row = row_at(ctx, late)
    for i in range(get(row, R_RACES)):
        early = get(row, R_RACE + 2 * i)
        remove(ctx, early, get(row, R_RACE + 2 * i + 1), late)
        _reverse(ctx, early, late, end)


@array_kernel
def _reverse_waiting(ctx: int, depth: int) -> None:
    """Races of steps that were never done."""
    waiting = get(ctx, at.H_LIVE) & ~survey(ctx, depth, get(ctx, at.H_LIVE))
    while waiting != 0:
        write_pending_row(ctx, depth, lowest(waiting))
        waiting &= waiting - 1
        find_races(ctx, depth)
        _reverse_all(ctx, depth, depth)


@array_kernel
def _next_branch(ctx: int, depth: int, row: int) -> int:
    """Go on with the next branch of the row's tree; 0 if there is none."""
    put(row, R_DONE, get(row, R_DONE) | 1 << get(row, R_ACTOR))
    children = wakeup.drop_first(ctx, get(row, R_BACKTRACK))
    while children != 0 and within_preemptions(ctx, depth, wakeup.actor_of(ctx, children)) == 0:
        children = wakeup.drop_first(ctx, children)
    put(row, R_BACKTRACK, children)
    if children == 0:
        return 0
    put(ctx, at.H_PREFIX, depth)
    put(ctx, at.H_FORCED, wakeup.actor_of(ctx, children))
    put(ctx, at.H_STAMPED, depth)
    return 1


def finish(ctx: int, _: int) -> int:
    """Learn from the execution, take back rows until something is left to try; 0 at the end."""
    depth = get(ctx, at.H_DEPTH)
    stamp_up_to(ctx, depth)
    for late in range(get(ctx, at.H_PREFIX), depth):
        find_races(ctx, late)
    for late in range(depth):
        _reverse_all(ctx, late, depth)
    if get(ctx, at.H_STATUS) == at.STATUS_DEADLOCK:
        _reverse_waiting(ctx, depth)
    while depth > 0:
        depth -= 1
        drop_row(ctx, depth)
        if _next_branch(ctx, depth, row_at(ctx, depth)):
            return 1
    return 0
