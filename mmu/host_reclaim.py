"""How the host finds pages that the guest does not use: reclaim's scan, and the idle page bitmap.

Both ask the notifier, which asks the entries.  Reclaim gives a page a second chance: it is marked
old now, and taken if it is old still when the scan comes by again.
"""

from __future__ import annotations

from mmu.host.frames import (
    MAPPING_RWX,
    MARK_ACCESSED,
    MARK_IDLE,
    mapping_level,
)
from mmu.host.mapping import mapped_frame, mapping_of
from mmu.host_changes import swap_out
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import C_MARKS
from mmu.machine.lock import host_lock, host_unlock
from mmu.machine.primitives import config, fetch_and, fetch_or
from mmu.notifier import clear_flush_young, clear_young, test_young
from mmu.tdp_iter import pages_of


@kernel
def age_page(cpu: Cpu, page: int) -> int:
    """Reclaim's scan looks at the page (folio_referenced); 1 if it was used since the last look.

    mmap_lock is not taken: reclaim comes from the frame, by locks of its own, while mappings of
    the page may be going away.
    """
    return clear_flush_young(cpu, page, page + 1)


@kernel
def reclaim_if_old(cpu: Cpu, page: int) -> int:
    """Swap the page out unless it was used since it was marked old; 1 if it went."""
    return 0 if test_young(cpu, page) else swap_out(cpu, page)


# What `mark_page_idle` found.
NO_PFN, STILL_IDLE, MARKED_IDLE, NO_HEAD = range(4)


@kernel
def _mark_folio(cpu: Cpu, page: int, pages: int, frame: int) -> int:
    """`mark_page_idle` for `page`, mapped to `frame` as one of `pages` (mmap_lock held)."""
    if frame & (pages - 1) != 0:
        return NO_HEAD
    word = config(cpu, C_MARKS) + frame
    # A zap that told of an access has made it not idle (mark_page_accessed).
    seen = fetch_and(cpu, word, ~MARK_ACCESSED)
    if seen & (MARK_IDLE | MARK_ACCESSED) == MARK_IDLE and not clear_young(cpu, page, page + pages):
        return STILL_IDLE
    clear_young(cpu, page, page + pages)
    fetch_or(cpu, word, MARK_IDLE)
    return MARKED_IDLE


@kernel
def mark_page_idle(cpu: Cpu, page: int) -> int:
    """Read the page's bit of the idle page bitmap, and set it if it is clear; what was found.

    The bit is the folio's: for the other pages of a huge page the kernel has none (NO_HEAD).  Both
    reading and writing it age the page: reading, to see whether it was used since it was set.
    mmap_lock stands for the reference by which the kernel keeps the page.
    """
    host_lock(cpu)
    result = NO_PFN
    mapping = mapping_of(cpu, page)
    if mapping & MAPPING_RWX != 0:
        pages = pages_of(cpu, mapping_level(mapping))
        result = _mark_folio(cpu, page, pages, mapped_frame(mapping))
    host_unlock(cpu)
    return result
