"""Everything goes: quickly for a memslot change, thoroughly when memory or the VM does."""

from __future__ import annotations

from mmu.hw.vcpu import request_all
from mmu.machine import events
from mmu.machine.actors import actor_block
from mmu.machine.conditions import BALANCE_USERS, warn
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import C_VCPUS, USERS, VCPU_ROOT
from mmu.machine.lock import (
    HELD_SLOTS,
    assert_held,
    mmu_read_lock,
    mmu_read_unlock,
    mmu_write_lock,
    mmu_write_unlock,
)
from mmu.machine.primitives import config, emit, fetch_add, read_once, stopped, write_once
from mmu.pages import maybe_free_deferred
from mmu.roots import invalidate_all_roots, next_root, put_root
from mmu.tdp.zap import zap_root
from mmu.zap_worker import zap_invalidated_roots, zap_scheduled_roots


@kernel
def zap_all_fast(cpu: Cpu) -> None:
    """Make every mapping go without waiting for it under the lock (kvm_mmu_zap_all_fast).

    Roots are invalidated and vCPUs asked to reload in one critical section, so that no vCPU can
    be in the guest on an invalid root afterwards; and it returns only when nothing is mapped.
    """
    assert_held(cpu, HELD_SLOTS)
    mmu_write_lock(cpu)
    emit(cpu, events.ZAP_ALL_FAST, 0, 0, 0)
    invalidate_all_roots(cpu)
    request_all(cpu)
    mmu_write_unlock(cpu)
    zap_invalidated_roots(cpu)


@kernel
def zap_all(cpu: Cpu) -> None:
    """The host's memory goes (mmu_notifier release): zap all roots, invalid ones too, exclusively.

    kvm_tdp_mmu_zap_all; nobody runs guest code any more.
    """
    mmu_write_lock(cpu)
    root = next_root(cpu, 0, 0)
    while root != 0 and not stopped(cpu):
        zap_root(cpu, root)
        root = next_root(cpu, root, 0)
    mmu_write_unlock(cpu)
    maybe_free_deferred(cpu)


@kernel
def _drop_vcpu_root(cpu: Cpu, vcpu: int) -> None:
    """A vCPU that is at rest for ever gives its root back; we may write its words."""
    word = actor_block(cpu, vcpu) + VCPU_ROOT
    root = read_once(cpu, word)
    if root != 0:
        write_once(cpu, word, 0)
        mmu_read_lock(cpu)
        put_root(cpu, root)
        mmu_read_unlock(cpu)
        maybe_free_deferred(cpu)


@kernel
def create_vm(cpu: Cpu) -> None:
    """A new VM over the memory and memslots of one that was destroyed (kvm_create_vm)."""
    before = fetch_add(cpu, USERS, 1)
    warn(cpu, before != 0 and not stopped(cpu), BALANCE_USERS, 0, before, 0)


@kernel
def begin_destroy(cpu: Cpu) -> None:
    """The last user is gone: from now on who puts a root zaps it himself."""
    before = fetch_add(cpu, USERS, -1)
    warn(cpu, before != 1 and not stopped(cpu), BALANCE_USERS, 0, before, 0)
    zap_all(cpu)


@kernel
def finish_destroy(cpu: Cpu) -> None:
    """Every vCPU is at rest: their roots go; what the worker has is waited for; all is freed."""
    for vcpu in range(config(cpu, C_VCPUS)):
        _drop_vcpu_root(cpu, vcpu)
    zap_invalidated_roots(cpu)
    mmu_write_lock(cpu)
    invalidate_all_roots(cpu)
    mmu_write_unlock(cpu)
    zap_scheduled_roots(cpu)
    maybe_free_deferred(cpu)


@kernel
def destroy_vm(cpu: Cpu) -> None:
    """The VM dies (kvm_destroy_vm), every vCPU being at rest: nothing may remain."""
    begin_destroy(cpu)
    finish_destroy(cpu)
