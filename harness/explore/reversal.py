"""What an execution would begin with in which a race goes the other way round.

`races.remove` says what comes later then; the rows that stay, followed by the late one, are what
has to be run before it.
"""

from __future__ import annotations

from harness.explore import block as at
from harness.explore.attempts import last_before
from harness.explore.block import (
    A_ADDR,
    A_ATTEMPT,
    A_B,
    A_C,
    A_KIND,
    R_ACTOR,
    R_ADDR,
    R_ATTEMPT,
    R_B,
    R_C,
    R_CLASS,
    R_CLOCK,
    R_KIND,
    R_NEW,
    R_OLD,
    R_PREV_ACTOR,
    R_PREV_WORD,
    actor_at,
    row_at,
    word_now,
)
from harness.explore.races import happens_before, is_removed, value_without
from harness.explore.steps import READ, class_of, classes_conflict
from harness.watch.words import get, put
from mmu.machine.events import AGAIN
from mmu.machine.kernel import array_kernel, inlined_array_kernel


@array_kernel
def write_pending_row(ctx: int, depth: int, actor: int) -> None:
    """A row for the step that `actor` could not do when the execution ended."""
    row, handle = row_at(ctx, depth), actor_at(ctx, actor)
    kind, addr = get(handle, A_KIND), get(handle, A_ADDR)
    b, c = get(handle, A_B), get(handle, A_C)
    put(row, R_ACTOR, actor)
    put(row, R_KIND, kind)
    put(row, R_ADDR, addr)
    put(row, R_B, b)
    put(row, R_C, c)
    put(row, R_PREV_ACTOR, last_before(ctx, actor, depth))
    if kind == AGAIN:
        put(row, R_ATTEMPT, get(handle, A_ATTEMPT))
        put(row, R_PREV_WORD, 0)
        put(row, R_CLASS, READ)
    else:
        word = word_now(ctx, addr)
        put(row, R_OLD, word)
        put(row, R_NEW, word)
        put(row, R_CLASS, class_of(kind, word, b, c))
        put(row, R_PREV_WORD, get(get(ctx, at.H_LAST), addr))


@array_kernel
def class_reversed(ctx: int, early: int, late: int) -> int:
    """Class of row `late` when it comes before what is removed: a cmpxchg may end differently."""
    row = row_at(ctx, late)
    if get(row, R_ADDR) < 0 or get(row_at(ctx, early), R_ADDR) != get(row, R_ADDR):
        return get(row, R_CLASS)
    word = value_without(ctx, early, late)
    return class_of(get(row, R_KIND), word, get(row, R_B), get(row, R_C))


@array_kernel
def initials(ctx: int, early: int, late: int) -> int:
    """Actors who could go first instead of row `early` so that row `late` comes before it.

    Of the rows between that stay (see `remove`), followed by `late`: the actors whose first row
    there comes after no other row of them.
    """
    actors = get(ctx, at.H_ACTORS)
    result = 0
    seen = 0
    first = row_at(ctx, get(ctx, at.H_STEPS_MAX) + 1)  # scratch: first row of each actor
    for d in range(early + 1, late):
        if is_removed(ctx, d):
            continue
        row = row_at(ctx, d)
        actor = get(row, R_ACTOR)
        if (seen >> actor) & 1 != 0:
            continue
        free = 1
        for other in range(actors):
            if (seen >> other) & 1 != 0 and get(row, R_CLOCK + other) > get(first, other):
                free = 0
        seen |= 1 << actor
        put(first, actor, d)
        result |= free << actor
    row = row_at(ctx, late)
    actor = get(row, R_ACTOR)
    if (seen >> actor) & 1 == 0:
        result |= _last_is_initial(ctx, early, late) << actor
    return result


@inlined_array_kernel
def _meets(row: int, addr: int, access: int) -> int:
    """Whether the row conflicts with a step on word `addr`."""
    if addr < 0 or get(row, R_ADDR) != addr:
        return 0
    return classes_conflict(get(row, R_CLASS), access)


@array_kernel
def _last_is_initial(ctx: int, early: int, late: int) -> int:
    """Whether row `late` itself comes after none of the rows between that stay."""
    row = row_at(ctx, late)
    before, addr = get(row, R_PREV_ACTOR), get(row, R_ADDR)
    access = class_reversed(ctx, early, late)
    for d in range(early + 1, late):
        if is_removed(ctx, d):
            continue
        other = row_at(ctx, d)
        if before > d and happens_before(ctx, d, before - 1):
            return 0
        if get(row, R_KIND) == AGAIN:
            if get(other, R_ADDR) >= 0 and get(other, R_CLASS) != READ:
                return 0
        elif _meets(other, addr, access):
            return 0
    return 1
