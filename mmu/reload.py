"""The root that a vCPU runs on: loading one, dropping it, reloading when it has become obsolete."""

from __future__ import annotations

from mmu.hw.tlb import EVERYTHING, flush_tlb_block, merge_blocks
from mmu.machine.conditions import LEAK_EXHAUSTED, warn
from mmu.machine.cpu import Cpu
from mmu.machine.histogram import record_latency
from mmu.machine.kernel import inlined_kernel, kernel
from mmu.machine.layout import H_ROOT_DROP, OBSOLETE_FAULTS, POOL_FRESH, ROLE, VCPU_ROOT
from mmu.machine.lock import mmu_read_lock, mmu_read_unlock
from mmu.machine.primitives import cycles, hint, own, set_own
from mmu.pages import maybe_free_deferred, topup_table_cache
from mmu.roots import alloc_root, put_root, root_invalid

LEVEL_MASK = 7


@inlined_kernel
def role_of(cpu: Cpu) -> int:
    """Role of the root that the vCPU wants; its level is the VM's unless the guest chose one."""
    role = own(cpu, ROLE)
    return role if role & LEVEL_MASK != 0 else role | cpu.geometry >> 8


@kernel
def load_root(cpu: Cpu) -> None:
    """Get a root and begin with empty caches (kvm_mmu_load): nothing of another root remains."""
    topup_table_cache(cpu, 1)
    mmu_read_lock(cpu)
    root = alloc_root(cpu, role_of(cpu))
    mmu_read_unlock(cpu)
    warn(cpu, root == 0, LEAK_EXHAUSTED, 0, hint(cpu, POOL_FRESH), 0)
    set_own(cpu, VCPU_ROOT, root)
    set_own(cpu, OBSOLETE_FAULTS, 0)
    flush_tlb_block(cpu, merge_blocks(0, 0, EVERYTHING))


@kernel
def unload_root(cpu: Cpu) -> None:
    """Drop the vCPU's root (kvm_mmu_unload); its last user may have to zap it here and now."""
    root = own(cpu, VCPU_ROOT)
    if root == 0:
        return
    began = cycles(cpu)
    set_own(cpu, VCPU_ROOT, 0)
    mmu_read_lock(cpu)
    put_root(cpu, root)
    mmu_read_unlock(cpu)
    maybe_free_deferred(cpu)
    record_latency(cpu, H_ROOT_DROP, cycles(cpu) - began)


@kernel
def reload_if_obsolete(cpu: Cpu) -> None:
    """KVM_REQ_MMU_FREE_OBSOLETE_ROOTS: whoever invalidated the root has asked for this.

    A vCPU that serves requests is about to enter the guest, so it has a root.
    """
    if root_invalid(cpu, own(cpu, VCPU_ROOT)):
        unload_root(cpu)
        load_root(cpu)


@kernel
def switch_root(cpu: Cpu, role: int) -> None:
    """The guest changes its paging mode or address space (kvm_mmu_reset_context)."""
    unload_root(cpu)
    set_own(cpu, ROLE, role)
    load_root(cpu)
