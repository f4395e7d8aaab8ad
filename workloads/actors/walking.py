"""Guests that access gfns in order, where no part of it is left to chance."""

from __future__ import annotations

from mmu.guest import QUIET_ACCESSES, guest_access, quiet_due, quiet_point, should_stop
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import WORK_DONE
from mmu.machine.primitives import own, set_own
from mmu.spte import ACCESS_WRITE


@kernel
def walk_batch(
    cpu: Cpu, first: int, pages: int, step: int, access: int, skip: int, limit: int
) -> int:
    """Go on accessing every `step`-th page of `pages`; how many accesses are left.

    Of every `skip` pages the first half is left out (1: none is).
    """
    total = pages // step
    done = own(cpu, WORK_DONE)
    end = min(total, done + limit)
    while done < end and not should_stop(cpu):
        batch = min(end, done + QUIET_ACCESSES)
        while done < batch:
            page = done * step
            if page % skip >= skip // 2:
                guest_access(cpu, first + page, access)
            done += 1
        if quiet_due(cpu):
            quiet_point(cpu)
    set_own(cpu, WORK_DONE, done)
    return total - done


@kernel
def write_until_refused(cpu: Cpu, first: int, pages: int, limit: int) -> int:
    """Go on writing the pages in order; how many are left, 0 when the host has refused one."""
    done = own(cpu, WORK_DONE)
    end = min(pages, done + limit)
    refused = 0
    while done < end and refused == 0 and not should_stop(cpu):
        batch = min(end, done + QUIET_ACCESSES)
        while done < batch and refused == 0:
            refused = int(guest_access(cpu, first + done, ACCESS_WRITE) == 0)
            done += 1
        if quiet_due(cpu):
            quiet_point(cpu)
    set_own(cpu, WORK_DONE, done)
    return 0 if refused else pages - done
