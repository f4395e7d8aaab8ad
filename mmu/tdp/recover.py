"""Put huge pages together again when logging ends: one huge leaf for a whole table.

kvm_tdp_mmu_recover_huge_pages as of 6.13, which installs the huge leaf at once; before, the table
was zapped and the next fault mapped huge.  Under the read lock: faults, lockless ones and the
hardware may be inside the table while it is replaced.  What they change before its entry is frozen
counts; what they try afterwards fails, and they begin again at the huge leaf.
"""

from __future__ import annotations

from mmu.hw.tlb import EVERYTHING
from mmu.hw.vcpu import flush_remote_tlbs
from mmu.machine.blocking import again
from mmu.machine.conditions import LOGGED_RECOVERY, warn
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import (
    C_NX_HUGE_PAGES,
    IN_PROGRESS,
    ITERATOR,
    ITERATOR_INNER,
    N_HUGE_RECOVERED,
    RANGE_END,
    RANGE_START,
    SLOT_PAGES,
    SP_NX_DISALLOWED,
)
from mmu.machine.lock import HELD_MMU_READ, assert_held
from mmu.machine.primitives import config, own, read_once, set_own, stopped, tally
from mmu.machine.rcu import rcu_read_lock, rcu_read_unlock
from mmu.memslots import is_logged, max_recovery_level, slot_base
from mmu.pages import assert_valid_root, record_of
from mmu.spte import LEVEL_2M, LEVEL_4K, is_leaf, is_present, make_huge, pfn_of
from mmu.tdp_iter import (
    IT_GFN,
    IT_LEVEL,
    IT_OLD,
    IT_SPTEP,
    iter_next,
    iter_start,
    pages_of,
    root_handle,
)
from mmu.tdp_mmu import DONE, cond_resched, need_resched, set_spte_atomic

# What became of an entry; a leaf's value says that there is one.
WANTS_TO_YIELD, LOST_RACE, NOTHING, RECOVERED = range(-2, 2)


@kernel
def _is_being_invalidated(cpu: Cpu, first: int, pages: int) -> int:
    """An invalidation of some of these gfns is under way; none can begin while we hold the lock.

    The range covers all that are under way; it is written with mmu_lock held for write.
    """
    if read_once(cpu, IN_PROGRESS) == 0:
        return 0
    begins_below = read_once(cpu, RANGE_START) < first + pages
    return int(begins_below and first < read_once(cpu, RANGE_END))


@kernel
def _find_leaf(cpu: Cpu, page: int, first: int, level: int) -> int:
    """Any present leaf below an entry of `level` that links table `page`; NOTHING if there is none.

    The search may be long, so it gives up when somebody waits.  Whether the walk may yield is
    judged by the outer iterator: the inner one has just begun, and the caller's yield would be
    refused for ever.
    """
    end = first + pages_of(cpu, level)
    table = root_handle(page, level - 1)
    valid = iter_start(cpu, ITERATOR_INNER, table, LEVEL_4K, first, end)
    while valid and not stopped(cpu):
        spte = own(cpu, ITERATOR_INNER + IT_OLD)
        if is_present(spte) and is_leaf(spte, own(cpu, ITERATOR_INNER + IT_LEVEL)):
            return WANTS_TO_YIELD if need_resched(cpu, ITERATOR) else spte
        valid = iter_next(cpu, ITERATOR_INNER)
    return NOTHING


@kernel
def _may_be_huge(cpu: Cpu, slot: int, root: int, gfn: int, level: int, page: int) -> int:
    """Whether one leaf of `level` may map what table `page` maps from `gfn` on.

    The host's level is read with mmu_lock held and no invalidation of the block under way: it
    cannot become smaller before the leaf is there, and then the notifier finds that.
    """
    if gfn < slot_base(cpu, slot):
        # The entry begins before the slot: nothing is known of that gfn's huge pages.
        return 0
    if level > max_recovery_level(cpu, slot, gfn, root):
        return 0
    # Would be split again at the next execution.  A flag that is just being cleared does no harm.
    if read_once(cpu, record_of(cpu, page) + SP_NX_DISALLOWED) != 0:
        return 0
    return int(not _is_being_invalidated(cpu, gfn, pages_of(cpu, level)))


@kernel
def _recover_entry(cpu: Cpu, slot: int, root: int) -> int:
    """Replace the table that the iterator's entry links by a huge leaf, if it may be one."""
    old = own(cpu, ITERATOR + IT_OLD)
    gfn = own(cpu, ITERATOR + IT_GFN)
    level = own(cpu, ITERATOR + IT_LEVEL)
    if not is_present(old) or is_leaf(old, level):
        return NOTHING
    if not _may_be_huge(cpu, slot, root, gfn, level, pfn_of(old)):
        return NOTHING
    leaf = _find_leaf(cpu, pfn_of(old), gfn, level)
    if leaf <= NOTHING:
        return leaf
    huge = make_huge(leaf, pages_of(cpu, level), config(cpu, C_NX_HUGE_PAGES) == 0)
    seen = set_spte_atomic(cpu, own(cpu, ITERATOR + IT_SPTEP), gfn, level, old, huge)
    if seen != DONE:
        set_own(cpu, ITERATOR + IT_OLD, seen)
        return LOST_RACE
    tally(cpu, N_HUGE_RECOVERED, 1)
    return RECOVERED


@kernel
def recover_huge_pages(cpu: Cpu, root: int, slot: int) -> None:
    """Give the memslot huge leafs wherever its tables could be ones (read lock held).

    A table that was replaced is flushed before this RCU section ends, at a yield or at the end:
    only then may it be freed, since the hardware may be in it.
    """
    assert_held(cpu, HELD_MMU_READ)
    assert_valid_root(cpu, root)
    warn(cpu, is_logged(cpu, slot) and not stopped(cpu), LOGGED_RECOVERY, slot, 0, 0)
    base = slot_base(cpu, slot)
    end = base + config(cpu, slot + SLOT_PAGES)
    flush = 0
    result = NOTHING
    rcu_read_lock(cpu)
    valid = iter_start(cpu, ITERATOR, root, LEVEL_2M, base, end)
    while valid and not stopped(cpu):
        before = result
        result = NOTHING
        if cond_resched(cpu, ITERATOR, flush):
            flush = 0
        else:
            result = _recover_entry(cpu, slot, root)
        if result == RECOVERED:
            flush = 1
        if result == WANTS_TO_YIELD and before == WANTS_TO_YIELD:
            # Asked, was refused, and asks again: whoever waited has gone and come back.
            again(cpu)
        # Otherwise the same entry once more, with what it holds now.
        if result >= NOTHING:
            valid = iter_next(cpu, ITERATOR)
    if flush:
        flush_remote_tlbs(cpu, base, EVERYTHING)
    rcu_read_unlock(cpu)
