"""Kernels that only the benchmarks run, and the observer that does nothing."""

from __future__ import annotations

from typing import Any

import numba

from mmu.entry import enter_guest
from mmu.guest import should_stop, vm_exit
from mmu.hw.tlb import EVERYTHING, flush_tlb_block, merge_blocks
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import ITERATOR, VCPU_ROOT, WORK_DONE
from mmu.machine.lock import mmu_read_lock, mmu_read_unlock, mmu_write_lock, mmu_write_unlock
from mmu.machine.primitives import cmpxchg, own, read_once, set_own, stopped
from mmu.machine.rcu import rcu_read_lock, rcu_read_unlock
from mmu.spte import ACCESS_READ, LEVEL_4K, NONPRESENT, is_leaf, is_present
from mmu.tdp_iter import IT_GFN, IT_LEVEL, IT_OLD, IT_SPTEP, iter_next, iter_start
from mmu.tdp_mmu import cond_resched, set_spte_atomic
from workloads.actors.memstress import memstress_batch

WRITE_PERCENT = 50
BATCH_MAX = 1 << 16


@kernel
def cas_loop(cpu: Cpu, word: int, wanted: int) -> None:
    """`wanted` successful compare-and-swaps of one word."""
    for _ in range(wanted):
        seen = read_once(cpu, word)
        while cmpxchg(cpu, word, seen, seen + 1) != seen:
            seen = read_once(cpu, word)


@kernel
def use_pages(cpu: Cpu, first: int, pages: int, passes: int) -> None:
    """Read and write the vCPU's pages over and over."""
    for _ in range(passes):
        if should_stop(cpu):
            return
        set_own(cpu, WORK_DONE, 0)
        memstress_batch(cpu, first, pages, WRITE_PERCENT, 0, ACCESS_READ, 1, BATCH_MAX)


@kernel
def _drop_pages(cpu: Cpu, first: int, end: int) -> None:
    """Unmap the vCPU's own pages under the read lock; nobody else has them in a TLB."""
    vm_exit(cpu)
    mmu_read_lock(cpu)
    rcu_read_lock(cpu)
    valid = iter_start(cpu, ITERATOR, own(cpu, VCPU_ROOT), LEVEL_4K, first, end)
    while valid and not stopped(cpu):
        if not cond_resched(cpu, ITERATOR, 0):
            level = own(cpu, ITERATOR + IT_LEVEL)
            old = own(cpu, ITERATOR + IT_OLD)
            if is_present(old) and is_leaf(old, level):
                sptep = own(cpu, ITERATOR + IT_SPTEP)
                gfn = own(cpu, ITERATOR + IT_GFN)
                set_spte_atomic(cpu, sptep, gfn, level, old, NONPRESENT)
        valid = iter_next(cpu, ITERATOR)
    rcu_read_unlock(cpu)
    mmu_read_unlock(cpu)
    flush_tlb_block(cpu, merge_blocks(0, first, EVERYTHING))
    enter_guest(cpu)


@kernel
def fault_pages(cpu: Cpu, first: int, pages: int, passes: int) -> None:
    """Fault the vCPU's pages in, drop them, and start over: the read lock is always in use."""
    for _ in range(passes):
        if should_stop(cpu):
            return
        set_own(cpu, WORK_DONE, 0)
        memstress_batch(cpu, first, pages, WRITE_PERCENT, 0, ACCESS_READ, 1, BATCH_MAX)
        _drop_pages(cpu, first, first + pages)


@kernel
def write_lock_once(cpu: Cpu) -> None:
    """What a writer of mmu_lock waits is measured inside."""
    mmu_write_lock(cpu)
    mmu_write_unlock(cpu)


def _say_go(ctx: int, actor: int, kind: int, a: int, b: int, c: int) -> int:
    return 0


def empty_hook() -> Any:
    """A compiled observer that lets everything happen; whoever uses its address keeps it alive."""
    return numba.cfunc("int64(int64, int64, int64, int64, int64, int64)")(_say_go)
