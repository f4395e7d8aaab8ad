"""A table that was taken out of a root: its entries are frozen, accounted for, and it is freed.

The hardware and other actors may still be inside an unlinked table.  In shared mode (mmu_lock
held for read) they may even be about to change it, so *every* entry is frozen, empty ones too:
from then on every cmpxchg that starts from an older value fails.  In exclusive mode only present
entries need it; nobody but the hardware and fast page faults can be there.

The walk below the table does not yield: how much there is decides how long nobody else gets in
(what `--zap-steps` is about).  It is a loop, not a recursion; where it stands in each level lies in
the actor's own block.
"""

from __future__ import annotations

from mmu.host.frames import MARK_ACCESSED, MARK_DIRTY, folio_mask, mark_frame
from mmu.machine import events
from mmu.machine.blocking import spin_while
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import inlined_kernel, kernel
from mmu.machine.layout import (
    C_FRAME_PFN,
    HELD,
    LINE,
    N_SPTES_ZAPPED,
    REMOVED_INDEX,
    REMOVED_PAGE,
    STAT_PAGES_4K,
    STAT_TABLES,
    VISITED,
)
from mmu.machine.lock import HELD_MMU_WRITE
from mmu.machine.primitives import (
    config,
    count,
    emit,
    own,
    read_once,
    set_own,
    stopped,
    tally,
    write_once,
    xchg,
)
from mmu.nx_list import untrack_nx_huge_page
from mmu.pages import defer_free
from mmu.spte import (
    FROZEN,
    LEVEL_4K,
    is_accessed,
    is_dirty,
    is_frozen,
    is_leaf,
    is_present,
    needs_atomic_update,
    pfn_of,
)
from mmu.tdp_iter import entries_of, pages_of, round_gfn, table_of_page


@inlined_kernel
def update_page_stats(cpu: Cpu, level: int, amount: int) -> None:
    """kvm_stat pages_4k, pages_2m, pages_1g."""
    count(cpu, STAT_PAGES_4K + LINE * (level - 1), amount)


@inlined_kernel
def _marks_of(spte: int) -> int:
    """What a leaf tells the host by its A and D bits, or what stands for them."""
    marks = MARK_ACCESSED if is_accessed(spte) else 0
    return marks | MARK_DIRTY if is_dirty(spte) else marks


@inlined_kernel
def tell_host(cpu: Cpu, gfn: int, spte: int) -> None:
    """A leaf is gone: what its A and D bits said is the host's to remember (up to 6.12)."""
    marks = _marks_of(spte)
    if marks != 0:
        mark_frame(cpu, gfn, pfn_of(spte), marks)


@inlined_kernel
def _freeze(cpu: Cpu, sptep: int, level: int, exclusive: int) -> int:
    """Make the entry nobody's; what it was."""
    if exclusive:
        old = read_once(cpu, sptep)
        if is_present(old):
            if needs_atomic_update(old, level):
                old = xchg(cpu, sptep, FROZEN)
            else:
                write_once(cpu, sptep, FROZEN)
        return old
    old = xchg(cpu, sptep, FROZEN)
    while is_frozen(old) and not stopped(cpu):
        # Somebody froze it for a moment and will write to it once more: only then is it ours.
        spin_while(cpu, sptep, FROZEN)
        old = xchg(cpu, sptep, FROZEN)
    return old


@kernel
def _freeze_leafs(cpu: Cpu, page: int, gfn: int) -> None:
    """All entries of a level-1 table: the tight loop of every zap.

    The host keeps marks for whole folios, so they are told once for leafs that follow each other
    in one: it cannot be split meanwhile, that would need mmu_lock.
    """
    exclusive = own(cpu, HELD) & HELD_MMU_WRITE != 0
    table = table_of_page(cpu, page)
    zapped = 0
    told, told_marks = -1, 0
    first_pfn, mask = config(cpu, C_FRAME_PFN), folio_mask(cpu)
    for i in range(entries_of(cpu)):
        old = _freeze(cpu, table + i, LEVEL_4K, exclusive)
        if is_present(old):
            emit(cpu, events.SPTE_CHANGED, table + i, old, FROZEN)
            zapped += 1
            marks = _marks_of(old)
            new = marks & ~told_marks != 0 or (pfn_of(old) - first_pfn) & mask != told
            if marks != 0 and new:
                told = mark_frame(cpu, gfn + i, pfn_of(old), marks)
                told_marks = marks
    if zapped != 0:
        update_page_stats(cpu, LEVEL_4K, -zapped)
        tally(cpu, N_SPTES_ZAPPED, zapped)


@kernel
def _begin(cpu: Cpu, page: int, gfn: int, level: int) -> None:
    """Unaccount a table before its entries go (tdp_mmu_unlink_sp)."""
    emit(cpu, events.PREPARE_ZAP, page, gfn, level)
    untrack_nx_huge_page(cpu, page)
    count(cpu, STAT_TABLES, -1)
    set_own(cpu, REMOVED_PAGE + level, page)
    set_own(cpu, REMOVED_INDEX + level, 0)
    tally(cpu, VISITED, entries_of(cpu))


@kernel
def _freeze_next(cpu: Cpu, gfn: int, level: int) -> int:
    """The next entry of the table at `level`; the page of the table below it, or 0."""
    index = own(cpu, REMOVED_INDEX + level)
    set_own(cpu, REMOVED_INDEX + level, index + 1)
    sptep = table_of_page(cpu, own(cpu, REMOVED_PAGE + level)) + index
    old = _freeze(cpu, sptep, level, own(cpu, HELD) & HELD_MMU_WRITE != 0)
    if not is_present(old):
        return 0
    emit(cpu, events.SPTE_CHANGED, sptep, old, FROZEN)
    if not is_leaf(old, level):
        return pfn_of(old)
    tell_host(cpu, gfn + index * pages_of(cpu, level), old)
    update_page_stats(cpu, level, -1)
    tally(cpu, N_SPTES_ZAPPED, 1)
    return 0


@kernel
def handle_removed_pt(cpu: Cpu, page: int, gfn: int, level: int) -> None:
    """Freeze and free the table `page` of `level`, whose first gfn is `gfn`, and all below it."""
    top = level
    _begin(cpu, page, gfn, level)
    while level <= top and not stopped(cpu):
        child = 0
        if level == LEVEL_4K:
            _freeze_leafs(cpu, own(cpu, REMOVED_PAGE + level), gfn)
            set_own(cpu, REMOVED_INDEX + level, entries_of(cpu))
        elif own(cpu, REMOVED_INDEX + level) < entries_of(cpu):
            child = _freeze_next(cpu, gfn, level)
        if child != 0:
            gfn += (own(cpu, REMOVED_INDEX + level) - 1) * pages_of(cpu, level)
            level -= 1
            _begin(cpu, child, gfn, level)
        elif own(cpu, REMOVED_INDEX + level) == entries_of(cpu):
            # Readers may be in it until a grace period has passed, the hardware until it flushed.
            defer_free(cpu, own(cpu, REMOVED_PAGE + level))
            level += 1
            gfn = round_gfn(cpu, gfn, level + 1)
