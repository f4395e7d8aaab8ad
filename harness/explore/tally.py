"""How many executions fail, by whom they are noticed, and with how few preemptions.

An execution counts once, for what noticed it first: a fault while it ran, else its outcome, else
the audit of its final state.  Audits are Python's; its verdict about a state is kept beside the
state's hash, so that executions that end in a known state are judged here.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from harness.explore import block as at
from harness.explore.block import R_PREEMPTIONS, row_at
from harness.explore.faults import SLOTS, slot_of
from harness.watch.words import get, put
from mmu.machine.cpu import Words
from mmu.machine.kernel import array_kernel, inlined_array_kernel

NOBODY = 0  # notices anything
FIRST_FAULT = 1  # who notices: a kind of fault (its slot), or an oracle at the end
FIRST_ORACLE = FIRST_FAULT + SLOTS
ORACLES_MAX = 32
NOTICERS = FIRST_ORACLE + ORACLES_MAX
# Of each who notices: failing executions, and the fewest preemptions of one.
COUNT, FEWEST, COUNTER_WORDS = range(3)
# The words of H_TALLY: addresses of verdicts beside the tables of outcomes and states (who would
# notice), executions that nobody could judge since a table is full, then the counters.
OUTCOME_VERDICTS, STATE_VERDICTS, UNJUDGED, COUNTERS = range(4)


@inlined_array_kernel
def _preemptions(ctx: int, depth: int) -> int:
    """Of the present trace's first rows."""
    return get(row_at(ctx, depth - 1), R_PREEMPTIONS) if depth > 0 else 0


@array_kernel
def _who_notices_the_end(ctx: int) -> int:
    """What is known about the outcome and the final state of a complete execution."""
    own = get(ctx, at.H_TALLY)
    noticer = NOBODY
    if get(ctx, at.H_OUTCOME_WORDS) != 0:
        if get(ctx, at.H_OUTCOME_PLACE) < 0:
            put(own, UNJUDGED, get(own, UNJUDGED) + 1)
        else:
            noticer = get(get(own, OUTCOME_VERDICTS), get(ctx, at.H_OUTCOME_PLACE))
    if get(ctx, at.H_STATES) != 0 and noticer == NOBODY:
        if get(ctx, at.H_STATE_PLACE) < 0:
            put(own, UNJUDGED, get(own, UNJUDGED) + 1)
        else:
            noticer = get(get(own, STATE_VERDICTS), get(ctx, at.H_STATE_PLACE))
    return noticer


@array_kernel
def count_failure(ctx: int) -> None:
    """Count the execution that has ended, and about which Python knows all there is to know."""
    noticer, depth = NOBODY, get(ctx, at.H_DEPTH)
    if get(ctx, at.H_STATUS) == at.STATUS_CUT:
        return  # another execution is the same trace
    if get(ctx, at.H_FAULT) != at.FAULT_NONE:
        noticer = FIRST_FAULT + slot_of(get(ctx, at.H_FAULT))
        depth = min(depth, get(ctx, at.H_FAULT_DEPTH))
    elif get(ctx, at.H_STATUS) == at.STATUS_COMPLETE:
        noticer = _who_notices_the_end(ctx)
    if noticer == NOBODY:
        return
    counter = get(ctx, at.H_TALLY) + 8 * (COUNTERS + noticer * COUNTER_WORDS)
    preemptions = _preemptions(ctx, depth)
    if get(counter, COUNT) == 0 or preemptions < get(counter, FEWEST):
        put(counter, FEWEST, preemptions)
    put(counter, COUNT, get(counter, COUNT) + 1)


class Tally:
    """Counts the failing executions of one engine's block from now on."""

    def __init__(self, block: Words) -> None:
        self._block = block
        self._words = np.zeros(COUNTERS + NOTICERS * COUNTER_WORDS, np.int64)
        self._verdicts = np.zeros((2, at.STATES_MAX), np.int64)
        self._names: list[str] = []
        self._words[OUTCOME_VERDICTS] = self._verdicts[0].ctypes.data
        self._words[STATE_VERDICTS] = self._verdicts[1].ctypes.data
        block[at.H_TALLY] = self._words.ctypes.data

    def note_outcome(self) -> None:
        """The present execution's outcome is forbidden, as are all equal ones."""
        self._note(0, at.H_OUTCOME_PLACE, "outcome")

    def note_state(self, oracle: str) -> None:
        """The present execution's final state is one that `oracle` does not allow."""
        self._note(1, at.H_STATE_PLACE, oracle)

    def _note(self, table: int, place: int, oracle: str) -> None:
        if oracle not in self._names:
            self._names.append(oracle)
        self._verdicts[table, int(self._block[place])] = FIRST_ORACLE + self._names.index(oracle)

    @property
    def unjudged(self) -> int:
        """Executions that nobody could judge; with any, counts say nothing."""
        return int(self._words[UNJUDGED])

    def counts(self) -> Iterator[tuple[int | str, int, int]]:
        """(slot of a fault, or oracle; failing executions, fewest preemptions)."""
        counters = self._words[COUNTERS:].reshape(NOTICERS, COUNTER_WORDS)
        for noticer in np.flatnonzero(counters[:, COUNT]).tolist():
            count, fewest = map(int, counters[noticer])
            last = noticer - FIRST_ORACLE
            yield (self._names[last] if last >= 0 else noticer - FIRST_FAULT), count, fewest
