"""possible_nx_huge_pages: tables that exist only because an execution forbade a huge page.

They are listed so that they can be given back later.  A table's flag is set before it is linked;
the list is entered after, and only if the flag is still set: somebody else may have removed the
table already.  List and flags of linked tables are under tdp_mmu_pages_lock.
"""

from __future__ import annotations

from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import (
    NX_LAST,
    NX_LIST,
    SP_NX_DISALLOWED,
    SP_NX_NEXT,
    SP_NX_PREVIOUS,
    STAT_NX_SPLITS,
)
from mmu.machine.lock import HELD_PAGES, assert_held, pages_lock, pages_unlock
from mmu.machine.primitives import count, read_once, write_once
from mmu.pages import record_of

LISTED = 2  # SP_NX_DISALLOWED: 1 forbidden, 2 forbidden and on the list


@kernel
def _list_add(cpu: Cpu, page: int) -> None:
    """Put a table at the end of the list: the oldest go first."""
    assert_held(cpu, HELD_PAGES)
    record = record_of(cpu, page)
    last = read_once(cpu, NX_LAST)
    write_once(cpu, record + SP_NX_NEXT, 0)
    write_once(cpu, record + SP_NX_PREVIOUS, last)
    if last == 0:
        write_once(cpu, NX_LIST, page)
    else:
        write_once(cpu, record_of(cpu, last) + SP_NX_NEXT, page)
    write_once(cpu, NX_LAST, page)


@kernel
def _list_remove(cpu: Cpu, page: int) -> None:
    """Take a table off the list, wherever it stands."""
    assert_held(cpu, HELD_PAGES)
    record = record_of(cpu, page)
    after = read_once(cpu, record + SP_NX_NEXT)
    before = read_once(cpu, record + SP_NX_PREVIOUS)
    if before == 0:
        write_once(cpu, NX_LIST, after)
    else:
        write_once(cpu, record_of(cpu, before) + SP_NX_NEXT, after)
    if after == 0:
        write_once(cpu, NX_LAST, before)
    else:
        write_once(cpu, record_of(cpu, after) + SP_NX_PREVIOUS, before)


@kernel
def track_possible_nx_huge_page(cpu: Cpu, page: int) -> None:
    """A table was linked because of an execution: it could become a huge page again."""
    pages_lock(cpu)
    flag = record_of(cpu, page) + SP_NX_DISALLOWED
    if read_once(cpu, flag) != 0:
        _list_add(cpu, page)
        write_once(cpu, flag, LISTED)
        count(cpu, STAT_NX_SPLITS, 1)
    pages_unlock(cpu)


@kernel
def untrack_nx_huge_page(cpu: Cpu, page: int) -> None:
    """The table is being removed (tdp_mmu_unlink_sp): off the list, or never to enter it."""
    flag = record_of(cpu, page) + SP_NX_DISALLOWED
    # Nobody sets the flag of a table that is linked already: 0 stays 0.
    if read_once(cpu, flag) == 0:
        return
    pages_lock(cpu)
    if read_once(cpu, flag) == LISTED:
        unaccount_nx_huge_page(cpu, page)
    else:
        write_once(cpu, flag, 0)
    pages_unlock(cpu)


@kernel
def unaccount_nx_huge_page(cpu: Cpu, page: int) -> None:
    """Take a listed table off the list: a huge page may take its place (tdp_mmu_pages_lock held).

    The flag goes last, since who removes the table looks at it without the lock: as long as it is
    set he waits here, and the record says whose table it is.
    """
    _list_remove(cpu, page)
    count(cpu, STAT_NX_SPLITS, -1)
    write_once(cpu, record_of(cpu, page) + SP_NX_DISALLOWED, 0)
