"""A TDP page fault from exit to entry: fast path, caches, host mapping, lock, map.

kvm_tdp_page_fault and kvm_faultin_pfn: everything that may sleep happens before mmu_lock is
taken, and what was learnt there is checked again under it.
"""

from __future__ import annotations

from mmu.dirty_log import mark_page_dirty
from mmu.fast_fault import fast_page_fault
from mmu.gfn_track import is_write_tracked
from mmu.host.frames import host_mapping, host_page, mapping_pfn
from mmu.host.mapping import host_fault_in
from mmu.machine import events
from mmu.machine.conditions import LEAK_EXHAUSTED, warn
from mmu.machine.cpu import Cpu
from mmu.machine.histogram import record_latency
from mmu.machine.kernel import inlined_kernel, kernel
from mmu.machine.layout import (
    C_AD_BITS,
    C_SAMPLE_MASK,
    FAULT_NUMBER,
    H_FAULT,
    INVALIDATE_SEQ,
    N_FAULT_RETRIES_MAX,
    N_MEMORY_FAULTS,
    N_PF_EXECUTE,
    N_PF_FAST,
    N_PF_FIXED,
    N_PF_RETRY,
    N_PF_SPURIOUS,
    N_PF_TAKEN,
    N_PF_WRITE_PROTECTED,
    POOL_FRESH,
    RETRIES,
    VCPU_ROOT,
)
from mmu.machine.lock import mmu_read_lock, mmu_read_unlock
from mmu.machine.primitives import (
    config,
    cycles,
    emit,
    hint,
    own,
    probe,
    read_once,
    set_own,
    tally,
)
from mmu.machine.rcu import rcu_read_lock, rcu_read_unlock
from mmu.memslots import is_logged, max_mapping_level, slot_of
from mmu.mmio import mmio_fault
from mmu.notifier import invalidated_since, invalidation_covers
from mmu.pages import maybe_free_deferred, topup_for_fault
from mmu.roots import root_invalid
from mmu.spte import ACCESS_EXECUTE, ACCESS_READ, ACCESS_WRITE, LEVEL_4K, SPTE_R, SPTE_W
from mmu.tdp.map import (
    RET_PF_EMULATE,
    RET_PF_FIXED,
    RET_PF_INVALID,
    RET_PF_RETRY,
    RET_PF_SPURIOUS,
    RET_PF_WRITE_PROTECTED,
    tdp_mmu_map,
    tdp_mmu_map_other,
)


@inlined_kernel
def _is_stale(cpu: Cpu, root: int, gfn: int, seq: int) -> int:
    """The root may not be used, or the host has changed its mind (is_page_fault_stale)."""
    return int(root_invalid(cpu, root) or invalidated_since(cpu, seq, gfn))


@inlined_kernel
def _slow_fault(cpu: Cpu, gfn: int, access: int, slot: int, prefetch: int) -> int:
    """Ask the host, then map under mmu_lock held for read; a RET_PF_* code."""
    if not topup_for_fault(cpu):
        # There are enough for everything mapped at 4K: somebody has lost some.
        warn(cpu, 1, LEAK_EXHAUSTED, gfn, hint(cpu, POOL_FRESH), 0)
        return RET_PF_EMULATE
    # First the sequence, then the mapping: whatever changes it in between is noticed below.
    seq = read_once(cpu, INVALIDATE_SEQ)
    if invalidation_covers(cpu, gfn):
        # Not worth mmu_lock, which the notifier needs to get done (6.9).
        return RET_PF_RETRY
    mapping = host_mapping(cpu, gfn)
    if mapping & (SPTE_R | access) != SPTE_R | access:
        mapping = host_fault_in(cpu, host_page(cpu, gfn), access)
        if mapping == 0:
            return RET_PF_RETRY
        if mapping & access != access:
            # -EFAULT (KVM_PFN_ERR_RO_FAULT): the access ends here, user space must help.
            tally(cpu, N_MEMORY_FAULTS, 1)
            return RET_PF_EMULATE
    writable = mapping & SPTE_W != 0
    root = own(cpu, VCPU_ROOT)
    mmu_read_lock(cpu)
    result = RET_PF_RETRY
    if not _is_stale(cpu, root, gfn, seq) and not probe(cpu, events.PROBE_RETRY):
        logged = is_logged(cpu, slot)
        requested = LEVEL_4K if logged else max_mapping_level(cpu, slot, gfn, mapping)
        if logged and writable:
            # A logged page that becomes writable counts as written, whatever the fault wanted.
            mark_page_dirty(cpu, slot, gfn)
        rcu_read_lock(cpu)
        pfn = mapping_pfn(cpu, mapping)
        if prefetch:
            result = tdp_mmu_map_other(cpu, root, gfn, access, requested, pfn, writable, 0)
        else:
            result = tdp_mmu_map(cpu, root, gfn, access, requested, pfn, writable)
        rcu_read_unlock(cpu)
    mmu_read_unlock(cpu)
    maybe_free_deferred(cpu)
    return result


@kernel
def prefetch_fault(cpu: Cpu, gfn: int, slot: int) -> int:
    """Map `gfn` of the memslot as a read would; a RET_PF_* code, the level at LEVEL_SHIFT.

    Nothing is counted: no guest has faulted.
    """
    return _slow_fault(cpu, gfn, ACCESS_READ, slot, 1)


@inlined_kernel
def _count_result(cpu: Cpu, result: int) -> None:
    """kvm_vcpu_stat pf_*."""
    if result == RET_PF_FIXED:
        tally(cpu, N_PF_FIXED, 1)
    elif result == RET_PF_SPURIOUS:
        tally(cpu, N_PF_SPURIOUS, 1)
    elif result == RET_PF_RETRY:
        tally(cpu, N_PF_RETRY, 1)
    elif result == RET_PF_WRITE_PROTECTED:
        tally(cpu, N_PF_WRITE_PROTECTED, 1)


@inlined_kernel
def _fault(cpu: Cpu, gfn: int, access: int, present: int) -> int:
    """Fast path if it can help, else the slow one."""
    slot = slot_of(cpu, gfn)
    if slot == 0:
        return mmio_fault(cpu, gfn, access)
    if slot < 0:
        # About to go or to move: it is memory still, so this is no MMIO, but nothing is mapped.
        return RET_PF_RETRY
    # No fault may fix it (page_fault_handle_page_track).  Whoever has begun to track it since this
    # look has taken what the fast path needs; who has stopped gets one write more than he wants.
    if present and access == ACCESS_WRITE and is_write_tracked(cpu, gfn):
        return RET_PF_WRITE_PROTECTED
    # Nothing granted: without A bits it may be that only ageing has put the permissions aside.
    if access == ACCESS_WRITE if present else config(cpu, C_AD_BITS) == 0:
        result = fast_page_fault(cpu, own(cpu, VCPU_ROOT), gfn, access, slot)
        if result != RET_PF_INVALID:
            tally(cpu, N_PF_FAST, int(result == RET_PF_FIXED))
            return result
    return _slow_fault(cpu, gfn, access, slot, 0)


@inlined_kernel
def _count_retries(cpu: Cpu, result: int) -> None:
    """How often in a row this vCPU has been sent back."""
    if result != RET_PF_RETRY:
        if own(cpu, RETRIES) != 0:
            set_own(cpu, RETRIES, 0)
        return
    retries = own(cpu, RETRIES) + 1
    set_own(cpu, RETRIES, retries)
    set_own(cpu, N_FAULT_RETRIES_MAX, max(own(cpu, N_FAULT_RETRIES_MAX), retries))


@inlined_kernel
def handle_page_fault(cpu: Cpu, gfn: int, access: int, present: int) -> int:
    """One EPT violation of `gfn`; `present` if the entry granted something; a RET_PF_* code.

    One in `C_SAMPLE_MASK + 1` is timed: two clock reads cost as much as the fault.
    """
    number = own(cpu, FAULT_NUMBER) + 1
    set_own(cpu, FAULT_NUMBER, number)
    mask = config(cpu, C_SAMPLE_MASK)
    timed = mask >= 0 and number & mask == 0
    began = cycles(cpu) if timed else 0
    tally(cpu, N_PF_TAKEN, 1)
    tally(cpu, N_PF_EXECUTE, int(access == ACCESS_EXECUTE))
    result = _fault(cpu, gfn, access, present)
    _count_result(cpu, result)
    _count_retries(cpu, result)
    emit(cpu, events.PAGE_FAULT, gfn, access, result)
    if timed:
        record_latency(cpu, H_FAULT, cycles(cpu) - began)
    return result
