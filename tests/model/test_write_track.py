"""Write tracking of gfns: what may be mapped how, who writes, what the trackers are told."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.oracles.snapshot import Snapshot
from mmu.dirty_log import enable_dirty_log, get_dirty_log
from mmu.gfn_track import is_lpage_disallowed, is_write_tracked, times_told
from mmu.host.frames import VALUE_SHIFT
from mmu.host_changes import move_page, split_huge_mapping, swap_out, write_protect_page
from mmu.machine import layout as at
from mmu.slot_changes import delete_memslot, move_memslot
from mmu.spte import ACCESS_READ, ACCESS_WRITE, MMU_WRITABLE, SPTE_W
from mmu.write_track import track_gfn, untrack_gfn
from tests.model.worlds import PAGES, modes, world

TRACKING = {"helpers": 1, "write_tracking": True}


def rights(it, gfn: int) -> tuple[int, int]:
    """(level, W and MMU-writable) of the leaf that maps the gfn; level 0: none."""
    for leafs in Snapshot(it.vm).leafs():
        pages = 1 << it.vm.config.bits * (leafs.level - 1)
        for first, value in zip(leafs.gfns.tolist(), leafs.values.tolist(), strict=True):
            if first <= gfn < first + pages:
                return leafs.level, value & (SPTE_W | MMU_WRITABLE)
    return 0, 0


def value(it, gfn: int) -> int:
    return int(it.vm.frames[gfn] >> VALUE_SHIFT)


@modes
@pytest.mark.parametrize("written_before", [False, True])
def test_writes_are_emulated_and_told_until_nobody_tracks(twin, written_before):
    with world(twin, **TRACKING) as it:
        if written_before:
            it.touch([3])
        writes = value(it, 3)
        for trackers in (1, 2):
            assert it.run(track_gfn, 1, 3) == 1
            assert rights(it, 3)[1] == 0
            assert it.touch([3, 3]) == 2
            assert it.run(times_told, 1, 3) == 2 * trackers
        assert value(it, 3) == writes + 4
        assert it.count(at.N_PF_WRITE_PROTECTED) == 4
        assert it.count(at.N_WRITES) == writes + 4
        it.run(untrack_gfn, 1, 3)
        it.touch([3])
        assert it.run(times_told, 1, 3) == 5
        it.run(untrack_gfn, 1, 3)
        it.touch([3])
        assert it.run(times_told, 1, 3) == 5
        assert rights(it, 3)[1] == SPTE_W | MMU_WRITABLE
        assert value(it, 3) == writes + 6
        assert it.problems() == []


@modes
def test_a_huge_page_over_a_tracked_gfn_is_split_where_it_is_written(twin):
    with world(twin, backing_level=2, **TRACKING) as it:
        it.touch([0, 2])
        it.run(track_gfn, 1, 0)
        assert (rights(it, 0), rights(it, 2)) == ((2, 0), (2, SPTE_W | MMU_WRITABLE))
        it.touch([1])
        assert (rights(it, 0), rights(it, 1)) == ((1, 0), (1, SPTE_W | MMU_WRITABLE))
        assert it.run(times_told, 1, 0) == 0
        assert it.problems() == []


@modes
@pytest.mark.parametrize("level", [2, 3])
def test_nothing_huge_is_mapped_over_a_tracked_gfn(twin, level):
    with world(twin, backing_level=level, **TRACKING) as it:
        gfn = PAGES // 2 + 1
        it.run(track_gfn, 1, gfn)
        it.touch(range(PAGES), ACCESS_READ)
        for each in range(PAGES):
            mapped = rights(it, each)[0]
            # As large as the host has it, unless the block holds the gfn.
            expected = max(
                n for n in range(1, level + 1) if n == 1 or each >> n - 1 != gfn >> n - 1
            )
            assert mapped == expected
            for n in range(2, 4):
                disallowed = it.run(is_lpage_disallowed, 1, each, n)
                assert disallowed == (each >> n - 1 == gfn >> n - 1)
        it.run(untrack_gfn, 1, gfn)
        assert not any(it.run(is_lpage_disallowed, 1, each, 2) for each in range(PAGES))
        assert it.problems() == []


@modes
@pytest.mark.parametrize("pml", [False, True])
def test_an_emulated_write_is_in_the_log(twin, pml):
    with world(twin, pml=pml, **TRACKING) as it:
        it.touch([1, 5])
        it.run(enable_dirty_log, 1, 0)
        it.run(track_gfn, 1, 5)
        it.run(get_dirty_log, 1, 0)
        it.touch([5])
        assert it.run(get_dirty_log, 1, 0) == 1
        assert int(it.vm.region("harvest 0")[0]) == 1 << 5
        it.touch([5])
        assert it.run(get_dirty_log, 1, 0) == 1
        assert it.problems() == []


@modes
@pytest.mark.parametrize("change", [move_page, swap_out, write_protect_page, split_huge_mapping])
def test_an_emulated_write_finds_the_page_wherever_the_host_has_it(twin, change):
    with world(twin, spare_frames=2, **TRACKING) as it:
        it.touch([4])
        it.run(track_gfn, 1, 4)
        it.touch([4])
        it.run(change, 1, 4)
        it.touch([4])
        it.touch([4], ACCESS_READ)
        newest = int(it.vm.region("newest")[4])
        assert (newest, it.run(times_told, 1, 4)) == (3, 2)
        # The host has been told: it would not drop the page as clean.
        it.run(swap_out, 1, 4)
        assert int(it.vm.region("disk")[4]) == 3
        assert it.problems() == []


@modes
def test_a_hole_cannot_be_tracked_nor_anything_where_tracking_is_off(twin):
    with world(twin, **TRACKING) as it:
        assert it.run(track_gfn, 1, PAGES) == 0
        it.run(delete_memslot, 1, 0)
        assert it.run(track_gfn, 1, 0) == 0
    with world(twin, helpers=1) as it:
        assert it.run(track_gfn, 1, 0) == 0
        assert it.run(is_write_tracked, 1, 0) == 0


@modes
def test_a_memslot_that_moves_keeps_its_trackers(twin):
    with world(twin, levels=5, **TRACKING) as it:
        it.run(track_gfn, 1, 2)
        it.run(move_memslot, 1, 0, PAGES)
        it.touch([PAGES + 2])
        assert it.run(times_told, 1, 2) == 1
        assert it.problems() == []


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 3),
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(("track", "untrack", "read", "write")), st.integers(0, 7))
        ),
        max_size=30,
    ),
)
def test_told_are_the_writes_of_what_is_tracked(level, steps):
    with world(False, backing_level=level, **TRACKING) as it:
        trackers, told, written = [0] * PAGES, [0] * PAGES, [0] * PAGES
        for step, gfn in steps:
            if step == "track":
                it.run(track_gfn, 1, gfn)
                trackers[gfn] += 1
            elif step == "untrack" and trackers[gfn]:
                it.run(untrack_gfn, 1, gfn)
                trackers[gfn] -= 1
            elif step in ("read", "write"):
                it.touch([gfn], ACCESS_READ if step == "read" else ACCESS_WRITE)
                written[gfn] += step == "write"
                told[gfn] += step == "write" and trackers[gfn] > 0
            assert it.problems() == []
        for gfn in range(PAGES):
            assert it.run(times_told, 1, gfn) == told[gfn]
            assert it.run(is_write_tracked, 1, gfn) == (trackers[gfn] > 0)
            assert value(it, gfn) == written[gfn]
