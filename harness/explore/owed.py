"""What must be true at the moment that something is freed or handed back, in explored runs.

A freed table and its record may not be touched at all, and no table by software that neither is in
an RCU section nor holds mmu_lock for write: nothing would keep it from being freed.  When a table
or a frame is freed, an invalidation has started, or whoever removed a table leaves RCU (it may be
freed from then on), no vCPU in the guest may still have a translation of it: outside the guest it
serves its flush before it goes on, in the guest nobody can make it.  Nothing new appears below an
invalid root.  Looks at the VM's words only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from harness.explore import block as at
from harness.explore.block import word_now
from harness.explore.faults import note_fault
from harness.watch.words import get
from mmu.hw.tlb import GENERATION_BITS, GENERATION_MASK, STRUCTURES
from mmu.hw.vcpu import IN_GUEST_MODE, MODE_MASK
from mmu.machine.conditions import (
    BALANCE_ACTIVE,
    FROZEN_CHANGED,
    LIFETIME_FREED,
    LIFETIME_SECTION,
    ROOT_POPULATED,
    TLB_FRAME,
    TLB_RANGE,
    TLB_TABLE,
)
from mmu.machine.cpu import Words
from mmu.machine.events import (
    FETCH_AND,
    FETCH_OR,
    FRAME_FREE,
    INVALIDATE_RANGE_END,
    INVALIDATE_RANGE_START,
    PEEK,
    POKE,
    RCU_LEAVE,
    READ_ONCE,
    TABLE_FREE,
    WARN,
    XCHG,
)
from mmu.machine.kernel import array_kernel, inlined_array_kernel
from mmu.machine.layout import (
    C_ACTOR_BASE,
    C_ACTOR_STRIDE,
    C_FRAME_PFN,
    C_GFN_BASE,
    C_GFN_MASK,
    C_RECORDS,
    C_TABLES,
    C_TLB,
    C_VCPUS,
    DEFERRED,
    HELD,
    LEVELS_MAX,
    NOTIFIERS,
    RECORD_WORDS,
    REQUEST,
    ROOTS,
    SP_DEFERRED_NEXT,
    SP_FREE,
    SP_PARENT,
    SP_ROOT_INVALID,
    SP_ROOT_NEXT,
    SP_STATE,
    TLB_GENERATION,
    VCPU_STATE,
)
from mmu.machine.lock import HELD_MMU_WRITE, HELD_RCU
from mmu.spte import ACCESSED, AD_DISABLED, FROZEN, MMU_PRESENT, PFN_MASK, PFN_SHIFT, PS
from mmu.tdp_iter import ROOT_LEVEL_BITS

if TYPE_CHECKING:
    from harness.explore.world import World
    from mmu.vm import Vm

LEVEL_4K = 1
ROOTS_MAX = 64  # that a list is followed for
Found = tuple[int, int, int, int]  # condition and its three values


@inlined_array_kernel
def is_table_word(ctx: int, addr: int) -> int:
    """Whether the word belongs to a table page of a VM."""
    return int(addr >= get(ctx, at.H_TABLES) and addr < get(ctx, at.H_TABLES_END))


@array_kernel
def was_replaced(found: int, reported: int) -> int:
    """A change replaced what it reports; but for A, which any writer may lose or revive (6.15)."""
    tolerated = ACCESSED if reported & MMU_PRESENT != 0 and reported & AD_DISABLED == 0 else 0
    return int((found ^ reported) & ~tolerated == 0)


@array_kernel
def check_touched(ctx: int, actor: int, kind: int, addr: int, operand: int) -> None:
    """A step is about to touch a word of a table page; the allocator's own are exempt.

    A change of single bits goes for whatever is there now: never may that be a frozen entry.
    """
    bits = get(ctx, at.H_GEOMETRY) & 0xFF
    page = (addr - get(ctx, at.H_TABLES)) >> bits
    state = word_now(ctx, word_now(ctx, C_RECORDS) + page * RECORD_WORDS + SP_STATE)
    if kind in (PEEK, POKE):
        return
    if state == SP_FREE:
        note_fault(ctx, WARN + LIFETIME_FREED, actor, addr, kind, page)
    if kind in (FETCH_AND, FETCH_OR) and word_now(ctx, addr) == FROZEN:
        changed = FROZEN & operand if kind == FETCH_AND else FROZEN | operand
        note_fault(ctx, WARN + FROZEN_CHANGED, actor, addr, FROZEN, changed)
    own = word_now(ctx, C_ACTOR_BASE) + actor * word_now(ctx, C_ACTOR_STRIDE)
    # In guest mode it is the hardware that walks, which knows no sections.
    in_guest = word_now(ctx, own + VCPU_STATE) & MODE_MASK == IN_GUEST_MODE
    if not in_guest and word_now(ctx, own + HELD) & (HELD_RCU | HELD_MMU_WRITE) == 0:
        note_fault(ctx, WARN + LIFETIME_SECTION, actor, addr, kind, page)


@inlined_array_kernel
def is_record_word(ctx: int, addr: int) -> int:
    """Whether the word belongs to the record of a table page of a VM."""
    return int(addr >= get(ctx, at.H_RECORDS) and addr < get(ctx, at.H_RECORDS_END))


@array_kernel
def check_record(ctx: int, actor: int, kind: int, addr: int) -> None:
    """A step is about to touch a word of a table page's record, which is gone with the page."""
    page = (addr - get(ctx, at.H_RECORDS)) // RECORD_WORDS
    if kind not in (PEEK, POKE) and word_now(ctx, _record(ctx, page) + SP_STATE) == SP_FREE:
        note_fault(ctx, WARN + LIFETIME_FREED, actor, addr, kind, page)


@array_kernel
def check_freed(ctx: int, actor: int, event: int, a: int, b: int) -> None:
    """An event says that something was or may be freed, or that an invalidation has started."""
    if get(ctx, at.H_TABLES_END) == 0:
        return
    if event == INVALIDATE_RANGE_END:
        active = word_now(ctx, NOTIFIERS)
        if active < 0:
            note_fault(ctx, WARN + BALANCE_ACTIVE, actor, 0, active, 0)
    if event in (TABLE_FREE, FRAME_FREE, INVALIDATE_RANGE_START):
        _check_vcpus(ctx, actor, event, a, b)
    elif event == RCU_LEAVE:
        page = word_now(
            ctx, word_now(ctx, C_ACTOR_BASE) + actor * word_now(ctx, C_ACTOR_STRIDE) + DEFERRED
        )
        while page != 0:
            _check_vcpus(ctx, actor, TABLE_FREE, page, 0)
            record = word_now(ctx, C_RECORDS) + page * RECORD_WORDS
            page = word_now(ctx, record + SP_DEFERRED_NEXT)


@array_kernel
def _check_vcpus(ctx: int, actor: int, event: int, a: int, b: int) -> None:
    """No vCPU in the guest has a translation of what the event is about."""
    for vcpu in range(word_now(ctx, C_VCPUS)):
        own = word_now(ctx, C_ACTOR_BASE) + vcpu * word_now(ctx, C_ACTOR_STRIDE)
        handle = at.actor_at(ctx, vcpu)
        # Entering is writing the mode, looking for requests and leaving again if there are any:
        # until then nothing is used.
        doing, word = get(handle, at.A_KIND), get(handle, at.A_ADDR) - own
        looks = (doing == READ_ONCE and word == REQUEST) or (doing == XCHG and word == VCPU_STATE)
        if word_now(ctx, own + VCPU_STATE) & MODE_MASK == IN_GUEST_MODE and not looks:
            if event == TABLE_FREE:
                _check_table(ctx, actor, own, vcpu, a)
            else:
                _check_pages(ctx, actor, own, vcpu, event, a, b)


@inlined_array_kernel
def _record(ctx: int, page: int) -> int:
    """Word index of a table page's record."""
    return word_now(ctx, C_RECORDS) + page * RECORD_WORDS


@array_kernel
def _is_root(ctx: int, page: int) -> int:
    """Whether the page is a root on the list."""
    handle = word_now(ctx, ROOTS)
    for _ in range(ROOTS_MAX):
        if handle == 0 or handle >> ROOT_LEVEL_BITS == page:
            break
        handle = word_now(ctx, _record(ctx, handle >> ROOT_LEVEL_BITS) + SP_ROOT_NEXT)
    return int(handle != 0)


@array_kernel
def check_populated(ctx: int, actor: int, sptep: int, old: int, new: int) -> None:
    """An entry has become present, or links a table now: not below a root that is invalid."""
    if new & MMU_PRESENT == 0 or (old & MMU_PRESENT != 0 and (old ^ new) & PS == 0):
        return
    bits = get(ctx, at.H_GEOMETRY) & 0xFF
    place = sptep
    for _ in range(LEVELS_MAX):
        page = (place - get(ctx, at.H_TABLES)) >> bits
        if _is_root(ctx, page):
            if word_now(ctx, _record(ctx, page) + SP_ROOT_INVALID) != 0:
                note_fault(ctx, WARN + ROOT_POPULATED, actor, page, sptep, new)
            return
        place = word_now(ctx, _record(ctx, page) + SP_PARENT)
        if is_table_word(ctx, place) == 0:
            return


@inlined_array_kernel
def _is_valid(ctx: int, own: int, place: int) -> int:
    """Whether the entry of a cache is of the present generation."""
    tag = word_now(ctx, place)
    generation = word_now(ctx, own + TLB_GENERATION)
    return int(tag & GENERATION_MASK == generation and word_now(ctx, place + 1) != 0)


@array_kernel
def _check_table(ctx: int, actor: int, own: int, vcpu: int, page: int) -> None:
    """No cached structure leads to the page."""
    table = word_now(ctx, C_TABLES) + (page << (get(ctx, at.H_GEOMETRY) & 0xFF))
    first = own + word_now(ctx, C_TLB + STRUCTURES - 1)
    for place in range(first, own + word_now(ctx, C_TLB + STRUCTURES), 2):
        if _is_valid(ctx, own, place) and word_now(ctx, place + 1) == table:
            note_fault(ctx, WARN + TLB_TABLE, actor, page, vcpu, 0)


@array_kernel
def _check_pages(ctx: int, actor: int, own: int, vcpu: int, event: int, a: int, b: int) -> None:
    """No cached translation gives the frame `a`, or host pages [a, b)."""
    bits = get(ctx, at.H_GEOMETRY) & 0xFF
    for level in range(LEVEL_4K, STRUCTURES):
        pages = 1 << bits * (level - 1)
        first = own + word_now(ctx, C_TLB + level - 1)
        for place in range(first, own + word_now(ctx, C_TLB + level), 2):
            if not _is_valid(ctx, own, place):
                continue
            if event == FRAME_FREE:
                entry = word_now(ctx, place + 1)
                frame = (entry >> PFN_SHIFT & PFN_MASK) - word_now(ctx, C_FRAME_PFN)
                if frame <= a and a < frame + pages:
                    note_fault(ctx, WARN + TLB_FRAME, actor, a, vcpu, 0)
            else:
                gfn = word_now(ctx, place) >> GENERATION_BITS << bits * (level - 1)
                page = (gfn - word_now(ctx, C_GFN_BASE)) & word_now(ctx, C_GFN_MASK)
                if page < b and a < page + pages:
                    note_fault(ctx, WARN + TLB_RANGE, actor, gfn, vcpu, 0)


def tell_places(block: Words, vm: Vm) -> None:
    """Where the VM's tables and their records lie."""
    tables, records = vm.layout.regions["tables"], vm.layout.regions["records"]
    block[at.H_TABLES], block[at.H_TABLES_END] = tables.start, tables.end
    block[at.H_RECORDS], block[at.H_RECORDS_END] = records.start, records.end


class Watcher:
    """The same judgements over a world that is run by Python, step by step."""

    def __init__(self, world: World) -> None:
        rows = len(world.scenario.actors) * at.ACTOR_WORDS
        self._block = block = np.zeros(at.HEADER_WORDS + rows, np.int64)
        block[at.H_BASE] = world.words.ctypes.data
        block[at.H_GEOMETRY] = world.geometry
        if world.vm is not None:
            tell_places(block, world.vm)

    def park(self, actor: int, kind: int, addr: int) -> None:
        """What an actor is about to do."""
        row = at.HEADER_WORDS + actor * at.ACTOR_WORDS
        self._block[row + at.A_KIND], self._block[row + at.A_ADDR] = kind, addr

    def step(self, actor: int, kind: int, addr: int, operand: int) -> Found | None:
        """Before a step: what it breaks."""
        if self._block[at.H_TABLES] <= addr < self._block[at.H_TABLES_END]:
            return self._ask(check_touched, actor, kind, addr, operand)
        if self._block[at.H_RECORDS] <= addr < self._block[at.H_RECORDS_END]:
            return self._ask(check_record, actor, kind, addr)
        return None

    def changed(self, actor: int, sptep: int, old: int, new: int) -> Found | None:
        """After a change of an entry."""
        tables = self._block[at.H_TABLES] <= sptep < self._block[at.H_TABLES_END]
        return self._ask(check_populated, actor, sptep, old, new) if tables else None

    def event(self, actor: int, event: int, a: int, b: int) -> Found | None:
        """At a tracepoint: what is owed."""
        return self._ask(check_freed, actor, event, a, b)

    def _ask(self, check: Callable[..., None], *arguments: int) -> Found | None:
        block = self._block
        block[at.H_FAULT] = at.FAULT_NONE
        check(int(block.ctypes.data), *arguments)
        if block[at.H_FAULT] == at.FAULT_NONE:
            return None
        a, b, c = (int(block[word]) for word in (at.H_FAULT_A, at.H_FAULT_B, at.H_FAULT_C))
        return int(block[at.H_FAULT]) - WARN, a, b, c
