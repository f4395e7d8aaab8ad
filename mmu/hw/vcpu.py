"""A vCPU as hardware and KVM's entry code see it: modes, requests, remote flushes.

The state word is `acknowledged request number << 3 | SRCU held << 2 | mode`; only the vCPU writes
it.  Others ask
by adding to the vCPU's `REQUEST` word and wait only for vCPUs that are in guest mode:

    requester: what is asked for; REQUEST += 1; read state; in guest and not acknowledged: wait
    entry:     state = IN_GUEST (xchg); read REQUEST; changed: leave again and serve it

The xchg is the full barrier that this pair needs on the vCPU's side (store buffering: without it
both could read the other's old value); the requester's add is one already.  A vCPU outside the
guest need not be waited for: it serves every request before it runs guest code again.

While a vCPU handles an exit it is an SRCU reader of the memslots, from the exit to the next entry
(as in vcpu_enter_guest); whoever has changed a memslot waits for these too.
"""

from __future__ import annotations

from mmu.hw.tlb import EVERYTHING, flush_tlb_block, merge_blocks
from mmu.machine import events
from mmu.machine.actors import actor_block
from mmu.machine.blocking import wait_while, wake
from mmu.machine.cpu import Cpu
from mmu.machine.histogram import record_latency
from mmu.machine.kernel import inlined_kernel, kernel
from mmu.machine.layout import (
    C_FLUSH_RANGE,
    C_VCPUS,
    FLUSH_BLOCK,
    H_FLUSH,
    N_EXITS,
    N_REMOTE_FLUSH,
    N_REMOTE_FLUSH_REQUESTS,
    REQUEST,
    REQUEST_SEEN,
    VCPU_STATE,
    WAITERS,
)
from mmu.machine.lock import assert_may_sleep
from mmu.machine.primitives import (
    cmpxchg,
    config,
    count,
    cycles,
    emit,
    event,
    fetch_add,
    own,
    read_once,
    stopped,
    tally,
    xchg,
)

MODE_MASK = 3
OUTSIDE_GUEST_MODE = 0
IN_GUEST_MODE = 1
SRCU_HELD = 4
REQUEST_SHIFT = 3


@kernel
def _ask_for_flush(cpu: Cpu, vcpu: int, gfn: int, order: int) -> None:
    """Widen the block that a vCPU must flush; other requesters do the same, hence the cmpxchg."""
    word = vcpu + FLUSH_BLOCK
    seen = read_once(cpu, word)
    while not stopped(cpu):
        got = cmpxchg(cpu, word, seen, merge_blocks(seen, gfn, order))
        if got == seen:
            return
        seen = got


@kernel
def _wait_for_vcpu(cpu: Cpu, vcpu: int, busy: int) -> None:
    """Until the vCPU is in none of the `busy` states or has served the requests made so far."""
    wanted = read_once(cpu, vcpu + REQUEST)
    state = read_once(cpu, vcpu + VCPU_STATE)
    while state & busy != 0 and state >> REQUEST_SHIFT < wanted and not stopped(cpu):
        wait_while(cpu, vcpu + VCPU_STATE, state)
        state = read_once(cpu, vcpu + VCPU_STATE)


@kernel
def _request_all(cpu: Cpu, busy: int) -> None:
    """Ask every vCPU, then wait for each; the total is the slowest, not the sum."""
    vcpus = config(cpu, C_VCPUS)
    for i in range(vcpus):
        fetch_add(cpu, actor_block(cpu, i) + REQUEST, 1)
    # The drain hint: whoever is between two slices of work gives up its core sooner.
    count(cpu, WAITERS, 1)
    for i in range(vcpus):
        _wait_for_vcpu(cpu, actor_block(cpu, i), busy)
    count(cpu, WAITERS, -1)


@kernel
def request_all(cpu: Cpu) -> None:
    """Make every vCPU leave the guest once (kvm_make_all_cpus_request); may hold mmu_lock."""
    _request_all(cpu, IN_GUEST_MODE)


@kernel
def synchronize_srcu(cpu: Cpu) -> None:
    """Until no vCPU handles an exit, or runs guest code, that began before this call.

    Never under mmu_lock: a vCPU that handles a fault may wait for it.
    """
    assert_may_sleep(cpu)
    _request_all(cpu, IN_GUEST_MODE | SRCU_HELD)


@kernel
def flush_remote_tlbs(cpu: Cpu, gfn: int, order: int) -> None:
    """No vCPU uses a translation of `gfn`'s block of 2**order pages when this returns.

    kvm_flush_remote_tlbs_range; with `--flush all` every flush is one of everything.
    """
    wanted = order if config(cpu, C_FLUSH_RANGE) else EVERYTHING
    began = cycles(cpu)
    for i in range(config(cpu, C_VCPUS)):
        _ask_for_flush(cpu, actor_block(cpu, i), gfn, wanted)
    request_all(cpu)
    record_latency(cpu, H_FLUSH, cycles(cpu) - began)
    tally(cpu, N_REMOTE_FLUSH, 1)
    tally(cpu, N_REMOTE_FLUSH_REQUESTS, config(cpu, C_VCPUS))
    emit(cpu, events.TLB_FLUSH, gfn, wanted, 1)


@kernel
def flush_own_tlb(cpu: Cpu) -> None:
    """Do the flushes that were asked for (the vCPU itself, outside the guest)."""
    block = xchg(cpu, cpu.own + FLUSH_BLOCK, 0)
    if block != 0:
        flush_tlb_block(cpu, block)


@inlined_kernel
def leave_guest(cpu: Cpu, srcu: int) -> None:
    """Stop running guest code; whoever waits for that goes on.

    With `srcu` SRCU_HELD an exit is handled next, with 0 the vCPU comes to rest.
    """
    xchg(cpu, cpu.own + VCPU_STATE, own(cpu, REQUEST_SEEN) << REQUEST_SHIFT | srcu)
    wake(cpu, cpu.own + VCPU_STATE)


@inlined_kernel
def request_pending(cpu: Cpu) -> int:
    """1 if somebody asked for something since the last entry: the guest must be left."""
    return read_once(cpu, cpu.own + REQUEST) != own(cpu, REQUEST_SEEN)


@inlined_kernel
def count_exit(cpu: Cpu) -> None:
    """Book a VM exit."""
    tally(cpu, N_EXITS, 1)
    event(cpu, events.COST_EXIT, 1)
