"""Faults that are sent back: what is bad luck, and what oracle `progress` calls a bug."""

from __future__ import annotations

import pytest

from harness.oracles import limits, progress
from harness.oracles.verdict import reported
from harness.watch.stress import StressWatch, Watching, watch_stress
from mmu.attempts import note_early_retry, note_spurious, note_stale
from mmu.machine import events
from mmu.machine import layout as at
from mmu.machine.lock import mmu_read_lock, mmu_read_unlock
from mmu.machine.rcu import rcu_read_lock, rcu_read_unlock
from mmu.tdp_iter import IT_NEXT_LAST_LEVEL_GFN, IT_YIELDED_GFN, iter_start
from mmu.tdp_mmu import cond_resched
from tests.model.worlds import World, modes, world

GFN = 3


def invalidating(it: World, first: int, end: int, seq: int) -> None:
    words = it.vm.words
    words[at.IN_PROGRESS], words[at.INVALIDATE_SEQ] = 1, seq
    words[at.RANGE_START], words[at.RANGE_END] = first, end


def exceeded(it: World) -> list[int]:
    return [actor for _, actor in progress.exceeded(it.vm)]


def broken(it: World) -> list[str]:
    return [each.oracle for each in reported(it.vm, ["vcpu 0", "vcpu 1", "vmm"])]


@modes
def test_an_invalidation_of_other_gfns_sends_nobody_back_for_long(twin):
    with world(twin) as it:
        invalidating(it, GFN, GFN + 1, 7)
        for _ in range(10):
            it.run(note_early_retry, 0, GFN, 7)
        assert it.count(at.N_ELSEWHERE_MAX) == 0
        invalidating(it, GFN + 1, GFN + 2, 7)
        for seq in range(7, 20):
            for _ in range(limits.ELSEWHERE_RETRIES_MAX):
                it.run(note_early_retry, 0, GFN, seq)
        assert exceeded(it) == []
        it.run(note_early_retry, 0, GFN, 19)
        assert exceeded(it) == [0]


@modes
@pytest.mark.parametrize(
    ("first", "seq", "right"), [(GFN, 7, True), (GFN + 1, 6, True), (GFN + 1, 7, False)]
)
def test_a_fault_under_the_lock_is_sent_back_for_a_reason(twin, first, seq, right):
    with world(twin) as it:
        invalidating(it, first, GFN + 2, 7)
        it.run(note_stale, 0, GFN, seq, 0)
        assert broken(it) == ([] if right else ["progress"])


@modes
def test_an_invalidation_sends_a_fault_back_under_the_lock_once(twin):
    with world(twin) as it:
        for seq in range(3):
            for gfn in (0, GFN):
                invalidating(it, 0, GFN + 1, seq)
                it.run(note_stale, 0, gfn, seq, 0)
        assert exceeded(it) == []
        it.run(note_stale, 0, GFN, 2, 0)
        assert (exceeded(it), broken(it)) == ([0], [])


@modes
def test_a_root_that_is_invalid_is_reloaded_before_the_next_fault(twin):
    with world(twin) as it:
        it.touch([GFN])
        it.run(note_stale, 0, GFN, 0, 1)
        assert exceeded(it) == []
        it.run(note_stale, 0, GFN, 0, 1)
        assert exceeded(it) == [0]


@modes
def test_a_page_that_is_mapped_is_reached(twin):
    with world(twin) as it:
        for _ in range(2):
            for _ in range(limits.SPURIOUS_FAULTS_MAX):
                it.run(note_spurious, 0)
            it.touch([GFN])
        assert exceeded(it) == []
        for _ in range(limits.SPURIOUS_FAULTS_MAX + 1):
            it.run(note_spurious, 0)
        assert exceeded(it) == [0]


@modes
@pytest.mark.parametrize("moved", [False, True])
def test_a_walk_may_not_yield_where_it_started(twin, moved):
    with world(twin, helpers=1) as it:
        it.touch([GFN])
        it.run(mmu_read_lock, 1)
        it.run(rcu_read_lock, 1)
        it.run(iter_start, 1, at.ITERATOR, it.root_of(0), 1, 0, 8)
        own = it.vm.actor_words(1)
        # As if the rule did not hold the walk back, or as if it had got on.
        own[at.ITERATOR + IT_YIELDED_GFN] = -1
        own[at.ITERATOR + IT_NEXT_LAST_LEVEL_GFN] += moved
        own[at.TICK_BEGAN] = -(1 << 60)
        assert it.run(cond_resched, 1, at.ITERATOR, 0) == 1
        assert broken(it) == ([] if moved else ["progress"])
        it.run(rcu_read_unlock, 1)
        it.run(mmu_read_unlock, 1)


@pytest.mark.parametrize(
    ("state", "kind", "found"),
    [
        (at.SP_FREE, events.READ_ONCE, True),
        (at.SP_FREE, events.CMPXCHG, True),
        (at.SP_FREE, events.POKE, False),
        (at.SP_REMOVED, events.READ_ONCE, False),
        (at.SP_LINKED, events.CMPXCHG, False),
    ],
)
def test_a_patched_run_notices_a_step_on_a_freed_table(state, kind, found):
    with world(False) as it:
        vm = it.vm
        it.touch([GFN])
        page = it.root_of(0) >> 3
        vm.region("records").reshape(-1, at.RECORD_WORDS)[page, at.SP_STATE] = state
        watch = StressWatch(vm, Watching(bounds=True))
        word = vm.layout.start("tables") + (page << vm.config.bits)
        verdict = watch_stress(watch.ctx(0), 0, kind, word, 0, 0)
        assert (verdict == events.STOP) == found
        assert broken(it) == (["lifetime"] if found else [])
