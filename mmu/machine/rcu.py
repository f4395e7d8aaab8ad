"""RCU: read sections keep removed tables alive for their readers, grace periods wait for these.

Each actor counts the sections that it has entered and left in one word of its own: odd inside.
Whoever has removed something and wants to free it looks at everybody's word once, and waits for
those that are odd to change: a section that begins later cannot find what is no longer linked.

Entering is an xchg, a full barrier: with a plain store it could still sit in the store buffer
while the section's loads already run, and whoever waits for readers would miss it.  The other
side's barrier is the atomic add to WAITERS before the first look.
"""

from __future__ import annotations

from mmu.machine import events
from mmu.machine.actors import actor_block
from mmu.machine.blocking import spin_while
from mmu.machine.cpu import Cpu
from mmu.machine.histogram import record_latency
from mmu.machine.kernel import inlined_kernel, kernel
from mmu.machine.layout import (
    C_ACTORS,
    C_SAMPLE_MASK,
    FAULT_NUMBER,
    H_RCU_SECTION,
    HELD,
    N_GRACE_PERIODS,
    RCU_BEGAN,
    RCU_SECTION,
    WAITERS,
)
from mmu.machine.lock import HELD_RCU, assert_held, assert_may_sleep
from mmu.machine.primitives import (
    config,
    count,
    cycles,
    emit,
    own,
    read_once,
    set_own,
    store_release,
    tally,
    xchg,
)


@inlined_kernel
def rcu_read_lock(cpu: Cpu) -> None:
    """Enter a read section; sections do not nest here.

    A vCPU's section is timed where its fault is (one in `C_SAMPLE_MASK + 1`), everybody else's
    always: these are few and long.
    """
    xchg(cpu, cpu.own + RCU_SECTION, own(cpu, RCU_SECTION) + 1)
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
    store_release(cpu, cpu.own + RCU_SECTION, own(cpu, RCU_SECTION) + 1)


@kernel
def synchronize_rcu(cpu: Cpu) -> None:
    """Until every read section that began before this call has ended (a grace period).

    Never while anything that spins is held: a reader may wait for it.
    """
    assert_may_sleep(cpu)
    # The drain hint: whoever is between two slices of work gives up its core sooner.
    count(cpu, WAITERS, 1)
    for actor in range(config(cpu, C_ACTORS)):
        word = actor_block(cpu, actor) + RCU_SECTION
        if actor != cpu.id:
            seen = read_once(cpu, word)
            if seen & 1 != 0:
                spin_while(cpu, word, seen)
    count(cpu, WAITERS, -1)
    tally(cpu, N_GRACE_PERIODS, 1)
