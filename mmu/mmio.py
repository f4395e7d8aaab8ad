"""Accesses of gfns that no memslot covers: a device's, for user space to emulate.

The first one leaves an entry that says so, a misconfiguration with the gfn and the memslots'
generation in it; the next ones exit with that, and need no slot, no lock and no host.  An entry of
another generation says nothing any more: the access is an ordinary fault again.  Nobody looks for
stale entries when memslots change, so the generation must be right at every moment: see
`slot_changes`.
"""

from __future__ import annotations

from mmu.machine import events
from mmu.machine.conditions import LEAK_EXHAUSTED, LIFETIME_WALK, MAPPING_MMIO, warn
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import (
    N_MMIO_EXITS,
    N_MMIO_SPTE_HITS,
    N_PF_MMIO_SPTE_CREATED,
    POOL_FRESH,
    SLOTS_GENERATION,
    VCPU_ROOT,
)
from mmu.machine.lock import mmu_read_lock, mmu_read_unlock
from mmu.machine.primitives import hint, own, probe, read_once, tally
from mmu.machine.rcu import rcu_read_lock, rcu_read_unlock
from mmu.memslots import UPDATE_IN_PROGRESS, slot_of
from mmu.pages import maybe_free_deferred, topup_for_fault
from mmu.roots import root_invalid
from mmu.spte import (
    LEVEL_4K,
    MMIO_GENERATION_MASK,
    is_leaf,
    is_mmio,
    is_poison,
    is_present,
    make_mmio,
    mmio_generation,
    mmio_gfn,
)
from mmu.tdp.map import (
    RET_PF_EMULATE,
    RET_PF_INVALID,
    RET_PF_RETRY,
    tdp_mmu_map_other,
)
from mmu.tdp_iter import child_table, index_of, root_level, root_table


@kernel
def _emulate(cpu: Cpu, gfn: int) -> None:
    """User space emulates a device at `gfn`, which must be a hole.

    A slot that is being deleted is none yet.  One that was created since the lookup is no mistake:
    its creation waits for this exit to end, so the memslots are still in flux, and it cannot be
    being deleted already.  The slot first, the generation second: a slot that is seen, and no
    change under way after that, was there when this exit began.
    """
    tally(cpu, N_MMIO_EXITS, 1)
    slot = slot_of(cpu, gfn)
    covered = slot < 0
    if slot > 0:
        covered = read_once(cpu, SLOTS_GENERATION) & UPDATE_IN_PROGRESS == 0
    warn(cpu, covered, MAPPING_MMIO, gfn, abs(slot), 0)


@kernel
def map_mmio(cpu: Cpu, gfn: int, access: int) -> int:
    """Leave an MMIO entry at `gfn`, which was a hole at the lookup; RET_PF_EMULATE if it is there.

    The generation may be read after the lookup (make_mmio_spte): this exit is an SRCU section, so
    no change that it has not seen can get a new number before it ends.
    """
    if not topup_for_fault(cpu):
        warn(cpu, 1, LEAK_EXHAUSTED, gfn, hint(cpu, POOL_FRESH), 0)
        return RET_PF_EMULATE
    root = own(cpu, VCPU_ROOT)
    mmu_read_lock(cpu)
    result = RET_PF_RETRY
    # No host page, so no invalidation matters: only the root may be stale.
    if not root_invalid(cpu, root) and not probe(cpu, events.PROBE_RETRY):
        generation = read_once(cpu, SLOTS_GENERATION)
        entry = make_mmio(gfn, generation & MMIO_GENERATION_MASK)
        rcu_read_lock(cpu)
        result = tdp_mmu_map_other(cpu, root, gfn, access, LEVEL_4K, 0, 0, entry)
        rcu_read_unlock(cpu)
    mmu_read_unlock(cpu)
    maybe_free_deferred(cpu)
    return result


@kernel
def mmio_fault(cpu: Cpu, gfn: int, access: int) -> int:
    """The guest faulted at a hole (kvm_handle_noslot_fault and what follows); a RET_PF_* code."""
    result = map_mmio(cpu, gfn, access)
    if result == RET_PF_EMULATE:
        tally(cpu, N_PF_MMIO_SPTE_CREATED, 1)
        _emulate(cpu, gfn)
    return result


@kernel
def last_entry(cpu: Cpu, root: int, gfn: int) -> int:
    """The entry where a lockless walk ends (get_mmio_spte); what it says may change at any time."""
    rcu_read_lock(cpu)
    level = root_level(root)
    table = root_table(cpu, root)
    sptep = table + index_of(cpu, gfn, level)
    spte = read_once(cpu, sptep)
    while is_present(spte) and not is_leaf(spte, level):
        table = child_table(cpu, spte)
        level -= 1
        sptep = table + index_of(cpu, gfn, level)
        spte = read_once(cpu, sptep)
    warn(cpu, is_poison(spte), LIFETIME_WALK, gfn, sptep, level)
    rcu_read_unlock(cpu)
    return spte


@kernel
def handle_mmio_page_fault(cpu: Cpu, gfn: int) -> int:
    """An exit by a misconfigured entry; RET_PF_EMULATE, _INVALID: stale, _RETRY: it is gone.

    While the memslots change no entry counts (check_mmio_spte): the change may have been seen by
    others already, and its number comes only after every exit that has not seen it.
    """
    # Before the entry: at the wrap old entries go first, then the number comes that they have.
    generation = read_once(cpu, SLOTS_GENERATION)
    spte = last_entry(cpu, own(cpu, VCPU_ROOT), gfn)
    if not is_mmio(spte):
        return RET_PF_RETRY
    in_flux = generation & UPDATE_IN_PROGRESS != 0
    if in_flux or mmio_generation(spte) != generation & MMIO_GENERATION_MASK:
        return RET_PF_INVALID
    tally(cpu, N_MMIO_SPTE_HITS, 1)
    _emulate(cpu, mmio_gfn(spte))
    return RET_PF_EMULATE
