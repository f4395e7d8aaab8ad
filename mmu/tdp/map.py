"""Map a faulting gfn: walk to the goal level, making tables on the way, and install the leaf.

kvm_tdp_mmu_map as of 6.2 and later; every change is a cmpxchg from the value that was read, and
whoever loses a race gives the guest another try.
"""

from __future__ import annotations

from mmu.gfn_track import is_write_tracked
from mmu.hw.vcpu import flush_remote_tlbs
from mmu.machine.conditions import LIFETIME_WALK, warn
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import inlined_kernel, kernel
from mmu.machine.layout import C_AD_BITS, C_HUGE_SPLIT, C_NX_HUGE_PAGES
from mmu.machine.lock import HELD_MMU_READ, assert_held
from mmu.machine.primitives import config, read_once, stopped
from mmu.nx_list import track_possible_nx_huge_page
from mmu.pages import alloc_table, free_unlinked_table, init_child_sp
from mmu.policy import SPLIT_ZAP
from mmu.spte import (
    ACCESS_EXECUTE,
    ACCESS_WRITE,
    FROZEN,
    LEVEL_4K,
    MMU_WRITABLE,
    is_frozen,
    is_leaf,
    is_poison,
    is_present,
    make_leaf,
    mark_for_access_track,
    without_write,
)
from mmu.tdp.nx import adjusted_goal
from mmu.tdp.split import link_sp, split_huge_page
from mmu.tdp.zap import zap_leaf_atomic
from mmu.tdp_iter import (
    child_table,
    index_of,
    level_shift,
    root_level,
    root_table,
    round_gfn,
    table_of_page,
)
from mmu.tdp_mmu import DONE, set_spte_atomic

RET_PF_RETRY = 1
RET_PF_EMULATE = 2
RET_PF_WRITE_PROTECTED = 3  # emulate, since the page's writes are KVM's to do (6.12)
RET_PF_INVALID = 4
RET_PF_FIXED = 5
RET_PF_SPURIOUS = 6
LEVEL_SHIFT = 3  # where a prefetch's result says at which level it ended
RET_PF_MASK = (1 << LEVEL_SHIFT) - 1


@inlined_kernel
def _install_leaf(
    cpu: Cpu,
    sptep: int,
    gfn: int,
    level: int,
    old: int,
    pfn: int,
    access: int,
    writable: int,
    prefetch: int,
) -> int:
    """The goal level is reached: put the leaf there (tdp_mmu_map_handle_target_level).

    A table in its place is removed with all below it; whatever cached a part of it is flushed
    before this RCU section ends, and so before the table is freed.
    """
    was_leaf = is_present(old) and is_leaf(old, level)
    if was_leaf and old & access == access:
        # Somebody else was faster, or the vCPU's cached translation was older (6.13).
        return RET_PF_SPURIOUS
    if prefetch and is_present(old):
        # What is there is better than a guess: it may have A, or be a table in use (6.14).
        return RET_PF_SPURIOUS
    first = round_gfn(cpu, gfn, level)
    executable = level == LEVEL_4K or config(cpu, C_NX_HUGE_PAGES) == 0
    ad = config(cpu, C_AD_BITS)
    new = make_leaf(pfn - (gfn - first), level, writable, executable, ad)
    if prefetch:
        new = mark_for_access_track(new)
    result, unchanged = RET_PF_FIXED, RET_PF_SPURIOUS
    # Under mmu_lock: who begins to track it waits, and will find this leaf.
    if is_write_tracked(cpu, gfn):
        new = without_write(new)
        if access == ACCESS_WRITE:
            result = unchanged = RET_PF_WRITE_PROTECTED
    if new == old:
        return unchanged
    if set_spte_atomic(cpu, sptep, first, level, old, new) != DONE:
        return RET_PF_RETRY
    if is_present(old) and (not was_leaf or old & ~new & MMU_WRITABLE != 0):
        flush_remote_tlbs(cpu, first, level_shift(cpu, level))
    return result


@kernel
def _make_table(
    cpu: Cpu, sptep: int, gfn: int, level: int, old: int, nx_disallowed: int, tracked: int
) -> int:
    """Link an empty table, or split the huge leaf that is in the way; its word index, 0: retry."""
    first = round_gfn(cpu, gfn, level)
    page = alloc_table(cpu)
    if page == 0:
        return 0
    init_child_sp(cpu, page, first, level - 1, nx_disallowed)
    if is_present(old):
        result = split_huge_page(cpu, sptep, first, level, old, page)
    else:
        result = link_sp(cpu, sptep, first, level, old, page)
    if result != DONE:
        free_unlinked_table(cpu, page)
        return 0
    if tracked:
        track_possible_nx_huge_page(cpu, page)
    return table_of_page(cpu, page)


@kernel
def _make_room(cpu: Cpu, sptep: int, gfn: int, level: int, old: int) -> int:
    """Before 6.2 a huge leaf in the way is dropped; what is there now, FROZEN if it is not ours."""
    if not is_present(old) or config(cpu, C_HUGE_SPLIT) != SPLIT_ZAP:
        return old
    if not zap_leaf_atomic(cpu, sptep, round_gfn(cpu, gfn, level), level, old):
        return FROZEN
    now = read_once(cpu, sptep)
    return FROZEN if is_present(now) else now


@inlined_kernel
def _install_mmio(cpu: Cpu, sptep: int, gfn: int, level: int, old: int, entry: int) -> int:
    """The same for a hole's entry; whoever is sent back must see what the memslots are by now.

    A leaf here belongs to a memslot that has come since the lookup: it stays.
    """
    if is_present(old):
        return RET_PF_RETRY
    if entry != old and set_spte_atomic(cpu, sptep, gfn, level, old, entry) != DONE:
        return RET_PF_RETRY
    return RET_PF_EMULATE


@inlined_kernel
def _map(
    cpu: Cpu,
    root: int,
    gfn: int,
    access: int,
    requested: int,
    pfn: int,
    writable: int,
    prefetch: int,
    mmio: int,
) -> int:
    """The walk of `tdp_mmu_map` and `tdp_mmu_map_other`."""
    assert_held(cpu, HELD_MMU_READ)
    huge_disallowed = access & ACCESS_EXECUTE != 0 and config(cpu, C_NX_HUGE_PAGES) != 0
    goal = LEVEL_4K if huge_disallowed else requested
    level = root_level(root)
    table = root_table(cpu, root)
    while not stopped(cpu):
        sptep = table + index_of(cpu, gfn, level)
        spte = read_once(cpu, sptep)
        goal = adjusted_goal(cpu, spte, level, goal)
        # Frozen first, level second: a frozen target entry must not be written either.
        if is_frozen(spte):
            return RET_PF_RETRY
        warn(cpu, is_poison(spte), LIFETIME_WALK, gfn, sptep, level)
        if level <= goal:
            if mmio != 0:
                return _install_mmio(cpu, sptep, gfn, level, spte, mmio)
            result = _install_leaf(cpu, sptep, gfn, level, spte, pfn, access, writable, prefetch)
            return result | level << LEVEL_SHIFT if prefetch else result
        if is_present(spte) and not is_leaf(spte, level):
            table = child_table(cpu, spte)
        else:
            spte = _make_room(cpu, sptep, gfn, level, spte)
            if is_frozen(spte):
                return RET_PF_RETRY
            tracked = huge_disallowed and requested >= level
            table = _make_table(cpu, sptep, gfn, level, spte, huge_disallowed, tracked)
            if table == 0:
                return RET_PF_RETRY
        level -= 1
    return RET_PF_RETRY


@inlined_kernel
def tdp_mmu_map(
    cpu: Cpu, root: int, gfn: int, access: int, requested: int, pfn: int, writable: int
) -> int:
    """Make `gfn` accessible below `root`; a RET_PF_* code.

    `requested` is the highest level that memslot, host mapping and logging allow, `pfn` the
    frame of `gfn` itself.
    """
    return _map(cpu, root, gfn, access, requested, pfn, writable, 0, 0)


@kernel
def tdp_mmu_map_other(
    cpu: Cpu, root: int, gfn: int, access: int, requested: int, pfn: int, writable: int, mmio: int
) -> int:
    """What no guest waits for as memory: `mmio`, a hole's entry, or with 0 a prefetched leaf.

    A prefetch's code has the level that it ended at above it, at LEVEL_SHIFT.
    """
    return _map(cpu, root, gfn, access, requested, pfn, writable, int(mmio == 0), mmio)
