"""What a strategy is: three compiled functions that the engine calls by address."""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, cast

from mmu.machine.cpu import Words


class Strategy(Protocol):
    """A strategy's module.

    Its functions take the engine's block and one number.  Its own memory is 32 words in the
    engine's block (`H_STRATEGY`), `WORDS` words at the address in `H_STRATEGY_BLOCK`, and four in
    each actor (`A_STRATEGY`); all are 0 at first.
    """

    SYSTEMATIC: int  # RANDOM_DRAWS, ALL_DRAWS or NO_DRAWS of `block`
    WORDS: int

    def begin(self, ctx: int, nothing: int) -> int:
        """Called before each execution."""

    def choose(self, ctx: int, runnable: int) -> int:
        """Who does the next step, of the mask of those who can; HUB cuts the execution."""

    def finish(self, ctx: int, nothing: int) -> int:
        """Called after each execution: take its rows back; 0 if nothing is left to explore."""

    def prepare(self, words: Words, seed: int, depth: int) -> None:
        """Fill the strategy's own words at the start (`WORDS` of them)."""

    def remark(self, words: Words, actors: int) -> str:
        """What a user should know about the figures that it gives, one line or nothing."""


def load_strategy(name: str) -> Strategy:
    """The module of a strategy."""
    return cast("Strategy", import_module(f"harness.explore.strategies.{name}"))
