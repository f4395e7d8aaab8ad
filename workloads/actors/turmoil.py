"""Turns of actors that change everything all the time: guests, the host, memslots.

A turn is short (some hundred accesses, or one change), so that its process hears when to stop.
What is done is drawn from the actor's own random sequence.
"""

from __future__ import annotations

from mmu.entry import enter_guest
from mmu.guest import QUIET_ACCESSES, guest_access, quiet_due, quiet_point, should_stop, vm_exit
from mmu.host_changes import (
    collapse_huge_mapping,
    move_page,
    split_huge_mapping,
    swap_out,
    write_protect_page,
)
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import (
    C_BACKING_LEVEL,
    C_ZAP_BY,
    RANDOM,
    WORK_DONE,
    ZAP_FINISHED,
    ZAP_QUEUED,
)
from mmu.machine.primitives import config, hint, own, set_own, tally, yield_core
from mmu.policy import ZAP_BY_WORKER
from mmu.reload import switch_root
from mmu.slot_changes import create_memslot, delete_memslot, move_memslot
from mmu.spte import ACCESS_EXECUTE, ACCESS_READ, ACCESS_WRITE
from workloads.actors.memstress import RANDOM_SHIFT, next_random

WRITES_PERCENT = 40
EXECUTES_PERCENT = 5
ROLES = 3  # the VM's level, one level more, the other address space
# Roots that wait for the worker until vCPUs keep theirs.  A worker that gets no core falls behind,
# and nothing in KVM holds vCPUs back then: they would use up any number of page-table pages.
BACKLOG_MAX = 2
OTHER_SPACE = 1 << 3


@kernel
def draw_below(cpu: Cpu, limit: int) -> int:
    """A number below `limit` from the actor's own sequence."""
    state = next_random(own(cpu, RANDOM))
    set_own(cpu, RANDOM, state)
    return (state >> RANDOM_SHIFT) % limit


@kernel
def _worker_is_behind(cpu: Cpu) -> int:
    """Whether so many roots wait for the zap worker that vCPUs should not drop more."""
    if config(cpu, C_ZAP_BY) != ZAP_BY_WORKER:
        return 0
    return int(hint(cpu, ZAP_QUEUED) - hint(cpu, ZAP_FINISHED) >= BACKLOG_MAX)


@kernel
def _change_role(cpu: Cpu, levels: int) -> None:
    """The guest changes its paging mode, or enters or leaves SMM: another root."""
    which = draw_below(cpu, ROLES)
    vm_exit(cpu)
    if which == 0:
        switch_root(cpu, 0)
    elif which == 1:
        switch_root(cpu, levels + 1)
    else:
        switch_root(cpu, OTHER_SPACE | levels)
    enter_guest(cpu)


@kernel
def guest_turn(cpu: Cpu, first: int, pages: int, levels: int, root_switches: int) -> int:
    """Some hundred accesses at random; one turn in `root_switches` loads another root (0: none)."""
    for _ in range(QUIET_ACCESSES):
        if should_stop(cpu):
            break
        kind = draw_below(cpu, 100)
        access = ACCESS_READ
        if kind < WRITES_PERCENT:
            access = ACCESS_WRITE
        elif kind < WRITES_PERCENT + EXECUTES_PERCENT:
            access = ACCESS_EXECUTE
        guest_access(cpu, first + draw_below(cpu, pages), access)
    wanted = root_switches > 0 and draw_below(cpu, root_switches) == 0
    if wanted and not _worker_is_behind(cpu) and not should_stop(cpu):
        _change_role(cpu, levels)
    if quiet_due(cpu):
        quiet_point(cpu)
    tally(cpu, WORK_DONE, 1)
    return 1


@kernel
def host_turn(cpu: Cpu, pages: int) -> int:
    """One change of the host's mappings: half swap, the rest moves, protects, splits, collapses."""
    page = draw_below(cpu, pages)
    kind = draw_below(cpu, 8)
    if kind < 3:
        swap_out(cpu, page)
    elif kind < 5:
        move_page(cpu, page)
    elif kind == 5:
        write_protect_page(cpu, page)
    elif config(cpu, C_BACKING_LEVEL) > 1:
        if kind == 6:
            split_huge_mapping(cpu, page)
        else:
            collapse_huge_mapping(cpu, page)
    tally(cpu, WORK_DONE, 1)
    yield_core(cpu)
    return 1


@kernel
def slots_turn(cpu: Cpu, main: int, base: int, window: int, spare: int, spare_base: int) -> int:
    """Delete and create memslot `spare`; now and then move `main` away and back."""
    create_memslot(cpu, spare, spare_base)
    yield_core(cpu)
    delete_memslot(cpu, spare)
    if draw_below(cpu, 4) == 0:
        move_memslot(cpu, main, base + window)
        yield_core(cpu)
        move_memslot(cpu, main, base)
    tally(cpu, WORK_DONE, 1)
    yield_core(cpu)
    return 1
