"""Memslots: which guest memory exists, at which levels it may be mapped, whether it is logged.

A slot is a fixed piece of host memory (`SLOT_HOME`, `SLOT_PAGES`) that is somewhere in the guest's
address space or nowhere: one word, `SLOT_PLACE`, says where and in which state, so that a reader
sees all or nothing.  Readers are in an SRCU section (a vCPU that handles an exit); whoever has
changed a slot waits for these.  A vCPU remembers the slot that it used last.
"""

from __future__ import annotations

from mmu.gfn_track import is_lpage_disallowed
from mmu.host.frames import host_mapping, mapping_level
from mmu.machine.conditions import MAPPING_SLOT, warn
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import inlined_kernel, kernel
from mmu.machine.layout import (
    C_SLOT_COUNT,
    C_SLOTS,
    SLOT_ABSENT,
    SLOT_CACHED,
    SLOT_INVALID,
    SLOT_LOGGED,
    SLOT_PAGES,
    SLOT_PLACE,
    SLOT_PRESENT,
    SLOT_WORDS,
    VCPU_ROOT,
)
from mmu.machine.primitives import config, own, read_once, set_own, stopped
from mmu.spte import LEVEL_1G, LEVEL_4K
from mmu.tdp_iter import pages_of, root_level

STATE_BITS = 2
STATE_MASK = 3

# In SLOTS_GENERATION: a change can be seen already, its number is still to come
# (KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS).
UPDATE_IN_PROGRESS = 1 << 62


@kernel
def slot_word(cpu: Cpu, number: int) -> int:
    """Word index of memslot `number`."""
    return config(cpu, C_SLOTS) + number * SLOT_WORDS


@inlined_kernel
def slot_base(cpu: Cpu, slot: int) -> int:
    """First gfn of a memslot that is somewhere."""
    return read_once(cpu, slot + SLOT_PLACE) >> STATE_BITS


@inlined_kernel
def _holds(cpu: Cpu, slot: int, place: int, gfn: int) -> int:
    """Whether the memslot at this place covers the gfn."""
    relative = gfn - (place >> STATE_BITS)
    inside = relative >= 0 and relative < config(cpu, slot + SLOT_PAGES)
    return inside and place & STATE_MASK != SLOT_ABSENT


@kernel
def _search(cpu: Cpu, gfn: int) -> int:
    """`slot_of` for a slot that is not the one used last."""
    for number in range(config(cpu, C_SLOT_COUNT)):
        slot = slot_word(cpu, number)
        place = read_once(cpu, slot + SLOT_PLACE)
        if _holds(cpu, slot, place, gfn):
            if place & STATE_MASK == SLOT_INVALID:
                return -slot
            set_own(cpu, SLOT_CACHED, slot)
            return slot
    return 0


@inlined_kernel
def slot_of(cpu: Cpu, gfn: int) -> int:
    """Word index of the memslot that covers `gfn`, 0 if it is a hole (gfn_to_memslot).

    Negative if the slot is about to go or to move: it still is the gfn's, and its memory is, but
    nothing may be mapped there.
    """
    slot = own(cpu, SLOT_CACHED)
    if slot != 0:
        place = read_once(cpu, slot + SLOT_PLACE)
        if place & STATE_MASK == SLOT_PRESENT and _holds(cpu, slot, place, gfn):
            return slot
    return _search(cpu, gfn)


@inlined_kernel
def is_shown(cpu: Cpu, slot: int) -> int:
    """Whether the memslot is somewhere: one that is nowhere has a log, but nothing mapped."""
    return read_once(cpu, slot + SLOT_PLACE) & STATE_MASK != SLOT_ABSENT


@inlined_kernel
def is_logged(cpu: Cpu, slot: int) -> int:
    """Whether dirty logging is on for the memslot (kvm_slot_dirty_track_enabled)."""
    return read_once(cpu, slot + SLOT_LOGGED) != 0


@inlined_kernel
def max_mapping_level(cpu: Cpu, slot: int, gfn: int, mapping: int) -> int:
    """The highest level at which `gfn` may be mapped (kvm_mmu_max_mapping_level).

    The host maps no higher, and a block that leaves the slot, or holds a page whose writes
    somebody wants to see, is forbidden (disallow_lpage): mmu_lock is held.
    """
    level = min(mapping_level(mapping), LEVEL_1G, root_level(own(cpu, VCPU_ROOT)) - 1)
    return _level_in_slot(cpu, slot, gfn, level)


@inlined_kernel
def _level_in_slot(cpu: Cpu, slot: int, gfn: int, level: int) -> int:
    """The highest level up to `level` at which the gfn's block lies within the slot."""
    if level > LEVEL_4K:
        base = slot_base(cpu, slot)
        end = base + config(cpu, slot + SLOT_PAGES)
        while level > LEVEL_4K:
            pages = pages_of(cpu, level)
            first = gfn & ~(pages - 1)
            inside = first >= base and first + pages <= end
            if inside and not is_lpage_disallowed(cpu, gfn, level):
                break
            level -= 1
    return level


@kernel
def max_recovery_level(cpu: Cpu, slot: int, gfn: int, root: int) -> int:
    """The highest level at which a table of `root` could be one leaf from `gfn` on; no fault asks.

    mmu_lock held, for read at least.  The gfn must be the slot's: what is known of its huge
    pages, and where the host has them, is looked up by the distance from the slot's first gfn.
    """
    inside = _holds(cpu, slot, read_once(cpu, slot + SLOT_PLACE), gfn)
    warn(cpu, not inside and not stopped(cpu), MAPPING_SLOT, gfn, slot, 0)
    level = min(mapping_level(host_mapping(cpu, gfn)), LEVEL_1G, root_level(root) - 1)
    return _level_in_slot(cpu, slot, gfn, level)
