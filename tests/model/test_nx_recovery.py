"""NX recovery: which tables go, how many, in which order, and what stays."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmu.dirty_log import enable_dirty_log
from mmu.machine import layout as at
from mmu.machine.lock import mmu_read_lock, mmu_read_unlock, mmu_write_lock, mmu_write_unlock
from mmu.machine.rcu import rcu_read_lock, rcu_read_unlock
from mmu.nx_recovery import recover_nx_huge_pages
from mmu.spte import ACCESS_EXECUTE, ACCESS_READ
from mmu.tdp.zap import zap_sp
from tests.model.worlds import PAGES, lock_modes, modes, world


def listed(it) -> list[int]:
    """First gfns of the tables on the list, the first one first."""
    records = it.vm.region("records").reshape(-1, at.RECORD_WORDS)
    page, found = int(it.vm.words[at.NX_LIST]), []
    while page:
        found.append(int(records[page, at.SP_GFN]))
        page = int(records[page, at.SP_NX_NEXT])
    return found


def splits(it) -> int:
    return int(it.vm.words[at.STAT_NX_SPLITS])


@modes
@pytest.mark.parametrize("ratio", [0, 1, 2, 3, 4, 60])
def test_the_oldest_go_first_and_as_many_as_the_ratio_says(twin, ratio):
    with world(twin, helpers=1, backing_level=2) as it:
        order = [6, 0, 12, 4, 2]
        it.touch(order, ACCESS_EXECUTE)
        assert listed(it) == order
        going = -(-len(order) // ratio) if ratio else 0
        assert it.run(recover_nx_huge_pages, 1, ratio) == going
        assert listed(it) == order[going:]
        assert splits(it) == len(order) - going
        assert not set(order[:going]) & it.mapped()
        assert set(order[going:]) <= it.mapped()
        assert it.count(at.N_NX_RECOVERED) == going
        it.touch([gfn + 1 for gfn in order], ACCESS_READ)
        assert it.vm.words[at.STAT_PAGES_2M] == going
        assert it.problems() == []


@modes
def test_what_is_logged_is_taken_off_the_list_and_stays(twin):
    with world(twin, helpers=1, backing_level=2, slots=2) as it:
        it.touch([0, PAGES // 2], ACCESS_EXECUTE)
        it.run(enable_dirty_log, 1, 0)
        before = it.tables()
        assert it.run(recover_nx_huge_pages, 1, 1) == 1
        assert (listed(it), splits(it)) == ([], 0)
        assert 0 in it.mapped()
        assert PAGES // 2 not in it.mapped()
        assert len(before - it.tables()) == 1
        assert it.problems() == []


@modes
@lock_modes
def test_a_table_that_nothing_links_any_more_is_left_alone(twin, exclusive):
    with world(twin, helpers=1, backing_level=2) as it:
        it.touch([0], ACCESS_EXECUTE)
        page = int(it.vm.words[at.NX_LIST])
        records = it.vm.region("records").reshape(-1, at.RECORD_WORDS)
        parent = int(records[page, at.SP_PARENT])
        linked = int(it.vm.words[parent])
        for other in (0, 0x5A0, linked | 0x80, linked + (1 << 12)):  # none, frozen, leaf, another
            it.vm.words[parent] = other
            assert zapped(it, exclusive, page) == 0
            assert int(it.vm.words[parent]) == other
        it.vm.words[parent] = linked
        assert zapped(it, exclusive, page) == 1
        assert int(it.vm.words[parent]) == 0
        it.flush(1)
        assert it.problems() == []


def zapped(it, exclusive: bool, page: int) -> int:
    it.run(mmu_write_lock if exclusive else mmu_read_lock, 1)
    it.run(rcu_read_lock, 1)
    result = it.run(zap_sp, 1, page)
    it.run(rcu_read_unlock, 1)
    it.run(mmu_write_unlock if exclusive else mmu_read_unlock, 1)
    return result


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("execute"), st.integers(0, PAGES - 1)),
            st.tuples(st.just("read"), st.integers(0, PAGES - 1)),
            st.tuples(st.just("recover"), st.integers(0, 4)),
        ),
        max_size=25,
    )
)
def test_the_list_is_what_was_executed_and_not_recovered_in_order(steps):
    with world(False, helpers=1, backing_level=2) as it:
        expected: list[int] = []
        for step, number in steps:
            if step == "recover":
                it.run(recover_nx_huge_pages, 1, number)
                del expected[: -(-len(expected) // number) if number else 0]
                continue
            it.touch([number], ACCESS_EXECUTE if step == "execute" else ACCESS_READ)
            block = number & ~1
            if step == "execute" and block not in expected:
                expected.append(block)
        assert listed(it) == expected
        assert splits(it) == len(expected)
        assert it.problems() == []
