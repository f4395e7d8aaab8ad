"""Pass: switches that are not needed, also where leaving them out gives another trace.

Adaptive: a turn is first joined whole with the actor's turn before or after it, then by halves.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.explore.shrink.turns import Schedule, Turn, Turns

ABOUT = "switches merged"


def candidates(schedule: Schedule) -> Iterator[Turns]:
    """Each with a turn, or a part of one, moved to a neighbour of the same actor; or gone."""
    turns = schedule.turns
    for here in reversed(range(len(turns))):
        yield _joined([*turns[:here], *turns[here + 1 :]])
        for there in _neighbours(turns, here):
            size = turns[here][1]
            while size > 0:
                yield _joined(_moved(turns, here, there, size))
                size //= 2


def _neighbours(turns: Turns, here: int) -> Iterator[int]:
    """The same actor's turns before and after."""
    actor = turns[here][0]
    for rows in (range(here - 1, -1, -1), range(here + 1, len(turns))):
        for there in rows:
            if turns[there][0] == actor:
                yield there
                break


def _moved(turns: Turns, here: int, there: int, steps: int) -> list[Turn]:
    """With so many steps of one turn done in the other."""
    moved = list(turns)
    actor = turns[here][0]
    moved[here] = (actor, turns[here][1] - steps)
    moved[there] = (actor, turns[there][1] + steps)
    return moved


def _joined(turns: list[Turn]) -> Turns:
    """Without empty turns, and neighbours of one actor as one."""
    joined: list[Turn] = []
    for actor, steps in turns:
        if steps and joined and joined[-1][0] == actor:
            joined[-1] = (actor, joined[-1][1] + steps)
        elif steps:
            joined.append((actor, steps))
    return tuple(joined)
