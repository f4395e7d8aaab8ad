"""A recorded execution: the steps in their order, with what each saw and left.

The engine writes it, reproducers store it by meaning, the interpreted twin tells it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One step, or one answered question (`DRAW`, `PROBE`), of one actor.

    `kind` is of `mmu.machine.events`; `word` the index of the shared word (-1 for questions),
    `old` and `new` its value before and after.  For questions `old` is how many alternatives
    there were, `new` the answer.  `b`, `c` are the hook's operands.
    """

    actor: int
    kind: int
    word: int
    old: int
    new: int
    b: int = 0
    c: int = 0


@dataclass(frozen=True)
class Finding:
    """A broken rule with the schedule that breaks it.

    `oracle` is the oracle's name, or `outcome`, `check`, `raised`;
    `actor` who was running (-1: nobody, it showed at the end).
    """

    oracle: str
    message: str
    actor: int
    steps: tuple[Step, ...]
