"""random: each step uniform over who can go on.

Biased towards finishing short actors early; exponentially unlikely to keep one waiting for long.
"""

from __future__ import annotations

from harness.explore import block as at
from harness.explore.block import members, nth_member, random_below
from harness.explore.schedule import drop_rows
from mmu.machine.cpu import Words

SYSTEMATIC = at.RANDOM_DRAWS
WORDS = 0


def prepare(words: Words, seed: int, depth: int) -> None:
    """Nothing."""


def remark(words: Words, actors: int) -> str:
    """Nothing."""
    return ""


def begin(ctx: int, _: int) -> int:
    """Nothing."""
    return 0


def choose(ctx: int, runnable: int) -> int:
    """Anybody."""
    return nth_member(runnable, random_below(ctx, members(runnable)))


def finish(ctx: int, _: int) -> int:
    """There is always another one."""
    return drop_rows(ctx)
