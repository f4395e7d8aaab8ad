"""How to walk: geometry, one step down, and the pre-order iterator.  The walker never modifies.

The iterator (struct tdp_iter) lives in the actor's own block, at the offset that callers pass as
`it`.  To go on from an entry: step *down* if it links a table now; else step *side* in the same
table; else step *up* and try side again.  After a yield every pointer is dead: the walk restarts
from the root at the entry that it had reached, `next_last_level_gfn`, and must get past it before
it may yield again (forward progress).
"""

from __future__ import annotations

from mmu.machine.cpu import Cpu
from mmu.machine.kernel import inlined_kernel, kernel
from mmu.machine.layout import C_TABLES, ITERATOR, YIELDED_AT, YIELDED_AT_INNER
from mmu.machine.primitives import config, own, read_once, set_own
from mmu.spte import is_leaf, is_present, pfn_of

(
    IT_ROOT,  # word index of the root table
    IT_ROOT_LEVEL,
    IT_MIN_LEVEL,
    IT_END,  # first gfn behind the range
    IT_GFN,  # first gfn of the current entry
    IT_LEVEL,
    IT_SPTEP,
    IT_OLD,  # the entry's value when it was read
    IT_NEXT_LAST_LEVEL_GFN,  # where a restart goes on
    IT_YIELDED_GFN,  # ... and where the last restart did
    IT_YIELDED,
    IT_PATH,  # word index of the table at each level, 1 first
) = range(12)


# A root's handle: its table page and its level, which never changes, in one word.
ROOT_LEVEL_BITS = 3


@inlined_kernel
def root_handle(page: int, level: int) -> int:
    """The root whose table is `page`."""
    return page << ROOT_LEVEL_BITS | level


@inlined_kernel
def root_level(root: int) -> int:
    """Level of a root's table."""
    return root & 7


@inlined_kernel
def root_page(root: int) -> int:
    """Page of a root's table."""
    return root >> ROOT_LEVEL_BITS


@inlined_kernel
def level_shift(cpu: Cpu, level: int) -> int:
    """log2 of the pages that one entry of `level` covers."""
    return (cpu.geometry & 0xFF) * (level - 1)


@inlined_kernel
def pages_of(cpu: Cpu, level: int) -> int:
    """Pages that one entry of `level` covers (KVM_PAGES_PER_HPAGE)."""
    return 1 << level_shift(cpu, level)


@inlined_kernel
def entries_of(cpu: Cpu) -> int:
    """Entries per table."""
    return 1 << (cpu.geometry & 0xFF)


@inlined_kernel
def index_of(cpu: Cpu, gfn: int, level: int) -> int:
    """Index of `gfn` in its table of `level`."""
    return (gfn >> level_shift(cpu, level)) & (entries_of(cpu) - 1)


@inlined_kernel
def round_gfn(cpu: Cpu, gfn: int, level: int) -> int:
    """First gfn of the entry of `level` that covers `gfn`."""
    return gfn >> level_shift(cpu, level) << level_shift(cpu, level)


@inlined_kernel
def table_of_page(cpu: Cpu, page: int) -> int:
    """Word index of entry 0 of a table page."""
    return config(cpu, C_TABLES) + (page << (cpu.geometry & 0xFF))


@inlined_kernel
def root_table(cpu: Cpu, root: int) -> int:
    """Word index of a root's table."""
    return table_of_page(cpu, root >> ROOT_LEVEL_BITS)


@inlined_kernel
def child_table(cpu: Cpu, spte: int) -> int:
    """Word index of the table that a present non-leaf entry links."""
    return table_of_page(cpu, pfn_of(spte))


@kernel
def _refresh(cpu: Cpu, it: int) -> None:
    """Point the iterator at the entry of its gfn and level, and read it."""
    level = own(cpu, it + IT_LEVEL)
    gfn = own(cpu, it + IT_GFN)
    sptep = own(cpu, it + IT_PATH + level - 1) + index_of(cpu, gfn, level)
    set_own(cpu, it + IT_SPTEP, sptep)
    set_own(cpu, it + IT_OLD, read_once(cpu, sptep))


@kernel
def _restart(cpu: Cpu, it: int) -> None:
    """(Re)start at `next_last_level_gfn`, from the root."""
    level = own(cpu, it + IT_ROOT_LEVEL)
    next_gfn = own(cpu, it + IT_NEXT_LAST_LEVEL_GFN)
    set_own(cpu, it + IT_YIELDED, 0)
    set_own(cpu, it + IT_YIELDED_GFN, next_gfn)
    set_own(cpu, it + IT_LEVEL, level)
    set_own(cpu, it + IT_PATH + level - 1, own(cpu, it + IT_ROOT))
    set_own(cpu, it + IT_GFN, round_gfn(cpu, next_gfn, level))
    _refresh(cpu, it)


@inlined_kernel
def yielded_at(it: int) -> int:
    """Where it is noted, apart from the iterator, from which gfn a walk started last."""
    return YIELDED_AT if it == ITERATOR else YIELDED_AT_INNER


@kernel
def iter_start(cpu: Cpu, it: int, root: int, min_level: int, start: int, end: int) -> int:
    """Begin a walk of [start, end) below `root`; 1 if there is an entry to look at.

    Entries above `min_level` that link a table are visited before what is below them; the
    first one visited may begin before `start`, as in the kernel.
    """
    set_own(cpu, it + IT_ROOT, root_table(cpu, root))
    set_own(cpu, it + IT_ROOT_LEVEL, root_level(root))
    set_own(cpu, it + IT_MIN_LEVEL, min_level)
    set_own(cpu, it + IT_END, end)
    set_own(cpu, it + IT_NEXT_LAST_LEVEL_GFN, start)
    set_own(cpu, yielded_at(it), start + 1)
    _restart(cpu, it)
    return own(cpu, it + IT_GFN) < end


@kernel
def _step_down(cpu: Cpu, it: int) -> int:
    """Into the table that the current entry links *now*; 0 if it links none."""
    level = own(cpu, it + IT_LEVEL)
    if level == own(cpu, it + IT_MIN_LEVEL):
        return 0
    # Read again: another actor may have split, linked or zapped it since the loop body ran.
    spte = read_once(cpu, own(cpu, it + IT_SPTEP))
    set_own(cpu, it + IT_OLD, spte)
    if not is_present(spte) or is_leaf(spte, level):
        return 0
    set_own(cpu, it + IT_LEVEL, level - 1)
    set_own(cpu, it + IT_PATH + level - 2, child_table(cpu, spte))
    set_own(cpu, it + IT_GFN, round_gfn(cpu, own(cpu, it + IT_NEXT_LAST_LEVEL_GFN), level - 1))
    _refresh(cpu, it)
    return 1


@kernel
def _step_side(cpu: Cpu, it: int) -> int:
    """To the next entry of the same table; 0 at its end."""
    level = own(cpu, it + IT_LEVEL)
    gfn = own(cpu, it + IT_GFN)
    if index_of(cpu, gfn, level) == entries_of(cpu) - 1:
        return 0
    gfn += pages_of(cpu, level)
    set_own(cpu, it + IT_GFN, gfn)
    set_own(cpu, it + IT_NEXT_LAST_LEVEL_GFN, gfn)
    sptep = own(cpu, it + IT_SPTEP) + 1
    set_own(cpu, it + IT_SPTEP, sptep)
    set_own(cpu, it + IT_OLD, read_once(cpu, sptep))
    return 1


@kernel
def _step_up(cpu: Cpu, it: int) -> int:
    """To the entry above; 0 at the root."""
    level = own(cpu, it + IT_LEVEL)
    if level == own(cpu, it + IT_ROOT_LEVEL):
        return 0
    set_own(cpu, it + IT_LEVEL, level + 1)
    set_own(cpu, it + IT_GFN, round_gfn(cpu, own(cpu, it + IT_GFN), level + 1))
    sptep = own(cpu, it + IT_PATH + level) + index_of(cpu, own(cpu, it + IT_GFN), level + 1)
    set_own(cpu, it + IT_SPTEP, sptep)
    return 1


@kernel
def iter_next(cpu: Cpu, it: int) -> int:
    """Go on to the next entry in pre-order; 0 when the range is done."""
    if own(cpu, it + IT_YIELDED) != 0:
        _restart(cpu, it)
        return own(cpu, it + IT_GFN) < own(cpu, it + IT_END)
    moved = _step_down(cpu, it)
    while not moved:
        moved = _step_side(cpu, it)
        if not moved and not _step_up(cpu, it):
            return False
    return own(cpu, it + IT_GFN) < own(cpu, it + IT_END)
