"""urw: uniform over interleavings, as far as the lengths of actors are known.

An actor is chosen in proportion to the steps that it still has to do, as the last complete
execution counted them.

Zhao, Wolff, Mathur, Roychoudhury: Selectively Uniform Concurrency Testing (2025).
"""

from __future__ import annotations

from harness.explore import block as at
from harness.explore.block import (
    A_STRATEGY,
    R_ACTOR,
    actor_at,
    lowest,
    members,
    nth_member,
    random_below,
    row_at,
)
from harness.explore.schedule import drop_rows
from harness.watch.words import get, put
from mmu.machine.cpu import Words
from mmu.machine.kernel import array_kernel

SYSTEMATIC = at.RANDOM_DRAWS
WORDS = 0
LEFT, EXPECTED, DONE = range(A_STRATEGY, A_STRATEGY + 3)


def prepare(words: Words, seed: int, depth: int) -> None:
    """Nothing."""


def remark(words: Words, actors: int) -> str:
    """Nothing."""
    return ""


def begin(ctx: int, _: int) -> int:
    """Everybody has everything to do."""
    for actor in range(get(ctx, at.H_ACTORS)):
        handle = actor_at(ctx, actor)
        put(handle, LEFT, get(handle, EXPECTED))
    return 0


@array_kernel
def weighted_choice(ctx: int, mask: int) -> int:
    """One of `mask` in proportion to what it has left; uniform if nobody is known to have any."""
    total = 0
    rest = mask
    while rest != 0:
        total += get(actor_at(ctx, lowest(rest)), LEFT)
        rest &= rest - 1
    if total == 0:
        return nth_member(mask, random_below(ctx, members(mask)))
    at_share = random_below(ctx, total)
    rest = mask
    while rest != 0:
        actor = lowest(rest)
        rest &= rest - 1
        at_share -= get(actor_at(ctx, actor), LEFT)
        if at_share < 0:
            return actor
    return lowest(mask)


def choose(ctx: int, runnable: int) -> int:
    """In proportion to what is left."""
    actor = weighted_choice(ctx, runnable)
    handle = actor_at(ctx, actor)
    put(handle, LEFT, max(get(handle, LEFT) - 1, 0))
    return actor


def finish(ctx: int, _: int) -> int:
    """Count everybody's steps if all were done."""
    if get(ctx, at.H_STATUS) == at.STATUS_COMPLETE:
        for actor in range(get(ctx, at.H_ACTORS)):
            put(actor_at(ctx, actor), DONE, 0)
        for depth in range(get(ctx, at.H_DEPTH)):
            handle = actor_at(ctx, get(row_at(ctx, depth), R_ACTOR))
            put(handle, DONE, get(handle, DONE) + 1)
        for actor in range(get(ctx, at.H_ACTORS)):
            handle = actor_at(ctx, actor)
            put(handle, EXPECTED, get(handle, DONE))
    return drop_rows(ctx)
