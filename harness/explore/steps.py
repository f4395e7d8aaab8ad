"""What a pending step would do, and which steps do not commute.

Everything is known before the step runs: the hook is called with all operands, only one actor
runs, and nothing happens between the choice and the step.  So a cmpxchg that fails is a read.

Conflict classes of steps on one word: reads commute with reads, counts with counts, shared
acquisitions and releases of a lock with each other; a write with nothing.  Two steps of
different classes never commute.  A shared unit lies above the bits that shared acquirers look
at, so none of them can enable or disable another.
"""

from __future__ import annotations

from harness.explore.block import R_ADDR, R_CLASS, R_KIND, R_PENDING
from harness.watch.words import get
from mmu.machine.blocking import SHARED_MASK, SHARED_UNIT
from mmu.machine.events import (
    ACQUIRE,
    AGAIN,
    CMPXCHG,
    COUNT,
    FETCH_ADD,
    FETCH_AND,
    FETCH_OR,
    LOAD_ACQUIRE,
    PEEK,
    POKE,
    READ_ONCE,
    RELEASE,
    STORE_RELEASE,
    WAIT_WHILE,
    WRITE_ONCE,
    XCHG,
)
from mmu.machine.kernel import array_kernel, inlined_array_kernel

READ, WRITE, COUNTED, SHARED, NO_WORD = range(5)
MASK_BITS = 0xFFFFFFFF


@inlined_array_kernel
def is_guarded(kind: int) -> int:
    """Whether the step has to wait for its word."""
    return int(kind in (ACQUIRE, WAIT_WHILE))


@inlined_array_kernel
def guard_holds(kind: int, word: int, b: int) -> int:
    """Whether the step could be done if its word held `word`."""
    if kind == ACQUIRE:
        return int(word & b & MASK_BITS == b >> 32)
    if kind == WAIT_WHILE:
        return int(word != b)
    return 1


@inlined_array_kernel
def class_of(kind: int, word: int, b: int, c: int) -> int:
    """Conflict class of the step if its word holds `word`."""
    if kind in (READ_ONCE, LOAD_ACQUIRE, PEEK, WAIT_WHILE):
        return READ
    if kind == CMPXCHG:
        return WRITE if word == b else READ
    if kind == COUNT:
        return COUNTED
    if kind == ACQUIRE and c & (SHARED_UNIT - 1) == 0 and b & SHARED_MASK == 0:
        return SHARED
    if kind == RELEASE and c & (SHARED_UNIT - 1) == 0:
        return SHARED
    return WRITE


@inlined_array_kernel
def value_after(kind: int, word: int, b: int, c: int) -> int:
    """What the word holds after the step."""
    if kind in (WRITE_ONCE, STORE_RELEASE, POKE, XCHG):
        return b
    if kind == CMPXCHG:
        return c if word == b else word
    if kind in (FETCH_ADD, COUNT):
        return word + b
    if kind == FETCH_OR:
        return word | b
    if kind == FETCH_AND:
        return word & b
    if kind in (ACQUIRE, RELEASE):
        return word + c
    return word


@inlined_array_kernel
def classes_conflict(one: int, other: int) -> int:
    """Whether two steps on one word do not commute."""
    return int(one != other or one == WRITE)


# A pending step in one word: address << 5 | waits in AGAIN << 4 | class << 1 | enabled.


@inlined_array_kernel
def summary(addr: int, kind: int, access: int, enabled: int) -> int:
    """Pack what must be remembered of a step that was possible but not chosen."""
    return addr << 5 | int(kind == AGAIN) << 4 | access << 1 | enabled


@inlined_array_kernel
def summary_class(pending: int) -> int:
    """Class in a summary."""
    return (pending >> 1) & 7


@array_kernel
def disturbs(row: int, actor: int) -> int:
    """Whether the step at `row` conflicts with what `actor` was about to do there instead."""
    pending = get(row, R_PENDING + actor)
    if get(row, R_ADDR) < 0:
        return 0
    if pending & 16 != 0:
        # It waits for any write at all: woken too often is only slower.
        return int(get(row, R_CLASS) != READ)
    if pending >> 5 != get(row, R_ADDR):
        return 0
    return classes_conflict(summary_class(pending), get(row, R_CLASS))


@inlined_array_kernel
def is_answer(row: int) -> int:
    """Whether the row is an answered question (draw, probe), not a step."""
    return int(get(row, R_KIND) > AGAIN)
