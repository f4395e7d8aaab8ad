"""What the 64 bits mean: entries as a kernel prints them, and the constructors' promises."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmu import spte as module
from mmu.machine.twin import interpreted
from mmu.spte import (
    ACCESSED,
    AD_DISABLED,
    DIRTY,
    FROZEN,
    HOST_WRITABLE,
    IPAT,
    LEVEL_1G,
    LEVEL_2M,
    LEVEL_4K,
    MEMTYPE_WB,
    MMU_PRESENT,
    MMU_WRITABLE,
    NONPRESENT,
    PFN_MASK,
    PFN_SHIFT,
    PS,
    RWX,
    SPTE_R,
    SPTE_W,
    SPTE_X,
)

# From kernel logs (EPT, 4-level).
LEAF = 0x6000001C6E00B77
LEAF_WITHOUT_AD = 0x61000034D4FE877
NONLEAF = 0x2C583E907

NAMES = (
    "is_present",
    "is_frozen",
    "is_poison",
    "is_leaf",
    "pfn_of",
    "ladder_holds",
    "needs_atomic_update",
    "make_leaf",
    "make_nonleaf",
    "make_split_child",
    "make_huge",
    "is_mmio",
    "is_access_tracked",
    "dirty_bit_of",
    "is_dirty",
    "is_accessed",
    "without_write",
    "mark_for_access_track",
    "restore_access",
    "make_mmio",
    "mmio_generation",
    "mmio_gfn",
)
COMPILED = SimpleNamespace(**{name: getattr(module, name) for name in NAMES})
TWIN = SimpleNamespace(**{name: interpreted(getattr(module, name)) for name in NAMES})

both = pytest.mark.parametrize("spte", [COMPILED, TWIN], ids=["compiled", "interpreted"])

pfns = st.integers(0, PFN_MASK >> 1)
levels = st.sampled_from([LEVEL_4K, LEVEL_2M, LEVEL_1G])
huge_levels = st.sampled_from([LEVEL_2M, LEVEL_1G])
flags = st.integers(0, 1)


@both
def test_a_4k_leaf_from_a_log(spte: Any) -> None:
    assert spte.is_present(LEAF)
    assert spte.is_leaf(LEAF, LEVEL_4K)
    assert not spte.is_frozen(LEAF)
    assert spte.pfn_of(LEAF) == 0x1C6E00
    assert LEAF & ~(PFN_MASK << PFN_SHIFT) == (
        RWX | MEMTYPE_WB | IPAT | ACCESSED | DIRTY | MMU_PRESENT | HOST_WRITABLE | MMU_WRITABLE
    )
    assert spte.make_leaf(0x1C6E00, LEVEL_4K, 1, 1, 1) == LEAF
    assert spte.ladder_holds(LEAF)
    assert not spte.needs_atomic_update(LEAF, LEVEL_4K)
    assert spte.needs_atomic_update(LEAF & ~DIRTY, LEVEL_4K)
    assert spte.needs_atomic_update(LEAF & ~SPTE_W, LEVEL_4K)


@both
def test_a_leaf_with_access_tracking_from_a_log(spte: Any) -> None:
    assert LEAF_WITHOUT_AD >> 52 & 1 == 1  # SPTE_TDP_AD_DISABLED: no part of the frame number
    assert spte.pfn_of(LEAF_WITHOUT_AD) == 0x34D4FE
    assert spte.is_present(LEAF_WITHOUT_AD)
    assert LEAF_WITHOUT_AD & (ACCESSED | DIRTY) == 0
    assert LEAF_WITHOUT_AD & RWX == RWX
    assert spte.ladder_holds(LEAF_WITHOUT_AD)


@both
def test_a_table_from_a_log(spte: Any) -> None:
    assert spte.is_present(NONLEAF)
    assert spte.pfn_of(NONLEAF) == 0x2C583E
    assert not spte.is_leaf(NONLEAF, LEVEL_2M)
    assert not spte.needs_atomic_update(NONLEAF, LEVEL_2M)
    assert spte.make_nonleaf(0x2C583E, 1) == NONLEAF


@both
def test_what_is_not_present(spte: Any) -> None:
    for value in (NONPRESENT, FROZEN):
        assert not spte.is_present(value)
        assert value & RWX == 0
        assert not spte.needs_atomic_update(value, LEVEL_4K)
    assert spte.is_frozen(FROZEN)
    assert not spte.is_frozen(NONPRESENT)


@both
@given(pfns, levels, flags, flags)
def test_a_leaf_is_what_was_asked_for(
    spte: Any, pfn: int, level: int, writable: int, executable: int
) -> None:
    leaf = spte.make_leaf(pfn, level, writable, executable, 1)
    assert spte.is_present(leaf)
    assert spte.is_leaf(leaf, level)
    assert spte.pfn_of(leaf) == pfn
    assert spte.ladder_holds(leaf)
    assert bool(leaf & PS) == (level > LEVEL_4K)
    assert leaf & SPTE_R
    assert leaf & ACCESSED
    assert bool(leaf & SPTE_X) == bool(executable)
    wanted = SPTE_W | DIRTY | HOST_WRITABLE | MMU_WRITABLE
    assert leaf & wanted == (wanted if writable else 0)
    assert 0 < leaf < 1 << 63


@both
@given(st.integers(1, PFN_MASK >> 1))
def test_a_nonleaf_links_its_page(spte: Any, page: int) -> None:
    nonleaf = spte.make_nonleaf(page, 1)
    assert spte.is_present(nonleaf)
    assert spte.pfn_of(nonleaf) == page
    assert nonleaf & RWX == RWX
    assert not any(spte.is_leaf(nonleaf, level) for level in (LEVEL_2M, LEVEL_1G, 4, 5))


def children_of(spte: Any, huge: int, level: int, restore: int) -> list[int]:
    pages = 512 ** (level - LEVEL_2M)  # of one child
    return [spte.make_split_child(huge, level - 1, i * pages, restore) for i in range(512)]


@both
@given(
    pfns, huge_levels, flags, flags, st.sampled_from([0, SPTE_W, DIRTY, ACCESSED, SPTE_W | DIRTY])
)
def test_children_tile_the_huge_page(
    spte: Any, pfn: int, level: int, writable: int, executable: int, taken: int
) -> None:
    first = pfn >> 9 * (level - 1) << 9 * (level - 1)
    huge = spte.make_leaf(first, level, writable, executable, 1) & ~taken
    restore = 1 - executable
    children = children_of(spte, huge, level, restore)
    pages = 512 ** (level - LEVEL_2M)
    assert [spte.pfn_of(child) for child in children] == [first + i * pages for i in range(512)]
    kept = SPTE_R | SPTE_W | ACCESSED | DIRTY | HOST_WRITABLE | MMU_WRITABLE | IPAT | MEMTYPE_WB
    assert {child & kept for child in children} == {huge & kept}
    assert all(spte.is_leaf(child, level - 1) and spte.is_present(child) for child in children)
    assert {bool(child & PS) for child in children} == {level > LEVEL_2M}
    # Only a 4K page may be executed again: huge ones stay forbidden.
    restored = level == LEVEL_2M and restore
    assert {child & SPTE_X for child in children} == {SPTE_X if restored else huge & SPTE_X}


@both
@given(pfns, levels, flags, flags, st.integers(0, 511), flags, flags)
def test_nothing_that_can_be_made_looks_frozen(
    spte: Any,
    pfn: int,
    level: int,
    writable: int,
    executable: int,
    offset: int,
    restore: int,
    ad: int,
) -> None:
    made = [spte.make_leaf(pfn, level, writable, executable, ad), spte.make_nonleaf(pfn, ad)]
    made.append(spte.mark_for_access_track(made[0]))
    made.append(spte.without_write(made[0]))
    if level > LEVEL_4K:
        made.append(spte.make_split_child(made[0], level - 1, offset, restore))
    for value in made:
        for bits in range(8):
            cleared = value
            for number, bit in enumerate((ACCESSED, DIRTY, SPTE_W)):
                if bits >> number & 1:
                    cleared &= ~bit
            assert cleared not in (FROZEN, NONPRESENT)
            assert not spte.is_frozen(cleared)
            assert spte.is_present(cleared)


@both
@given(st.integers(0, (1 << 59) - 1), levels)
def test_predicates_agree_with_their_bits(spte: Any, value: int, level: int) -> None:
    present, leaf = bool(value & MMU_PRESENT), level == LEVEL_4K or bool(value & PS)
    writable, mmu_writable = bool(value & SPTE_W), bool(value & MMU_WRITABLE)
    assert bool(spte.is_present(value)) == present
    assert bool(spte.is_leaf(value, level)) == leaf
    rungs = [writable, mmu_writable, bool(value & HOST_WRITABLE)]
    assert bool(spte.ladder_holds(value)) == (rungs == sorted(rungs))
    by_fault = mmu_writable and not writable
    by_hardware = writable and not value & DIRTY
    aged = bool(value & AD_DISABLED)
    volatile = present and leaf and (aged or by_fault or by_hardware)
    assert bool(spte.needs_atomic_update(value, level)) == volatile


@both
@given(pfns, levels, flags, flags, flags)
def test_access_tracking_comes_back(
    spte: Any, pfn: int, level: int, writable: int, executable: int, ad: int
) -> None:
    leaf = spte.make_leaf(pfn, level, writable, executable, ad)
    old = spte.mark_for_access_track(leaf)
    assert spte.is_accessed(leaf)
    assert not spte.is_accessed(old)
    assert spte.mark_for_access_track(old) == old
    assert spte.is_present(old)
    assert spte.is_leaf(old, level)
    assert spte.pfn_of(old) == pfn
    assert spte.ladder_holds(old)
    assert bool(spte.is_access_tracked(old)) == (not ad)
    if ad:
        assert old == leaf & ~ACCESSED
    else:
        assert old & RWX == 0
        # W is for a fault to give back.
        assert spte.restore_access(old) == leaf & ~SPTE_W


@both
@given(pfns, levels, flags, flags, flags)
def test_what_ageing_and_logging_take_says_nothing_about_the_past(
    spte: Any, pfn: int, level: int, writable: int, executable: int, ad: int
) -> None:
    """Without D, a leaf that was writable counts as dirty whatever is taken; with D, D does."""
    leaf = spte.make_leaf(pfn, level, writable, executable, ad)
    assert bool(spte.is_dirty(leaf)) == bool(writable)
    old = spte.mark_for_access_track(leaf)
    protected = leaf & ~SPTE_W
    for later in (old, protected, spte.restore_access(old) if not ad else old):
        assert bool(spte.is_dirty(later)) == bool(writable)
    harvested = leaf & ~spte.dirty_bit_of(leaf)
    assert bool(spte.is_dirty(harvested)) == (bool(writable) and not ad)
    assert not spte.is_dirty(spte.without_write(leaf))


@both
@given(pfns, huge_levels, flags, flags)
def test_children_of_a_tracked_huge_page_are_tracked(
    spte: Any, pfn: int, level: int, writable: int, executable: int
) -> None:
    first = pfn >> 9 * (level - 1) << 9 * (level - 1)
    huge = spte.make_leaf(first, level, writable, executable, 0)
    old = spte.mark_for_access_track(huge)
    for restore in (0, 1):
        tracked, plain = (children_of(spte, each, level, restore) for each in (old, huge))
        assert all(spte.is_access_tracked(child) for child in tracked)
        assert [spte.restore_access(each) for each in tracked] == [each & ~SPTE_W for each in plain]


@both
@given(pfns, levels, flags, flags)
def test_a_leaf_without_write(spte: Any, pfn: int, level: int, executable: int, ad: int) -> None:
    leaf = spte.make_leaf(pfn, level, 1, executable, ad)
    mild = spte.without_write(leaf)
    assert mild & (SPTE_W | MMU_WRITABLE | DIRTY) == 0
    assert mild & HOST_WRITABLE
    assert spte.ladder_holds(mild)
    assert mild | leaf == leaf
    assert spte.dirty_bit_of(leaf) & leaf
    assert not spte.dirty_bit_of(mild) & mild


@both
@given(st.integers(0, (1 << 40) - 1), st.integers(0, 1 << 30))
def test_an_mmio_entry_keeps_gfn_and_generation(spte: Any, gfn: int, generation: int) -> None:
    entry = spte.make_mmio(gfn, generation)
    assert 0 < entry < 1 << 63
    assert spte.is_mmio(entry)
    assert not spte.is_present(entry)
    assert not spte.is_frozen(entry)
    assert spte.mmio_gfn(entry) == gfn
    assert spte.mmio_generation(entry) == generation % (1 << 19)
    for other in (NONPRESENT, FROZEN, LEAF, LEAF_WITHOUT_AD, NONLEAF, LEAF & ~SPTE_W):
        assert not spte.is_mmio(other)


def test_the_twin_has_all_of_them() -> None:
    public: list[Callable[..., Any]] = [
        value for value in vars(module).values() if getattr(value, "py_func", None)
    ]
    assert {value.__name__ for value in public} == set(NAMES)
