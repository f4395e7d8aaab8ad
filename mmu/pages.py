"""Page-table pages: the host's allocator, and the caches that vCPUs fill outside the lock.

A cache is topped up before mmu_lock is taken (mmu_topup_memory_caches), since getting memory
from the host may sleep.  The host hands out freed pages first and last-in-first-out, so that a
page freed too early is in somebody else's hands at once.  Cached and free pages are all zero.
"""

from __future__ import annotations

from mmu.machine import events
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import inlined_kernel, kernel
from mmu.machine.layout import (
    C_POOL,
    C_RECORDS,
    C_TABLE_PAGES,
    LEVELS_MAX,
    N_TABLES_ALLOCATED,
    POOL_FRESH,
    POOL_TOP,
    RECORD_WORDS,
    SP_GENERATION,
    SP_GFN,
    SP_LEVEL,
    SP_LINKED,
    SP_NX_DISALLOWED,
    SP_PARENT,
    TABLE_CACHE,
    TABLE_CACHE_COUNT,
    TABLE_CACHE_MAX,
)
from mmu.machine.lock import assert_may_sleep, pool_lock, pool_unlock
from mmu.machine.primitives import (
    config,
    emit,
    event,
    own,
    peek,
    poke,
    set_own,
    tally,
)
from mmu.tdp_iter import entries_of, table_of_page


@kernel
def record_of(cpu: Cpu, page: int) -> int:
    """Word index of a table page's record (struct kvm_mmu_page)."""
    return config(cpu, C_RECORDS) + page * RECORD_WORDS


@kernel
def _host_page(cpu: Cpu) -> int:
    """One free page from the host (pool lock held), 0 if there is none."""
    top = peek(cpu, POOL_TOP)
    if top > 0:
        poke(cpu, POOL_TOP, top - 1)
        return peek(cpu, config(cpu, C_POOL) + top - 1)
    fresh = peek(cpu, POOL_FRESH)
    if fresh >= config(cpu, C_TABLE_PAGES):
        return 0
    poke(cpu, POOL_FRESH, fresh + 1)
    return fresh


@kernel
def topup_table_cache(cpu: Cpu, needed: int) -> int:
    """Have `needed` pages at hand, filling the whole cache if not; 0 if the host has none."""
    assert_may_sleep(cpu)
    cached = own(cpu, TABLE_CACHE_COUNT)
    if cached >= needed:
        return 1
    pool_lock(cpu)
    while cached < TABLE_CACHE_MAX:
        page = _host_page(cpu)
        if page == 0:
            break
        set_own(cpu, TABLE_CACHE + cached, page)
        cached += 1
    pool_unlock(cpu)
    set_own(cpu, TABLE_CACHE_COUNT, cached)
    return int(cached >= needed)


@inlined_kernel
def topup_for_fault(cpu: Cpu) -> int:
    """Before a fault: a table for each level may be needed (PT64_ROOT_MAX_LEVEL)."""
    return topup_table_cache(cpu, LEVELS_MAX)


@kernel
def alloc_table(cpu: Cpu) -> int:
    """Take a zeroed page from the actor's cache; 0 if it is empty."""
    cached = own(cpu, TABLE_CACHE_COUNT)
    if cached == 0:
        return 0
    set_own(cpu, TABLE_CACHE_COUNT, cached - 1)
    page = own(cpu, TABLE_CACHE + cached - 1)
    tally(cpu, N_TABLES_ALLOCATED, 1)
    emit(cpu, events.TABLE_ALLOC, page, 0, 0)
    event(cpu, events.COST_TABLE_ZERO, 1)
    return page


@kernel
def free_unlinked_table(cpu: Cpu, page: int) -> None:
    """Give back a page that was never linked: nobody can have seen it, so no grace period.

    It came from this actor's cache within the same operation, so there is room for it.
    """
    table = table_of_page(cpu, page)
    for i in range(entries_of(cpu)):
        poke(cpu, table + i, 0)
    cached = own(cpu, TABLE_CACHE_COUNT)
    set_own(cpu, TABLE_CACHE + cached, page)
    set_own(cpu, TABLE_CACHE_COUNT, cached + 1)
    tally(cpu, N_TABLES_ALLOCATED, -1)
    emit(cpu, events.TABLE_FREE, page, 0, 0)


@kernel
def init_child_sp(cpu: Cpu, page: int, gfn: int, level: int, nx_disallowed: int) -> None:
    """Describe a table before it is linked (tdp_mmu_init_child_sp).

    Once per page: a second initialisation after linking would wipe `nx_huge_page_disallowed`.
    """
    record = record_of(cpu, page)
    poke(cpu, record + SP_GFN, gfn)
    poke(cpu, record + SP_LEVEL, level)
    poke(cpu, record + SP_NX_DISALLOWED, nx_disallowed)
    poke(cpu, record + SP_PARENT, 0)
    poke(cpu, record + SP_LINKED, 0)
    poke(cpu, record + SP_GENERATION, peek(cpu, record + SP_GENERATION) + 1)
