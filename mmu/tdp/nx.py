"""NX huge pages: huge leafs are never executable, so executing one splits it.

Tables that exist only for that reason are listed, so that they can be given back later
(possible_nx_huge_pages).  The flag is set before the table is linked; the list is entered after,
and only if the flag is still set: somebody else may have removed the table already.
"""

from __future__ import annotations

from mmu.machine.cpu import Cpu
from mmu.machine.kernel import inlined_kernel, kernel
from mmu.machine.layout import (
    NX_LIST,
    SP_NX_DISALLOWED,
    SP_NX_NEXT,
    SP_NX_PREVIOUS,
    STAT_NX_SPLITS,
)
from mmu.machine.lock import HELD_PAGES, assert_held, pages_lock, pages_unlock
from mmu.machine.primitives import count, read_once, write_once
from mmu.pages import record_of
from mmu.spte import is_leaf, is_present, pfn_of


@kernel
def _list_add(cpu: Cpu, page: int) -> None:
    """Put a table at the head of the list."""
    assert_held(cpu, HELD_PAGES)
    record = record_of(cpu, page)
    first = read_once(cpu, NX_LIST)
    write_once(cpu, record + SP_NX_NEXT, first)
    write_once(cpu, record + SP_NX_PREVIOUS, 0)
    if first != 0:
        write_once(cpu, record_of(cpu, first) + SP_NX_PREVIOUS, page)
    write_once(cpu, NX_LIST, page)


@kernel
def track_possible_nx_huge_page(cpu: Cpu, page: int) -> None:
    """A table was linked because of an execution: it could become a huge page again."""
    pages_lock(cpu)
    if read_once(cpu, record_of(cpu, page) + SP_NX_DISALLOWED) != 0:
        _list_add(cpu, page)
        count(cpu, STAT_NX_SPLITS, 1)
    pages_unlock(cpu)


@inlined_kernel
def adjusted_goal(cpu: Cpu, spte: int, level: int, goal: int) -> int:
    """The goal level, one lower where a table stands that NX demanded (disallowed_hugepage_adjust).

    Only the table right at the goal level counts: mapping huge there would make the pages below
    it non-executable again, and each execution would split it once more.
    """
    if level != goal or goal <= 1 or not is_present(spte) or is_leaf(spte, level):
        return goal
    if read_once(cpu, record_of(cpu, pfn_of(spte)) + SP_NX_DISALLOWED) != 0:
        return goal - 1
    return goal
