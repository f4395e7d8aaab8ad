"""The ring: each actor's last events, in shared memory, readable after a kill.

Taken down are tracepoints but the frequent ones (accesses of a guest, RCU sections), broken rules,
and what was injected.

Where steps are asked for as well, a row stands there before its step is done: the word and the
operands; for a read what the word held just then.  Questions, costs and reads of memory that is not
published say nothing about an interleaving.  Writes to such memory one after the other (a table
that is filled) are one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.watch.block import (
    ASK_RING,
    CONTROL_LAST,
    CONTROL_MOMENT,
    KIND_BITS,
    KIND_MASK,
    NEVER,
    ROW_A,
    ROW_B,
    ROW_C,
    ROW_STAMP,
    ROW_WORDS,
    W_ASKED,
    W_BASE,
    W_BEGAN,
    W_CONTROL,
    W_COUNT,
    W_ROW_MASK,
    W_ROWS,
)
from harness.watch.words import get, load_word, put, store_word, ticks
from mmu.machine.cpu import Words
from mmu.machine.events import (
    EMIT,
    FREQUENT,
    GO,
    LOAD_ACQUIRE,
    PAGE_FAULT,
    PEEK,
    POKE,
    READ_ONCE,
    SPTE_CHANGED,
    WARN,
)
from mmu.machine.kernel import array_kernel, inlined_array_kernel

ROWS_MAX = 1 << 16
# How long rings go on after a rule was broken, in ticks: what others did meanwhile belongs to it.
AFTER_TICKS = 1 << 14
CLOCK_ROWS_MASK = 15
_ENTRY = EMIT + SPTE_CHANGED
_FAULT = EMIT + PAGE_FAULT


@dataclass(frozen=True)
class Event:
    """A row of an actor's ring; `ticks` since the run began."""

    ticks: int
    actor: int
    kind: int
    a: int
    b: int
    c: int


@inlined_array_kernel
def _row(ctx: int, number: int) -> int:
    """Address of a row."""
    return get(ctx, W_ROWS) + 8 * ROW_WORDS * (number & get(ctx, W_ROW_MASK))


@inlined_array_kernel
def _time_of_row(ctx: int, count: int, kind: int) -> int:
    """When the next row happens, in ticks since the run began; -1 once rings stand still.

    To read the clock costs more than all else here.  So what goes on in one piece has one time, for
    16 rows at most: the entries of a table that is taken down, a fault that changes an entry.
    """
    if count & CLOCK_ROWS_MASK != 0 and kind in (_ENTRY, _FAULT):
        before = get(_row(ctx, count - 1), ROW_STAMP)
        if before & KIND_MASK == _ENTRY:
            return before >> KIND_BITS
    now = ticks()
    if now > load_word(get(ctx, W_CONTROL), CONTROL_LAST):
        return -1
    return now - get(ctx, W_BEGAN)


@inlined_array_kernel
def take_down(ctx: int, kind: int, a: int, b: int, c: int) -> int:
    """The next row; its time (ticks since the run began), -1 once rings stand still.

    It counts only when it is whole: its process may be killed at any moment.
    """
    count = get(ctx, W_COUNT)
    now = _time_of_row(ctx, count, kind)
    if now < 0:
        put(ctx, W_ASKED, get(ctx, W_ASKED) & ~ASK_RING)
        return -1
    row = _row(ctx, count)
    # Stores of this kind stay in their order.
    store_word(row, ROW_STAMP, now << KIND_BITS | kind)
    store_word(row, ROW_A, a)
    store_word(row, ROW_B, b)
    store_word(row, ROW_C, c)
    store_word(ctx, W_COUNT, count + 1)
    return now


@inlined_array_kernel
def _extends_run(ctx: int, a: int, b: int) -> int:
    """A write beside the one before, of the same value: that row says how many there were."""
    count = get(ctx, W_COUNT)
    if count == 0:
        return 0
    row = _row(ctx, count - 1)
    written = get(row, ROW_C)
    if get(row, ROW_STAMP) & KIND_MASK != POKE or get(row, ROW_B) != b:
        return 0
    if get(row, ROW_A) + written != a:
        return 0
    put(row, ROW_C, written + 1)
    return 1


@inlined_array_kernel
def take_down_step(ctx: int, kind: int, a: int, b: int, c: int) -> None:
    """A row for a step on a word of the block."""
    if kind == PEEK:
        return
    if kind == POKE:
        if _extends_run(ctx, a, b) == 0:
            take_down(ctx, kind, a, b, 1)
        return
    if kind in (READ_ONCE, LOAD_ACQUIRE):
        b = load_word(get(ctx, W_BASE), a)
    take_down(ctx, kind, a, b, c)


@array_kernel
def take_down_violation(ctx: int, kind: int, a: int, b: int, c: int) -> None:
    """A broken rule: if it is the run's first, all rings take a little more, then stand still."""
    now = take_down(ctx, kind, a, b, c)
    control = get(ctx, W_CONTROL)
    if now >= 0 and load_word(control, CONTROL_LAST) == NEVER:
        moment = now + get(ctx, W_BEGAN)
        store_word(control, CONTROL_MOMENT, moment)
        store_word(control, CONTROL_LAST, moment + AFTER_TICKS)


@inlined_array_kernel
def take_down_event(ctx: int, kind: int, a: int, b: int, c: int) -> None:
    """A row for a tracepoint or a broken rule."""
    if kind >= WARN:
        take_down_violation(ctx, kind, a, b, c)
    elif FREQUENT >> (kind - EMIT) & 1 == 0:
        take_down(ctx, kind, a, b, c)


def watch_events(ctx: int, actor: int, kind: int, a: int, b: int, c: int) -> int:
    """The hook of who hears of tracepoints only."""
    if get(ctx, W_ASKED) & ASK_RING != 0:
        take_down_event(ctx, kind, a, b, c)
    return GO


def rows_for(wanted: int) -> int:
    """How many rows a ring of `wanted` events has: a power of two, and one may be half written."""
    return 1 << wanted.bit_length() if wanted else 0


def read_ring(actor: int, rows: Words, count: int, wanted: int) -> list[Event]:
    """The last `wanted` events of an actor, oldest first, from its rows and how many it wrote."""
    first = max(0, count - wanted)
    found = []
    for number in range(first, count):
        stamp, a, b, c = map(int, rows[number % len(rows)])
        found.append(Event(stamp >> KIND_BITS, actor, stamp & KIND_MASK, a, b, c))
    return found


def merged(rings: Sequence[Sequence[Event]]) -> list[Event]:
    """All actors' events by time."""
    return sorted((event for ring in rings for event in ring), key=lambda event: event.ticks)
