"""Whose writes somebody wants to see: a count per gfn, and blocks that may not be mapped huge.

kvm_page_track of KVM: `gfn_write_track` and `disallow_lpage` of a memslot.  Here they belong to the
host pages behind the gfns, so they stay when a memslot moves.  Counts change under mmu_lock held
for write; who holds it for read sees what is true until he lets go.  A word per host page: how many
trackers there are, and above that, how often they were told of a write.  Behind these, a count per
2M and per 1G block.
"""

from __future__ import annotations

from mmu.host.frames import host_page
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import inlined_kernel, kernel
from mmu.machine.layout import C_GFN_BASE, C_GFN_COUNT, C_WRITE_TRACKED
from mmu.machine.primitives import config, fetch_add, read_once
from mmu.machine.regions import TRACKED_SPARE
from mmu.spte import LEVEL_1G, LEVEL_2M, LEVEL_4K
from mmu.tdp_iter import level_shift

TOLD_SHIFT = 16
TRACKERS_MASK = (1 << TOLD_SHIFT) - 1


@kernel
def _word_of(cpu: Cpu, gfn: int, level: int) -> int:
    """Where the count of the block of `level` is that holds `gfn`."""
    pages = config(cpu, C_GFN_COUNT)
    place = config(cpu, C_WRITE_TRACKED)
    if level > LEVEL_4K:
        place += pages
    if level > LEVEL_2M:
        place += (pages >> level_shift(cpu, LEVEL_2M)) + TRACKED_SPARE
    base = config(cpu, C_GFN_BASE)
    shift = level_shift(cpu, level)
    return place + ((base + host_page(cpu, gfn)) >> shift) - (base >> shift)


@inlined_kernel
def is_write_tracked(cpu: Cpu, gfn: int) -> int:
    """Somebody wants to see the writes of `gfn` (kvm_gfn_is_write_tracked)."""
    if config(cpu, C_WRITE_TRACKED) == 0:
        return 0
    return int(read_once(cpu, _word_of(cpu, gfn, LEVEL_4K)) & TRACKERS_MASK != 0)


@inlined_kernel
def is_lpage_disallowed(cpu: Cpu, gfn: int, level: int) -> int:
    """The block of `level` that holds `gfn` may not be mapped as one (lpage_info_slot)."""
    if config(cpu, C_WRITE_TRACKED) == 0:
        return 0
    return int(read_once(cpu, _word_of(cpu, gfn, level)) != 0)


@kernel
def count_trackers(cpu: Cpu, gfn: int, amount: int) -> None:
    """One more, or one less: for the gfn (update_gfn_write_track), and for its blocks."""
    for level in range(LEVEL_4K, LEVEL_1G + 1):
        fetch_add(cpu, _word_of(cpu, gfn, level), amount)


@kernel
def tell_trackers(cpu: Cpu, gfn: int) -> None:
    """A write of `gfn` has happened (kvm_page_track_write): they may look at the page now."""
    fetch_add(cpu, _word_of(cpu, gfn, LEVEL_4K), 1 << TOLD_SHIFT)


@kernel
def times_told(cpu: Cpu, gfn: int) -> int:
    """How often trackers were told of a write of `gfn`."""
    return read_once(cpu, _word_of(cpu, gfn, LEVEL_4K)) >> TOLD_SHIFT
