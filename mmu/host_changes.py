"""What the host does to pages that the guest uses: move, swap out, split, collapse, protect.

Each is one invalidation: mmap_lock, start, the change, end.  Pages are host pages; all but
collapse work on pages that are mapped at 4K, so that huge pages are split first.  Each returns 1
if it did something, 0 if the page was not as it has to be.
"""

from __future__ import annotations

from mmu.host.frames import (
    MAPPING_RWX,
    MARK_DIRTY,
    MARK_SPLIT,
    VALUE_MASK,
    VALUE_SHIFT,
    mapping_level,
)
from mmu.host.mapping import (
    free_frame,
    give_frame,
    mapped_frame,
    mapping_of,
    new_mapping,
    set_mapping,
    take_frame,
    take_marks,
    write_back,
)
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import inlined_kernel, kernel
from mmu.machine.layout import (
    C_BACKING_LEVEL,
    C_DISK,
    C_FRAMES,
    C_FREE_FRAMES,
    C_MARKS,
    C_NEWEST,
    HOST_FREE_TOP,
)
from mmu.machine.lock import host_lock, host_unlock
from mmu.machine.primitives import config, fetch_or, peek, poke, read_once, set_hint, xchg
from mmu.notifier import invalidate_range_end, invalidate_range_start
from mmu.spte import LEVEL_4K, SPTE_W
from mmu.tdp_iter import pages_of


@inlined_kernel
def _is_small(mapping: int) -> int:
    """Resident, and mapped as a page of its own."""
    return mapping & MAPPING_RWX != 0 and mapping_level(mapping) == LEVEL_4K


@inlined_kernel
def _value_of(cpu: Cpu, frame: int) -> int:
    """What the frame holds; nobody writes it between start and end."""
    return (read_once(cpu, config(cpu, C_FRAMES) + frame) >> VALUE_SHIFT) & VALUE_MASK


@kernel
def _move(cpu: Cpu, page: int, mapping: int, frame: int) -> None:
    """Put the page's contents, and whether it is dirty, into `frame`, and free the old one."""
    old = mapped_frame(mapping)
    fetch_or(cpu, config(cpu, C_MARKS) + frame, take_marks(cpu, old) & MARK_DIRTY)
    set_mapping(cpu, page, new_mapping(frame, LEVEL_4K, mapping & MAPPING_RWX))
    free_frame(cpu, old)


@kernel
def move_page(cpu: Cpu, page: int) -> int:
    """Migrate the page to another frame (compaction, NUMA balancing)."""
    host_lock(cpu)
    mapping = mapping_of(cpu, page)
    moved = 0
    if _is_small(mapping) and peek(cpu, HOST_FREE_TOP) > 0:
        invalidate_range_start(cpu, page, page + 1, 1)
        taken = take_frame(cpu, page, _value_of(cpu, mapped_frame(mapping)))
        _move(cpu, page, mapping, taken - 1)
        invalidate_range_end(cpu, page, page + 1)
        moved = 1
    host_unlock(cpu)
    return moved


@kernel
def swap_out(cpu: Cpu, page: int) -> int:
    """Reclaim the page's frame; the next fault reads the page from disk."""
    host_lock(cpu)
    mapping = mapping_of(cpu, page)
    small = _is_small(mapping)
    if small:
        frame = mapped_frame(mapping)
        invalidate_range_start(cpu, page, page + 1, 1)
        write_back(cpu, page, frame, _value_of(cpu, frame))
        set_mapping(cpu, page, new_mapping(0, LEVEL_4K, 0))
        free_frame(cpu, frame)
        invalidate_range_end(cpu, page, page + 1)
    host_unlock(cpu)
    return int(small)


@kernel
def save_page(cpu: Cpu, page: int) -> int:
    """Write the page to disk and keep it mapped: from now on nothing but D says that it is written.

    Where all are at rest, and TLBs flushed since D was last taken: leafs that have D still tell
    the host when they go, others get it by the next write.
    """
    host_lock(cpu)
    mapping = mapping_of(cpu, page)
    small = _is_small(mapping)
    if small:
        frame = mapped_frame(mapping)
        poke(cpu, config(cpu, C_DISK) + page, _value_of(cpu, frame))
        take_marks(cpu, frame)
    host_unlock(cpu)
    return int(small)


@kernel
def write_protect_page(cpu: Cpu, page: int) -> int:
    """Make the page read-only, as KSM does with what it wants to share."""
    host_lock(cpu)
    mapping = mapping_of(cpu, page)
    wanted = _is_small(mapping) and mapping & SPTE_W != 0
    if wanted:
        invalidate_range_start(cpu, page, page + 1, 1)
        set_mapping(cpu, page, mapping & ~SPTE_W)
        invalidate_range_end(cpu, page, page + 1)
    host_unlock(cpu)
    return int(wanted)


@kernel
def split_huge_mapping(cpu: Cpu, page: int) -> int:
    """Map the huge page that holds `page` page by page (THP split), dirty ones if it was."""
    host_lock(cpu)
    pages = pages_of(cpu, config(cpu, C_BACKING_LEVEL))
    first = page & ~(pages - 1)
    mapping = mapping_of(cpu, first)
    huge = mapping_level(mapping) > LEVEL_4K
    if huge:
        frame = mapped_frame(mapping)
        invalidate_range_start(cpu, first, first + pages, 1)
        marks = fetch_or(cpu, config(cpu, C_MARKS) + frame, MARK_SPLIT)
        for i in range(pages):
            fetch_or(cpu, config(cpu, C_MARKS) + frame + i, marks & MARK_DIRTY)
            set_mapping(cpu, first + i, new_mapping(frame + i, LEVEL_4K, mapping & MAPPING_RWX))
        invalidate_range_end(cpu, first, first + pages)
    host_unlock(cpu)
    return int(huge)


@kernel
def _is_home(cpu: Cpu, page: int) -> int:
    """The page is resident in the frame that a huge page of its block needs, or could be."""
    mapping = mapping_of(cpu, page)
    if not _is_small(mapping) or mapping & SPTE_W == 0:
        return 0
    return int(mapped_frame(mapping) == page or _free_place(cpu, page) >= 0)


@kernel
def _free_place(cpu: Cpu, frame: int) -> int:
    """Where the frame lies on the stack of free frames, -1 if it does not."""
    for place in range(peek(cpu, HOST_FREE_TOP)):
        if peek(cpu, config(cpu, C_FREE_FRAMES) + place) == frame:
            return place
    return -1


@kernel
def _bring_home(cpu: Cpu, page: int) -> None:
    """Move the page into the frame of its own number, which is free."""
    mapping = mapping_of(cpu, page)
    if mapped_frame(mapping) == page:
        return
    top = peek(cpu, HOST_FREE_TOP) - 1
    last = peek(cpu, config(cpu, C_FREE_FRAMES) + top)
    poke(cpu, config(cpu, C_FREE_FRAMES) + _free_place(cpu, page), last)
    poke(cpu, HOST_FREE_TOP, top)
    give_frame(cpu, page, page, _value_of(cpu, mapped_frame(mapping)))
    _move(cpu, page, mapping, page)


@kernel
def collapse_huge_mapping(cpu: Cpu, page: int) -> int:
    """Make a huge page of the block that holds `page` (khugepaged), if its frames can be had."""
    host_lock(cpu)
    level = config(cpu, C_BACKING_LEVEL)
    pages = pages_of(cpu, level)
    first = page & ~(pages - 1)
    ready = int(level > LEVEL_4K and mapping_level(mapping_of(cpu, first)) == LEVEL_4K)
    for i in range(pages):
        ready &= _is_home(cpu, first + i)
    if ready:
        invalidate_range_start(cpu, first, first + pages, 1)
        dirty = 0
        for i in range(pages):
            _bring_home(cpu, first + i)
            dirty |= xchg(cpu, config(cpu, C_MARKS) + first + i, 0)
        xchg(cpu, config(cpu, C_MARKS) + first, dirty & MARK_DIRTY)
        for i in range(pages):
            set_mapping(cpu, first + i, new_mapping(first + i, level, MAPPING_RWX))
        invalidate_range_end(cpu, first, first + pages)
    host_unlock(cpu)
    return int(ready)


@kernel
def discard_pages(cpu: Cpu, first: int, end: int) -> int:
    """Give host pages [first, end) up with what they hold (MADV_DONTNEED); how many were there.

    The next access finds a page of zeros.  Huge pages are skipped.
    """
    host_lock(cpu)
    invalidate_range_start(cpu, first, end, 1)
    discarded = 0
    for page in range(first, end):
        mapping = mapping_of(cpu, page)
        if _is_small(mapping):
            frame = mapped_frame(mapping)
            take_marks(cpu, frame)
            set_mapping(cpu, page, new_mapping(0, LEVEL_4K, 0))
            poke(cpu, config(cpu, C_DISK) + page, 0)
            set_hint(cpu, config(cpu, C_NEWEST) + page, 0)
            free_frame(cpu, frame)
            discarded += 1
    invalidate_range_end(cpu, first, end)
    host_unlock(cpu)
    return discarded
