"""Entering the guest: serve what was asked for, then run guest code (vcpu_enter_guest)."""

from __future__ import annotations

from mmu.hw.vcpu import (
    IN_GUEST_MODE,
    REQUEST_SHIFT,
    SRCU_HELD,
    flush_own_tlb,
    leave_guest,
)
from mmu.machine.blocking import wake
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import inlined_kernel, kernel
from mmu.machine.layout import LOGGING, PML_ON, REQUEST, REQUEST_SEEN, VCPU_STATE
from mmu.machine.primitives import own, read_once, set_own, stopped, xchg
from mmu.reload import reload_if_obsolete


@kernel
def _serve_requests(cpu: Cpu, number: int) -> None:
    """Do what was asked up to request `number` (kvm_check_request, one after the other)."""
    reload_if_obsolete(cpu)
    flush_own_tlb(cpu)
    # KVM_REQ_UPDATE_CPU_DIRTY_LOGGING
    set_own(cpu, PML_ON, int(read_once(cpu, LOGGING) != 0))
    set_own(cpu, REQUEST_SEEN, number)


@inlined_kernel
def enter_guest(cpu: Cpu) -> None:
    """Serve what was asked, then run guest code."""
    number = read_once(cpu, cpu.own + REQUEST)
    while True:
        if number != own(cpu, REQUEST_SEEN):
            _serve_requests(cpu, number)
        xchg(cpu, cpu.own + VCPU_STATE, number << REQUEST_SHIFT | IN_GUEST_MODE)
        wake(cpu, cpu.own + VCPU_STATE)
        number = read_once(cpu, cpu.own + REQUEST)
        if number == own(cpu, REQUEST_SEEN) or stopped(cpu):
            return
        leave_guest(cpu, SRCU_HELD)
