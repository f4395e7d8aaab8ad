"""fast_page_fault: give a leaf back what KVM has taken from it for a while, with no lock at all.

That is W, taken so that a write is noticed, and without A and D bits all permissions, put aside by
ageing so that any access is.

Only for direct pages.  With an indirect one the frame could be freed and reused for another gfn
between the read and the cmpxchg, the entry could have the same value again, and the wrong page
would be marked dirty.
"""

from __future__ import annotations

from mmu.dirty_log import mark_page_dirty
from mmu.machine.conditions import LIFETIME_WALK, warn
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.primitives import cmpxchg, read_once, stopped
from mmu.machine.rcu import rcu_read_lock, rcu_read_unlock
from mmu.memslots import is_logged
from mmu.spte import (
    ACCESS_WRITE,
    LEVEL_4K,
    MMU_WRITABLE,
    SPTE_W,
    is_access_tracked,
    is_leaf,
    is_poison,
    is_present,
    restore_access,
)
from mmu.tdp.map import RET_PF_FIXED, RET_PF_INVALID, RET_PF_SPURIOUS
from mmu.tdp_iter import child_table, index_of, root_level, root_table

ATTEMPTS_MAX = 5  # then the slow path: somebody changes this entry all the time


@kernel
def _last_entry(cpu: Cpu, root: int, gfn: int) -> int:
    """Lockless walk to the last present entry: `sptep << 3 | level` (0 if the path ends early).

    The tables cannot be freed under an RCU section; what they say may change at any time, which
    the cmpxchg notices.
    """
    level = root_level(root)
    table = root_table(cpu, root)
    while True:
        sptep = table + index_of(cpu, gfn, level)
        spte = read_once(cpu, sptep)
        if not is_present(spte):
            warn(cpu, is_poison(spte), LIFETIME_WALK, gfn, sptep, level)
            return 0
        if is_leaf(spte, level):
            return sptep << 3 | level
        table = child_table(cpu, spte)
        level -= 1


@kernel
def _attempt(cpu: Cpu, root: int, gfn: int, access: int, slot: int) -> int:
    """One try; a RET_PF_* code, or 0 if the entry changed meanwhile."""
    place = _last_entry(cpu, root, gfn)
    if place == 0:
        return RET_PF_INVALID
    sptep = place >> 3
    level = place & 7
    spte = read_once(cpu, sptep)
    if not is_present(spte) or not is_leaf(spte, level):
        return RET_PF_INVALID
    if spte & access == access:
        return RET_PF_SPURIOUS
    new = restore_access(spte) if is_access_tracked(spte) else spte
    logged = 0
    if access == ACCESS_WRITE and spte & MMU_WRITABLE != 0:
        new |= SPTE_W
        logged = is_logged(cpu, slot)
        if level > LEVEL_4K and logged:
            # Logging wants 4K: a huge page must be split, which takes the lock.
            return RET_PF_INVALID
    if new & access != access:
        return RET_PF_INVALID
    # Ageing, a harvest, a zap may all have changed it: then it is looked at again.
    if cmpxchg(cpu, sptep, spte, new) != spte:
        return 0
    if logged:
        # After the cmpxchg: a harvest between the two finds the bit at its next round.
        mark_page_dirty(cpu, slot, gfn)
    return RET_PF_FIXED


@kernel
def fast_page_fault(cpu: Cpu, root: int, gfn: int, access: int, slot: int) -> int:
    """Try to fix a permission fault without mmu_lock; RET_PF_INVALID: the slow path must."""
    rcu_read_lock(cpu)
    result = 0
    attempts = 0
    while result == 0 and attempts < ATTEMPTS_MAX and not stopped(cpu):
        result = _attempt(cpu, root, gfn, access, slot)
        attempts += 1
    rcu_read_unlock(cpu)
    return result if result != 0 else RET_PF_INVALID
