"""pos: a random priority for each pending step, drawn again for those that race with what ran.

Yuan, Yang, Gu: Partial Order Aware Concurrency Sampling (2018).
"""

from __future__ import annotations

from harness.explore import block as at
from harness.explore.block import (
    A_STRATEGY,
    R_PENDING,
    actor_at,
    lowest,
    random_word,
    row_at,
)
from harness.explore.schedule import drop_rows
from harness.explore.steps import classes_conflict, summary_class
from harness.explore.strategies.pct import highest_priority
from harness.watch.words import get, put
from mmu.machine.cpu import Words

SYSTEMATIC = at.RANDOM_DRAWS
WORDS = 0


def prepare(words: Words, seed: int, depth: int) -> None:
    """Nothing."""


def remark(words: Words, actors: int) -> str:
    """Nothing."""
    return ""


def begin(ctx: int, _: int) -> int:
    """A priority for each first step."""
    for actor in range(get(ctx, at.H_ACTORS)):
        put(actor_at(ctx, actor), A_STRATEGY, random_word(ctx))
    return 0


def choose(ctx: int, runnable: int) -> int:
    """The highest priority; whatever races with it, and its next step, draw new ones."""
    actor = highest_priority(ctx, runnable)
    row = row_at(ctx, get(ctx, at.H_DEPTH))
    chosen = get(row, R_PENDING + actor)
    put(actor_at(ctx, actor), A_STRATEGY, random_word(ctx))
    rest = get(ctx, at.H_LIVE) & ~(1 << actor)
    while rest != 0:
        other = lowest(rest)
        rest &= rest - 1
        pending = get(row, R_PENDING + other)
        same_word = pending >> 5 == chosen >> 5
        if same_word and classes_conflict(summary_class(pending), summary_class(chosen)):
            put(actor_at(ctx, other), A_STRATEGY, random_word(ctx))
    return actor


def finish(ctx: int, _: int) -> int:
    """There is always another one."""
    return drop_rows(ctx)
