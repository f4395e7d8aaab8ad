"""Turns of a run that drops a root: the vCPU that drops it, the zapper, and those who go on."""

from __future__ import annotations

from mmu.guest import QUIET_ACCESSES, guest_access, quiet_due, quiet_point, should_stop
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import C_WORKLOAD, ROOTS, SP_ROOT_INVALID, WORK_DONE
from mmu.machine.primitives import config, cycles, hint, own, set_hint, set_own, yield_core
from mmu.pages import record_of
from mmu.reload import unload_root
from mmu.spte import ACCESS_WRITE
from mmu.tdp_iter import root_page
from mmu.zap_all import destroy_vm
from mmu.zap_worker import zap_worker_turn

# The workload's words: the root to be dropped, when its zap began and ended, then for each vCPU
# its first and last faults on the new root.
OLD_ROOT, ZAP_BEGAN, ZAP_ENDED, FIRST_VCPU = range(4)


@kernel
def touch_blocks(cpu: Cpu, first: int, blocks: int, pages: int, limit: int) -> int:
    """Write one page of each block of `pages` pages; how many blocks are left."""
    done = own(cpu, WORK_DONE)
    end = min(blocks, done + limit)
    while done < end and not should_stop(cpu):
        guest_access(cpu, first + done * pages, ACCESS_WRITE)
        done += 1
    set_own(cpu, WORK_DONE, done)
    return blocks - done


@kernel
def note(cpu: Cpu, word: int) -> None:
    """The time, in a word of the workload's."""
    set_hint(cpu, config(cpu, C_WORKLOAD) + word, cycles(cpu))


@kernel
def drop_root(cpu: Cpu, zaps: int) -> int:
    """Drop the vCPU's root; `zaps` if that means to zap it here."""
    if zaps:
        note(cpu, ZAP_BEGAN)
    unload_root(cpu)
    if zaps:
        note(cpu, ZAP_ENDED)
    return 0


@kernel
def zap_and_note(cpu: Cpu) -> int:
    """The worker's turn, timed."""
    note(cpu, ZAP_BEGAN)
    zap_worker_turn(cpu)
    note(cpu, ZAP_ENDED)
    return 0


@kernel
def destroy_and_note(cpu: Cpu) -> int:
    """The VM dies, timed."""
    note(cpu, ZAP_BEGAN)
    destroy_vm(cpu)
    note(cpu, ZAP_ENDED)
    return 0


@kernel
def wait_for_drop(cpu: Cpu) -> int:
    """Until nobody may use the old root any more, or there is a new one before it."""
    old = hint(cpu, config(cpu, C_WORKLOAD) + OLD_ROOT)
    record = record_of(cpu, root_page(old))
    while hint(cpu, ROOTS) == old and not should_stop(cpu):
        if hint(cpu, record + SP_ROOT_INVALID) != 0:
            break
        yield_core(cpu)
    return 0


@kernel
def fault_turn(cpu: Cpu, first: int, pages: int, vcpu: int) -> int:
    """Write the next some hundred pages of the vCPU's part; 1 while the zap goes on."""
    page = own(cpu, WORK_DONE)
    words = config(cpu, C_WORKLOAD)
    mine = words + FIRST_VCPU + 2 * vcpu
    for _ in range(QUIET_ACCESSES):
        guest_access(cpu, first + page % pages, ACCESS_WRITE)
        page += 1
    set_own(cpu, WORK_DONE, page)
    now = cycles(cpu)
    if hint(cpu, mine) == 0:
        set_hint(cpu, mine, now)
    set_hint(cpu, mine + 1, now)
    if quiet_due(cpu):
        quiet_point(cpu)
    return int(hint(cpu, words + ZAP_ENDED) == 0 and not should_stop(cpu))
