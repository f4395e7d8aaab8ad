"""The one funnel that every SPTE change goes through, and its two doors.

`set_spte_atomic` for shared mode (mmu_lock held for read): one cmpxchg from a value that the
caller has seen; on failure nothing has happened.  `set_spte` for exclusive mode (held for
write).  Both end in `handle_changed_spte`, which names the transition, asserts that it is legal
and keeps the accounts.  `cond_resched` is how long walks let others in.
"""

from __future__ import annotations

from mmu.host.frames import MARK_DIRTY, mark_frame
from mmu.hw.tlb import EVERYTHING
from mmu.hw.vcpu import flush_remote_tlbs
from mmu.machine import events
from mmu.machine.conditions import (
    FROZEN_CHANGED,
    FROZEN_LOST,
    PROGRESS_YIELD,
    TRANSITION_LADDER,
    TRANSITION_LEVEL,
    TRANSITION_MMIO,
    TRANSITION_NONPRESENT,
    TRANSITION_PFN,
    warn,
)
from mmu.machine.cpu import Cpu
from mmu.machine.histogram import record_latency
from mmu.machine.kernel import inlined_kernel, kernel
from mmu.machine.layout import (
    C_TICK_CYCLES,
    CHECKED,
    H_BETWEEN_CHECKS,
    HELD,
    N_BETWEEN_CHECKS_MAX,
    N_CMPXCHG_FAILED,
    N_SPTES_ZAPPED,
    N_YIELDS,
    TICK_BEGAN,
    VISITED,
)
from mmu.machine.lock import (
    HELD_MMU,
    HELD_MMU_WRITE,
    assert_held,
    mmu_lock_contended,
    mmu_read_lock,
    mmu_read_unlock,
    mmu_write_lock,
    mmu_write_unlock,
)
from mmu.machine.primitives import (
    cmpxchg,
    config,
    cycles,
    emit,
    event,
    own,
    probe,
    read_once,
    set_own,
    stopped,
    tally,
    write_once,
    xchg,
    yield_core,
)
from mmu.machine.rcu import rcu_read_lock, rcu_read_unlock
from mmu.pages import maybe_free_deferred
from mmu.removed import handle_removed_pt, tell_host, update_page_stats
from mmu.spte import (
    LEVEL_1G,
    NONPRESENT,
    is_dirty,
    is_frozen,
    is_leaf,
    is_mmio,
    is_present,
    ladder_holds,
    needs_atomic_update,
    pfn_of,
)
from mmu.tdp_iter import (
    IT_GFN,
    IT_NEXT_LAST_LEVEL_GFN,
    IT_YIELDED,
    IT_YIELDED_GFN,
    pages_of,
    yielded_at,
)

DONE = -1  # set_spte_atomic: the entry is changed; any other value is what it holds now


@inlined_kernel
def _check_leaf(cpu: Cpu, sptep: int, gfn: int, old: int, new: int, level: int) -> None:
    """What a new leaf must be, whatever was there before."""
    misplaced = level > LEVEL_1G or (gfn | pfn_of(new)) & (pages_of(cpu, level) - 1) != 0
    warn(cpu, misplaced, TRANSITION_LEVEL, gfn, level, new)
    warn(cpu, not ladder_holds(new), TRANSITION_LADDER, sptep, old, new)


@inlined_kernel
def handle_changed_spte(cpu: Cpu, sptep: int, gfn: int, old: int, new: int, level: int) -> None:
    """Account for a change that has happened (tdp_mmu.c handle_changed_spte)."""
    was_leaf = is_present(old) and is_leaf(old, level)
    is_leaf_now = is_present(new) and is_leaf(new, level)
    if is_leaf_now:
        _check_leaf(cpu, sptep, gfn, old, new, level)
    if was_leaf and is_leaf_now:
        # A frame changes only through non-present and a flush, or two frames are live at once.
        warn(cpu, pfn_of(old) != pfn_of(new), TRANSITION_PFN, sptep, old, new)
    if old == new:
        return
    emit(cpu, events.SPTE_CHANGED, sptep, old, new)
    if was_leaf and not is_leaf_now and not is_present(new):
        warn(cpu, is_mmio(new), TRANSITION_MMIO, sptep, old, new)
        tell_host(cpu, gfn, old)
        tally(cpu, N_SPTES_ZAPPED, 1)
    elif was_leaf and is_leaf_now and is_dirty(old) and not is_dirty(new):
        # The entry was the host's only other record of the write.
        mark_frame(cpu, gfn, pfn_of(old), MARK_DIRTY)
    if not is_present(old) and not is_present(new):
        frozen = is_frozen(old) or is_frozen(new)
        legal = frozen or is_mmio(old) or is_mmio(new)
        warn(cpu, not legal, TRANSITION_NONPRESENT, sptep, old, new)
        return
    if was_leaf and not is_leaf_now:
        update_page_stats(cpu, level, -1)
    elif is_leaf_now and not was_leaf:
        update_page_stats(cpu, level, 1)
    if is_present(old) and not was_leaf and (is_leaf_now or not is_present(new)):
        # By what the entry was, not by its pfn: a leaf's frame may have the table's number.
        handle_removed_pt(cpu, pfn_of(old), gfn, level - 1)


@inlined_kernel
def _exchange(cpu: Cpu, sptep: int, gfn: int, level: int, old: int, new: int) -> int:
    """The change itself; DONE, or what the entry holds."""
    seen = cmpxchg(cpu, sptep, old, new)
    if seen != old:
        tally(cpu, N_CMPXCHG_FAILED, 1)
        return seen
    handle_changed_spte(cpu, sptep, gfn, old, new, level)
    return DONE


@inlined_kernel
def set_spte_atomic(cpu: Cpu, sptep: int, gfn: int, level: int, old: int, new: int) -> int:
    """Shared mode: change the entry from `old`, which the caller has read, to `new`.

    Returns DONE, or the entry's present value: then nothing was written and nothing accounted
    (somebody else, the hardware included, was faster).  `old` must not be frozen: frozen
    entries belong to whoever froze them, even if the new value would be equal.
    """
    assert_held(cpu, HELD_MMU)
    warn(cpu, is_frozen(old), FROZEN_CHANGED, sptep, old, new)
    if probe(cpu, events.PROBE_CMPXCHG):
        return read_once(cpu, sptep)
    return _exchange(cpu, sptep, gfn, level, old, new)


@inlined_kernel
def set_spte_expected(cpu: Cpu, sptep: int, gfn: int, level: int, old: int, new: int) -> int:
    """`set_spte_atomic` for who does not try again: no injected failure, only what others did."""
    assert_held(cpu, HELD_MMU)
    warn(cpu, is_frozen(old), FROZEN_CHANGED, sptep, old, new)
    return _exchange(cpu, sptep, gfn, level, old, new)


@kernel
def set_spte(cpu: Cpu, sptep: int, gfn: int, level: int, old: int, new: int) -> int:
    """Exclusive mode: change the entry; returns the value that was really replaced.

    The hardware and fast page faults do not know mmu_lock: an entry that they may change is
    exchanged, and what comes back is the truth.
    """
    assert_held(cpu, HELD_MMU_WRITE)
    warn(cpu, is_frozen(old) or is_frozen(new), FROZEN_CHANGED, sptep, old, new)
    replaced = old
    if needs_atomic_update(old, level):
        replaced = xchg(cpu, sptep, new)
    else:
        write_once(cpu, sptep, new)
    handle_changed_spte(cpu, sptep, gfn, replaced, new, level)
    return replaced


@kernel
def unfreeze_spte(cpu: Cpu, sptep: int) -> None:
    """The owner of a frozen entry gives it back, empty: nobody else may have changed it."""
    found = read_once(cpu, sptep)
    warn(cpu, not is_frozen(found) and not stopped(cpu), FROZEN_LOST, sptep, found, 0)
    write_once(cpu, sptep, NONPRESENT)


@kernel
def relax_mmu_lock(cpu: Cpu, exclusive: int) -> None:
    """Drop mmu_lock, give up the core, retake it in the same mode."""
    if exclusive:
        mmu_write_unlock(cpu)
    else:
        mmu_read_unlock(cpu)
    maybe_free_deferred(cpu)
    yield_core(cpu)
    event(cpu, events.COST_YIELD, 1)
    set_own(cpu, TICK_BEGAN, cycles(cpu))
    if exclusive:
        mmu_write_lock(cpu)
    else:
        mmu_read_lock(cpu)


@inlined_kernel
def note_visited(cpu: Cpu, now: int) -> None:
    """How many entries of removed tables were handled since the last yield check, how long."""
    visited = own(cpu, VISITED)
    if visited != 0:
        set_own(cpu, N_BETWEEN_CHECKS_MAX, max(own(cpu, N_BETWEEN_CHECKS_MAX), visited))
        set_own(cpu, VISITED, 0)
        record_latency(cpu, H_BETWEEN_CHECKS, now - own(cpu, CHECKED))
    set_own(cpu, CHECKED, now)


@inlined_kernel
def resched_wanted(cpu: Cpu, now: int) -> int:
    """Somebody wants the core or mmu_lock (need_resched, rwlock_needbreak)."""
    wanted = probe(cpu, events.PROBE_CONTEND)
    # The scheduler tick has passed since this actor last gave up its core.
    need_resched = now - own(cpu, TICK_BEGAN) > config(cpu, C_TICK_CYCLES)
    return int(wanted or need_resched or mmu_lock_contended(cpu))


@kernel
def need_resched(cpu: Cpu, it: int) -> int:
    """Whether the walk should let others in now (tdp_mmu_iter_need_resched).

    Not until it has moved on since its last yield: it would never end otherwise.
    """
    now = cycles(cpu)
    note_visited(cpu, now)
    if own(cpu, it + IT_NEXT_LAST_LEVEL_GFN) == own(cpu, it + IT_YIELDED_GFN):
        return False
    return resched_wanted(cpu, now)


@kernel
def cond_resched(cpu: Cpu, it: int, flush: int) -> int:
    """Let others in between two entries (tdp_mmu_iter_cond_resched); 1 if it did.

    Then every pointer is dead and the loop body must go on to the next entry at once.
    """
    if not need_resched(cpu, it):
        return False
    if flush:
        flush_remote_tlbs(cpu, own(cpu, it + IT_GFN), EVERYTHING)
    # Noted apart from the iterator, whose words the rule above is made of.
    reached = own(cpu, it + IT_NEXT_LAST_LEVEL_GFN)
    warn(cpu, own(cpu, yielded_at(it)) == reached + 1, PROGRESS_YIELD, reached, 0, 0)
    set_own(cpu, yielded_at(it), reached + 1)
    rcu_read_unlock(cpu)
    relax_mmu_lock(cpu, own(cpu, HELD) & HELD_MMU_WRITE != 0)
    rcu_read_lock(cpu)
    set_own(cpu, it + IT_YIELDED, 1)
    tally(cpu, N_YIELDS, 1)
    return True
