"""The recorder: an observer that writes down every call of the hook, compiled or interpreted.

One function, `record`, is both: numba makes the callback of compiled code from it, and Python
calls it as it stands.  So two runs of one program, compiled and interpreted, leave equal rows
exactly if they did the same.

Everything it answers is fixed beforehand: GO, clock values that grow by one, no draws, no forced
failures; and STOP from a given call on, to see that everything ends.  One recorder serves one
process at a time: its rows are not written atomically.
"""

from __future__ import annotations

from functools import cache, partial

import numpy as np

from harness.watch.words import compiled_hook, load_word, store_word
from mmu.machine.cpu import Observer, Words
from mmu.machine.events import CLOCK, GO, STEP_LAST, STOP

CAPACITY_DEFAULT = 1 << 14

# The block: a header, then one row per call.
(
    H_CAPACITY,  # rows that fit; further calls are counted only
    H_COUNT,  # calls so far
    H_BASE,  # address of word 0 of the watched block
    H_WORDS,  # its size: a step on a word outside is wild
    H_STOP_AT,  # number of the first call that is answered STOP, 0: none
    H_CLOCK,  # the next clock value
    H_WILD,  # number of the first wild call, 0: none
    HEADER_WORDS,
) = range(8)
(ROW_ACTOR, ROW_KIND, ROW_A, ROW_B, ROW_C, ROW_VALUE, ROW_WORDS) = range(7)


def record(ctx: int, actor: int, kind: int, a: int, b: int, c: int) -> int:
    """The hook: write down who announces what, and what the word holds before the step."""
    count = load_word(ctx, H_COUNT) + 1
    store_word(ctx, H_COUNT, count)
    value = 0
    if kind <= STEP_LAST:
        if a >= 0 and a < load_word(ctx, H_WORDS):
            value = load_word(load_word(ctx, H_BASE), a)
        elif load_word(ctx, H_WILD) == 0:
            store_word(ctx, H_WILD, count)
    if count <= load_word(ctx, H_CAPACITY):
        row = HEADER_WORDS + (count - 1) * ROW_WORDS
        store_word(ctx, row + ROW_ACTOR, actor)
        store_word(ctx, row + ROW_KIND, kind)
        store_word(ctx, row + ROW_A, a)
        store_word(ctx, row + ROW_B, b)
        store_word(ctx, row + ROW_C, c)
        store_word(ctx, row + ROW_VALUE, value)
    stop_at = load_word(ctx, H_STOP_AT)
    if load_word(ctx, H_WILD) != 0 or (stop_at != 0 and count >= stop_at):
        return STOP
    if kind != CLOCK:
        return GO
    now = load_word(ctx, H_CLOCK)
    store_word(ctx, H_CLOCK, now + 1)
    return now


class Recorder:
    """A block that `record` writes to, and what a `Cpu` needs to use it.

    Pass `hook` and `ctx` to `Vm.cpu` for compiled code, `observer(actor)` for interpreted code.
    """

    def __init__(
        self,
        words: Words,
        *,
        capacity: int = CAPACITY_DEFAULT,
        stop_at: int = 0,
        clock: int = 0,
    ) -> None:
        self._watched = words  # alive as long as its address is used
        self.block: Words = np.zeros(HEADER_WORDS + capacity * ROW_WORDS, np.int64)
        self.block[H_CAPACITY] = capacity
        self.block[H_BASE] = words.ctypes.data
        self.block[H_WORDS] = len(words)
        self.restart(stop_at=stop_at, clock=clock)

    def restart(self, *, stop_at: int = 0, clock: int = 0) -> None:
        """Forget all calls and begin again."""
        self.block[H_COUNT] = 0
        self.block[H_WILD] = 0
        self.block[H_STOP_AT] = stop_at
        self.block[H_CLOCK] = clock

    @property
    def hook(self) -> int:
        """Address of the compiled callback."""
        return _hook_address()

    @property
    def ctx(self) -> int:
        """Address of the block."""
        return int(self.block.ctypes.data)

    def observer(self, actor: int) -> Observer:
        """The callback of an interpreted actor."""
        return partial(record, self.ctx, actor)

    @property
    def count(self) -> int:
        """How many calls there were."""
        return int(self.block[H_COUNT])

    @property
    def wild(self) -> int:
        """Number of the first call (from 1) whose step lay outside the block, 0 if none did."""
        return int(self.block[H_WILD])

    def rows(self) -> Words:
        """All calls in order, as a copy (int64, shape (calls, 6): actor, kind, a, b, c, value).

        Raises OverflowError if there were more than the block holds.
        """
        capacity = int(self.block[H_CAPACITY])
        if self.count > capacity:
            raise OverflowError(f"{self.count} calls, {capacity} rows: give a larger capacity")
        rows = self.block[HEADER_WORDS : HEADER_WORDS + self.count * ROW_WORDS]
        return rows.reshape(-1, ROW_WORDS).copy()


@cache
def _hook_address() -> int:
    """Compile the callback, or load it from the cache, once per process."""
    return compiled_hook(record)
