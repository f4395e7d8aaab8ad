"""The mmu notifier: the host takes pages away, or makes them smaller or read-only.

Between start and end of an invalidation the host changes its mapping.  Start unmaps the range in
*every* root, invalid ones too (somebody may still be zapping them, and tells the host of A and D
bits), and keeps faults from mapping it again: they look at the invalidations under way, and at a
sequence that grows with each one that ended since they asked the host.

Ranges are host pages; each memslot that shows some of them is looked at where it is now.  So start
and end must see the same memslots: whoever changes one waits until none is under way.

To decide what to take, the host asks which pages were used of late (`clear_young`, `test_young`).
That takes no lock at all, and may be wrong.
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
from mmu.machine.rcu import rcu_read_lock, rcu_read_unlock
from mmu.memslots import STATE_BITS, STATE_MASK, slot_word
from mmu.roots import next_root, next_valid_root_rcu
from mmu.tdp.age import age_gfn_range, test_age_gfn
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


@kernel
def _age_gfns(cpu: Cpu, start: int, end: int, clear: int) -> int:
    """Age the leafs of [start, end) in all valid roots, or only look; whether one was young."""
    young = 0
    root = next_valid_root_rcu(cpu, 0)
    while root != 0 and not stopped(cpu):
        if clear:
            young |= age_gfn_range(cpu, root, start, end)
        else:
            young |= test_age_gfn(cpu, root, start, end)
        root = next_valid_root_rcu(cpu, root)
    return young


@kernel
def _age_pages(cpu: Cpu, first: int, end: int, clear: int) -> int:
    """Age host pages [first, end) in every memslot that shows some, or only look.

    No lock, and no invalidation: nothing is taken away that a fault does not give back.  A memslot
    that moves meanwhile costs a wrong answer, as does anything else that comes between.
    """
    young = 0
    rcu_read_lock(cpu)
    for number in range(config(cpu, C_SLOT_COUNT)):
        slot = slot_word(cpu, number)
        place = read_once(cpu, slot + SLOT_PLACE)
        start_gfn = _slot_start(cpu, slot, place, first)
        end_gfn = _slot_end(cpu, slot, place, end)
        if place & STATE_MASK != SLOT_ABSENT and start_gfn < end_gfn:
            young |= _age_gfns(cpu, start_gfn, end_gfn, clear)
    rcu_read_unlock(cpu)
    return young


@kernel
def clear_young(cpu: Cpu, first: int, end: int) -> int:
    """Mark host pages [first, end) old; 1 if the guest has used one since the last time.

    Without a flush: whoever has the translation cached goes on using it unnoticed.
    """
    return _age_pages(cpu, first, end, 1)


@kernel
def clear_flush_young(cpu: Cpu, first: int, end: int) -> int:
    """The same for reclaim, where the flush is the architecture's choice.

    x86 leaves it out (KVM_ELIDE_TLB_FLUSH_IF_YOUNG): a page taken away by mistake costs less than
    a flush for each page that is looked at.
    """
    return clear_young(cpu, first, end)


@kernel
def test_young(cpu: Cpu, page: int) -> int:
    """Whether the guest has used the host page since it was marked old; changes nothing."""
    return _age_pages(cpu, page, page + 1, 0)


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
