"""Write-protect a single gfn for good: neither the guest nor a lockless fault gets W back."""

from __future__ import annotations

from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import ITERATOR
from mmu.machine.lock import HELD_MMU_WRITE, assert_held
from mmu.machine.primitives import own, stopped
from mmu.machine.rcu import rcu_read_lock, rcu_read_unlock
from mmu.spte import MMU_WRITABLE, SPTE_W, is_leaf, is_present
from mmu.tdp_iter import IT_GFN, IT_LEVEL, IT_OLD, IT_SPTEP, iter_next, iter_start
from mmu.tdp_mmu import set_spte


@kernel
def write_protect_gfn(cpu: Cpu, root: int, gfn: int, min_level: int) -> int:
    """Take W and MMU-writable from the leaf that maps `gfn`; 1 if it had either: a flush is owed.

    kvm_tdp_mmu_write_protect_gfn: write lock, leafs of `min_level` and above, so a huge leaf loses
    W as a whole.  Also without W in the entry a vCPU may have it cached: dirty logging takes W and
    flushes later, when it has let go of mmu_lock.
    """
    assert_held(cpu, HELD_MMU_WRITE)
    changed = 0
    rcu_read_lock(cpu)
    valid = iter_start(cpu, ITERATOR, root, min_level, gfn, gfn + 1)
    while valid and not stopped(cpu):
        level = own(cpu, ITERATOR + IT_LEVEL)
        old = own(cpu, ITERATOR + IT_OLD)
        if is_present(old) and is_leaf(old, level) and old & (SPTE_W | MMU_WRITABLE) != 0:
            sptep, first = own(cpu, ITERATOR + IT_SPTEP), own(cpu, ITERATOR + IT_GFN)
            # What hardware and lockless faults add meanwhile comes back as the old value.
            set_spte(cpu, sptep, first, level, old, old & ~(SPTE_W | MMU_WRITABLE))
            changed = 1
        valid = iter_next(cpu, ITERATOR)
    rcu_read_unlock(cpu)
    return changed
