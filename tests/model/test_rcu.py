"""Grace periods: whom they wait for, what they keep alive, and how much may wait for them."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.oracles.verdict import audits
from harness.watch.stepper import Stepper
from mmu.machine import layout as at
from mmu.machine.cpu import Cpu, Words
from mmu.machine.events import WAIT_WHILE
from mmu.machine.rcu import rcu_read_lock, rcu_read_unlock, synchronize_rcu
from mmu.machine.twin import interpreted
from mmu.pages import alloc_table, defer_free, free_deferred, topup_table_cache
from mmu.reload import load_root, unload_root
from mmu.spte import NONPRESENT, POISON
from mmu.vm import Vm
from tests.model.worlds import PAGES, World, modes, world

READERS = 3
WRITER = READERS  # the actor behind the vCPUs, which read
# Words of a record that others than the owner of the page may touch.
POISONED = (*range(at.SP_PARENT, at.SP_STATE), at.SP_DEFERRED_NEXT)
EVER = 30.0  # seconds: more than anything here takes


def section(vm: Vm, reader: int) -> int:
    """How many times the reader has entered or left: odd inside."""
    return int(vm.actor_words(reader)[at.RCU_SECTION])


def reading(times: int) -> Callable[[Cpu], None]:
    def body(cpu: Cpu) -> None:
        for _ in range(times):
            interpreted(rcu_read_lock)(cpu)
            interpreted(rcu_read_unlock)(cpu)

    return body


def stepping(vm: Vm, times: int, writer: Callable[[Cpu], int | None] = synchronize_rcu) -> Stepper:
    actors = {i: (vm.cpu(i), reading(times)) for i in range(READERS)}
    return Stepper(actors | {WRITER: (vm.cpu(WRITER), interpreted(writer))})


def go_as_far_as_it_can(stepper: Stepper, actor: int) -> bool:
    """Whether it has ended; it waits for somebody if not."""
    while actor in stepper.pending and stepper.enabled(actor):
        stepper.step(actor)
    assert actor not in stepper.pending or stepper.pending[actor][0] == WAIT_WHILE
    return actor not in stepper.pending


@pytest.mark.parametrize("reader", range(READERS))
def test_it_waits_for_a_section_that_began_before(reader: int) -> None:
    with world(True, vcpus=READERS) as it:
        stepper = stepping(it.vm, 2)
        stepper.step(reader)  # inside
        assert not go_as_far_as_it_can(stepper, WRITER)
        stepper.step(reader)  # outside
        stepper.step(reader)  # and inside again: another section, which began later
        assert section(it.vm, reader) == 3
        assert go_as_far_as_it_can(stepper, WRITER)
        stepper.stop()


@pytest.mark.parametrize("reader", range(READERS))
def test_it_does_not_wait_for_one_that_began_later(reader: int) -> None:
    with world(True, vcpus=READERS) as it:
        stepper = stepping(it.vm, 1)
        word = it.vm.layout.actor(reader) + at.RCU_SECTION
        while stepper.pending[WRITER][1] != word:
            stepper.step(WRITER)
        stepper.step(WRITER)  # it has looked, and nobody was inside
        stepper.step(reader)
        assert section(it.vm, reader) == 1
        assert go_as_far_as_it_can(stepper, WRITER)
        stepper.stop()


@given(st.data())
def test_whoever_was_inside_has_left_when_it_returns(data: st.DataObject) -> None:
    with world(True, vcpus=READERS) as it:
        stepper = stepping(it.vm, 3)
        for reader in range(READERS):
            for _ in range(data.draw(st.integers(0, 5))):
                stepper.step(reader)
        before = [section(it.vm, reader) for reader in range(READERS)]
        while WRITER in stepper.pending:
            able = [actor for actor in sorted(stepper.pending) if stepper.enabled(actor)]
            stepper.step(data.draw(st.sampled_from(able)))
        for reader, old in enumerate(before):
            assert section(it.vm, reader) > old or not old & 1
        stepper.stop()


def test_machine_code_waits_too() -> None:
    with world(False) as it:
        done = threading.Event()

        def wait() -> None:
            it.run(synchronize_rcu, 1)
            done.set()

        it.run(rcu_read_lock, 0)
        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        assert not done.wait(0.1)
        it.run(rcu_read_unlock, 0)
        assert done.wait(EVER)
        thread.join(EVER)
        assert it.count(at.N_GRACE_PERIODS) == 1
        assert it.vm.words[at.WAITERS] == 0


@modes
def test_nobody_waits_for_readers_inside_a_section(twin: bool) -> None:
    with world(twin) as it:
        it.run(rcu_read_lock, 0)
        it.run(synchronize_rcu, 0)
        it.run(rcu_read_unlock, 0)
        assert "may sleep" in " ".join(it.problems())


# --- What waits ----------------------------------------------------------------------------------


def removed_table(it: World, actor: int) -> int:
    """A page that the actor has taken, and removed again."""
    it.run(topup_table_cache, actor, 1)
    page = it.run(alloc_table, actor)
    it.vm.tables[page] = [7, 9]
    it.run(defer_free, actor, page)
    return page


def record(it: World, page: int) -> Words:
    return it.vm.region("records").reshape(-1, at.RECORD_WORDS)[page]


def state(it: World, page: int) -> int:
    return int(record(it, page)[at.SP_STATE])


@modes
def test_a_freed_table_is_poisoned_and_the_next_to_be_used(twin: bool) -> None:
    with world(twin) as it:
        page = removed_table(it, 0)
        assert state(it, page) == at.SP_REMOVED
        assert it.vm.tables[page].tolist() == [7, 9]  # somebody may still read it
        it.run(free_deferred, 0)
        assert state(it, page) == at.SP_FREE
        assert it.vm.tables[page].tolist() == [POISON, POISON]
        # Last in, first out: the next who asks the host gets it, and finds it empty.
        it.run(topup_table_cache, 1, 1)
        pages = [it.run(alloc_table, 1) for _ in range(at.TABLE_CACHE_MAX)]
        assert page in pages
        assert it.vm.tables[page].tolist() == [NONPRESENT, NONPRESENT]
        assert "was written" not in " ".join(it.problems())


@modes
@pytest.mark.parametrize("entry", [0, 1])
def test_a_write_to_a_freed_table_is_noticed(twin: bool, entry: int) -> None:
    with world(twin) as it:
        page = removed_table(it, 0)
        it.run(free_deferred, 0)
        it.vm.tables[page, entry] = NONPRESENT
        it.run(topup_table_cache, 1, 1)
        for _ in range(at.TABLE_CACHE_MAX):
            it.run(alloc_table, 1)
        assert f"table page {page} was written" in " ".join(it.problems())


@modes
@pytest.mark.parametrize("word", [at.SP_PARENT, at.SP_NX_DISALLOWED, at.SP_NX_PREVIOUS])
def test_a_write_to_the_record_of_a_freed_table_is_noticed(twin: bool, word: int) -> None:
    with world(twin) as it:
        page = removed_table(it, 0)
        it.run(free_deferred, 0)
        # Whoever comes late finds poison: every word that others use was written.
        others = [each for each in POISONED if record(it, page)[each] != POISON]
        assert others == []
        before = [violation.message for violation in audits(it.vm)]
        record(it, page)[word] = 0
        after = [violation for violation in audits(it.vm) if violation.message not in before]
        assert [violation.oracle for violation in after] == ["lifetime"]
        assert f"the first is page {page}" in after[0].message


@pytest.mark.parametrize("reader", range(READERS))
def test_a_table_is_not_freed_under_a_reader(reader: int) -> None:
    with world(True, vcpus=READERS) as it:
        page = removed_table(it, WRITER)
        stepper = stepping(it.vm, 1, free_deferred)
        stepper.step(reader)
        assert not go_as_far_as_it_can(stepper, WRITER)
        assert (state(it, page), it.vm.tables[page].tolist()) == (at.SP_REMOVED, [7, 9])
        assert page not in it.vm.region("pool")[: int(it.vm.words[at.POOL_TOP])]
        stepper.step(reader)
        assert go_as_far_as_it_can(stepper, WRITER)
        assert state(it, page) == at.SP_FREE
        stepper.stop()


@modes
@given(st.integers(1, 9), st.lists(st.sets(st.integers(0, PAGES - 1), max_size=4), max_size=8))
def test_no_more_wait_than_a_batch(twin: bool, batch: int, rounds: list[set[int]]) -> None:
    with world(twin, rcu_batch=batch) as it:
        waiting = periods = freed = 0
        for touched in rounds:
            it.touch(touched)
            waiting += len(it.tables())
            it.run(unload_root, 0)
            if waiting >= batch:
                periods, freed, waiting = periods + 1, freed + waiting, 0
            assert it.count(at.DEFERRED_COUNT) == waiting
            assert it.count(at.N_GRACE_PERIODS) == periods
            assert it.count(at.N_TABLES_FREED) == freed
            assert it.problems() == []


def test_memory_does_not_grow_with_what_was_removed() -> None:
    with world(False, rcu_batch=4) as it:
        it.touch(range(PAGES))
        it.run(unload_root, 0)
        handed_out = int(it.vm.words[at.POOL_FRESH])
        for _ in range(50):
            it.touch(range(PAGES))
            it.run(unload_root, 0)
        assert it.count(at.N_TABLES_FREED) > 50 * PAGES // 2
        assert int(it.vm.words[at.POOL_FRESH]) <= handed_out + at.TABLE_CACHE_MAX
        assert it.problems() == []


def test_a_zap_that_yields_frees_on_its_way() -> None:
    with world(False, rcu_batch=1, tick_ms=0.0) as it:
        it.touch(range(PAGES))
        it.run(unload_root, 0)
        assert it.count(at.N_GRACE_PERIODS) > 1
        it.run(load_root, 0)
        assert it.problems() == []
