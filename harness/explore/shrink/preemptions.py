"""Pass: the same trace in the order that has the fewest preemptions.

Dijkstra over how far each actor has come.  An actor goes on until it needs a step of another one,
or until it has done one that another one needs: only there can it be worth while to leave it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from harness.explore.shrink.order import Order, order_of
from harness.explore.shrink.turns import Schedule, Turns, real, turns_of
from mmu.machine.events import ACQUIRE, WAIT_WHILE

ABOUT = "preemptions, within the trace"
STATES_MAX = 100_000

Place = tuple[int, ...]  # rows done, by actor


def candidates(schedule: Schedule) -> Iterator[Turns]:
    """One order with the fewest preemptions that the trace allows."""
    if schedule.preemptions == 0:
        return
    rows = _Search(order_of(real(schedule.steps))).best()
    if rows is not None:
        steps = real(schedule.steps)
        yield turns_of(steps[row].actor for row in rows)


class _Search:
    def __init__(self, order: Order) -> None:
        self._order = order
        actors = sorted({step.actor for step in order.steps})
        self._rows = [
            [row for row, step in enumerate(order.steps) if step.actor == actor] for actor in actors
        ]
        self._index = [0] * len(order.steps)
        self._lane = [0] * len(order.steps)
        for lane, rows in enumerate(self._rows):
            for index, row in enumerate(rows):
                self._index[row], self._lane[row] = index, lane
        # Rows that a step of another actor needs.
        self._needed = {
            earlier
            for row, before in enumerate(order.before)
            for earlier in before
            if order.steps[earlier].actor != order.steps[row].actor
        }

    def best(self) -> list[int] | None:
        """Rows in their new order; None if there are too many places to look at."""
        start: Place = (0,) * len(self._rows)
        end = tuple(map(len, self._rows))
        last_lane = self._lane[len(self._order.steps) - 1]
        heap: list[tuple[int, int, Place, int]] = [(0, 0, start, -1)]
        came: dict[tuple[Place, int], tuple[int, tuple[Place, int] | None]] = {
            (start, -1): (0, None)
        }
        number = 0
        while heap:
            cost, _, place, lane = heapq.heappop(heap)
            if came[place, lane][0] < cost:
                continue
            if place == end and lane == last_lane:
                return self._path(came, (place, lane))
            for other in range(len(self._rows)):
                further = self._run(place, other, end, last_lane)
                if further == place:
                    continue
                paid = cost + self._price(place, lane, other)
                if paid < came.get((further, other), (paid + 1, None))[0]:
                    came[further, other] = (paid, (place, lane))
                    number += 1
                    heapq.heappush(heap, (paid, number, further, other))
            if number > STATES_MAX:
                return None
        return None

    def _ready(self, place: Place, row: int) -> bool:
        return all(
            self._index[earlier] < place[self._lane[earlier]] for earlier in self._order.before[row]
        )

    def _run(self, place: Place, lane: int, end: Place, last_lane: int) -> Place:
        """As far as it can go, but for good places to leave it; the last step comes last."""
        rows, done = self._rows[lane], place[lane]
        while done < len(rows) and self._ready(
            (*place[:lane], done, *place[lane + 1 :]), rows[done]
        ):
            here = (*place[:lane], done + 1, *place[lane + 1 :])
            if lane == last_lane and done + 1 == len(rows) and here != end:
                break
            done += 1
            if rows[done - 1] in self._needed:
                break
        return (*place[:lane], done, *place[lane + 1 :])

    def _price(self, place: Place, lane: int, other: int) -> int:
        """1 for leaving somebody who could go on."""
        if lane in (-1, other):
            return 0
        rows, done = self._rows[lane], place[lane]
        if done == len(rows):
            return 0
        waits = self._order.steps[rows[done]].kind in (ACQUIRE, WAIT_WHILE)
        return int(self._ready(place, rows[done]) or not waits)

    def _path(
        self,
        came: dict[tuple[Place, int], tuple[int, tuple[Place, int] | None]],
        state: tuple[Place, int],
    ) -> list[int]:
        parts: list[list[int]] = []
        previous = came[state][1]
        while previous is not None:
            (place, lane), before = state, previous[0]
            parts.append(self._rows[lane][before[lane] : place[lane]])
            state, previous = previous, came[previous][1]
        return [row for part in reversed(parts) for row in part]
