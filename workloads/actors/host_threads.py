"""Turns of the host's own threads: reclaim, KSM, khugepaged.  Each is one change and a yield."""

from __future__ import annotations

from mmu.host.frames import NOBODY, OWNER_MASK, mapping_level
from mmu.host.mapping import host_fault_in, mapped_frame, mapping_of
from mmu.host_changes import (
    collapse_huge_mapping,
    move_page,
    split_huge_mapping,
    swap_out,
    write_protect_page,
)
from mmu.host_reclaim import age_page, reclaim_if_old
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import C_BACKING_LEVEL, C_FRAMES, C_VCPUS, WORK_DONE
from mmu.machine.primitives import config, read_once, tally, yield_core
from mmu.nx_recovery import recover_nx_huge_pages
from mmu.spte import ACCESS_WRITE, LEVEL_4K
from mmu.tdp_iter import pages_of
from workloads.actors.turmoil import draw_below
from workloads.actors.turmoil_words import (
    HUGE_COLLAPSED,
    HUGE_SPLIT,
    MOVED,
    NX_RECOVERIES,
    PAGES_AGED,
    PROTECTED,
    RECENT_PAGES,
    SWAPPED,
    book,
    touched_page,
)

AGED_PAGES = 16  # at a time
NX_RATIO = 2  # half of the tables at a time


@kernel
def _end_turn(cpu: Cpu) -> int:
    tally(cpu, WORK_DONE, 1)
    yield_core(cpu)
    return 1


@kernel
def _small_page_in_use(cpu: Cpu) -> int:
    """A page that a vCPU touched a moment ago, mapped as a page of its own."""
    vcpu = draw_below(cpu, config(cpu, C_VCPUS))
    page = touched_page(cpu, vcpu, draw_below(cpu, RECENT_PAGES))
    book(cpu, HUGE_SPLIT, split_huge_mapping(cpu, page))
    return page


@kernel
def reclaim_turn(cpu: Cpu) -> int:
    """Take a page in use away (reclaim), or into another frame (compaction): half each."""
    page = _small_page_in_use(cpu)
    if draw_below(cpu, 2) == 0:
        book(cpu, SWAPPED, swap_out(cpu, page))
    else:
        book(cpu, MOVED, move_page(cpu, page))
    return _end_turn(cpu)


@kernel
def ksm_turn(cpu: Cpu) -> int:
    """Write-protect a page in use."""
    book(cpu, PROTECTED, write_protect_page(cpu, _small_page_in_use(cpu)))
    return _end_turn(cpu)


@kernel
def age_turn(cpu: Cpu) -> int:
    """Mark some pages in use old, then take one of them unless it is young again."""
    page = 0
    for _ in range(AGED_PAGES):
        vcpu = draw_below(cpu, config(cpu, C_VCPUS))
        page = touched_page(cpu, vcpu, draw_below(cpu, RECENT_PAGES))
        age_page(cpu, page)
    book(cpu, PAGES_AGED, AGED_PAGES)
    book(cpu, SWAPPED, reclaim_if_old(cpu, page))
    return _end_turn(cpu)


@kernel
def nx_turn(cpu: Cpu) -> int:
    """Give some tables back that an execution has made necessary (kvm-nx-lpage-recovery)."""
    recover_nx_huge_pages(cpu, NX_RATIO)
    book(cpu, NX_RECOVERIES, 1)
    return _end_turn(cpu)


@kernel
def _make_ready(cpu: Cpu, page: int) -> None:
    """Have the page resident, writable, and in the frame of its own number if that can be had.

    Whoever is in that frame is moved out; then it is the one that was freed last, and so the next
    to be given out.  Others take frames meanwhile: then the collapse finds a page not ready.
    """
    mapping = host_fault_in(cpu, page, ACCESS_WRITE)
    if mapping == 0 or mapped_frame(mapping) == page:
        return
    owner = (read_once(cpu, config(cpu, C_FRAMES) + page) & OWNER_MASK) ^ page
    if owner != NOBODY:
        move_page(cpu, owner)
        move_page(cpu, page)


@kernel
def _collapse(cpu: Cpu, page: int) -> int:
    """Bring the pages of a huge page that was split together again; whether that was possible."""
    pages = pages_of(cpu, config(cpu, C_BACKING_LEVEL))
    first = page & ~(pages - 1)
    if mapping_level(mapping_of(cpu, first)) > LEVEL_4K:
        return 0
    for i in range(pages):
        _make_ready(cpu, first + i)
    return collapse_huge_mapping(cpu, page)


@kernel
def thp_turn(cpu: Cpu, pages: int) -> int:
    """Split the huge page around some page, or collapse it."""
    page = draw_below(cpu, pages)
    if draw_below(cpu, 2) == 0:
        book(cpu, HUGE_SPLIT, split_huge_mapping(cpu, page))
    else:
        book(cpu, HUGE_COLLAPSED, _collapse(cpu, page))
    return _end_turn(cpu)
