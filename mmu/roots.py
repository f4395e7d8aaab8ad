"""Roots: the list, references, who may use one, how one dies.

A root is a table page whose record also counts references; its handle is `page << 3 | level`.
The list (tdp_mmu_roots) is read under RCU and changed under tdp_mmu_pages_lock.  Whoever works on
a root holds a reference, so that it stays on the list, where notifiers find it.

`--root-life put` (5.18): a root dies when its last user puts it.  The last put of a *valid* root
marks it invalid, takes one reference again, and hands that to whoever zaps: the worker, or
itself.  The put that finds the root invalid takes it off the list and frees it.
`--root-life owned` (6.4): the TDP MMU owns one reference of each valid root, which invalidation
passes on to the zapper; no last put ever finds a valid root.
"""

from __future__ import annotations

from mmu.machine import events
from mmu.machine.blocking import wake
from mmu.machine.conditions import (
    LEAK_ROOT,
    ROOT_REFERENCES,
    ROOT_VALID,
    warn,
)
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import inlined_kernel, kernel
from mmu.machine.layout import (
    C_ROOT_LIFE,
    C_ZAP_BY,
    N_ROOTS_CREATED,
    N_ROOTS_FREED,
    N_ROOTS_INVALIDATED,
    ROOTS,
    SP_LEVEL,
    SP_LINKED,
    SP_ROOT_COUNT,
    SP_ROOT_INVALID,
    SP_ROOT_NEXT,
    SP_ROOT_ROLE,
    SP_ROOT_SCHEDULED,
    SP_STATE,
    USERS,
    ZAP_QUEUED,
)
from mmu.machine.lock import (
    HELD_MMU,
    HELD_MMU_WRITE,
    HELD_PAGES,
    HELD_RCU,
    assert_held,
    pages_lock,
    pages_unlock,
)
from mmu.machine.primitives import (
    cmpxchg,
    config,
    emit,
    fetch_add,
    peek,
    poke,
    read_once,
    stopped,
    store_release,
    tally,
    write_once,
    xchg,
)
from mmu.machine.rcu import rcu_read_lock, rcu_read_unlock
from mmu.pages import alloc_table, defer_free, record_of
from mmu.policy import LIFE_OWNED, ZAP_BY_WORKER
from mmu.spte import is_present
from mmu.tdp.zap import zap_root
from mmu.tdp_iter import entries_of, root_handle, root_page, root_table


@inlined_kernel
def _record(cpu: Cpu, root: int) -> int:
    """Word index of the root's record."""
    return record_of(cpu, root_page(root))


@kernel
def root_invalid(cpu: Cpu, root: int) -> int:
    """Nobody may map anything below it any more (role.invalid)."""
    return int(read_once(cpu, _record(cpu, root) + SP_ROOT_INVALID) != 0)


@kernel
def get_root(cpu: Cpu, root: int) -> int:
    """Take a reference unless there is none left (refcount_inc_not_zero); 1 if taken.

    Without "unless": the last put has happened, and the root is freed under our hands.
    """
    word = _record(cpu, root) + SP_ROOT_COUNT
    count = read_once(cpu, word)
    while count > 0 and not stopped(cpu):
        seen = cmpxchg(cpu, word, count, count + 1)
        if seen == count:
            emit(cpu, events.ROOT_GET, root_page(root), count, 0)
            return 1
        count = seen
    return 0


@kernel
def _put_reference(cpu: Cpu, root: int) -> int:
    """Drop one reference; 1 if it was the last."""
    before = fetch_add(cpu, _record(cpu, root) + SP_ROOT_COUNT, -1)
    warn(cpu, before < 1 and not stopped(cpu), ROOT_REFERENCES, root_page(root), before, 0)
    emit(cpu, events.ROOT_PUT, root_page(root), before, 0)
    return int(before == 1)


@kernel
def schedule_zap(cpu: Cpu, root: int) -> None:
    """Hand the root, and a reference that the caller owns, to whoever zaps scheduled roots."""
    store_release(cpu, _record(cpu, root) + SP_ROOT_SCHEDULED, 1)
    fetch_add(cpu, ZAP_QUEUED, 1)
    wake(cpu, ZAP_QUEUED)


@kernel
def _unlink_root(cpu: Cpu, root: int) -> None:
    """Off the list (list_del_rcu): readers that stand on the root still find the next one."""
    pages_lock(cpu)
    after = read_once(cpu, _record(cpu, root) + SP_ROOT_NEXT)
    place = ROOTS
    other = read_once(cpu, place)
    while other != root and other != 0:
        place = _record(cpu, other) + SP_ROOT_NEXT
        other = read_once(cpu, place)
    warn(cpu, other == 0 and not stopped(cpu), ROOT_REFERENCES, root_page(root), 0, 1)
    if other == root:
        store_release(cpu, place, after)
    pages_unlock(cpu)


@kernel
def _free_root(cpu: Cpu, root: int) -> None:
    """Nobody has a reference: unlink, and free after a grace period.  It must be empty."""
    owed = read_once(cpu, _record(cpu, root) + SP_ROOT_SCHEDULED)
    warn(cpu, owed != 0 and not stopped(cpu), ROOT_REFERENCES, root_page(root), 0, 3)
    _unlink_root(cpu, root)
    table = root_table(cpu, root)
    for i in range(entries_of(cpu)):
        spte = peek(cpu, table + i)
        warn(cpu, is_present(spte), LEAK_ROOT, root_page(root), i, spte)
    defer_free(cpu, root_page(root))
    tally(cpu, N_ROOTS_FREED, 1)


@kernel
def put_root(cpu: Cpu, root: int) -> None:
    """Give a reference back, under mmu_lock in either mode (kvm_tdp_mmu_put_root).

    The last one of a valid root zaps it, or has it zapped; of an invalid one, frees it.
    """
    assert_held(cpu, HELD_MMU)
    if not _put_reference(cpu, root):
        return
    if xchg(cpu, _record(cpu, root) + SP_ROOT_INVALID, 1) == 0:
        warn(cpu, config(cpu, C_ROOT_LIFE) == LIFE_OWNED, ROOT_VALID, root_page(root), 0, 0)
        # Back to life for the time of the zap: on the list, for notifiers, with one owner.
        write_once(cpu, _record(cpu, root) + SP_ROOT_COUNT, 1)
        emit(cpu, events.ROOT_GET, root_page(root), 0, 0)
        if read_once(cpu, USERS) != 0 and config(cpu, C_ZAP_BY) == ZAP_BY_WORKER:
            # The worker owns that reference now, and is flushed before the VM is gone.
            schedule_zap(cpu, root)
            return
        zap_root(cpu, root)
        if not _put_reference(cpu, root):
            return
    _free_root(cpu, root)


@inlined_kernel
def _next_of(cpu: Cpu, root: int) -> int:
    """The root behind it on the list, or the first (of 0)."""
    return read_once(cpu, ROOTS if root == 0 else _record(cpu, root) + SP_ROOT_NEXT)


@kernel
def next_root(cpu: Cpu, previous: int, only_valid: int) -> int:
    """The root behind `previous` (0: the first) with a reference taken, 0 at the end.

    The reference to `previous` is given back, which may zap or free it; so a loop that is left
    early must put.  tdp_mmu_next_root; the caller holds mmu_lock and may drop it in between.
    """
    assert_held(cpu, HELD_MMU)
    rcu_read_lock(cpu)
    root = _next_of(cpu, previous)
    while root != 0 and not _usable(cpu, root, only_valid):
        root = _next_of(cpu, root)
    rcu_read_unlock(cpu)
    if previous != 0:
        put_root(cpu, previous)
    return root


@kernel
def next_valid_root(cpu: Cpu, previous: int) -> int:
    """The valid root behind `previous` (0: the first), without a reference: write lock held.

    Nobody can put, so none can go (for_each_valid_tdp_mmu_root).
    """
    assert_held(cpu, HELD_MMU_WRITE)
    root = _next_of(cpu, previous)
    while root != 0 and root_invalid(cpu, root):
        root = _next_of(cpu, root)
    return root


@kernel
def next_valid_root_rcu(cpu: Cpu, previous: int) -> int:
    """The valid root behind `previous` (0: the first), without a lock or a reference.

    In a read section even a root that is being zapped or has been freed still leads to the next
    one, and its tables can be walked (for_each_tdp_mmu_root_rcu).  That it is valid is true of the
    moment of the look only.
    """
    assert_held(cpu, HELD_RCU)
    root = _next_of(cpu, previous)
    while root != 0 and root_invalid(cpu, root):
        root = _next_of(cpu, root)
    return root


@kernel
def _usable(cpu: Cpu, root: int, only_valid: int) -> int:
    """Take a reference if the root is alive, and valid if it has to be.

    Validity is looked at again with the reference in hand: only now no last put can change it.
    """
    if only_valid and root_invalid(cpu, root):
        return 0
    if not get_root(cpu, root):
        return 0
    if only_valid and root_invalid(cpu, root):
        put_root(cpu, root)
        return 0
    return 1


@kernel
def _find_root(cpu: Cpu, role: int) -> int:
    """A valid root of this role with a reference taken, 0 if there is none (RCU or pages lock)."""
    root = _next_of(cpu, 0)
    while root != 0:
        fits = read_once(cpu, _record(cpu, root) + SP_ROOT_ROLE) == role
        if fits and not root_invalid(cpu, root) and get_root(cpu, root):
            return root
        root = _next_of(cpu, root)
    return 0


@kernel
def _create_root(cpu: Cpu, role: int) -> int:
    """A new root at the head of the list (pages lock held); 0 if no page is at hand."""
    assert_held(cpu, HELD_PAGES)
    page = alloc_table(cpu)
    if page == 0:
        return 0
    level = role & 7
    record = record_of(cpu, page)
    poke(cpu, record + SP_LEVEL, level)
    poke(cpu, record + SP_ROOT_ROLE, role)
    poke(cpu, record + SP_ROOT_INVALID, 0)
    poke(cpu, record + SP_ROOT_SCHEDULED, 0)
    poke(cpu, record + SP_ROOT_COUNT, 2 if config(cpu, C_ROOT_LIFE) == LIFE_OWNED else 1)
    poke(cpu, record + SP_ROOT_NEXT, read_once(cpu, ROOTS))
    poke(cpu, record + SP_STATE, SP_LINKED)
    store_release(cpu, ROOTS, root_handle(page, level))
    tally(cpu, N_ROOTS_CREATED, 1)
    emit(cpu, events.ROOT_GET, page, 0, 0)
    return root_handle(page, level)


@kernel
def _find_or_create(cpu: Cpu, role: int) -> int:
    """Looked up again under tdp_mmu_pages_lock, so that two vCPUs do not create two."""
    rcu_read_lock(cpu)
    root = _find_root(cpu, role)
    rcu_read_unlock(cpu)
    if root == 0:
        pages_lock(cpu)
        root = _find_root(cpu, role)
        if root == 0:
            root = _create_root(cpu, role)
        pages_unlock(cpu)
    return root


@kernel
def alloc_root(cpu: Cpu, role: int) -> int:
    """A root of `role` (address space << 3 | level) for a vCPU, with a reference; 0: no page.

    kvm_tdp_mmu_alloc_root under the read lock (6.9): one that exists is shared.  One whose last
    put came between the look at it and the reference is given back.
    """
    assert_held(cpu, HELD_MMU)
    root = _find_or_create(cpu, role)
    while root != 0 and root_invalid(cpu, root) and not stopped(cpu):
        put_root(cpu, root)
        root = _find_or_create(cpu, role)
    return root


@kernel
def invalidate_all_roots(cpu: Cpu) -> None:
    """Make every valid root invalid and schedule its zap, write lock held.

    kvm_tdp_mmu_invalidate_all_roots: the zapper gets a reference of its own (put), or the one
    that the TDP MMU owned (owned).  The caller asks vCPUs to reload in the same critical section.
    """
    assert_held(cpu, HELD_MMU_WRITE)
    root = _next_of(cpu, 0)
    while root != 0 and not stopped(cpu):
        # Invalid ones are being zapped already.  A valid one has users: nobody puts under our lock.
        if not root_invalid(cpu, root):
            taken = config(cpu, C_ROOT_LIFE) == LIFE_OWNED or get_root(cpu, root)
            warn(cpu, not taken and not stopped(cpu), ROOT_REFERENCES, root_page(root), 0, 2)
            write_once(cpu, _record(cpu, root) + SP_ROOT_INVALID, 1)
            schedule_zap(cpu, root)
            tally(cpu, N_ROOTS_INVALIDATED, 1)
        root = _next_of(cpu, root)
