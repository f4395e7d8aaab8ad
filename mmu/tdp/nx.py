"""NX huge pages: huge leafs are never executable, so executing one splits it."""

from __future__ import annotations

from mmu.machine.cpu import Cpu
from mmu.machine.kernel import inlined_kernel
from mmu.machine.layout import SP_NX_DISALLOWED
from mmu.machine.primitives import read_once
from mmu.pages import record_of
from mmu.spte import is_leaf, is_present, pfn_of


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
