"""Mapping guest memory ahead of its use (KVM_PRE_FAULT_MEMORY, 6.11): faults without a guest.

A vCPU's thread, outside the guest, maps each gfn as a read would, from one that is not covered or
about to go up to the next.  What is there already stays as it is.
"""

from __future__ import annotations

from mmu.fault import prefetch_fault
from mmu.hw.vcpu import SRCU_HELD, leave_guest
from mmu.machine.blocking import again
from mmu.machine.conditions import LOCK_HELD, warn
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import HELD, N_PF_FIXED, N_PF_PREFETCHED, STOP_WORD, VCPU_ROOT
from mmu.machine.primitives import hint, own, stopped, tally
from mmu.memslots import slot_of
from mmu.mmio import map_mmio
from mmu.reload import load_root, reload_if_obsolete
from mmu.spte import ACCESS_READ
from mmu.tdp.map import LEVEL_SHIFT, RET_PF_EMULATE, RET_PF_FIXED, RET_PF_MASK, RET_PF_RETRY
from mmu.tdp_iter import pages_of

# How a prefault ended, below the gfn that it has reached.
STATUS_BITS = 2
STATUS_MASK = (1 << STATUS_BITS) - 1
PREFAULT_DONE = 0
PREFAULT_AGAIN = 1  # -EAGAIN: the memslot is about to go or to move
PREFAULT_HOLE = 2  # -ENOENT: no memslot is there
PREFAULT_STOPPED = 3  # -EINTR: the thread is wanted elsewhere


@kernel
def _should_stop(cpu: Cpu) -> int:
    """A signal is pending, or the observer wants this actor to end."""
    return hint(cpu, STOP_WORD) != 0 or stopped(cpu)


@kernel
def _prefault_page(cpu: Cpu, gfn: int) -> int:
    """One gfn (kvm_tdp_map_page); the level that it is mapped at now << STATUS_BITS | a status.

    Tried again only for what ends without us.  A memslot that is about to go is not of that kind:
    whoever deletes it waits for the SRCU section that this thread is in.
    """
    while not _should_stop(cpu):
        reload_if_obsolete(cpu)
        slot = slot_of(cpu, gfn)
        if slot < 0:
            return PREFAULT_AGAIN
        if slot == 0 and map_mmio(cpu, gfn, ACCESS_READ) == RET_PF_EMULATE:
            return PREFAULT_HOLE
        result = prefetch_fault(cpu, gfn, slot) if slot != 0 else RET_PF_RETRY
        if result & RET_PF_MASK != RET_PF_RETRY:
            fixed = int(result & RET_PF_MASK == RET_PF_FIXED)
            tally(cpu, N_PF_FIXED, fixed)
            tally(cpu, N_PF_PREFETCHED, fixed)
            return result >> LEVEL_SHIFT << STATUS_BITS
        again(cpu)
    return PREFAULT_STOPPED


@kernel
def prefault_range(cpu: Cpu, first: int, end: int) -> int:
    """Map [first, end) ahead of its use; the first gfn that is not << STATUS_BITS | a status.

    kvm_vcpu_pre_fault_memory.  The whole call is one SRCU section of the memslots, which nobody who
    changes one gets past.
    """
    warn(cpu, own(cpu, HELD) != 0, LOCK_HELD, 0, own(cpu, HELD), 0)
    if own(cpu, VCPU_ROOT) == 0:
        load_root(cpu)
    leave_guest(cpu, SRCU_HELD)
    gfn = first
    status = PREFAULT_DONE
    while gfn < end and status == PREFAULT_DONE:
        result = _prefault_page(cpu, gfn)
        status = result & STATUS_MASK
        if status == PREFAULT_DONE:
            pages = pages_of(cpu, result >> STATUS_BITS)
            gfn = (gfn & ~(pages - 1)) + pages
    leave_guest(cpu, 0)
    return min(gfn, end) << STATUS_BITS | status
