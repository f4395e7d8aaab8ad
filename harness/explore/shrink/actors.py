"""Pass: actors that do nothing at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from harness.explore.shrink.case import Case
from workloads.scenarios.idle import NOTHING

ABOUT = "actors dropped"


def candidates(case: Case) -> Iterator[Case]:
    """Each with one actor less; the last first, since helpers are rarely what a race is about."""
    if case.base is not None:
        for actor in reversed(case.base.actors):
            if case.reduction.actors.get(actor.name) != NOTHING:
                yield case.doing(actor.name, NOTHING)
        return
    parts = case.program.parts
    for number in reversed(range(len(parts))):
        if parts[number].operations:
            idle = replace(parts[number], operations=())
            less = (*parts[:number], idle, *parts[number + 1 :])
            yield replace(case, program=replace(case.program, parts=less))
