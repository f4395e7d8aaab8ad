"""A vCPU running guest code: memory accesses, exits, entries, quiet points.

An access is: look whether somebody wants something; translate (TLB, else walk, else fault); one
atomic operation on the frame.  Walk, A/D update and access all lie between two looks at the
request word, so whoever was told "this vCPU has left the guest" knows that no access with an old
translation is still under way.
"""

from __future__ import annotations

from mmu.dirty_log import drain_pml, publish_pml
from mmu.emulate import emulate_write
from mmu.entry import enter_guest
from mmu.fault import handle_page_fault
from mmu.host.frames import access_frame
from mmu.hw.tlb import tlb_lookup
from mmu.hw.vcpu import SRCU_HELD, count_exit, leave_guest, request_pending
from mmu.hw.walker import MISCONFIGURATION, VIOLATION_PERMISSION, walk
from mmu.machine import events
from mmu.machine.blocking import again
from mmu.machine.conditions import LOCK_HELD, MAPPING_PERMISSION, warn
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import inlined_kernel, kernel
from mmu.machine.layout import (
    C_PML_SIZE,
    C_QUIET_CYCLES,
    HELD,
    N_ACCESSES,
    N_EXECUTES,
    N_PML_FULL,
    N_QUIET_POINTS,
    N_READS,
    N_WRITES,
    PML_INDEX,
    QUIET_BEGAN,
    STOP_WORD,
    TICK_BEGAN,
    VCPU_ROOT,
    WAITERS,
)
from mmu.machine.primitives import (
    config,
    cycles,
    emit,
    event,
    hint,
    own,
    set_own,
    stopped,
    tally,
    yield_core,
)
from mmu.mmio import handle_mmio_page_fault
from mmu.reload import load_root
from mmu.spte import (
    ACCESS_READ,
    ACCESS_WRITE,
    DIRTY,
    RWX,
    pfn_of,
)
from mmu.tdp.map import RET_PF_EMULATE, RET_PF_INVALID, RET_PF_RETRY, RET_PF_WRITE_PROTECTED

# How an access ends that the guest does not do itself.
MMIO, EMULATED = 1, 2

QUIET_ACCESSES = 256  # accesses between two looks at the clock


@kernel
def vcpu_load(cpu: Cpu) -> None:
    """Enter the guest for the first time, on a root of its own or one that others use."""
    if own(cpu, VCPU_ROOT) == 0:
        load_root(cpu)
    enter_guest(cpu)


@inlined_kernel
def vm_exit(cpu: Cpu) -> None:
    """Leave the guest; KVM drains the PML buffer at every exit."""
    leave_guest(cpu, SRCU_HELD)
    drain_pml(cpu)
    count_exit(cpu)


@kernel
def vcpu_put(cpu: Cpu) -> None:
    """A last exit, after which the vCPU is at rest: nobody waits for it."""
    vm_exit(cpu)
    leave_guest(cpu, 0)


@kernel
def _exit_and_enter(cpu: Cpu) -> None:
    """A VM exit for requests only."""
    vm_exit(cpu)
    enter_guest(cpu)


@inlined_kernel
def _permits(entry: int, access: int) -> int:
    """A cached entry serves this access; a write needs D too, which only the walker may set."""
    if entry & access != access:
        return False
    return access != ACCESS_WRITE or entry & DIRTY != 0


@inlined_kernel
def _fault_in(cpu: Cpu, gfn: int, access: int, reason: int) -> int:
    """A VM exit because a walk granted nothing; 0: try again, else how the access has ended.

    That is MMIO, or EMULATED: KVM has done the write itself.
    """
    vm_exit(cpu)
    result = RET_PF_INVALID
    if reason == MISCONFIGURATION:
        result = handle_mmio_page_fault(cpu, gfn)
    if result == RET_PF_INVALID:
        result = handle_page_fault(cpu, gfn, access, reason == VIOLATION_PERMISSION)
    ended = MMIO if result == RET_PF_EMULATE else 0
    if result == RET_PF_WRITE_PROTECTED and emulate_write(cpu, gfn):
        ended = EMULATED
    elif result in (RET_PF_RETRY, RET_PF_WRITE_PROTECTED):
        again(cpu)
    enter_guest(cpu)
    return ended


@inlined_kernel
def _translate(cpu: Cpu, gfn: int, access: int) -> int:
    """The entry that grants the access (adjusted to the page), 0 if it ended in MMIO or STOP.

    Negative if KVM has done the access.
    """
    while not stopped(cpu):
        if request_pending(cpu):
            _exit_and_enter(cpu)
        entry = tlb_lookup(cpu, gfn)
        if entry != 0 and _permits(entry, access):
            return entry
        entry = walk(cpu, gfn, access)
        if entry > 0:
            return entry
        ended = _fault_in(cpu, gfn, access, entry)
        if ended:
            return MMIO - ended
    return 0


@inlined_kernel
def guest_access(cpu: Cpu, gfn: int, access: int) -> int:
    """One guest access of `gfn`: ACCESS_READ, _WRITE or _EXECUTE; 1 if it reached memory."""
    entry = _translate(cpu, gfn, access)
    if entry <= 0:
        return -entry
    warn(cpu, entry & access != access, MAPPING_PERMISSION, gfn, access, entry & RWX)
    access_frame(cpu, gfn, pfn_of(entry), access)
    emit(cpu, events.GUEST_ACCESS, gfn, access, pfn_of(entry))
    event(cpu, events.COST_ACCESS, 1)
    tally(cpu, N_ACCESSES, 1)
    if access == ACCESS_WRITE:
        tally(cpu, N_WRITES, 1)
        if own(cpu, PML_INDEX) == config(cpu, C_PML_SIZE):
            tally(cpu, N_PML_FULL, 1)
            _exit_and_enter(cpu)
    elif access == ACCESS_READ:
        tally(cpu, N_READS, 1)
    else:
        tally(cpu, N_EXECUTES, 1)
    return 1


@kernel
def quiet_due(cpu: Cpu) -> int:
    """Whether it is time for a quiet point, or somebody waits for one."""
    if hint(cpu, WAITERS) != 0:
        return True
    return cycles(cpu) - own(cpu, QUIET_BEGAN) > config(cpu, C_QUIET_CYCLES)


@kernel
def quiet_point(cpu: Cpu) -> None:
    """Give up the core where nobody waits for this actor: outside the guest, nothing held.

    The harness's, not the VM's: no exit is counted and the PML buffer keeps its index.
    """
    warn(cpu, own(cpu, HELD) != 0, LOCK_HELD, 0, own(cpu, HELD), 0)
    leave_guest(cpu, SRCU_HELD)
    publish_pml(cpu)
    leave_guest(cpu, 0)
    yield_core(cpu)
    now = cycles(cpu)
    set_own(cpu, QUIET_BEGAN, now)
    set_own(cpu, TICK_BEGAN, now)
    tally(cpu, N_QUIET_POINTS, 1)
    enter_guest(cpu)


@kernel
def should_stop(cpu: Cpu) -> int:
    """The harness or the observer wants this actor to end."""
    return hint(cpu, STOP_WORD) != 0 or stopped(cpu)
