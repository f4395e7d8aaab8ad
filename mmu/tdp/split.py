"""Replace a huge leaf by a table of smaller leafs: on a fault, or eagerly for a whole memslot.

The children are written before the table is linked, so that nobody sees a half-filled one; then
one change of the parent entry publishes them all.  No TLB flush: old and new translations give
the same frames and permissions.
"""

from __future__ import annotations

from mmu.host.frames import MARK_DIRTY, mark_frame
from mmu.machine import events
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import (
    C_AD_BITS,
    C_NX_HUGE_PAGES,
    HELD,
    ITERATOR,
    N_SPLITS_2M,
    N_TABLES_LINKED,
    SP_LINKED,
    SP_PARENT,
    SP_STATE,
    STAT_TABLES,
    TABLE_CACHE_COUNT,
)
from mmu.machine.lock import (
    HELD_MMU,
    HELD_MMU_WRITE,
    assert_held,
    mmu_read_lock,
    mmu_read_unlock,
    mmu_write_lock,
    mmu_write_unlock,
)
from mmu.machine.primitives import config, count, emit, own, poke, set_own, stopped, tally
from mmu.machine.rcu import rcu_read_lock, rcu_read_unlock
from mmu.pages import (
    alloc_table,
    assert_valid_root,
    free_unlinked_table,
    init_child_sp,
    record_of,
    topup_table_cache,
)
from mmu.removed import update_page_stats
from mmu.spte import (
    LEVEL_2M,
    SPTE_X,
    dirty_bit_of,
    is_leaf,
    is_present,
    make_nonleaf,
    make_split_child,
    pfn_of,
)
from mmu.tdp_iter import (
    IT_GFN,
    IT_LEVEL,
    IT_OLD,
    IT_SPTEP,
    IT_YIELDED,
    entries_of,
    iter_next,
    iter_start,
    pages_of,
    table_of_page,
)
from mmu.tdp_mmu import DONE, cond_resched, set_spte, set_spte_atomic

SPLIT_FAILED = -12  # -ENOMEM


@kernel
def _link_exclusive(cpu: Cpu, sptep: int, gfn: int, level: int, old: int, new: int) -> None:
    """Link a table with mmu_lock held for write, where nothing can fail.

    The hardware may have set D in a huge leaf since it was read: no child inherits that, so the
    host is told now.
    """
    replaced = set_spte(cpu, sptep, gfn, level, old, new)
    dirty = dirty_bit_of(replaced)
    if replaced & ~old & dirty != 0:
        mark_frame(cpu, gfn, pfn_of(replaced), MARK_DIRTY)


@kernel
def link_sp(cpu: Cpu, sptep: int, gfn: int, level: int, old: int, page: int) -> int:
    """Publish a table that is ready (tdp_mmu_link_sp); DONE, or the entry's present value."""
    poke(cpu, record_of(cpu, page) + SP_PARENT, sptep)
    poke(cpu, record_of(cpu, page) + SP_STATE, SP_LINKED)
    new = make_nonleaf(page, config(cpu, C_AD_BITS))
    result = DONE
    if own(cpu, HELD) & HELD_MMU_WRITE != 0:
        _link_exclusive(cpu, sptep, gfn, level, old, new)
    else:
        result = set_spte_atomic(cpu, sptep, gfn, level, old, new)
    if result == DONE:
        tally(cpu, N_TABLES_LINKED, 1)
        count(cpu, STAT_TABLES, 1)
    return result


@kernel
def split_huge_page(cpu: Cpu, sptep: int, gfn: int, level: int, huge: int, page: int) -> int:
    """Fill `page` with what `huge` maps and put it in its place; DONE, or the entry's value.

    The caller has initialised the page's record (tdp_mmu_split_huge_page).
    """
    assert_held(cpu, HELD_MMU)
    table = table_of_page(cpu, page)
    child_level = level - 1
    step = pages_of(cpu, child_level)
    restore = config(cpu, C_NX_HUGE_PAGES) != 0 and huge & SPTE_X == 0
    # Plain writes: the table is not linked, no other CPU can reach it.
    for i in range(entries_of(cpu)):
        poke(cpu, table + i, make_split_child(huge, child_level, i * step, restore))
    result = link_sp(cpu, sptep, gfn, level, huge, page)
    if result == DONE:
        update_page_stats(cpu, child_level, entries_of(cpu))
        tally(cpu, N_SPLITS_2M + level - LEVEL_2M, 1)
    emit(cpu, events.SPLIT_HUGE_PAGE, gfn, level, result)
    return result


@kernel
def _have_table(cpu: Cpu, it: int) -> int:
    """A table is at hand; if not, drop everything to get one (1: did so, 0: at hand, -12: none).

    Getting memory may sleep: RCU and mmu_lock are left, so the walk starts over from its gfn.
    The lock is retaken in the mode that it was held in.
    """
    if own(cpu, TABLE_CACHE_COUNT) > 0:
        return 0
    exclusive = own(cpu, HELD) & HELD_MMU_WRITE != 0
    rcu_read_unlock(cpu)
    if exclusive:
        mmu_write_unlock(cpu)
    else:
        mmu_read_unlock(cpu)
    enough = topup_table_cache(cpu, 1)
    if exclusive:
        mmu_write_lock(cpu)
    else:
        mmu_read_lock(cpu)
    rcu_read_lock(cpu)
    set_own(cpu, it + IT_YIELDED, 1)
    return 1 if enough else SPLIT_FAILED


@kernel
def _split_entry(cpu: Cpu, it: int) -> None:
    """Split the iterator's huge leaf; a lost race is tried again on what is there now."""
    sptep = own(cpu, it + IT_SPTEP)
    gfn = own(cpu, it + IT_GFN)
    level = own(cpu, it + IT_LEVEL)
    old = own(cpu, it + IT_OLD)
    page = alloc_table(cpu)
    init_child_sp(cpu, page, gfn, level - 1, 0)
    while is_present(old) and is_leaf(old, level) and not stopped(cpu):
        result = split_huge_page(cpu, sptep, gfn, level, old, page)
        if result == DONE:
            return
        old = result
    free_unlinked_table(cpu, page)


@kernel
def try_split_huge_pages(cpu: Cpu, root: int, start: int, end: int, target_level: int) -> int:
    """Split every huge page of [start, end) down to `target_level`.

    kvm_tdp_mmu_try_split_huge_pages: under the read lock when logging starts, under the write lock
    when the log is cleared; the lock may be dropped and retaken in between.  Returns 0, or
    SPLIT_FAILED if the host has no page left.
    """
    assert_held(cpu, HELD_MMU)
    assert_valid_root(cpu, root)
    result = 0
    rcu_read_lock(cpu)
    valid = iter_start(cpu, ITERATOR, root, target_level + 1, start, end)
    while valid and result == 0 and not stopped(cpu):
        if not cond_resched(cpu, ITERATOR, 0):
            level = own(cpu, ITERATOR + IT_LEVEL)
            old = own(cpu, ITERATOR + IT_OLD)
            if is_present(old) and is_leaf(old, level):
                missing = _have_table(cpu, ITERATOR)
                if missing == 0:
                    _split_entry(cpu, ITERATOR)
                elif missing < 0:
                    result = missing
        valid = iter_next(cpu, ITERATOR)
    rcu_read_unlock(cpu)
    return result
