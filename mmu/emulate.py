"""Writes that KVM does for the guest, since the guest may not (emulator_write_emulated)."""

from __future__ import annotations

from mmu.dirty_log import mark_page_dirty
from mmu.gfn_track import tell_trackers
from mmu.host.frames import MARK_DIRTY, access_frame, host_page, mapping_pfn, mark_frame
from mmu.host.mapping import fault_in, mapping_of
from mmu.machine import events
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import N_ACCESSES, N_WRITES
from mmu.machine.lock import host_lock, host_unlock
from mmu.machine.primitives import emit, event, tally
from mmu.memslots import is_logged, slot_of
from mmu.spte import ACCESS_WRITE, SPTE_R


@kernel
def emulate_write(cpu: Cpu, gfn: int) -> int:
    """Write `gfn` through the host's own mapping; 0: not now, the guest must try again.

    As a process writes to its memory (kvm_vcpu_write_guest): what the host has taken away comes
    back first.  The host changes no mapping meanwhile, which mmap_lock stands for here; on a real
    host the CPU's page tables and the lock of the page see to it.  Then what hardware and fault
    would do: the host knows that the frame is dirty, the log that the page is, and the trackers
    are told.  Written and told under one lock: who holds it sees as many of one as of the other.
    """
    slot = slot_of(cpu, gfn)
    if slot <= 0:
        # Marked as about to go or to move, since the fault looked.
        return 0
    page = host_page(cpu, gfn)
    host_lock(cpu)
    mapping = mapping_of(cpu, page)
    if mapping & (SPTE_R | ACCESS_WRITE) != SPTE_R | ACCESS_WRITE:
        mapping = fault_in(cpu, page, ACCESS_WRITE)
    if mapping != 0:
        pfn = mapping_pfn(cpu, mapping)
        access_frame(cpu, gfn, pfn, ACCESS_WRITE)
        mark_frame(cpu, gfn, pfn, MARK_DIRTY)
        tell_trackers(cpu, gfn)
    host_unlock(cpu)
    if mapping == 0:
        return 0
    # Before the guest goes on: a harvest that missed the write may not miss the bit as well.
    if is_logged(cpu, slot):
        mark_page_dirty(cpu, slot, gfn)
    emit(cpu, events.TRACK_WRITE, gfn, slot, 0)
    emit(cpu, events.GUEST_ACCESS, gfn, ACCESS_WRITE, mapping_pfn(cpu, mapping))
    event(cpu, events.COST_ACCESS, 1)
    tally(cpu, N_ACCESSES, 1)
    tally(cpu, N_WRITES, 1)
    return 1
