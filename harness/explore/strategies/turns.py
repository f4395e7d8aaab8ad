"""turns: who runs, and for how many steps, one after the other.

Looser than `follow`: it does not ask what the steps are, so a schedule that was changed a little
still says something.  A turn ends when its steps are done or its actor cannot go on; behind the
last one whoever runs goes on.
"""

from __future__ import annotations

from harness.explore import block as at
from harness.explore.block import A_KIND, R_ACTOR, actor_at, lowest, row_at
from harness.explore.schedule import drop_rows
from harness.watch.words import get, put
from mmu.machine.cpu import Words
from mmu.machine.events import AGAIN

SYSTEMATIC = at.RANDOM_DRAWS
# Own memory: how many turns, then actor and steps of each.
COUNT, SCRIPT = range(2)
ENTRY_WORDS = 2
WORDS = SCRIPT
# In the engine's block: which turn it is, and how many of its steps were done.
TURN, DONE = range(at.H_STRATEGY, at.H_STRATEGY + 2)


def prepare(words: Words, seed: int, depth: int) -> None:
    """The recording stands there already: count its turns."""
    words[COUNT] = (len(words) - SCRIPT) // ENTRY_WORDS


def remark(words: Words, actors: int) -> str:
    """Nothing."""
    return ""


def begin(ctx: int, _: int) -> int:
    """From the first turn."""
    put(ctx, TURN, 0)
    put(ctx, DONE, 0)
    return 0


def choose(ctx: int, runnable: int) -> int:
    """Whose turn it is."""
    own = get(ctx, at.H_STRATEGY_BLOCK)
    while get(ctx, TURN) < get(own, COUNT):
        entry = own + 8 * (SCRIPT + get(ctx, TURN) * ENTRY_WORDS)
        actor, steps = get(entry, 0), get(entry, 1)
        if get(ctx, DONE) < steps and (runnable >> actor) & 1 != 0:
            if get(actor_at(ctx, actor), A_KIND) != AGAIN:
                put(ctx, DONE, get(ctx, DONE) + 1)
            return actor
        put(ctx, TURN, get(ctx, TURN) + 1)
        put(ctx, DONE, 0)
    depth = get(ctx, at.H_DEPTH)
    current = get(row_at(ctx, depth - 1), R_ACTOR) if depth > 0 else 0
    return current if (runnable >> current) & 1 != 0 else lowest(runnable)


def finish(ctx: int, _: int) -> int:
    """There is only this one."""
    drop_rows(ctx)
    return 0
