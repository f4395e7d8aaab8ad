"""The partial order of a recorded execution: which steps cannot change places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.explore.steps import NO_WORD, class_of, classes_conflict
from harness.explore.trace import Step

# The compiled functions' own meaning, run as Python: a trace has some hundred steps.
_class_of = class_of.py_func  # type: ignore[attr-defined]  # a kernel keeps its function
_conflict = classes_conflict.py_func  # type: ignore[attr-defined]  # as above


@dataclass(frozen=True)
class Order:
    """`before[i]`: rows that must come before row i, its actor's previous one and those of others.

    Only the last of each other actor; what these need is in their own lists.
    """

    steps: tuple[Step, ...]
    before: tuple[tuple[int, ...], ...]


def order_of(steps: Sequence[Step]) -> Order:
    """Program order, and each step's last conflicting one of each other actor."""
    before: list[tuple[int, ...]] = []
    last_of: dict[int, int] = {}
    touched: dict[int, list[tuple[int, int]]] = {}  # word: (row, class), in order
    for row, step in enumerate(steps):
        needs = {step.actor: last_of[step.actor]} if step.actor in last_of else {}
        last_of[step.actor] = row
        if step.word >= 0:
            access = int(_class_of(step.kind, step.old, step.b, step.c))
            for earlier, other in reversed(touched.setdefault(step.word, [])):
                actor = steps[earlier].actor
                if actor not in needs and access != NO_WORD and _conflict(access, other):
                    needs[actor] = earlier
            touched[step.word].append((row, access))
        before.append(tuple(needs.values()))
    return Order(tuple(steps), tuple(before))


def past_of(order: Order, row: int) -> set[int]:
    """The row and everything that must come before it."""
    seen: set[int] = set()
    rest = [row]
    while rest:
        each = rest.pop()
        if each not in seen:
            seen.add(each)
            rest += order.before[each]
    return seen
