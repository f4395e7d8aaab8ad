"""What zaps take away and what they leave: leafs of a range, whole roots, in both lock modes."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.oracles.limits import entries_between_checks_max
from mmu.dirty_log import disable_dirty_log, enable_dirty_log
from mmu.machine import layout as at
from mmu.notifier import invalidate_range_end, invalidate_range_start
from mmu.pages import free_deferred
from mmu.policy import ZAP_STEPS
from mmu.reload import unload_root
from mmu.spte import ACCESS_READ, ACCESS_WRITE, FROZEN, NONPRESENT, POISON
from mmu.tdp.zap import zap_leafs, zap_root
from mmu.tdp_iter import IT_NEXT_LAST_LEVEL_GFN, IT_YIELDED_GFN
from tests.model.worlds import PAGES, World, lock_modes, modes, world

HELPER = 1  # the actor behind the only vCPU

gfns = st.sets(st.integers(0, PAGES - 1), max_size=8)
backings = st.integers(1, 3)


@st.composite
def ranges(draw: st.DrawFn) -> tuple[int, int]:
    start = draw(st.integers(0, PAGES - 1))
    return start, draw(st.integers(start + 1, PAGES))


def outside(leafs: list[tuple[int, int]], start: int, end: int) -> list[tuple[int, int]]:
    """The leafs that do not overlap a range: huge ones go whole."""
    return [(first, last) for first, last in leafs if last < start or first >= end]


@modes
@given(gfns, ranges(), backings)
def test_a_range_zap_takes_the_ranges_leafs_and_no_table(
    twin: bool, touched: set[int], span: tuple[int, int], backing: int
) -> None:
    with world(twin, backing_level=backing) as it:
        it.touch(touched)
        leafs, tables = it.leafs(), it.tables()
        left = outside(leafs, *span)
        flush = it.locked(True, zap_leafs, HELPER, it.root_of(0), *span, 0, 0)
        assert it.leafs() == left
        assert it.tables() == tables
        assert flush == (left != leafs)
        it.flush(HELPER)
        assert it.count(at.N_SPTES_ZAPPED) == len(leafs) - len(left)
        assert it.problems() == []


def test_a_flush_that_was_owed_before_stays_owed() -> None:
    with world(False) as it:
        it.touch([0])
        assert it.locked(True, zap_leafs, HELPER, it.root_of(0), 8, 16, 1, 1) == 1
        assert it.locked(True, zap_leafs, HELPER, it.root_of(0), 8, 16, 1, 0) == 0


@modes
def test_one_page(twin: bool) -> None:
    with world(twin) as it:
        it.touch(range(8))
        it.locked(True, zap_leafs, HELPER, it.root_of(0), 5, 6, 1, 0)
        assert it.mapped() == {0, 1, 2, 3, 4, 6, 7}


def unmap_by_zap(it: World, start: int, end: int) -> None:
    it.locked(True, zap_leafs, HELPER, it.root_of(0), start, end, 1, 0)
    it.flush(HELPER)


def unmap_by_notifier(it: World, start: int, end: int) -> None:
    it.run(invalidate_range_start, HELPER, start, end, 1)
    it.run(invalidate_range_end, HELPER, start, end)


def remove_root(it: World, exclusive: int) -> None:
    """Zap the root that vCPU 0 has; a zap owes no flush, whoever is on the root does."""
    it.locked(exclusive, zap_root, HELPER, it.root_of(0))
    it.flush(HELPER)


@modes
@pytest.mark.parametrize("unmap", [unmap_by_zap, unmap_by_notifier])
@given(gfns, ranges(), backings)
def test_tables_stay_and_are_used_again(
    unmap, twin: bool, touched: set[int], span: tuple[int, int], backing: int
) -> None:
    with world(twin, backing_level=backing) as it:
        it.touch(touched)
        tables, allocated = it.tables(), it.count(at.N_TABLES_ALLOCATED)
        leafs = it.leafs()
        unmap(it, *span)
        assert it.leafs() == outside(leafs, *span)
        assert it.tables() == tables
        it.touch(touched)
        assert it.leafs() == leafs
        assert it.count(at.N_TABLES_ALLOCATED) == allocated
        assert it.count(at.N_TABLES_FREED) == 0
        assert it.problems() == []


@modes
def test_a_roots_zap_leaves_no_table_to_be_used_again(twin: bool) -> None:
    # The other side of the property above: what it compares does change.
    with world(twin) as it:
        it.touch(range(PAGES))
        allocated = it.count(at.N_TABLES_ALLOCATED)
        assert allocated == 1 + 2 + 4 + 8
        remove_root(it, False)
        it.touch(range(PAGES))
        assert it.count(at.N_TABLES_ALLOCATED) == 2 * allocated - 1


@modes
@lock_modes
@given(
    touched=gfns,
    backing=backings,
    levels=st.integers(3, 4),
    steps=st.sampled_from(sorted(ZAP_STEPS)),
    access=st.sampled_from([ACCESS_READ, ACCESS_WRITE]),
)
def test_a_roots_zap_takes_everything(
    twin: bool, exclusive: bool, touched: set[int], backing: int, levels: int, steps: str, access
) -> None:
    pages = min(PAGES, 1 << levels)
    with world(twin, levels=levels, pages=pages, backing_level=backing, zap_steps=steps) as it:
        it.touch({gfn % pages for gfn in touched}, access)
        tables, leafs = it.tables(), it.leafs()
        remove_root(it, exclusive)
        (root,) = it.roots()
        assert it.tables() == {root.page}
        assert it.vm.tables[root.page].tolist() == [NONPRESENT] * 2
        assert it.count(at.N_SPTES_ZAPPED) == len(leafs)
        assert [int(it.vm.words[word]) for word in (at.STAT_PAGES_4K, at.STAT_TABLES)] == [0, 0]
        assert it.problems() == []
        # Only a grace period later they are the host's again.
        removed = sorted(tables - {root.page})
        assert POISON not in it.vm.tables[removed]
        it.run(free_deferred, HELPER)
        assert (it.vm.tables[removed] == POISON).all()
        assert it.count(at.N_TABLES_FREED) == len(removed)
        assert it.problems() == []


@modes
@lock_modes
def test_all_of_a_removed_table_is_frozen_where_others_may_be_in_it(
    twin: bool, exclusive: bool
) -> None:
    with world(twin, levels=3, pages=8, zap_steps="root") as it:
        it.touch([0, 1, 2])  # the second level-1 table is half empty
        remove_root(it, exclusive)
        records = it.vm.region("records").reshape(-1, at.RECORD_WORDS)
        removed = records[:, at.SP_STATE] == at.SP_REMOVED
        entries = it.vm.tables[removed].ravel().tolist()
        empty = [NONPRESENT] if exclusive else [FROZEN]
        assert sorted(entries) == sorted([FROZEN] * 5 + empty)


# --- How much goes between two yield checks ------------------------------------------------------


def between_checks(entries: int, levels: int, steps: str) -> int:
    """Most entries of removed tables between two checks, everything being mapped at 4K.

    An entry at level z links a table of level z - 1, below which tables reach down to level p:
    level 1 at first, and z after a pass at z.  Removed are 1 + E + E^2 ... tables of E entries.
    """
    passes = {"root": [], "leafs-first": [], "1g": [3], "4k-2m-1g": [1, 2, 3]}[steps]
    lowest, most = 1, 0
    for level in [*(each for each in passes if each < levels), levels]:
        powers = list(accumulate([entries] * (level - lowest), lambda a, b: a * b))
        most = max(most, sum(powers))
        lowest = level
    return most


def test_the_formula_at_real_size() -> None:
    figures = {steps: between_checks(512, 4, steps) for steps in ZAP_STEPS}
    assert figures == {
        "root": 134_480_384,
        "leafs-first": 134_480_384,
        "1g": 262_656,
        "4k-2m-1g": 512,
    }


@pytest.mark.parametrize("steps", ["1g", "4k-2m-1g"])
def test_the_oracle_promises_what_the_formula_says(steps: str) -> None:
    for entries in (2, 4, 512):
        for levels in (4, 5):
            promised = entries_between_checks_max(steps, entries, levels)
            assert promised == between_checks(entries, levels, steps)


FINE_STEPS_OF_FIVE_LEVELS = (5, "4k-2m-1g")


def test_the_oracle_does_not_accuse_a_root_of_five_levels() -> None:
    levels, steps = FINE_STEPS_OF_FIVE_LEVELS
    with world(False, levels=levels, zap_steps=steps) as it:
        it.touch([0])
        remove_root(it, False)
        assert it.problems() == []


@modes
@lock_modes
@pytest.mark.parametrize("steps", sorted(ZAP_STEPS))
@pytest.mark.parametrize(("bits", "levels"), [(1, 3), (1, 4), (1, 5), (2, 4), (3, 3)])
def test_entries_between_two_checks_are_what_the_formula_says(
    twin: bool, exclusive: bool, steps: str, bits: int, levels: int
) -> None:
    pages = 1 << bits * levels
    with world(twin, bits=bits, levels=levels, pages=pages, zap_steps=steps) as it:
        World(it.vm, False).touch(range(pages))
        assert it.mapped() == set(range(pages))
        remove_root(it, exclusive)
        assert it.mapped() == set()
        found = it.count(at.N_BETWEEN_CHECKS_MAX)
        assert found == between_checks(1 << bits, levels, steps)
        if (levels, steps) != FINE_STEPS_OF_FIVE_LEVELS:
            assert it.problems() == []


def test_what_faults_remove_is_not_booked_for_a_later_zap() -> None:
    with world(False, zap_steps="4k-2m-1g", backing_level=2) as it:
        it.run(enable_dirty_log, HELPER, 0)
        it.touch(range(PAGES))  # at 4K, below tables
        unmap_by_notifier(it, 0, PAGES)  # no leaf is left of which a huge one could be made
        it.run(disable_dirty_log, HELPER, 0)
        it.touch(range(PAGES))  # huge pages in the place of eight empty tables
        assert len(it.leafs()) == PAGES // 2
        it.run(unload_root, 0)
        assert it.count(at.N_BETWEEN_CHECKS_MAX) == 2


def test_the_roots_last_entry_counts_too() -> None:
    with world(False, zap_steps="root") as it:
        it.touch(range(PAGES // 2, PAGES))
        remove_root(it, True)
        assert it.count(at.N_BETWEEN_CHECKS_MAX) == between_checks(2, 4, "root")


@lock_modes
def test_a_zap_that_yields_at_every_chance_ends_and_misses_nothing(exclusive: bool) -> None:
    # Compiled: there the clock moves, and without a tick every chance is taken.
    with world(False, tick_ms=0.0, zap_steps="leafs-first") as it:
        it.touch(range(PAGES))
        remove_root(it, exclusive)
        assert it.mapped() == set()
        assert it.count(at.N_YIELDS) >= PAGES
        own = it.vm.actor_words(HELPER)[at.ITERATOR :]
        assert own[IT_NEXT_LAST_LEVEL_GFN] >= own[IT_YIELDED_GFN]
        assert it.problems() == []
