"""follow: a recorded schedule, by meaning: which actor does which step on which word.

A step that the recording does not have (the model was edited) may be done in between by the
actor whose turn it is, a limited number of times.  Behind the end of the recording whoever runs
goes on.
"""

from __future__ import annotations

from harness.explore import block as at
from harness.explore.block import A_ADDR, A_KIND, R_ACTOR, actor_at, lowest, row_at
from harness.explore.faults import break_off
from harness.explore.schedule import drop_rows
from harness.watch.words import get, put
from mmu.machine.cpu import Words
from mmu.machine.events import AGAIN

SYSTEMATIC = at.RANDOM_DRAWS
NEW_STEPS_MAX = 64
# Own memory: how many recorded steps, then actor, kind and word of each.
COUNT, SCRIPT = range(2)
ENTRY_WORDS = 3
WORDS = SCRIPT
# In the engine's block: how many were followed, and how many new steps were done.
FOLLOWED, NEW_STEPS = range(at.H_STRATEGY, at.H_STRATEGY + 2)


def prepare(words: Words, seed: int, depth: int) -> None:
    """The recording stands there already: count its steps."""
    words[COUNT] = (len(words) - SCRIPT) // ENTRY_WORDS


def remark(words: Words, actors: int) -> str:
    """Nothing."""
    return ""


def begin(ctx: int, _: int) -> int:
    """From the first recorded step."""
    put(ctx, FOLLOWED, 0)
    put(ctx, NEW_STEPS, 0)
    return 0


def choose(ctx: int, runnable: int) -> int:
    """Whose step is recorded next."""
    own = get(ctx, at.H_STRATEGY_BLOCK)
    followed = get(ctx, FOLLOWED)
    if followed >= get(own, COUNT):
        depth = get(ctx, at.H_DEPTH)
        current = get(row_at(ctx, depth - 1), R_ACTOR) if depth > 0 else 0
        return current if (runnable >> current) & 1 != 0 else lowest(runnable)
    entry = own + 8 * (SCRIPT + followed * ENTRY_WORDS)
    actor = get(entry, 0)
    handle = actor_at(ctx, actor)
    kind = get(handle, A_KIND)
    same = kind == get(entry, 1) and get(handle, A_ADDR) == get(entry, 2)
    if same:
        put(ctx, FOLLOWED, followed + 1)
    elif kind != AGAIN:
        put(ctx, NEW_STEPS, get(ctx, NEW_STEPS) + 1)
    if (runnable >> actor) & 1 == 0 or get(ctx, NEW_STEPS) > NEW_STEPS_MAX:
        put(ctx, FOLLOWED, followed)
        break_off(ctx, at.FAULT_DIVERGED, actor, followed, 0)
        return at.HUB
    return actor


def finish(ctx: int, _: int) -> int:
    """There is only this one."""
    drop_rows(ctx)
    return 0
