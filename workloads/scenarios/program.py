"""Actors whose operations are data: one kernel that plays any of them.

A stress run that ended badly is rebuilt as a scenario (`generated`); to compile kernels for each
attempt would take longer than to explore it.  So what an actor does is a row of numbers in words
of the workload, which all attempts share the code for.

A new operation is a number here, a branch of its group's kernel, and a row of `OPERATIONS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mmu.dirty_clear import clear_dirty_log
from mmu.dirty_log import disable_dirty_log, enable_dirty_log, get_dirty_log
from mmu.entry import enter_guest
from mmu.guest import vcpu_load, vcpu_put, vm_exit
from mmu.host_changes import (
    collapse_huge_mapping,
    discard_pages,
    move_page,
    split_huge_mapping,
    swap_out,
    write_protect_page,
)
from mmu.host_reclaim import age_page
from mmu.machine.blocking import again
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import C_DIRTY_LOG_MODE, C_VCPUS, C_WORKLOAD, SLOT_PAGES, ZAP_QUEUED
from mmu.machine.primitives import config, fetch_add, read_once, stopped
from mmu.memslots import slot_word
from mmu.nx_recovery import recover_nx_huge_pages
from mmu.policy import LOG_GET
from mmu.reload import switch_root
from mmu.slot_changes import create_memslot, delete_memslot, move_memslot
from mmu.spte import ACCESS_EXECUTE, ACCESS_READ, ACCESS_WRITE
from mmu.zap_worker import zap_worker_turn
from workloads.plan import HOST, VCPU, VMM, ZAP_WORKER
from workloads.scenarios.common import PAGES, copy_harvested, destination_is_equal, touch

GROUP: Final = 16  # codes of one kind of actor
GUEST, HOST_CODES, VMM_CODES, WORKER = (GROUP * kind for kind in range(4))

READ, WRITE, EXECUTE, SWITCH_ROOT = range(GUEST, GUEST + 4)
SWAP_OUT, MOVE_PAGE, PROTECT, SPLIT, COLLAPSE, DISCARD = range(HOST_CODES, HOST_CODES + 6)
AGE, RECOVER_NX = range(DISCARD + 1, DISCARD + 3)
CREATE_SLOT, DELETE_SLOT, MOVE_SLOT, LOG, STOP_LOG, HARVEST = range(VMM_CODES, VMM_CODES + 6)
SERVE = WORKER

# The workload's words: copies of all pages (a migration's), how many actors have ended, how many
# of them the zap worker waits for, then each actor's number of operations and the operations.
ENDED: Final = PAGES
AWAITED: Final = PAGES + 1
TEXT: Final = PAGES + 2
OPERATIONS_MAX: Final = 8
OPERATION_WORDS: Final = 3
TEXT_WORDS: Final = 1 + OPERATIONS_MAX * OPERATION_WORDS


@dataclass(frozen=True)
class Operation:
    """What can be asked for: its code, the role of those who can do it, what its operands are.

    Operands are a `gfn` or host `page`, a memslot, or the address space of a root (0 or 1).
    """

    code: int
    role: str
    operands: tuple[str, ...]


OPERATIONS: Final = {
    "read": Operation(READ, VCPU, ("gfn",)),
    "write": Operation(WRITE, VCPU, ("gfn",)),
    "execute": Operation(EXECUTE, VCPU, ("gfn",)),
    "switch root": Operation(SWITCH_ROOT, VCPU, ("space",)),
    "swap out": Operation(SWAP_OUT, HOST, ("page",)),
    "move": Operation(MOVE_PAGE, HOST, ("page",)),
    "write-protect": Operation(PROTECT, HOST, ("page",)),
    "split": Operation(SPLIT, HOST, ("page",)),
    "collapse": Operation(COLLAPSE, HOST, ("page",)),
    "discard": Operation(DISCARD, HOST, ("page", "end")),
    "age": Operation(AGE, HOST, ("page",)),
    "recover nx": Operation(RECOVER_NX, HOST, ()),
    "create slot": Operation(CREATE_SLOT, VMM, ("slot", "gfn")),
    "delete slot": Operation(DELETE_SLOT, VMM, ("slot",)),
    "move slot": Operation(MOVE_SLOT, VMM, ("slot", "gfn")),
    "log": Operation(LOG, VMM, ("slot",)),
    "stop logging": Operation(STOP_LOG, VMM, ("slot",)),
    "harvest": Operation(HARVEST, VMM, ()),
    "serve": Operation(SERVE, ZAP_WORKER, ()),
}


@kernel
def _guest_operation(cpu: Cpu, code: int, a: int) -> None:
    """What a vCPU does that is in the guest."""
    if code == READ:
        touch(cpu, a, ACCESS_READ)
    elif code == WRITE:
        touch(cpu, a, ACCESS_WRITE)
    elif code == EXECUTE:
        touch(cpu, a, ACCESS_EXECUTE)
    elif code == SWITCH_ROOT:
        vm_exit(cpu)
        switch_root(cpu, a)
        enter_guest(cpu)


@kernel
def _host_operation(cpu: Cpu, code: int, a: int, b: int) -> None:
    """What the host does to host pages."""
    if code == SWAP_OUT:
        swap_out(cpu, a)
    elif code == MOVE_PAGE:
        move_page(cpu, a)
    elif code == PROTECT:
        write_protect_page(cpu, a)
    elif code == SPLIT:
        split_huge_mapping(cpu, a)
    elif code == COLLAPSE:
        collapse_huge_mapping(cpu, a)
    elif code == DISCARD:
        discard_pages(cpu, a, b)
    elif code == AGE:
        age_page(cpu, a)
    elif code == RECOVER_NX:
        recover_nx_huge_pages(cpu, 1)


@kernel
def _migration_round(cpu: Cpu) -> None:
    """Fetch the log of memslot 0, clear it where that is a call, copy what it names."""
    get_dirty_log(cpu, 0)
    if config(cpu, C_DIRTY_LOG_MODE) != LOG_GET:
        clear_dirty_log(cpu, 0, 0, config(cpu, slot_word(cpu, 0) + SLOT_PAGES))
    copy_harvested(cpu)


@kernel
def nothing_was_lost(cpu: Cpu) -> int:
    """Check: after a last round with every vCPU at rest the destination is equal."""
    _migration_round(cpu)
    return destination_is_equal(cpu)


@kernel
def _vmm_operation(cpu: Cpu, code: int, a: int, b: int) -> None:
    """What the thread of the monitor asks KVM for."""
    if code == CREATE_SLOT:
        create_memslot(cpu, a, b)
    elif code == DELETE_SLOT:
        delete_memslot(cpu, a)
    elif code == MOVE_SLOT:
        move_memslot(cpu, a, b)
    elif code == LOG:
        enable_dirty_log(cpu, a)
    elif code == STOP_LOG:
        disable_dirty_log(cpu, a)
    elif code == HARVEST:
        _migration_round(cpu)


@kernel
def _serve(cpu: Cpu) -> None:
    """The zap worker's life: zap what is queued, until all others have ended and nothing is left.

    Who has ended is looked at first: nothing is queued afterwards.
    """
    words = config(cpu, C_WORKLOAD)
    done = 0
    while not stopped(cpu):
        ended = read_once(cpu, words + ENDED)
        if read_once(cpu, ZAP_QUEUED) != done:
            done = zap_worker_turn(cpu)
        elif ended == config(cpu, words + AWAITED):
            break
        else:
            again(cpu)


@kernel
def perform(cpu: Cpu, code: int, a: int, b: int) -> None:
    """One operation; a guest's is done in the guest."""
    if code < HOST_CODES:
        _guest_operation(cpu, code, a)
    elif code < VMM_CODES:
        _host_operation(cpu, code, a, b)
    elif code < WORKER:
        _vmm_operation(cpu, code, a, b)
    else:
        _serve(cpu)


@kernel
def prepare(cpu: Cpu, code: int, a: int, b: int) -> None:
    """One operation before anybody plays: a vCPU enters the guest for it and leaves again."""
    if code < HOST_CODES:
        vcpu_load(cpu)
        perform(cpu, code, a, b)
        vcpu_put(cpu)
    else:
        perform(cpu, code, a, b)


@kernel
def play(cpu: Cpu) -> None:
    """The actor's operations, one after the other; a vCPU's between one entry and one exit."""
    words = config(cpu, C_WORKLOAD)
    text = words + TEXT + cpu.id * TEXT_WORDS
    operations = config(cpu, text)
    in_guest = cpu.id < config(cpu, C_VCPUS) and operations > 0
    if in_guest:
        vcpu_load(cpu)
    for number in range(operations):
        place = text + 1 + number * OPERATION_WORDS
        if not stopped(cpu):
            perform(cpu, config(cpu, place), config(cpu, place + 1), config(cpu, place + 2))
    if in_guest:
        vcpu_put(cpu)
    if config(cpu, words + AWAITED) != 0 and not stopped(cpu):
        fetch_add(cpu, words + ENDED, 1)
