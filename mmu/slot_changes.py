"""Creating, deleting and moving memslots while vCPUs use them (kvm_set_memslot).

A slot that goes or moves is first marked invalid: accesses are tried again, nothing new is mapped.
Then all that is mapped goes, then the slot.  Each change of the active memslots waits until no
invalidation is under way, since its end must see the slots that its start saw, and afterwards for
every vCPU that may still handle an exit with the slots as they were.

Every change gives the memslots a new generation, which is what makes older MMIO entries void.  It
comes last, when nobody can make an entry from what he saw before the change; until then the
generation says that a change is under way, and no MMIO entry is believed.
"""

from __future__ import annotations

from mmu.hw.vcpu import synchronize_srcu
from mmu.machine import events
from mmu.machine.blocking import EXCLUSIVE, SHARED_MASK, acquire_when, release
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import (
    C_SLOTS,
    N_SLOTS_CHANGED,
    NOTIFIERS,
    SLOT_ABSENT,
    SLOT_INVALID,
    SLOT_PLACE,
    SLOT_PRESENT,
    SLOT_WORDS,
    SLOTS_GENERATION,
)
from mmu.machine.lock import HELD_SLOTS, assert_held, slots_lock, slots_unlock
from mmu.machine.primitives import config, emit, read_once, store_release, tally
from mmu.memslots import STATE_BITS, UPDATE_IN_PROGRESS, slot_word
from mmu.spte import MMIO_GENERATION_MASK
from mmu.zap_all import zap_all_fast


@kernel
def _swap_active_memslots(cpu: Cpu, slot: int, place: int) -> None:
    """Publish a slot's new place (kvm_swap_active_memslots); readers of the old one are waited for.

    The count of invalidations is held at 0 only while the words are written.  The generation is
    marked before the change can be seen, and grows after everybody has left who has not seen it.
    """
    number = (slot - config(cpu, C_SLOTS)) // SLOT_WORDS
    emit(cpu, events.MEMSLOT_CHANGED, number, place, 0)
    assert_held(cpu, HELD_SLOTS)
    generation = read_once(cpu, SLOTS_GENERATION)
    acquire_when(cpu, NOTIFIERS, EXCLUSIVE | SHARED_MASK, 0, EXCLUSIVE)
    store_release(cpu, SLOTS_GENERATION, generation | UPDATE_IN_PROGRESS)
    store_release(cpu, slot + SLOT_PLACE, place)
    release(cpu, NOTIFIERS, -EXCLUSIVE)
    synchronize_srcu(cpu)
    generation += 1
    if generation & MMIO_GENERATION_MASK == 0:
        # Entries hold 19 bits: what was made that many changes ago would be believed again
        # (kvm_mmu_invalidate_mmio_sptes).
        zap_all_fast(cpu)
    store_release(cpu, SLOTS_GENERATION, generation)


@kernel
def _invalidate_memslot(cpu: Cpu, slot: int) -> None:
    """Nothing of the slot is mapped any more, nor can it be (kvm_invalidate_memslot)."""
    base = read_once(cpu, slot + SLOT_PLACE) >> STATE_BITS
    _swap_active_memslots(cpu, slot, base << STATE_BITS | SLOT_INVALID)
    zap_all_fast(cpu)


@kernel
def create_memslot(cpu: Cpu, number: int, base: int) -> None:
    """Show memslot `number`, which is nowhere, at gfn `base`.

    `base` differs from the slot's home only by a multiple of the gfn window (`C_GFN_MASK` + 1).
    """
    slots_lock(cpu)
    _swap_active_memslots(cpu, slot_word(cpu, number), base << STATE_BITS | SLOT_PRESENT)
    tally(cpu, N_SLOTS_CHANGED, 1)
    slots_unlock(cpu)


@kernel
def delete_memslot(cpu: Cpu, number: int) -> None:
    """Take memslot `number` away: accesses of its gfns are MMIO afterwards."""
    slots_lock(cpu)
    slot = slot_word(cpu, number)
    _invalidate_memslot(cpu, slot)
    _swap_active_memslots(cpu, slot, SLOT_ABSENT)
    tally(cpu, N_SLOTS_CHANGED, 1)
    slots_unlock(cpu)


@kernel
def move_memslot(cpu: Cpu, number: int, base: int) -> None:
    """Show memslot `number` at gfn `base` instead of where it is, with the same memory."""
    slots_lock(cpu)
    slot = slot_word(cpu, number)
    _invalidate_memslot(cpu, slot)
    _swap_active_memslots(cpu, slot, base << STATE_BITS | SLOT_PRESENT)
    tally(cpu, N_SLOTS_CHANGED, 1)
    slots_unlock(cpu)
