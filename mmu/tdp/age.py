"""Which pages the guest has used: mark leafs old, and look whether they became young again.

As of 6.15 no lock is held.  RCU keeps the tables, one cmpxchg changes an entry from what was read,
and a lost race is left as it is: whoever was faster has just used the page, or taken it away.
Nothing flushes: a page that is used through a cached translation looks old.

The change handler is not asked, since nothing that it accounts for changes: the leaf still maps
its frame, and what says that the page is dirty stays (`is_dirty`).  So nobody tells the host
anything about a frame, which a notifier may be giving to somebody else at the same moment.
"""

from __future__ import annotations

from mmu.machine import events
from mmu.machine.conditions import LIFETIME_WALK, warn
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import inlined_kernel, kernel
from mmu.machine.layout import ITERATOR, N_SPTES_AGED
from mmu.machine.lock import HELD_RCU, assert_held
from mmu.machine.primitives import cmpxchg, emit, own, stopped, tally
from mmu.spte import (
    LEVEL_4K,
    is_accessed,
    is_leaf,
    is_poison,
    is_present,
    mark_for_access_track,
)
from mmu.tdp_iter import IT_GFN, IT_LEVEL, IT_OLD, IT_SPTEP, iter_next, iter_start


@inlined_kernel
def _is_young(cpu: Cpu) -> int:
    """The iterator's entry is a leaf that was used since it was marked old."""
    level, old = own(cpu, ITERATOR + IT_LEVEL), own(cpu, ITERATOR + IT_OLD)
    gfn, sptep = own(cpu, ITERATOR + IT_GFN), own(cpu, ITERATOR + IT_SPTEP)
    warn(cpu, is_poison(old), LIFETIME_WALK, gfn, sptep, level)
    return is_present(old) and is_leaf(old, level) and is_accessed(old)


@kernel
def _age_spte(cpu: Cpu, sptep: int, old: int) -> None:
    """Mark one young leaf old (kvm_tdp_mmu_age_spte): A goes, or without A bits R, W and X.

    Where there are A bits the kernel takes A by an atomic AND.  But A is one of the bits of
    FROZEN: of an entry that somebody freezes after it was read, the AND would leave a value that is
    neither frozen nor empty, and that a fault in a removed table would fill.
    """
    new = mark_for_access_track(old)
    if cmpxchg(cpu, sptep, old, new) == old:
        emit(cpu, events.SPTE_CHANGED, sptep, old, new)
        tally(cpu, N_SPTES_AGED, 1)


@kernel
def age_gfn_range(cpu: Cpu, root: int, start: int, end: int) -> int:
    """Mark the leafs of [start, end) old; 1 if any was young (kvm_tdp_mmu_age_gfn_range).

    The caller is in a read section, which the walk does not leave: there is no lock to yield, and
    the ranges are a page each, or what a huge page covers.
    """
    assert_held(cpu, HELD_RCU)
    young = 0
    valid = iter_start(cpu, ITERATOR, root, LEVEL_4K, start, end)
    while valid and not stopped(cpu):
        if _is_young(cpu):
            young = 1
            _age_spte(cpu, own(cpu, ITERATOR + IT_SPTEP), own(cpu, ITERATOR + IT_OLD))
        valid = iter_next(cpu, ITERATOR)
    return young


@kernel
def test_age_gfn(cpu: Cpu, root: int, start: int, end: int) -> int:
    """Whether any leaf of [start, end) is young; only reads (kvm_tdp_mmu_test_age_gfn)."""
    assert_held(cpu, HELD_RCU)
    valid = iter_start(cpu, ITERATOR, root, LEVEL_4K, start, end)
    while valid and not stopped(cpu):
        if _is_young(cpu):
            return 1
        valid = iter_next(cpu, ITERATOR)
    return 0
