"""Turns of the guests that use everything at once, and of those who change memslots under them.

A turn is short (some hundred accesses, or one change), so that its process hears when to stop.
What is done is drawn from the actor's own random sequence.
"""

from __future__ import annotations

from mmu.entry import enter_guest
from mmu.guest import (
    QUIET_ACCESSES,
    guest_access,
    quiet_due,
    quiet_point,
    should_stop,
    vcpu_put,
    vm_exit,
)
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import C_ZAP_BY, RANDOM, WORK_DONE, ZAP_FINISHED, ZAP_QUEUED
from mmu.machine.primitives import config, hint, own, set_own, tally, yield_core
from mmu.policy import ZAP_BY_WORKER
from mmu.prefault import STATUS_BITS, prefault_range
from mmu.reload import switch_root
from mmu.slot_changes import create_memslot, delete_memslot, move_memslot
from mmu.spte import ACCESS_EXECUTE, ACCESS_READ, ACCESS_WRITE
from workloads.actors.memstress import RANDOM_SHIFT, next_random
from workloads.actors.migration import make_way
from workloads.actors.turmoil_words import (
    HOLES,
    PREFAULTED,
    ROOTS_LOADED,
    SLOTS_CREATED,
    SLOTS_MOVED,
    TURNS,
    book,
    note_touched,
)

WRITES_PERCENT = 40
EXECUTES_PERCENT = 5
ROLES = 3  # the VM's level, one level more, the other address space
# Roots that wait for the worker until vCPUs keep theirs.  A worker that gets no core falls behind,
# and nothing in KVM holds vCPUs back then: they would use up any number of page-table pages.
BACKLOG_MAX = 2
OTHER_SPACE = 1 << 3
# What a guest does besides reading and writing, bits of `extras`.
EXECUTES, ACCESSES_HOLES, PREFAULTS = 1, 2, 4
PREFAULT_TURNS, PREFAULTED_MAX = 16, 64


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
    book(cpu, ROOTS_LOADED, 1)


@kernel
def _kind_of_access(cpu: Cpu, extras: int) -> int:
    """What to do with the next page."""
    kind = draw_below(cpu, 100)
    if kind < WRITES_PERCENT:
        return ACCESS_WRITE
    if kind < WRITES_PERCENT + EXECUTES_PERCENT and extras & EXECUTES != 0:
        return ACCESS_EXECUTE
    return ACCESS_READ


@kernel
def _prefault(cpu: Cpu, first: int, pages: int) -> None:
    """The vCPU's thread leaves the guest and maps some pages ahead of their use."""
    start = first + draw_below(cpu, pages)
    end = min(start + 1 + draw_below(cpu, PREFAULTED_MAX), first + pages)
    vcpu_put(cpu)
    reached = prefault_range(cpu, start, end) >> STATUS_BITS
    enter_guest(cpu)
    book(cpu, PREFAULTED, reached - start)


@kernel
def guest_turn(
    cpu: Cpu, first: int, pages: int, levels: int, root_switches: int, extras: int, hole: int
) -> int:
    """Some hundred accesses at random; one turn in `root_switches` loads another root (0: none).

    With ACCESSES_HOLES the first access of a turn is one from gfn `hole` on, where a memslot that
    is being moved may be for a moment.
    """
    make_way(cpu)
    if extras & ACCESSES_HOLES != 0:
        guest_access(cpu, hole + draw_below(cpu, pages), _kind_of_access(cpu, extras))
        book(cpu, HOLES, 1)
    page = 0
    for _ in range(QUIET_ACCESSES):
        if should_stop(cpu):
            break
        access = _kind_of_access(cpu, extras)
        page = draw_below(cpu, pages)
        guest_access(cpu, first + page, access)
    note_touched(cpu, own(cpu, WORK_DONE), page)
    wanted = root_switches > 0 and draw_below(cpu, root_switches) == 0
    if wanted and not _worker_is_behind(cpu) and not should_stop(cpu):
        _change_role(cpu, levels)
    if extras & PREFAULTS != 0 and draw_below(cpu, PREFAULT_TURNS) == 0 and not should_stop(cpu):
        _prefault(cpu, first, pages)
    if quiet_due(cpu):
        quiet_point(cpu)
    tally(cpu, WORK_DONE, 1)
    book(cpu, TURNS, 1)
    return 1


@kernel
def slots_turn(cpu: Cpu, main: int, base: int, window: int, spare: int, spare_base: int) -> int:
    """Delete and create memslot `spare`; now and then move `main` away and back."""
    create_memslot(cpu, spare, spare_base)
    yield_core(cpu)
    delete_memslot(cpu, spare)
    book(cpu, SLOTS_CREATED, 1)
    if draw_below(cpu, 4) == 0:
        move_memslot(cpu, main, base + window)
        yield_core(cpu)
        move_memslot(cpu, main, base)
        book(cpu, SLOTS_MOVED, 2)
    tally(cpu, WORK_DONE, 1)
    yield_core(cpu)
    return 1
