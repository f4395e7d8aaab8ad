"""What user space does to a range of its memory: mprotect and munmap.  Pages are host pages.

Each is one invalidation, however long the range.  What mprotect has forbidden, no fault allows; a
page that the host moves or swaps out meanwhile forgets it, so no workload does both.
"""

from __future__ import annotations

from mmu.host.frames import MAPPING_READ_ONLY, MAPPING_RWX
from mmu.host.mapping import (
    free_frame,
    mapped_frame,
    mapping_of,
    new_mapping,
    set_mapping,
    take_marks,
)
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import C_DISK, C_NEWEST
from mmu.machine.lock import host_lock, host_unlock
from mmu.machine.primitives import config, poke, set_hint
from mmu.notifier import invalidate_range_end, invalidate_range_start
from mmu.spte import LEVEL_4K, SPTE_W


@kernel
def protect_range(cpu: Cpu, first: int, end: int, writable: int) -> None:
    """mprotect of [first, end), PROT_READ or with PROT_WRITE; absent pages are left out."""
    host_lock(cpu)
    invalidate_range_start(cpu, first, end, 1)
    for page in range(first, end):
        mapping = mapping_of(cpu, page) & ~MAPPING_READ_ONLY
        if mapping & MAPPING_RWX != 0:
            changed = mapping | SPTE_W if writable else (mapping & ~SPTE_W) | MAPPING_READ_ONLY
            set_mapping(cpu, page, changed)
    invalidate_range_end(cpu, first, end)
    host_unlock(cpu)


@kernel
def drop_range(cpu: Cpu, first: int, end: int) -> int:
    """munmap of [first, end), made of whole backing pages; how many 4K pages were there.

    What they held is gone: an access afterwards finds zeros, as after MADV_DONTNEED.
    """
    host_lock(cpu)
    invalidate_range_start(cpu, first, end, 1)
    dropped = 0
    for page in range(first, end):
        mapping = mapping_of(cpu, page)
        if mapping & MAPPING_RWX != 0:
            frame = mapped_frame(mapping)
            take_marks(cpu, frame)
            set_mapping(cpu, page, new_mapping(0, LEVEL_4K, 0))
            poke(cpu, config(cpu, C_DISK) + page, 0)
            set_hint(cpu, config(cpu, C_NEWEST) + page, 0)
            free_frame(cpu, frame)
            dropped += 1
    invalidate_range_end(cpu, first, end)
    host_unlock(cpu)
    return dropped
