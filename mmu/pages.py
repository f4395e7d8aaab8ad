"""Page-table pages: the host's allocator, vCPUs' caches, and removed tables that wait for readers.

A cache is topped up before mmu_lock is taken (mmu_topup_memory_caches), since getting memory
from the host may sleep.  A removed table is kept on its remover's list until a grace period has
passed, then it is poisoned and goes back to the host, which hands out freed pages first and
last-in-first-out: a page freed too early is in somebody else's hands at once.

Pages fresh from the host are all zero, pages that were freed hold POISON until they are used
again; then they are looked through, so that nobody writes to them in between unnoticed.
"""

from __future__ import annotations

from mmu.machine import events
from mmu.machine.conditions import LIFETIME_POISON, PROGRESS_ZAP, ROOT_INVALID_USED, warn
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import inlined_kernel, kernel
from mmu.machine.layout import (
    C_POOL,
    C_RCU_BATCH,
    C_RECORDS,
    C_TABLE_PAGES,
    C_VCPUS,
    C_ZAP_BY,
    DEFERRED,
    DEFERRED_COUNT,
    LEVELS_MAX,
    N_TABLES_ALLOCATED,
    N_TABLES_FREED,
    POOL_FRESH,
    POOL_TOP,
    RECORD_WORDS,
    SP_DEFERRED_NEXT,
    SP_FREE,
    SP_FRESH,
    SP_GENERATION,
    SP_GFN,
    SP_LEVEL,
    SP_NX_DISALLOWED,
    SP_PARENT,
    SP_REMOVED,
    SP_ROOT_INVALID,
    SP_STATE,
    TABLE_CACHE,
    TABLE_CACHE_COUNT,
    TABLE_CACHE_MAX,
    USERS,
)
from mmu.machine.lock import assert_may_sleep, pool_lock, pool_unlock
from mmu.machine.primitives import (
    config,
    emit,
    event,
    hint,
    own,
    peek,
    poke,
    read_once,
    set_own,
    stopped,
    tally,
)
from mmu.machine.rcu import synchronize_rcu
from mmu.policy import ZAP_BY_WORKER
from mmu.spte import NONPRESENT, POISON
from mmu.tdp_iter import entries_of, root_page, table_of_page


@kernel
def record_of(cpu: Cpu, page: int) -> int:
    """Word index of a table page's record (struct kvm_mmu_page)."""
    return config(cpu, C_RECORDS) + page * RECORD_WORDS


@kernel
def assert_valid_root(cpu: Cpu, root: int) -> None:
    """Whoever does not zap works on valid roots only: a dying one gets nothing new."""
    page = root_page(root)
    invalid = read_once(cpu, record_of(cpu, page) + SP_ROOT_INVALID)
    warn(cpu, invalid != 0, ROOT_INVALID_USED, page, 0, 0)


@kernel
def assert_may_zap_root(cpu: Cpu, root: int) -> None:
    """With `--zap-by worker` no vCPU zaps a root, for it would be away for long; see put_root.

    A look at USERS is enough: while somebody has a root to zap it changes to 0 only, and from then
    on whoever puts a root zaps it himself.
    """
    is_workers = hint(cpu, USERS) != 0 and config(cpu, C_ZAP_BY) == ZAP_BY_WORKER
    by_vcpu = is_workers and cpu.id < config(cpu, C_VCPUS)
    warn(cpu, by_vcpu and not stopped(cpu), PROGRESS_ZAP, root_page(root), cpu.id, 0)


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
def _fill_cache(cpu: Cpu, needed: int) -> int:
    """Get pages from the host until the cache is full; 0 if there are fewer than `needed`."""
    cached = own(cpu, TABLE_CACHE_COUNT)
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
def topup_table_cache(cpu: Cpu, needed: int) -> int:
    """Have `needed` pages at hand, filling the whole cache if not; 0 if the host has none."""
    assert_may_sleep(cpu)
    return 1 if own(cpu, TABLE_CACHE_COUNT) >= needed else _fill_cache(cpu, needed)


@inlined_kernel
def topup_for_fault(cpu: Cpu) -> int:
    """Before a fault: a table for each level may be needed (PT64_ROOT_MAX_LEVEL)."""
    return topup_table_cache(cpu, LEVELS_MAX)


@kernel
def _clear_freed_table(cpu: Cpu, page: int) -> None:
    """Take the poison out; whatever else is there was written by somebody who must not."""
    table = table_of_page(cpu, page)
    for i in range(entries_of(cpu)):
        found = peek(cpu, table + i)
        warn(cpu, found != POISON, LIFETIME_POISON, table + i, found, page)
        poke(cpu, table + i, NONPRESENT)


@kernel
def alloc_table(cpu: Cpu) -> int:
    """Take an empty page from the actor's cache; 0 if there is none."""
    cached = own(cpu, TABLE_CACHE_COUNT)
    if cached == 0:
        return 0
    set_own(cpu, TABLE_CACHE_COUNT, cached - 1)
    page = own(cpu, TABLE_CACHE + cached - 1)
    if peek(cpu, record_of(cpu, page) + SP_STATE) == SP_FREE:
        _clear_freed_table(cpu, page)
    poke(cpu, record_of(cpu, page) + SP_STATE, SP_FRESH)
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
    poke(cpu, record + SP_GENERATION, peek(cpu, record + SP_GENERATION) + 1)


@kernel
def defer_free(cpu: Cpu, page: int) -> None:
    """A page is no longer linked, but readers may still be in it (call_rcu).

    Only the remover touches the list; it frees nothing before `free_deferred`.
    """
    record = record_of(cpu, page)
    poke(cpu, record + SP_STATE, SP_REMOVED)
    poke(cpu, record + SP_DEFERRED_NEXT, own(cpu, DEFERRED))
    set_own(cpu, DEFERRED, page)
    set_own(cpu, DEFERRED_COUNT, own(cpu, DEFERRED_COUNT) + 1)


@kernel
def _poison(cpu: Cpu, page: int) -> None:
    """From here on nobody may touch the page, nor its record.

    Each word is written, though SP_FREE alone would tell: a step on any of them conflicts with its
    own word's poison then, so that exploration tries it after the free, too.
    """
    table, record = table_of_page(cpu, page), record_of(cpu, page)
    for i in range(entries_of(cpu)):
        poke(cpu, table + i, POISON)
    for word in range(SP_PARENT, SP_STATE):  # the others are SP_DEFERRED_NEXT and the allocator's
        poke(cpu, record + word, POISON)
    poke(cpu, record + SP_STATE, SP_FREE)
    emit(cpu, events.TABLE_FREE, page, 0, 0)


@kernel
def free_deferred(cpu: Cpu) -> None:
    """Wait for readers, then give all removed pages of this actor back to the host."""
    synchronize_rcu(cpu)
    page = own(cpu, DEFERRED)
    while page != 0:
        _poison(cpu, page)
        page = peek(cpu, record_of(cpu, page) + SP_DEFERRED_NEXT)
    page = own(cpu, DEFERRED)
    pool_lock(cpu)
    while page != 0:
        top = peek(cpu, POOL_TOP)
        poke(cpu, config(cpu, C_POOL) + top, page)
        poke(cpu, POOL_TOP, top + 1)
        following = record_of(cpu, page) + SP_DEFERRED_NEXT
        page = peek(cpu, following)
        poke(cpu, following, POISON)
    pool_unlock(cpu)
    tally(cpu, N_TABLES_FREED, own(cpu, DEFERRED_COUNT))
    set_own(cpu, DEFERRED, 0)
    set_own(cpu, DEFERRED_COUNT, 0)


@inlined_kernel
def maybe_free_deferred(cpu: Cpu) -> None:
    """Where nothing is held: free removed pages once there are enough of them (bounded memory)."""
    if own(cpu, DEFERRED_COUNT) >= config(cpu, C_RCU_BATCH):
        free_deferred(cpu)
