"""A vCPU's private translation caches: one array per page size, one for paging structures.

Only the vCPU itself reads, fills or empties them, so these are plain accesses to its own block;
nobody else can see a stale translation go, which is why remote flushes exist.  Direct-mapped, two
words an entry: the tag (`number << 24 | generation`) and what is cached.  Dropping everything is
one increment of the generation.

A flush is asked for as a *block*: an aligned power of two of pages in one word,
`first gfn << 8 | order << 1 | 1`; 0 is nothing, order 62 is everything.
"""

from __future__ import annotations

from mmu.machine import events
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import inlined_kernel, kernel
from mmu.machine.layout import C_TLB, C_TLB_BITS_4K, N_TLB_FLUSH, N_TLB_MISSES_4K, TLB_GENERATION
from mmu.machine.primitives import config, emit, own, set_own, tally
from mmu.spte import LEVEL_1G, LEVEL_4K, PFN_SHIFT
from mmu.tdp_iter import level_shift, pages_of

GENERATION_BITS = 24
GENERATION_MASK = (1 << GENERATION_BITS) - 1
STRUCTURES = 4  # array number of the paging-structure cache, behind levels 1 to 3

BLOCK_SHIFT = 8
EVERYTHING = 62


@kernel
def merge_blocks(block: int, gfn: int, order: int) -> int:
    """The smallest aligned block that covers `block` (0: none) and `gfn`'s block of `order`."""
    merged = order
    if block != 0:
        merged = max(order, (block >> 1) & 63)
        while merged < EVERYTHING and (block >> BLOCK_SHIFT) >> merged != gfn >> merged:
            merged += 1
    merged = min(merged, EVERYTHING)
    return (gfn >> merged << merged) << BLOCK_SHIFT | merged << 1 | 1


@inlined_kernel
def _array(cpu: Cpu, number: int) -> int:
    """Offset in the own block of array `number` (a level, or STRUCTURES)."""
    return config(cpu, C_TLB + number - 1)


@inlined_kernel
def _place(cpu: Cpu, number: int, tag_number: int) -> int:
    """Offset of the entry that may hold `tag_number`."""
    mask = (1 << config(cpu, C_TLB_BITS_4K + number - 1)) - 1
    return _array(cpu, number) + 2 * (tag_number & mask)


@inlined_kernel
def _lookup(cpu: Cpu, number: int, tag_number: int) -> int:
    """What is cached for `tag_number`, 0 if nothing."""
    place = _place(cpu, number, tag_number)
    tag = tag_number << GENERATION_BITS | own(cpu, TLB_GENERATION)
    if own(cpu, place) != tag:
        return 0
    return own(cpu, place + 1)


@inlined_kernel
def _fill(cpu: Cpu, number: int, tag_number: int, value: int) -> None:
    """Cache `value`; whatever shared the place is gone."""
    place = _place(cpu, number, tag_number)
    set_own(cpu, place, tag_number << GENERATION_BITS | own(cpu, TLB_GENERATION))
    set_own(cpu, place + 1, value)


@inlined_kernel
def page_entry(cpu: Cpu, spte: int, gfn: int, level: int) -> int:
    """A leaf's value, its frame adjusted to the page `gfn` inside it."""
    return spte + ((gfn & (pages_of(cpu, level) - 1)) << PFN_SHIFT)


@inlined_kernel
def tlb_lookup(cpu: Cpu, gfn: int) -> int:
    """The cached entry that translates `gfn`, its frame adjusted to the page; 0 on a miss."""
    for level in range(LEVEL_4K, LEVEL_1G + 1):
        entry = _lookup(cpu, level, gfn >> level_shift(cpu, level))
        if entry != 0:
            return page_entry(cpu, entry, gfn, level)
    return 0


@inlined_kernel
def tlb_fill(cpu: Cpu, gfn: int, level: int, spte: int) -> None:
    """Cache a leaf that the walker found."""
    _fill(cpu, level, gfn >> level_shift(cpu, level), spte)
    tally(cpu, N_TLB_MISSES_4K + level - 1, 1)


@inlined_kernel
def structure_lookup(cpu: Cpu, gfn: int) -> int:
    """The cached level-1 table (word index) that covers `gfn`, 0 if none."""
    return _lookup(cpu, STRUCTURES, gfn >> level_shift(cpu, 2))


@inlined_kernel
def structure_fill(cpu: Cpu, gfn: int, table: int) -> None:
    """Cache where the level-1 table that covers `gfn` is."""
    _fill(cpu, STRUCTURES, gfn >> level_shift(cpu, 2), table)


@inlined_kernel
def structure_drop(cpu: Cpu, gfn: int) -> None:
    """Forget which level-1 table covers `gfn`."""
    set_own(cpu, _place(cpu, STRUCTURES, gfn >> level_shift(cpu, 2)), 0)


@kernel
def _flush_everything(cpu: Cpu) -> None:
    """A new generation: no old tag matches.  At the wrap the arrays are cleared for real."""
    generation = own(cpu, TLB_GENERATION) + 1
    if generation > GENERATION_MASK:
        for place in range(config(cpu, C_TLB), _array(cpu, STRUCTURES + 1)):
            set_own(cpu, place, 0)
        generation = 1
    set_own(cpu, TLB_GENERATION, generation)


@kernel
def _flush_array(cpu: Cpu, number: int, first: int, order: int) -> None:
    """Drop the entries of one array that overlap the block."""
    level = 2 if number == STRUCTURES else number
    shift = level_shift(cpu, level)
    for place in range(_array(cpu, number), _array(cpu, number + 1), 2):
        page = own(cpu, place) >> GENERATION_BITS << shift
        wide = max(order, shift)
        if page >> wide == first >> wide:
            set_own(cpu, place, 0)


@kernel
def flush_tlb_block(cpu: Cpu, block: int) -> None:
    """Empty this vCPU's caches of a block (the vCPU itself, outside the guest)."""
    order = (block >> 1) & 63
    first = block >> BLOCK_SHIFT
    # Beyond one table's reach a walk over the arrays costs more than filling them again.
    if order > level_shift(cpu, 2):
        _flush_everything(cpu)
    else:
        for number in range(1, STRUCTURES + 1):
            _flush_array(cpu, number, first, order)
    tally(cpu, N_TLB_FLUSH, 1)
    emit(cpu, events.TLB_FLUSH, first, order, 0)
