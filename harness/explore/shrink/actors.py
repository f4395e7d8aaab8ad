"""Pass: actors that do nothing at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from harness.explore.shrink.case import Case
from workloads.scenarios.idle import NOTHING

ABOUT = "actors dropped"


def candidates(case: Case) -> Iterator[Case]:
    """Each with one actor less; the last first, since helpers are rarely what a race is about.

    One stays: a failure that needs nobody is the set-up's, and no story.
    """
    if case.base is not None:
        names = [
            actor.name
            for actor in case.base.actors
            if case.reduction.actors.get(actor.name) != NOTHING
        ]
        for name in reversed(names if len(names) > 1 else []):
            yield case.doing(name, NOTHING)
        return
    parts = case.program.parts
    acting = [number for number, part in enumerate(parts) if part.operations]
    for number in reversed(acting if len(acting) > 1 else []):
        idle = replace(parts[number], operations=())
        less = (*parts[:number], idle, *parts[number + 1 :])
        yield replace(case, program=replace(case.program, parts=less))
