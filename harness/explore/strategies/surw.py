"""surw: uniform over the interleavings of the accesses to one shared word, drawn each time.

Which words are worth it (two actors, at least one writes) and how often each actor touches them
is learnt from executions that went before.  Other steps follow random fixed priorities.

Zhao, Wolff, Mathur, Roychoudhury: Selectively Uniform Concurrency Testing (2025).
"""

from __future__ import annotations

from harness.explore import block as at
from harness.explore.block import (
    A_ADDR,
    A_STRATEGY,
    R_ACTOR,
    R_ADDR,
    R_CLASS,
    R_PREV_WORD,
    actor_at,
    members,
    nth_member,
    random_below,
    random_word,
    row_at,
)
from harness.explore.schedule import drop_rows
from harness.explore.steps import READ
from harness.explore.strategies.urw import LEFT, weighted_choice
from harness.explore.world import WORDS_MAX
from harness.watch.words import get, put
from mmu.machine.cpu import Words
from mmu.machine.kernel import array_kernel
from workloads.scenario import ACTORS_MAX

SYSTEMATIC = at.RANDOM_DRAWS
LISTED_MAX = 1 << 10
LEARN_FIRST = 16  # executions that are all learnt from; then one in LEARN_EVERY
LEARN_EVERY = 64

# Own memory: how many words are listed, the words, then per shared word: listed or not, and how
# often each actor touched it in an execution at most.
LISTED, LIST = range(2)
COUNTS = LIST + LISTED_MAX
COUNT_WORDS = ACTORS_MAX + 1
WORDS = COUNTS + WORDS_MAX * COUNT_WORDS
# In the engine's block, for the present execution.
CHOSEN_WORD, INTENDED, HELD_BACK = range(at.H_STRATEGY, at.H_STRATEGY + 3)
NOBODY = -1
PRIORITY = A_STRATEGY + 3  # LEFT is urw's first word


def prepare(words: Words, seed: int, depth: int) -> None:
    """Nothing is known yet."""


def remark(words: Words, actors: int) -> str:
    """Nothing."""
    return ""


def begin(ctx: int, _: int) -> int:
    """Draw the word, and priorities for everything else."""
    own = get(ctx, at.H_STRATEGY_BLOCK)
    listed = get(own, LISTED)
    put(ctx, CHOSEN_WORD, NOBODY)
    put(ctx, INTENDED, NOBODY)
    put(ctx, HELD_BACK, 0)
    if listed != 0:
        put(ctx, CHOSEN_WORD, get(own, LIST + random_below(ctx, listed)))
    for actor in range(get(ctx, at.H_ACTORS)):
        handle = actor_at(ctx, actor)
        put(handle, PRIORITY, random_word(ctx))
        left = 0
        if listed != 0:
            left = get(own, COUNTS + get(ctx, CHOSEN_WORD) * COUNT_WORDS + 1 + actor)
        put(handle, LEFT, left)
    return 0


@array_kernel
def _by_priority(ctx: int, mask: int) -> int:
    best = NOBODY
    for actor in range(get(ctx, at.H_ACTORS)):
        if (mask >> actor) & 1 != 0:
            priority = get(actor_at(ctx, actor), PRIORITY)
            if best == NOBODY or priority > get(actor_at(ctx, best), PRIORITY):
                best = actor
    return best


def choose(ctx: int, runnable: int) -> int:
    """By priority, but the chosen word is accessed in an order drawn uniformly."""
    if get(ctx, CHOSEN_WORD) == NOBODY:
        return nth_member(runnable, random_below(ctx, members(runnable)))
    while True:
        free = runnable & ~get(ctx, HELD_BACK)
        if free == 0:
            put(ctx, HELD_BACK, 0)
            put(ctx, INTENDED, NOBODY)
            free = runnable
        actor = _by_priority(ctx, free)
        handle = actor_at(ctx, actor)
        if get(handle, A_ADDR) != get(ctx, CHOSEN_WORD):
            return actor
        put(handle, LEFT, max(get(handle, LEFT), 1))
        if get(ctx, INTENDED) == NOBODY:
            put(ctx, INTENDED, weighted_choice(ctx, get(ctx, at.H_LIVE)))
        if get(ctx, INTENDED) == actor:
            put(handle, LEFT, get(handle, LEFT) - 1)
            put(ctx, HELD_BACK, 0)
            put(ctx, INTENDED, NOBODY)
            return actor
        put(ctx, HELD_BACK, get(ctx, HELD_BACK) | 1 << actor)


@array_kernel
def _learn_word(ctx: int, addr: int) -> None:
    """Count who touched a word in this execution, list it if it matters."""
    own = get(ctx, at.H_STRATEGY_BLOCK)
    counts = own + 8 * (COUNTS + addr * COUNT_WORDS)
    touched, wrote = 0, 0
    for actor in range(get(ctx, at.H_ACTORS)):
        count = 0
        event = get(get(ctx, at.H_LAST), addr)
        while event != 0:
            row = row_at(ctx, event - 1)
            if get(row, R_ACTOR) == actor:
                count += 1
                wrote |= int(get(row, R_CLASS) != READ)
            event = get(row, R_PREV_WORD)
        touched += int(count != 0)
        put(counts, 1 + actor, max(get(counts, 1 + actor), count))
    listed = get(own, LISTED)
    if touched > 1 and wrote and get(counts, 0) == 0 and listed < LISTED_MAX:
        put(counts, 0, 1)
        put(own, LIST + listed, addr)
        put(own, LISTED, listed + 1)


def finish(ctx: int, _: int) -> int:
    """Learn from some executions."""
    number = get(ctx, at.H_EXECUTIONS)
    if number <= LEARN_FIRST or number % LEARN_EVERY == 0:
        for depth in range(get(ctx, at.H_DEPTH)):
            addr = get(row_at(ctx, depth), R_ADDR)
            if addr >= 0 and get(get(ctx, at.H_LAST), addr) == depth + 1:
                _learn_word(ctx, addr)
    return drop_rows(ctx)
