"""Memslots: which guest memory exists, at which levels it may be mapped, whether it is logged.

Slots are set up before the vCPUs run and only their logging flag changes.  A vCPU remembers the
slot that it used last.
"""

from __future__ import annotations

from mmu.host.frames import mapping_level
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import inlined_kernel, kernel
from mmu.machine.layout import (
    C_SLOT_COUNT,
    C_SLOTS,
    SLOT_BASE,
    SLOT_CACHED,
    SLOT_LOGGED,
    SLOT_PAGES,
    SLOT_WORDS,
)
from mmu.machine.primitives import config, own, read_once, set_own
from mmu.spte import LEVEL_4K
from mmu.tdp_iter import pages_of, root_level


@kernel
def slot_word(cpu: Cpu, number: int) -> int:
    """Word index of memslot `number`."""
    return config(cpu, C_SLOTS) + number * SLOT_WORDS


@inlined_kernel
def _holds(cpu: Cpu, slot: int, gfn: int) -> int:
    """Whether the memslot covers the gfn (base and size of a slot never change here)."""
    relative = gfn - config(cpu, slot + SLOT_BASE)
    return relative >= 0 and relative < config(cpu, slot + SLOT_PAGES)


@kernel
def slot_of(cpu: Cpu, gfn: int) -> int:
    """Word index of the memslot that covers `gfn`, 0 if it is a hole (gfn_to_memslot)."""
    slot = own(cpu, SLOT_CACHED)
    if slot != 0 and _holds(cpu, slot, gfn):
        return slot
    for number in range(config(cpu, C_SLOT_COUNT)):
        slot = slot_word(cpu, number)
        if _holds(cpu, slot, gfn):
            set_own(cpu, SLOT_CACHED, slot)
            return slot
    return 0


@inlined_kernel
def is_logged(cpu: Cpu, slot: int) -> int:
    """Whether dirty logging is on for the memslot (kvm_slot_dirty_track_enabled)."""
    return read_once(cpu, slot + SLOT_LOGGED) != 0


@inlined_kernel
def max_mapping_level(cpu: Cpu, slot: int, gfn: int, mapping: int) -> int:
    """The highest level at which `gfn` may be mapped (kvm_mmu_max_mapping_level).

    The host maps no higher, and a block that leaves the slot is forbidden (disallow_lpage).
    """
    level = min(mapping_level(mapping), root_level(cpu) - 1)
    base = config(cpu, slot + SLOT_BASE)
    end = base + config(cpu, slot + SLOT_PAGES)
    while level > LEVEL_4K:
        pages = pages_of(cpu, level)
        first = gfn & ~(pages - 1)
        if first >= base and first + pages <= end:
            break
        level -= 1
    return level
