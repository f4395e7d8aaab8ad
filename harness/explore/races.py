"""What happens before what in the present trace, and which steps race.

Two rows *race* if they are of different actors, conflict, and nothing orders them but themselves:
then there is an execution in which the later one comes first.  For a step that had to wait (a
lock, `wait_while`) that is so only if it could be done without the earlier one; the search goes
on backwards to the step that closed the last window in which it was possible.  Where earlier
steps commute with each other (counts, shared acquisitions), several of them may have to come
later together: a race then has *companions*, named by their place in the chain of the word.

Clocks: word `q` of a row's clock is the number (one higher) of the last row of actor `q` that
happens before it or is it.
"""

from __future__ import annotations

from harness.explore import block as at
from harness.explore.attempts import helper, helps_with, is_helped, last_before
from harness.explore.block import (
    A_ATTEMPT,
    R_ACTOR,
    R_ADDR,
    R_ATTEMPT,
    R_B,
    R_CLASS,
    R_CLOCK,
    R_KIND,
    R_NEW,
    R_OLD,
    R_PREV_ACTOR,
    R_PREV_WORD,
    R_RACE,
    R_RACES,
    actor_at,
    row_at,
)
from harness.explore.faults import break_off
from harness.explore.steps import (
    READ,
    WRITE,
    classes_conflict,
    guard_holds,
    is_guarded,
)
from harness.watch.words import get, put
from mmu.machine.events import AGAIN
from mmu.machine.kernel import array_kernel, inlined_array_kernel

PLACES_MAX = 12  # of a word's chain that companions are looked for among


@inlined_array_kernel
def happens_before(ctx: int, early: int, late: int) -> int:
    """Whether row `early` happens before row `late` (early < late)."""
    actor = get(row_at(ctx, early), R_ACTOR)
    return int(get(row_at(ctx, late), R_CLOCK + actor) > early)


@inlined_array_kernel
def _begin_clock(ctx: int, row: int, clock: int) -> None:
    """Fill the words at `row`+`clock` with what happens before the row by its own actor."""
    before = get(row, R_PREV_ACTOR)
    actors = get(ctx, at.H_ACTORS)
    if before == 0:
        for actor in range(actors):
            put(row, clock + actor, 0)
    else:
        previous = row_at(ctx, before - 1)
        for actor in range(actors):
            put(row, clock + actor, get(previous, R_CLOCK + actor))


@inlined_array_kernel
def _join(ctx: int, row: int, clock: int, other: int) -> None:
    """Add what happens before (and at) row `other` to a clock."""
    for actor in range(get(ctx, at.H_ACTORS)):
        theirs = get(other, R_CLOCK + actor)
        if theirs > get(row, clock + actor):
            put(row, clock + actor, theirs)


@array_kernel
def _stamp(ctx: int, depth: int) -> None:
    """Compute the clock of a row from those below it."""
    row = row_at(ctx, depth)
    actor, access = get(row, R_ACTOR), get(row, R_CLASS)
    _begin_clock(ctx, row, R_CLOCK)
    event = get(row, R_PREV_WORD) if get(row, R_ADDR) >= 0 else 0
    while event != 0:
        other = row_at(ctx, event - 1)
        their_class = get(other, R_CLASS)
        if get(row, R_CLOCK + get(other, R_ACTOR)) < event and classes_conflict(
            their_class, access
        ):
            _join(ctx, row, R_CLOCK, other)
        # A write conflicts with all that came before it, so nothing older is missing.
        event = 0 if their_class == WRITE else get(other, R_PREV_WORD)
    if get(row, R_KIND) == AGAIN:
        _join_helpers(ctx, depth, row)
    elif get(ctx, at.H_AGAINS) != 0 and access != READ:
        _join_attempts(ctx, depth, row)
    put(row, R_CLOCK + actor, depth + 1)


@array_kernel
def _join_helpers(ctx: int, depth: int, row: int) -> None:
    """AGAIN reads every word of its attempt: it comes after what was written there so far."""
    last, began = get(row, R_PREV_ACTOR), get(row, R_ATTEMPT)
    for event in range(depth):
        other = row_at(ctx, event)
        if _spoils(ctx, other, event, last, began, get(row, R_ACTOR)):
            _join(ctx, row, R_CLOCK, other)


@array_kernel
def _spoils(ctx: int, other: int, event: int, last: int, began: int, actor: int) -> int:
    """Whether row `event` wrote a word that the attempt (rows `began` to `last`) read."""
    if get(other, R_ACTOR) == actor or get(other, R_ADDR) < 0:
        return 0
    while last > began:
        row = row_at(ctx, last - 1)
        same = get(row, R_ADDR) == get(other, R_ADDR)
        if same and event >= last and helps_with(row, other):
            return 1
        last = get(row, R_PREV_ACTOR)
    return 0


@array_kernel
def _reads_again(ctx: int, again: int, write: int) -> int:
    """Whether the attempt that row `again` ends saw what the step at `write` changes."""
    last, began = get(again, R_PREV_ACTOR), get(again, R_ATTEMPT)
    while last > began:
        row = row_at(ctx, last - 1)
        if get(row, R_ADDR) == get(write, R_ADDR) and helps_with(row, write):
            return 1
        last = get(row, R_PREV_ACTOR)
    return 0


@array_kernel
def _join_attempts(ctx: int, depth: int, row: int) -> None:
    """A write comes after each AGAIN that has looked at its word."""
    for event in range(depth):
        other = row_at(ctx, event)
        theirs = get(other, R_KIND) == AGAIN and get(other, R_ACTOR) != get(row, R_ACTOR)
        if theirs and _reads_again(ctx, other, row):
            _join(ctx, row, R_CLOCK, other)


@array_kernel
def stamp_up_to(ctx: int, depth: int) -> None:
    """Have the clocks of all rows below `depth`."""
    for d in range(get(ctx, at.H_STAMPED), depth):
        _stamp(ctx, d)
    put(ctx, at.H_STAMPED, max(get(ctx, at.H_STAMPED), depth))


@array_kernel
def is_surely_helped(ctx: int, actor: int) -> int:
    """Whether the attempt may start over at once, in this and every equivalent execution."""
    if get(ctx, at.H_SYSTEMATIC) == 0:
        return is_helped(ctx, actor)
    depth = get(ctx, at.H_DEPTH)
    last = last_before(ctx, actor, depth)
    if last == 0:
        return 0
    stamp_up_to(ctx, depth)
    began = get(actor_at(ctx, actor), A_ATTEMPT)
    return int(helper(ctx, last, began, depth, row_at(ctx, last - 1)) != 0)


# --- Races ---------------------------------------------------------------------------------------


@inlined_array_kernel
def _removed_list(ctx: int) -> int:
    """Scratch row: how many rows are to come later, then their numbers."""
    return row_at(ctx, get(ctx, at.H_STEPS_MAX) + 2)


@array_kernel
def remove(ctx: int, early: int, companions: int, late: int) -> None:
    """From here on think of row `early` and its companions as coming after row `late`."""
    removed = _removed_list(ctx)
    put(removed, 1, early)
    count = 1
    event = get(row_at(ctx, late), R_PREV_WORD)
    while companions != 0:
        if companions & 1 != 0:
            count += 1
            put(removed, count, event - 1)
        companions >>= 1
        event = get(row_at(ctx, event - 1), R_PREV_WORD)
    put(removed, 0, count)


@inlined_array_kernel
def is_removed(ctx: int, depth: int) -> int:
    """Whether row `depth` is one that comes later, or happens after one."""
    removed = _removed_list(ctx)
    for i in range(1, get(removed, 0) + 1):
        early = get(removed, i)
        if early <= depth and happens_before(ctx, early, depth):
            return 1
    return 0


@array_kernel
def value_without(ctx: int, early: int, late: int) -> int:
    """What the word of row `late` holds just before it when what is removed comes later.

    That is its value before `early`, and what commutes with `early` added.
    """
    value = get(row_at(ctx, early), R_OLD)
    event = get(row_at(ctx, late), R_PREV_WORD)
    while event > early + 1:
        row = row_at(ctx, event - 1)
        if is_removed(ctx, event - 1) == 0:
            value += get(row, R_NEW) - get(row, R_OLD)
        event = get(row, R_PREV_WORD)
    return value


@array_kernel
def _note_race(ctx: int, row: int, early: int, companions: int) -> None:
    count = get(row, R_RACES)
    if count == at.RACES_MAX:
        break_off(ctx, at.FAULT_MEMORY, get(row, R_ACTOR), at.RACES_MAX, 0)
        return
    put(row, R_RACE + 2 * count, early)
    put(row, R_RACE + 2 * count + 1, companions)
    put(row, R_RACES, count + 1)


@array_kernel
def find_races(ctx: int, depth: int) -> int:
    """Fill R_RACE of row `depth` (whose clock is not needed); how many races it is in."""
    row = row_at(ctx, depth)
    put(row, R_RACES, 0)
    if get(row, R_KIND) == AGAIN:
        _find_again_races(ctx, depth)
    elif get(row, R_ADDR) >= 0:
        _find_word_races(ctx, depth, row)
    return get(row, R_RACES)


@array_kernel
def _find_word_races(ctx: int, depth: int, row: int) -> None:
    """Go back through what touched the word, to the first write that explains all before it."""
    actor, kind, access = get(row, R_ACTOR), get(row, R_KIND), get(row, R_CLASS)
    # What is known to come before: by the own actor, then by each race that was found.
    covered = row_at(ctx, get(ctx, at.H_STEPS_MAX) + 1)
    _copy_base(ctx, row, covered)
    closed = 0  # places in the chain of steps that had to come before this one, alone
    place = -1
    event = get(row, R_PREV_WORD)
    while event != 0:
        early = event - 1
        other = row_at(ctx, early)
        them, their_class = get(other, R_ACTOR), get(other, R_CLASS)
        event = get(other, R_PREV_WORD)
        place += 1
        if them == actor or get(covered, R_CLOCK + them) > early:
            if their_class == WRITE:
                break
            continue
        if classes_conflict(their_class, access) == 0:
            continue
        if is_guarded(kind) and not _possible_without(ctx, early, 0, depth):
            _find_companions(ctx, early, closed, depth)
            if place < PLACES_MAX:
                closed |= 1 << place
            continue
        _note_race(ctx, row, early, 0)
        _join(ctx, covered, R_CLOCK, other)
        if their_class == WRITE:
            break
    if get(ctx, at.H_AGAINS) != 0 and access != READ:
        _find_races_with_again(ctx, depth, covered)


@array_kernel
def _find_companions(ctx: int, early: int, closed: int, late: int) -> None:
    """Sets of steps that are not in the way when they come later together with `early`."""
    row = row_at(ctx, late)
    # Whatever happens after `early` comes later anyway.
    free = 0
    event = get(row, R_PREV_WORD)
    for place in range(PLACES_MAX):
        if event <= early + 1:
            break
        if (closed >> place) & 1 != 0 and happens_before(ctx, early, event - 1) == 0:
            free |= 1 << place
        event = get(row_at(ctx, event - 1), R_PREV_WORD)
    companions = free
    while companions != 0:
        if _possible_without(ctx, early, companions, late):
            _note_race(ctx, row, early, companions)
        companions = (companions - 1) & free


@inlined_array_kernel
def _copy_base(ctx: int, row: int, covered: int) -> None:
    put(covered, R_PREV_ACTOR, get(row, R_PREV_ACTOR))
    _begin_clock(ctx, covered, R_CLOCK)


@array_kernel
def _possible_without(ctx: int, early: int, companions: int, late: int) -> int:
    """Whether the guarded step of row `late` could be done before `early` and its companions."""
    remove(ctx, early, companions, late)
    row = row_at(ctx, late)
    return guard_holds(get(row, R_KIND), value_without(ctx, early, late), get(row, R_B))


@array_kernel
def _find_again_races(ctx: int, depth: int) -> None:
    """AGAIN races with a write that it comes after if another one would have helped as well."""
    row = row_at(ctx, depth)
    actor, last, began = get(row, R_ACTOR), get(row, R_PREV_ACTOR), get(row, R_ATTEMPT)
    for early in range(depth):
        other = row_at(ctx, early)
        if not _spoils(ctx, other, early, last, began, actor):
            continue
        if last != 0 and happens_before(ctx, early, last - 1):
            continue
        possible = 0
        for event in range(depth):
            helps = event != early and (event < early or happens_before(ctx, early, event) == 0)
            if helps and _spoils(ctx, row_at(ctx, event), event, last, began, actor):
                possible = 1
        if possible:
            _note_race(ctx, row, early, 0)


@array_kernel
def _find_races_with_again(ctx: int, depth: int, covered: int) -> None:
    """A write races with each AGAIN that has looked at its word."""
    row = row_at(ctx, depth)
    for early in range(depth - 1, -1, -1):
        other = row_at(ctx, early)
        them = get(other, R_ACTOR)
        if get(other, R_KIND) != AGAIN or them == get(row, R_ACTOR):
            continue
        if get(covered, R_CLOCK + them) > early:
            continue
        if _reads_again(ctx, other, row):
            _note_race(ctx, row, early, 0)
            _join(ctx, covered, R_CLOCK, other)
