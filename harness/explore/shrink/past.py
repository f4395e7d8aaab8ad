"""Pass: only what had to come before the violation."""

from __future__ import annotations

from collections.abc import Iterator

from harness.explore.shrink.order import order_of, past_of
from harness.explore.shrink.turns import Schedule, Turns, real, turns_of

ABOUT = "steps that nothing follows from"


def candidates(schedule: Schedule) -> Iterator[Turns]:
    """The last step with its past, in the order that it had."""
    steps = real(schedule.steps)
    past = past_of(order_of(steps), len(steps) - 1)
    if len(past) < len(steps):
        yield turns_of(steps[row].actor for row in sorted(past))
