"""Take a mapping away."""

from __future__ import annotations

from mmu.host.frames import MARK_ACCESSED, mark_frame
from mmu.hw.vcpu import flush_remote_tlbs
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import N_HUGE_ZAPPED
from mmu.machine.lock import HELD_MMU_READ, assert_held
from mmu.machine.primitives import tally
from mmu.spte import ACCESSED, FROZEN, pfn_of
from mmu.tdp_iter import level_shift
from mmu.tdp_mmu import DONE, set_spte_atomic, unfreeze_spte


@kernel
def zap_leaf_atomic(cpu: Cpu, sptep: int, gfn: int, level: int, old: int) -> int:
    """Drop a huge leaf so that smaller ones can be faulted in (before 6.2); 1 if it was dropped.

    tdp_mmu_zap_spte_atomic: freeze, flush, give back empty.  While the entry is frozen nobody
    can map something else there, so no vCPU can have both translations at once.
    """
    assert_held(cpu, HELD_MMU_READ)
    if set_spte_atomic(cpu, sptep, gfn, level, old, FROZEN) != DONE:
        return 0
    if old & ACCESSED != 0:
        mark_frame(cpu, pfn_of(old), MARK_ACCESSED)
    flush_remote_tlbs(cpu, gfn, level_shift(cpu, level))
    unfreeze_spte(cpu, sptep)
    tally(cpu, N_HUGE_ZAPPED, 1)
    return 1
