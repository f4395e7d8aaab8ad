"""Prefault maps what a range covers, as large as it may be, and leaves alone what is there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.oracles.snapshot import Snapshot
from mmu.machine import layout as at
from mmu.memslots import STATE_BITS
from mmu.prefault import (
    PREFAULT_AGAIN,
    PREFAULT_DONE,
    PREFAULT_HOLE,
    PREFAULT_STOPPED,
    STATUS_BITS,
    STATUS_MASK,
    prefault_range,
)
from mmu.spte import ACCESS_READ, ACCESS_WRITE, ACCESSED, AD_DISABLED, RWX
from tests.model.worlds import PAGES, World, modes, world


def prefault(it: World, first: int, end: int) -> tuple[int, int]:
    """(first gfn that is not mapped, how it ended)."""
    result = it.run(prefault_range, 0, first, end)
    return result >> STATUS_BITS, result & STATUS_MASK


def entries(it: World) -> dict[int, int]:
    return {
        int(gfn): int(value)
        for leafs in Snapshot(it.vm).leafs()
        for gfn, value in zip(leafs.gfns, leafs.values, strict=True)
    }


@modes
@given(
    st.integers(0, PAGES - 1),
    st.integers(1, PAGES),
    st.integers(1, 3),
    st.lists(st.integers(0, PAGES - 1), max_size=4),
)
def test_a_range_is_mapped_and_what_was_there_stays(
    twin: bool, first: int, pages: int, backing: int, used: list[int]
) -> None:
    end = min(first + pages, PAGES)
    with world(twin, backing_level=backing) as it:
        it.touch(used)
        before = entries(it)
        mapped = it.mapped()
        assert prefault(it, first, end) == (end, PREFAULT_DONE)
        after = entries(it)
        assert {gfn: after[gfn] for gfn in before} == before
        assert set(range(first, end)) | mapped <= it.mapped()
        # No more than the host pages that the range touches.
        unit = 1 << (backing - 1)
        assert it.mapped() <= set(range(first & ~(unit - 1), -(-end // unit) * unit)) | mapped
        new = after.keys() - before.keys()
        assert all(after[gfn] & ACCESSED == 0 for gfn in new)
        assert it.count(at.N_PF_PREFETCHED) == len(new)
        taken = it.count(at.N_PF_TAKEN)
        assert it.touch(range(first, end)) == end - first
        assert it.count(at.N_PF_TAKEN) == taken
        assert it.problems() == []


@modes
def test_without_a_and_d_bits_the_first_use_is_noticed(twin: bool) -> None:
    with world(twin, ad=False) as it:
        assert prefault(it, 0, 2) == (2, PREFAULT_DONE)
        assert all(value & RWX == 0 and value & AD_DISABLED for value in entries(it).values())
        assert prefault(it, 0, 2) == (2, PREFAULT_DONE)
        assert it.count(at.N_PF_PREFETCHED) == 2
        assert it.touch([0, 1, 0], ACCESS_READ) == 3
        assert it.count(at.N_PF_TAKEN) == 2
        assert all(value & ACCESS_READ for value in entries(it).values())


@modes
def test_it_ends_where_memory_does(twin: bool) -> None:
    with world(twin, slots=2, absent_slots=1) as it:
        half = PAGES // 2
        assert prefault(it, half - 2, PAGES) == (half, PREFAULT_HOLE)
        assert it.mapped() == {half - 2, half - 1}
        # The hole is known now: no guest has accessed it, so nothing was emulated.
        assert it.count(at.N_MMIO_EXITS) == it.count(at.N_PF_TAKEN) == 0
        assert it.touch([half], ACCESS_WRITE) == 0
        assert it.count(at.N_MMIO_SPTE_HITS) == it.count(at.N_MMIO_EXITS) == 1
        assert it.problems() == []


@modes
def test_a_memslot_that_is_about_to_go_is_not_waited_for(twin: bool) -> None:
    with world(twin) as it:
        it.vm.words[it.vm.layout.start("slots") + at.SLOT_PLACE] = 0 << STATE_BITS | at.SLOT_INVALID
        assert prefault(it, 0, 2) == (0, PREFAULT_AGAIN)
        state = int(it.vm.actor_words(0)[at.VCPU_STATE])
        assert state & 7 == 0, "the SRCU section must be over"
        assert it.mapped() == set()


@modes
@pytest.mark.parametrize("first", [0, 3])
def test_a_thread_that_is_wanted_elsewhere_stops(twin: bool, first: int) -> None:
    with world(twin) as it:
        it.vm.words[at.STOP_WORD] = 1
        assert prefault(it, first, PAGES) == (first, PREFAULT_STOPPED)
