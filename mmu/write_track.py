"""Write tracking: somebody (a device model, a shadowed page table) wants to see a gfn's writes.

From adding a gfn until it is removed no guest write of it reaches memory by itself: the leafs that
map it have neither W nor MMU-writable, new ones get neither, no vCPU has W cached.  Each write
faults and is emulated (`mmu/emulate.py`), and the trackers are told.
"""

from __future__ import annotations

from mmu.gfn_track import count_trackers
from mmu.hw.tlb import EVERYTHING
from mmu.hw.vcpu import flush_remote_tlbs
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import C_WRITE_TRACKED, N_GFNS_WRITE_PROTECTED
from mmu.machine.lock import (
    HELD_MMU_WRITE,
    assert_held,
    mmu_write_lock,
    mmu_write_unlock,
)
from mmu.machine.primitives import config, stopped, tally
from mmu.memslots import slot_of
from mmu.roots import next_valid_root
from mmu.spte import LEVEL_4K
from mmu.tdp.protect import write_protect_gfn


@kernel
def write_track_add_gfn(cpu: Cpu, gfn: int) -> None:
    """One more tracker of `gfn` (__kvm_write_track_add_gfn); when it returns, it sees every write.

    First the count, then the leafs, then the flush, all under mmu_lock: a fault that has not seen
    the count has installed its leaf before, and one that comes later sees it.  Who tracks the gfn
    too finds nothing left to protect, and must not get past a flush that is still owed.
    """
    assert_held(cpu, HELD_MMU_WRITE)
    count_trackers(cpu, gfn, 1)
    changed = 0
    root = next_valid_root(cpu, 0)
    while root != 0 and not stopped(cpu):
        changed |= write_protect_gfn(cpu, root, gfn, LEVEL_4K)
        root = next_valid_root(cpu, root)
    if changed:
        flush_remote_tlbs(cpu, 0, EVERYTHING)
    tally(cpu, N_GFNS_WRITE_PROTECTED, changed)


@kernel
def write_track_remove_gfn(cpu: Cpu, gfn: int) -> None:
    """One tracker less (__kvm_write_track_remove_gfn); without any, the next write maps W again."""
    assert_held(cpu, HELD_MMU_WRITE)
    count_trackers(cpu, gfn, -1)


@kernel
def track_gfn(cpu: Cpu, gfn: int) -> int:
    """Begin to track (kvm_write_track_add_gfn); 0 if no memslot shows the gfn, or nobody may.

    KVM is in an SRCU section meanwhile, or holds slots_lock, since the counts go with the memslot.
    Here they stay: a memslot that goes between look and lock leaves a count that harms nobody.
    """
    if config(cpu, C_WRITE_TRACKED) == 0 or slot_of(cpu, gfn) <= 0:
        return 0
    mmu_write_lock(cpu)
    write_track_add_gfn(cpu, gfn)
    mmu_write_unlock(cpu)
    return 1


@kernel
def untrack_gfn(cpu: Cpu, gfn: int) -> None:
    """Stop what `track_gfn` began (kvm_write_track_remove_gfn)."""
    mmu_write_lock(cpu)
    write_track_remove_gfn(cpu, gfn)
    mmu_write_unlock(cpu)
