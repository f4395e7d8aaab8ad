"""RCU read sections: the announcement that keeps freed tables alive for their readers.

The announcement is an xchg, a full barrier: with a plain store it could still sit in the store
buffer while the section's loads already run, and whoever waits for readers would miss it.
"""

from __future__ import annotations

from mmu.machine import events
from mmu.machine.cpu import Cpu
from mmu.machine.histogram import record_latency
from mmu.machine.kernel import inlined_kernel
from mmu.machine.layout import (
    C_SAMPLE_MASK,
    FAULT_NUMBER,
    H_RCU_SECTION,
    HELD,
    RCU_BEGAN,
    RCU_SECTION,
)
from mmu.machine.lock import HELD_RCU, assert_held
from mmu.machine.primitives import config, cycles, emit, own, set_own, store_release, xchg


@inlined_kernel
def rcu_read_lock(cpu: Cpu) -> None:
    """Enter a read section; sections do not nest here.

    A vCPU's section is timed where its fault is (one in `C_SAMPLE_MASK + 1`), everybody else's
    always: these are few and long.
    """
    xchg(cpu, cpu.own + RCU_SECTION, 1)
    set_own(cpu, HELD, own(cpu, HELD) | HELD_RCU)
    emit(cpu, events.RCU_ENTER, 0, 0, 0)
    mask = config(cpu, C_SAMPLE_MASK)
    if mask >= 0 and own(cpu, FAULT_NUMBER) & mask == 0:
        set_own(cpu, RCU_BEGAN, cycles(cpu))


@inlined_kernel
def rcu_read_unlock(cpu: Cpu) -> None:
    """Leave it: pointers to tables are dead from here on."""
    assert_held(cpu, HELD_RCU)
    began = own(cpu, RCU_BEGAN)
    if began != 0:
        record_latency(cpu, H_RCU_SECTION, cycles(cpu) - began)
        set_own(cpu, RCU_BEGAN, 0)
    emit(cpu, events.RCU_LEAVE, 0, 0, 0)
    set_own(cpu, HELD, own(cpu, HELD) & ~HELD_RCU)
    store_release(cpu, cpu.own + RCU_SECTION, 0)
