"""Take mappings away: one leaf, the leafs of a range, one table, a whole root.

Nobody who zaps flushes by himself.  A range zap tells its caller that a flush is owed; a root's
zap owes none, since a vCPU that could use the root flushes when it loads another one.
"""

from __future__ import annotations

from mmu.hw.vcpu import flush_remote_tlbs
from mmu.machine import events
from mmu.machine.conditions import ROOT_UNREFERENCED, ZAP_NONPRESENT, warn
from mmu.machine.cpu import Cpu
from mmu.machine.histogram import record_latency
from mmu.machine.kernel import inlined_kernel, kernel
from mmu.machine.layout import (
    C_ZAP_STEPS,
    CHECKED,
    FAULT_NUMBER,
    H_ZAP_ROOT,
    HELD,
    ITERATOR,
    N_HUGE_ZAPPED,
    N_ROOTS_ZAPPED,
    SP_GFN,
    SP_LEVEL,
    SP_PARENT,
    SP_ROOT_COUNT,
    VISITED,
)
from mmu.machine.lock import HELD_MMU, HELD_MMU_READ, HELD_MMU_WRITE, HELD_RCU, assert_held
from mmu.machine.primitives import (
    config,
    cycles,
    emit,
    own,
    peek,
    read_once,
    set_own,
    stopped,
    tally,
)
from mmu.machine.rcu import rcu_read_lock, rcu_read_unlock
from mmu.pages import assert_may_zap_root, record_of
from mmu.policy import STEPS_1G, STEPS_4K_2M_1G, STEPS_LEAFS_FIRST
from mmu.spte import (
    FROZEN,
    LEVEL_1G,
    LEVEL_2M,
    LEVEL_4K,
    NONPRESENT,
    is_leaf,
    is_present,
    pfn_of,
)
from mmu.tdp_iter import (
    IT_GFN,
    IT_LEVEL,
    IT_OLD,
    IT_SPTEP,
    iter_next,
    iter_start,
    level_shift,
    pages_of,
    root_level,
    root_page,
)
from mmu.tdp_mmu import (
    DONE,
    cond_resched,
    note_visited,
    set_spte,
    set_spte_atomic,
    set_spte_expected,
    unfreeze_spte,
)

LEAFS_ONLY = 8  # a pass's level: leafs of any size, tables stay


@kernel
def zap_leaf_atomic(cpu: Cpu, sptep: int, gfn: int, level: int, old: int) -> int:
    """Drop a huge leaf so that smaller ones can be faulted in (before 6.2); 1 if it was dropped.

    tdp_mmu_zap_spte_atomic: freeze, flush, give back empty.  While the entry is frozen nobody
    can map something else there, so no vCPU can have both translations at once.
    """
    assert_held(cpu, HELD_MMU_READ)
    if set_spte_atomic(cpu, sptep, gfn, level, old, FROZEN) != DONE:
        return 0
    flush_remote_tlbs(cpu, gfn, level_shift(cpu, level))
    unfreeze_spte(cpu, sptep)
    tally(cpu, N_HUGE_ZAPPED, 1)
    return 1


@kernel
def zap_leafs(cpu: Cpu, root: int, start: int, end: int, may_yield: int, flush: int) -> int:
    """Zap the leafs of [start, end), write lock held; whether a flush is owed when it returns.

    tdp_mmu_zap_leafs.  `flush` is what was owed before: a yield pays for it too.  Tables stay,
    childless ones too: they are few and will be used again.
    """
    assert_held(cpu, HELD_MMU_WRITE)
    rcu_read_lock(cpu)
    valid = iter_start(cpu, ITERATOR, root, LEVEL_4K, start, end)
    while valid and not stopped(cpu):
        if may_yield and cond_resched(cpu, ITERATOR, flush):
            flush = 0
        elif _zap_leaf(cpu):
            flush = 1
        valid = iter_next(cpu, ITERATOR)
    rcu_read_unlock(cpu)
    return flush


@inlined_kernel
def _zap_leaf(cpu: Cpu) -> int:
    """Zap the iterator's entry if it is a leaf (exclusive mode); 1 if it was."""
    level = own(cpu, ITERATOR + IT_LEVEL)
    old = own(cpu, ITERATOR + IT_OLD)
    if not is_present(old) or not is_leaf(old, level):
        return 0
    sptep, gfn = own(cpu, ITERATOR + IT_SPTEP), own(cpu, ITERATOR + IT_GFN)
    set_spte(cpu, sptep, gfn, level, old, NONPRESENT)
    return 1


@inlined_kernel
def _zap_entry(cpu: Cpu, sptep: int, gfn: int, level: int, old: int) -> int:
    """Make a present entry non-present in the mode that is held; DONE, or what it holds now."""
    warn(cpu, not is_present(old), ZAP_NONPRESENT, sptep, old, gfn)
    if own(cpu, HELD) & HELD_MMU_WRITE != 0:
        set_spte(cpu, sptep, gfn, level, old, NONPRESENT)
        return DONE
    return set_spte_atomic(cpu, sptep, gfn, level, old, NONPRESENT)


@kernel
def zap_sp(cpu: Cpu, page: int) -> int:
    """Zap one table by the entry that links it; 1, or 0 if nothing links it any more.

    kvm_tdp_mmu_zap_possible_nx_huge_page (6.18).  The caller's RCU section began before it saw the
    table linked or listed: so neither the table nor the one that holds its entry can have been
    freed, and used again, since.  Whoever calls flushes before it leaves that section: only that
    keeps the table from being freed while the hardware is in it.
    """
    assert_held(cpu, HELD_MMU)
    assert_held(cpu, HELD_RCU)
    record = record_of(cpu, page)
    sptep = read_once(cpu, record + SP_PARENT)
    # Before the entry is read: the remover of a table puts another number in this word.
    gfn, level = read_once(cpu, record + SP_GFN), peek(cpu, record + SP_LEVEL) + 1
    old = read_once(cpu, sptep)
    # In shared mode somebody may have put a leaf, another table or FROZEN there: it is not ours.
    if not is_present(old) or is_leaf(old, level) or pfn_of(old) != page:
        return 0
    if own(cpu, HELD) & HELD_MMU_WRITE != 0:
        set_spte(cpu, sptep, gfn, level, old, NONPRESENT)
        return 1
    # An entry that links a table changes only when the table goes: if this fails, it is gone.
    return int(set_spte_expected(cpu, sptep, gfn, level, old, NONPRESENT) == DONE)


@kernel
def _zap_pass(cpu: Cpu, root: int, zap_level: int) -> None:
    """One pass over the whole root: what stands at `zap_level` goes, with all below it.

    The walk covers all that the root can map, not only what memslots cover, so that no entry
    lies partly outside.  No flush at yields: nobody runs on the root any more.
    """
    leafs_only = zap_level == LEAFS_ONLY
    min_level = LEVEL_4K if leafs_only else zap_level
    end = pages_of(cpu, root_level(root) + 1)
    rcu_read_lock(cpu)
    valid = iter_start(cpu, ITERATOR, root, min_level, 0, end)
    while valid and not stopped(cpu):
        lost = 0
        if not cond_resched(cpu, ITERATOR, 0):
            level = own(cpu, ITERATOR + IT_LEVEL)
            old = own(cpu, ITERATOR + IT_OLD)
            wanted = is_leaf(old, level) if leafs_only else level <= zap_level
            if wanted and is_present(old):
                sptep, gfn = own(cpu, ITERATOR + IT_SPTEP), own(cpu, ITERATOR + IT_GFN)
                seen = _zap_entry(cpu, sptep, gfn, level, old)
                if seen != DONE:
                    set_own(cpu, ITERATOR + IT_OLD, seen)
                    lost = 1
        # Another actor was faster: the same entry once more, with what it holds now.
        if not lost:
            valid = iter_next(cpu, ITERATOR)
    rcu_read_unlock(cpu)


@kernel
def zap_root(cpu: Cpu, root: int) -> None:
    """Zap all of a root, in the mode of mmu_lock that is held (tdp_mmu_zap_root).

    The caller's reference keeps it on the list, where notifiers find it while this yields.
    `--zap-steps` says in which passes: how much goes between two yields.
    """
    assert_held(cpu, HELD_MMU)
    count = peek(cpu, record_of(cpu, root_page(root)) + SP_ROOT_COUNT)
    warn(cpu, count < 1 and not stopped(cpu), ROOT_UNREFERENCED, root_page(root), count, 0)
    assert_may_zap_root(cpu, root)
    began = cycles(cpu)
    set_own(cpu, CHECKED, began)
    set_own(cpu, VISITED, 0)  # what faults have removed since is no part of this
    set_own(cpu, FAULT_NUMBER, 0)  # so that its RCU sections are timed whoever zaps
    steps = config(cpu, C_ZAP_STEPS)
    if steps == STEPS_4K_2M_1G:
        _zap_pass(cpu, root, LEVEL_4K)
        _zap_pass(cpu, root, LEVEL_2M)
    if steps == STEPS_LEAFS_FIRST:
        _zap_pass(cpu, root, LEAFS_ONLY)
    if steps in (STEPS_1G, STEPS_4K_2M_1G) and root_level(root) > LEVEL_1G:
        _zap_pass(cpu, root, LEVEL_1G)
    _zap_pass(cpu, root, root_level(root))
    now = cycles(cpu)
    note_visited(cpu, now)  # no check follows the last entry
    record_latency(cpu, H_ZAP_ROOT, now - began)
    tally(cpu, N_ROOTS_ZAPPED, 1)
    emit(cpu, events.ROOT_ZAPPED, root_page(root), 0, 0)
