"""The mmu notifier: the host takes pages away, or makes them smaller or read-only.

Between start and end of an invalidation the host changes its mapping.  Start unmaps the range in
*every* root, invalid ones too (somebody may still be zapping them, and tells the host of A and D
bits), and keeps faults from mapping it again: they look at the invalidations under way, and at a
sequence that grows with each one that ended since they asked the host.

Ranges are host pages; each memslot that shows some of them is looked at where it is now.  So start
and end must see the same memslots: whoever changes one waits until none is under way.
"""

from __future__ import annotations

from mmu.hw.tlb import EVERYTHING
from mmu.hw.vcpu import flush_remote_tlbs
from mmu.machine import events
from mmu.machine.blocking import EXCLUSIVE, SHARED_UNIT, acquire_when, release
from mmu.machine.conditions import BALANCE_IN_PROGRESS, warn
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import inlined_kernel, kernel
from mmu.machine.layout import (
    C_GFN_BASE,
    C_SLOT_COUNT,
    IN_PROGRESS,
    INVALIDATE_SEQ,
    N_INVALIDATIONS,
    N_NOTIFIER_UNMAPS,
    NOTIFIERS,
    RANGE_END,
    RANGE_START,
    SLOT_ABSENT,
    SLOT_HOME,
    SLOT_PAGES,
    SLOT_PLACE,
)
from mmu.machine.lock import HELD_MMU_WRITE, assert_held, mmu_write_lock, mmu_write_unlock
from mmu.machine.primitives import config, emit, read_once, stopped, tally, write_once
from mmu.memslots import STATE_BITS, STATE_MASK, slot_word
from mmu.roots import next_root
from mmu.tdp.zap import zap_leafs

# mn_active_invalidate_count.  Two shared units: one would let waiting memslot changes go first,
# and a task that begins a second invalidation within its first would wait for itself.
NOTIFIER_UNIT = 2 * SHARED_UNIT


@inlined_kernel
def _slot_start(cpu: Cpu, slot: int, place: int, first: int) -> int:
    """First gfn that shows host pages from `first` on in the slot."""
    home = config(cpu, slot + SLOT_HOME) - config(cpu, C_GFN_BASE)
    return (place >> STATE_BITS) + max(first - home, 0)


@inlined_kernel
def _slot_end(cpu: Cpu, slot: int, place: int, end: int) -> int:
    """First gfn behind those that show host pages below `end`."""
    home = config(cpu, slot + SLOT_HOME) - config(cpu, C_GFN_BASE)
    return (place >> STATE_BITS) + min(end - home, config(cpu, slot + SLOT_PAGES))


@kernel
def unmap_gfn_range(cpu: Cpu, start: int, end: int, may_block: int, flush: int) -> int:
    """Zap the leafs of [start, end) in all roots; whether a flush is owed (write lock held)."""
    assert_held(cpu, HELD_MMU_WRITE)
    root = next_root(cpu, 0, 0)
    while root != 0 and not stopped(cpu):
        flush = zap_leafs(cpu, root, start, end, may_block, flush)
        root = next_root(cpu, root, 0)
    return flush


@kernel
def _widen(cpu: Cpu, start: int, end: int) -> None:
    """Have the range cover [start, end) too (kvm_mmu_invalidate_range_add)."""
    write_once(cpu, RANGE_START, min(start, read_once(cpu, RANGE_START)))
    write_once(cpu, RANGE_END, max(end, read_once(cpu, RANGE_END)))


@kernel
def _begin(cpu: Cpu, start: int, end: int) -> None:
    """One more invalidation under way (kvm_mmu_invalidate_begin); one range covers them all."""
    under_way = read_once(cpu, IN_PROGRESS) + 1
    write_once(cpu, IN_PROGRESS, under_way)
    if under_way == 1:
        write_once(cpu, RANGE_START, start)
        write_once(cpu, RANGE_END, end)
    else:
        _widen(cpu, start, end)


@kernel
def _finish(cpu: Cpu) -> None:
    """One less (kvm_mmu_invalidate_end): first the sequence, then the count.

    A fault that no longer sees the invalidation under way sees that it has been.
    """
    write_once(cpu, INVALIDATE_SEQ, read_once(cpu, INVALIDATE_SEQ) + 1)
    under_way = read_once(cpu, IN_PROGRESS) - 1
    warn(cpu, under_way < 0 and not stopped(cpu), BALANCE_IN_PROGRESS, 0, under_way, 0)
    write_once(cpu, IN_PROGRESS, under_way)
    tally(cpu, N_INVALIDATIONS, 1)


@kernel
def invalidate_range_start(cpu: Cpu, first: int, end: int, may_block: int) -> None:
    """Before the host changes host pages [first, end): nobody maps or uses them afterwards."""
    acquire_when(cpu, NOTIFIERS, EXCLUSIVE, 0, NOTIFIER_UNIT)
    locked = 0
    flush = 0
    for number in range(config(cpu, C_SLOT_COUNT)):
        slot = slot_word(cpu, number)
        place = read_once(cpu, slot + SLOT_PLACE)
        start_gfn = _slot_start(cpu, slot, place, first)
        end_gfn = _slot_end(cpu, slot, place, end)
        if place & STATE_MASK != SLOT_ABSENT and start_gfn < end_gfn:
            if not locked:
                mmu_write_lock(cpu)
                _begin(cpu, start_gfn, end_gfn)
                locked = 1
            else:
                _widen(cpu, start_gfn, end_gfn)
            flush = unmap_gfn_range(cpu, start_gfn, end_gfn, may_block, flush)
    if flush:
        flush_remote_tlbs(cpu, 0, EVERYTHING)
    if locked:
        mmu_write_unlock(cpu)
    tally(cpu, N_NOTIFIER_UNMAPS, 1)
    emit(cpu, events.INVALIDATE_RANGE_START, first, end, locked)


@kernel
def invalidate_range_end(cpu: Cpu, first: int, end: int) -> None:
    """After the host has changed them."""
    locked = 0
    for number in range(config(cpu, C_SLOT_COUNT)):
        slot = slot_word(cpu, number)
        place = read_once(cpu, slot + SLOT_PLACE)
        shown = _slot_start(cpu, slot, place, first) < _slot_end(cpu, slot, place, end)
        if place & STATE_MASK != SLOT_ABSENT and shown and not locked:
            mmu_write_lock(cpu)
            _finish(cpu)
            locked = 1
    if locked:
        mmu_write_unlock(cpu)
    release(cpu, NOTIFIERS, -NOTIFIER_UNIT)
    emit(cpu, events.INVALIDATE_RANGE_END, first, end, locked)


@inlined_kernel
def invalidation_covers(cpu: Cpu, gfn: int) -> int:
    """An invalidation of this gfn is under way (mmu_invalidate_retry_gfn, first half)."""
    if read_once(cpu, IN_PROGRESS) == 0:
        return 0
    return int(read_once(cpu, RANGE_START) <= gfn and gfn < read_once(cpu, RANGE_END))


@inlined_kernel
def invalidated_since(cpu: Cpu, seq: int, gfn: int) -> int:
    """What the host said when the sequence was `seq` may no longer be true (mmu_lock held)."""
    return int(invalidation_covers(cpu, gfn) or read_once(cpu, INVALIDATE_SEQ) != seq)
