"""Ageing: what it reports, what it leaves alone, and how an access is noticed again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmu.dirty_log import enable_dirty_log, get_dirty_log
from mmu.host_changes import swap_out
from mmu.host_reclaim import (
    MARKED_IDLE,
    NO_HEAD,
    NO_PFN,
    STILL_IDLE,
    age_page,
    mark_page_idle,
    reclaim_if_old,
)
from mmu.machine import events
from mmu.machine import layout as at
from mmu.machine.twin import interpreted
from mmu.notifier import clear_young
from mmu.notifier import test_young as is_young
from mmu.spte import ACCESS_EXECUTE, ACCESS_READ, ACCESS_WRITE, is_access_tracked
from tests.model.worlds import PAGES, World, modes, world

ad_modes = pytest.mark.parametrize("ad", [True, False], ids=["ad", "no-ad"])
HOST = 1


@pytest.fixture
def small(twin: bool, ad: bool) -> Iterator[World]:
    with world(twin, ad=ad, helpers=1, spare_frames=2) as w:
        yield w


def young(w: World) -> set[int]:
    return {page for page in range(PAGES) if w.run(is_young, HOST, page)}


def leaf_of(w: World, gfn: int) -> int:
    """The 4K entry of a gfn, by a naive walk."""
    table, value = w.root_of(0) >> 3, 0
    for level in range(w.root_of(0) & 7, 0, -1):
        value = int(w.vm.tables[table, gfn >> level - 1 & 1])
        table = value >> 12 & (1 << 40) - 1
    return value


@modes
@ad_modes
def test_it_reports_what_was_used_and_makes_it_old(small: World):
    small.touch(range(4))
    assert young(small) == {0, 1, 2, 3}
    assert young(small) == {0, 1, 2, 3}  # a look changes nothing
    assert small.run(clear_young, HOST, 1, 3) == 1
    assert young(small) == {0, 3}
    assert small.run(clear_young, HOST, 1, 3) == 0
    assert small.run(clear_young, HOST, 4, PAGES) == 0
    assert small.count(at.N_SPTES_AGED) == 2
    assert small.problems() == []


@modes
@ad_modes
def test_nothing_is_flushed_so_a_cached_translation_hides_an_access(small: World):
    small.touch([0])
    flushes = small.count(at.N_REMOTE_FLUSH)
    assert small.run(age_page, HOST, 0) == 1
    assert small.count(at.N_REMOTE_FLUSH) == flushes
    small.touch([0])
    assert young(small) == set()
    assert small.problems() == []
    small.flush(HOST)
    small.touch([0], ACCESS_READ)
    assert young(small) == {0}
    assert small.problems() == []


@ad_modes
def test_no_lock_is_taken(ad: bool):
    with world(True, ad=ad, helpers=1) as w:
        w.touch(range(4))
        steps: list[tuple[int, int]] = []

        def observe(kind: int, a: int, b: int, c: int) -> int:
            steps.append((kind, a))
            return events.GO

        cpu = w.vm.cpu(HOST, observer=observe)
        assert interpreted(clear_young)(cpu, 0, 4) == 1
        assert not [step for step in steps if step[0] in (events.ACQUIRE, events.RELEASE)]
        changed = {kind for kind, _ in steps} - {events.READ_ONCE, events.PEEK}
        changed = {kind for kind in changed if kind <= events.STEP_LAST}
        # The read section's two ends, and one cmpxchg for each leaf.
        assert changed == {events.XCHG, events.STORE_RELEASE, events.CMPXCHG}
        assert [kind for kind, _ in steps].count(events.CMPXCHG) == 4


@modes
def test_a_read_gives_back_what_was_put_aside_but_w(twin: bool):
    with world(twin, ad=False, helpers=1) as w:
        w.touch([0])
        before = leaf_of(w, 0)
        w.run(age_page, HOST, 0)
        w.flush(HOST)
        assert is_access_tracked(leaf_of(w, 0))
        fast = w.count(at.N_PF_FAST)
        w.touch([0], ACCESS_READ)
        assert w.count(at.N_PF_FAST) == fast + 1
        assert before & ~leaf_of(w, 0) == ACCESS_WRITE
        w.touch([0], ACCESS_WRITE)
        assert w.count(at.N_PF_FAST) == fast + 2
        assert leaf_of(w, 0) == before
        assert w.problems() == []


@modes
@ad_modes
@pytest.mark.parametrize("read_again", [False, True])
def test_a_write_before_ageing_reaches_the_disk(small: World, read_again: bool):
    small.touch([3, 3])
    assert small.run(reclaim_if_old, HOST, 3) == 0
    small.run(age_page, HOST, 3)
    if read_again:
        small.flush(HOST)
        small.touch([3], ACCESS_READ)
        assert small.run(reclaim_if_old, HOST, 3) == 0
        small.run(age_page, HOST, 3)
    assert small.run(reclaim_if_old, HOST, 3) == 1
    assert small.count(at.N_HOST_WRITEBACKS) == 1
    assert small.vm.region("disk")[3] == 2
    small.touch([3], ACCESS_READ)
    assert small.problems() == []


@modes
@ad_modes
def test_the_idle_bit_is_one_for_a_huge_page(twin: bool, ad: bool):
    with world(twin, ad=ad, helpers=1, backing_level=2) as w:
        w.touch([0, 2])
        assert [w.run(mark_page_idle, HOST, page) for page in (0, 1)] == [MARKED_IDLE, NO_HEAD]
        assert young(w) == {2, 3}
        assert w.run(mark_page_idle, HOST, 0) == STILL_IDLE
        w.flush(HOST)
        w.touch([1])
        assert w.run(mark_page_idle, HOST, 0) == MARKED_IDLE
        assert w.problems() == []


@modes
@ad_modes
def test_a_page_that_was_zapped_since_is_not_idle(small: World):
    small.touch([0])
    assert small.run(mark_page_idle, HOST, 0) == MARKED_IDLE
    small.flush(HOST)
    small.touch([0])
    assert small.run(swap_out, HOST, 0) == 1
    assert small.run(mark_page_idle, HOST, 0) == NO_PFN
    small.touch([0], ACCESS_READ)
    assert small.run(mark_page_idle, HOST, 0) == MARKED_IDLE
    assert small.problems() == []


OPERATIONS = ("read", "write", "execute", "age", "reclaim", "swap", "harvest")


@settings(deadline=None, max_examples=60)
@given(
    st.booleans(),
    st.sampled_from([1, 2]),
    st.sampled_from(["eager", "fault"]),
    st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(0, PAGES - 1)), max_size=30),
)
def test_any_sequence_of_accesses_and_host_changes(
    ad: bool, level: int, split: str, operations: list[tuple[str, int]]
):
    """A page is young if it was used since it was marked old; no write is lost."""
    options: dict[str, Any] = {"ad": ad, "backing_level": level, "huge_split": split}
    accesses = {"read": ACCESS_READ, "write": ACCESS_WRITE, "execute": ACCESS_EXECUTE}
    used: set[int] = set()
    with world(False, helpers=1, spare_frames=PAGES, **options) as w:
        for number, (what, page) in enumerate(operations):
            w.flush(HOST)  # so that nothing is hidden by a cached translation
            if what in accesses:
                w.touch([page], accesses[what])
                used |= {page}
            elif what == "age":
                assert not used & {page} or w.run(age_page, HOST, page) == 1
                w.run(age_page, HOST, page)
                used -= {page}
            elif what == "harvest":
                (get_dirty_log if number % 2 else enable_dirty_log)(w.vm.cpu(HOST), 0)
            elif (swap_out if what == "swap" else reclaim_if_old)(w.vm.cpu(HOST), page):
                used -= {page}
            if level == 1:
                assert young(w) == used
            assert w.problems() == []
