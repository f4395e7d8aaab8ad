"""Make writes visible again: take D, or W, from leafs so that the next write is noticed.

With PML the hardware logs each D bit that it sets, so clearing D is enough (and huge leafs lose
W, since logging wants 4K).  Without PML the leaf loses W and the next write faults.  None of
these flushes: the caller flushes once, before it hands anything out.
"""

from __future__ import annotations

from mmu.host.frames import MARK_DIRTY, mark_frame
from mmu.machine import events
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import inlined_kernel, kernel
from mmu.machine.layout import BITMAP_BITS, ITERATOR, N_DIRTY_CLEARED
from mmu.machine.lock import HELD_MMU_READ, HELD_MMU_WRITE, assert_held
from mmu.machine.primitives import emit, fetch_and, own, read_once, stopped, tally
from mmu.machine.rcu import rcu_read_lock, rcu_read_unlock
from mmu.pages import assert_valid_root
from mmu.spte import (
    DIRTY,
    LEVEL_4K,
    MMU_WRITABLE,
    SPTE_W,
    dirty_bit_of,
    is_leaf,
    is_present,
    pfn_of,
)
from mmu.tdp_iter import (
    IT_GFN,
    IT_LEVEL,
    IT_OLD,
    IT_SPTEP,
    child_table,
    index_of,
    iter_next,
    iter_start,
    level_shift,
    root_level,
    root_table,
    round_gfn,
)
from mmu.tdp_mmu import DONE, cond_resched, set_spte, set_spte_atomic


@inlined_kernel
def _bits_to_take(spte: int, bits: int) -> int:
    """W if that is wanted; if D is, then what this entry has for it.

    The entry says so itself (tdp_mmu_need_write_protect): that the VM uses PML does not mean that
    every guest in it runs on entries with a D bit.
    """
    return bits if bits == SPTE_W else dirty_bit_of(spte)


@kernel
def clear_bits_in_slot(cpu: Cpu, root: int, start: int, end: int, min_level: int, bits: int) -> int:
    """Take `bits` (D or W) from every leaf of [start, end) at `min_level` or above; how many.

    clear_dirty_gfn_range and wrprot_gfn_range: read lock, cmpxchg, lost races tried again on
    the same entry with what is there now.
    """
    assert_held(cpu, HELD_MMU_READ)
    assert_valid_root(cpu, root)
    changed = 0
    rcu_read_lock(cpu)
    valid = iter_start(cpu, ITERATOR, root, min_level, start, end)
    while valid and not stopped(cpu):
        if not cond_resched(cpu, ITERATOR, 0):
            level = own(cpu, ITERATOR + IT_LEVEL)
            old = own(cpu, ITERATOR + IT_OLD)
            sptep = own(cpu, ITERATOR + IT_SPTEP)
            gfn = own(cpu, ITERATOR + IT_GFN)
            taken = _bits_to_take(old, bits)
            while is_present(old) and is_leaf(old, level) and old & taken != 0:
                seen = set_spte_atomic(cpu, sptep, gfn, level, old, old & ~taken)
                if seen == DONE:
                    changed += 1
                    break
                old = seen
        valid = iter_next(cpu, ITERATOR)
    rcu_read_unlock(cpu)
    return changed


@kernel
def _leaf_table(cpu: Cpu, root: int, gfn: int) -> int:
    """Word index of the level-1 table that maps `gfn`, 0 if there is none."""
    table = root_table(cpu, root)
    level = root_level(root)
    while level > LEVEL_4K:
        spte = read_once(cpu, table + index_of(cpu, gfn, level))
        if not is_present(spte) or is_leaf(spte, level):
            return 0
        table = child_table(cpu, spte)
        level -= 1
    return table


@kernel
def _clear_entry(cpu: Cpu, sptep: int, gfn: int, bits: int) -> int:
    """Take `bits` from one 4K leaf by an atomic AND; 1 if it had any."""
    spte = read_once(cpu, sptep)
    taken = _bits_to_take(spte, bits)
    if not is_present(spte) or spte & taken == 0:
        return 0
    replaced = fetch_and(cpu, sptep, ~taken)
    emit(cpu, events.SPTE_CHANGED, sptep, replaced, replaced & ~taken)
    if replaced & taken & DIRTY != 0:
        mark_frame(cpu, gfn, pfn_of(replaced), MARK_DIRTY)
    return 1


@kernel
def clear_bits_masked(cpu: Cpu, root: int, first_gfn: int, mask: int, bits: int) -> int:
    """Take `bits` from the 4K leafs of the gfns in `mask` (clear_dirty_pt_masked); how many.

    Write lock held: only the hardware and lockless faults race, which one atomic AND survives;
    it reports the value that it really replaced.
    """
    assert_held(cpu, HELD_MMU_WRITE)
    changed = 0
    table = 0
    covered = -1  # which table `table` is
    for offset in range(BITMAP_BITS):
        if (mask >> offset) & 1 == 0:
            continue
        gfn = first_gfn + offset
        if gfn >> level_shift(cpu, 2) != covered:
            covered = gfn >> level_shift(cpu, 2)
            table = _leaf_table(cpu, root, gfn)
        if table != 0:
            changed += _clear_entry(cpu, table + index_of(cpu, gfn, LEVEL_4K), gfn, bits)
    tally(cpu, N_DIRTY_CLEARED, changed)
    return changed


@kernel
def write_protect_huge(cpu: Cpu, root: int, gfn: int) -> None:
    """Have the next write to the huge page that maps `gfn` split it (write lock held).

    tdp_mmu.c write_protect_gfn from 2M up: with W goes MMU-writable, so that no fault gives W back
    without the lock.  Either may be set.
    """
    assert_held(cpu, HELD_MMU_WRITE)
    table = root_table(cpu, root)
    for level in range(root_level(root), LEVEL_4K, -1):
        sptep = table + index_of(cpu, gfn, level)
        spte = read_once(cpu, sptep)
        if not is_present(spte):
            return
        if is_leaf(spte, level):
            if spte & (SPTE_W | MMU_WRITABLE) != 0:
                new = spte & ~(SPTE_W | MMU_WRITABLE)
                set_spte(cpu, sptep, round_gfn(cpu, gfn, level), level, spte, new)
            return
        table = child_table(cpu, spte)
