"""pct: random priorities with d - 1 random changes.

The runnable actor of highest priority runs; at a change point it falls below all others.  A bug
that needs d ordered steps is found in each execution with probability at least
1 / (n * k**(d - 1)), n actors, k steps.

Burckhardt, Kothari, Musuvathi, Nagarakatte: A Randomized Scheduler with Probabilistic Guarantees
of Finding Bugs (2010).
"""

from __future__ import annotations

from harness.explore import block as at
from harness.explore.block import A_STRATEGY, actor_at, lowest, random_below
from harness.explore.schedule import drop_rows
from harness.watch.words import get, put
from mmu.machine.cpu import Words
from mmu.machine.kernel import array_kernel

SYSTEMATIC = at.RANDOM_DRAWS
DEPTH_DEFAULT = 5  # smaller ones find little in kernels of this size
DEPTH_MAX = 32

# Own memory: d, longest execution so far, change points 1 to d - 1.
DEPTH, LONGEST, POINTS = range(3)
WORDS = POINTS + DEPTH_MAX
LONGEST_GUESS = 32


def prepare(words: Words, seed: int, depth: int) -> None:
    """Keep d."""
    words[DEPTH] = min(depth or DEPTH_DEFAULT, DEPTH_MAX)
    words[LONGEST] = LONGEST_GUESS


def remark(words: Words, actors: int) -> str:
    """The bound."""
    depth, steps = int(words[DEPTH]), int(words[LONGEST])
    bound = 1.0 / (actors * float(steps) ** (depth - 1))
    return (
        f"pct: a bug of depth {depth} is found in each execution with probability >= {bound:.2g}"
        f" ({actors} actors, {steps} steps)"
    )


def begin(ctx: int, _: int) -> int:
    """Draw priorities d, d + 1, ... in random order, and the change points."""
    own = get(ctx, at.H_STRATEGY_BLOCK)
    depth = get(own, DEPTH)
    actors = get(ctx, at.H_ACTORS)
    for actor in range(actors):
        # Shuffled as it is dealt: the new priority changes places with a random earlier one.
        other = actor_at(ctx, random_below(ctx, actor + 1))
        handle = actor_at(ctx, actor)
        put(handle, A_STRATEGY, get(other, A_STRATEGY))
        put(other, A_STRATEGY, depth + actor)
    for point in range(1, depth):
        put(own, POINTS + point, random_below(ctx, get(own, LONGEST)))
    return 0


@array_kernel
def highest_priority(ctx: int, mask: int) -> int:
    """Who of `mask` has the highest first strategy word."""
    best = lowest(mask)
    rest = mask & (mask - 1)
    while rest != 0:
        actor = lowest(rest)
        rest &= rest - 1
        if get(actor_at(ctx, actor), A_STRATEGY) > get(actor_at(ctx, best), A_STRATEGY):
            best = actor
    return best


def choose(ctx: int, runnable: int) -> int:
    """The highest priority; at a change point its owner falls behind."""
    own = get(ctx, at.H_STRATEGY_BLOCK)
    actor = highest_priority(ctx, runnable)
    for point in range(1, get(own, DEPTH)):
        if get(own, POINTS + point) == get(ctx, at.H_DEPTH):
            put(actor_at(ctx, actor), A_STRATEGY, get(own, DEPTH) - point)
            actor = highest_priority(ctx, runnable)
    return actor


def finish(ctx: int, _: int) -> int:
    """Remember the longest execution."""
    own = get(ctx, at.H_STRATEGY_BLOCK)
    put(own, LONGEST, max(get(own, LONGEST), get(ctx, at.H_DEPTH)))
    return drop_rows(ctx)
