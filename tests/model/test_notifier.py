"""The mmu notifier: what is unmapped when, and which faults must be tried again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.watch.stepper import Stepper
from mmu.entry import enter_guest
from mmu.fault import handle_page_fault
from mmu.guest import vcpu_load, vm_exit
from mmu.hw.vcpu import request_all
from mmu.machine import layout as at
from mmu.machine.cpu import Cpu
from mmu.machine.twin import interpreted
from mmu.notifier import NOTIFIER_UNIT, invalidate_range_end, invalidate_range_start
from mmu.reload import switch_root
from mmu.roots import invalidate_all_roots
from mmu.spte import ACCESS_READ
from mmu.tdp.map import RET_PF_FIXED, RET_PF_RETRY
from tests.model.worlds import PAGES, World, modes, world

HOSTS = 2
FIRST = 2  # the first actor behind the vCPUs

Range = tuple[int, int]


@contextmanager
def host_world(twin: bool, **options: Any) -> Iterator[World]:
    with world(twin, vcpus=2, helpers=HOSTS, roots=4, **options) as it:
        yield it


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    """Host pages; some lie behind the memory."""
    first = draw(st.integers(0, PAGES + 2))
    return first, draw(st.integers(first + 1, PAGES + 4))


class Expected:
    """What the words of the invalidations under way should hold."""

    def __init__(self, it: World) -> None:
        self.it = it
        self.open: list[Range] = []
        self.ended = 0
        self.hull: Range | None = None

    def start(self, actor: int, span: Range) -> None:
        self.it.run(invalidate_range_start, actor, *span, 1)
        self.open.append(span)
        if span[0] < PAGES:
            base = self.it.vm.config.gfn_base
            shown = base + span[0], base + min(span[1], PAGES)
            low, high = self.hull or shown
            self.hull = min(low, shown[0]), max(high, shown[1])

    def end(self, actor: int, number: int) -> None:
        span = self.open.pop(number % len(self.open))
        self.it.run(invalidate_range_end, actor, *span)
        self.ended += span[0] < PAGES
        if self.in_progress() == 0:
            self.hull = None

    def in_progress(self) -> int:
        """Those that a memslot shows."""
        return sum(first < PAGES for first, _ in self.open)

    def check(self) -> None:
        words = self.it.vm.words
        assert int(words[at.NOTIFIERS]) == len(self.open) * NOTIFIER_UNIT
        assert int(words[at.INVALIDATE_SEQ]) == self.ended
        assert int(words[at.IN_PROGRESS]) == self.in_progress()
        if self.hull is not None:
            assert (int(words[at.RANGE_START]), int(words[at.RANGE_END])) == self.hull


@modes
@given(
    st.lists(st.tuples(st.integers(0, HOSTS - 1), st.one_of(ranges(), st.integers(0, 9)))),
    st.sampled_from([0, PAGES]),
)
def test_counts_and_range_of_nested_and_overlapping_invalidations(
    twin: bool, script: list[tuple[int, Any]], gfn_base: int
) -> None:
    with host_world(twin, gfn_base=gfn_base, levels=5) as it:
        expected = Expected(it)
        for host, what in script:
            if isinstance(what, tuple):
                expected.start(FIRST + host, what)
            elif expected.open:
                expected.end(FIRST + host, what)
            expected.check()
        while expected.open:
            expected.end(FIRST, -1)
            expected.check()
        assert it.count(at.N_NOTIFIER_UNMAPS) == sum(isinstance(what, tuple) for _, what in script)
        assert it.problems() == []


@modes
def test_an_end_too_many_is_noticed(twin: bool) -> None:
    with host_world(twin) as it:
        it.run(invalidate_range_start, FIRST, 3, 5, 1)
        it.run(invalidate_range_end, FIRST, 3, 5)
        assert it.problems() == []
        it.vm.words[at.NOTIFIERS] = NOTIFIER_UNIT
        it.run(invalidate_range_end, FIRST, 3, 5)
        assert "-1 invalidations are in progress" in " ".join(it.problems())


# --- What is unmapped ----------------------------------------------------------------------------


def shown(it: World, span: Range) -> Range:
    base = it.vm.config.gfn_base
    return base + span[0], base + span[1]


@modes
@given(
    st.sets(st.integers(0, PAGES - 1)),
    ranges(),
    st.integers(1, 3),
    st.sampled_from([0, PAGES]),
    st.integers(1, 2),
)
def test_after_the_start_nothing_of_the_range_is_mapped(
    twin: bool, touched: set[int], span: Range, backing: int, gfn_base: int, slots: int
) -> None:
    options = {"backing_level": backing, "gfn_base": gfn_base, "levels": 5, "slots": slots}
    with host_world(twin, **options) as it:
        it.touch(gfn_base + page for page in touched)
        leafs, tables = it.leafs(), it.tables()
        first, end = shown(it, span)
        gone = [leaf for leaf in leafs if leaf[1] >= first and leaf[0] < end]
        it.run(invalidate_range_start, FIRST, *span, 1)
        assert it.leafs() == [leaf for leaf in leafs if leaf not in gone]
        assert it.tables() == tables
        assert it.count(at.N_REMOTE_FLUSH) == (len(gone) > 0)
        it.run(invalidate_range_end, FIRST, *span)
        assert it.problems() == []


@modes
@pytest.mark.parametrize("life", ["put", "owned"])
def test_roots_that_die_are_unmapped_too(twin: bool, life: str) -> None:
    with host_world(twin, root_life=life) as it:
        it.touch(range(4), vcpu=0)
        it.run(switch_root, 1, 1 << 3 | 4)
        it.touch(range(4), vcpu=1)
        it.locked(True, invalidate_all_roots, FIRST)
        it.run(request_all, FIRST)
        it.run(switch_root, 1, 1 << 3 | 4)
        it.touch([1, 2], vcpu=1)
        dying = [root.handle for root in it.roots() if root.invalid]
        assert [it.mapped_below(root) for root in dying] == [set(range(4))] * 2
        it.run(invalidate_range_start, FIRST, 1, 3, 1)
        assert [it.mapped_below(root) for root in dying] == [{0, 3}] * 2
        assert it.mapped_below(it.root_of(1)) == set()
        it.run(invalidate_range_end, FIRST, 1, 3)
        assert it.problems() == []


# --- What is tried again -------------------------------------------------------------------------


def fault(it: World, gfn: int) -> int:
    """One EPT violation of vCPU 0, with all that an exit does."""
    it.run(vcpu_load, 0)
    it.run(vm_exit, 0)
    result = it.run(handle_page_fault, 0, gfn, ACCESS_READ, 0)
    it.run(enter_guest, 0)
    it.run(vm_exit, 0)
    return result


@modes
@pytest.mark.parametrize("page", range(8))
def test_a_fault_waits_for_the_end_of_an_invalidation_of_its_page(twin: bool, page: int) -> None:
    with host_world(twin) as it:
        it.run(invalidate_range_start, FIRST, 3, 5, 1)
        covered = 3 <= page < 5
        assert fault(it, page) == (RET_PF_RETRY if covered else RET_PF_FIXED)
        assert it.mapped() == (set() if covered else {page})
        it.run(invalidate_range_end, FIRST, 3, 5)
        if covered:
            assert fault(it, page) == RET_PF_FIXED
        assert it.mapped() == {page}
        assert it.count(at.N_FAULT_RETRIES_MAX) == covered


def test_a_range_of_two_slots_covers_both() -> None:
    with host_world(False, slots=2) as it:
        it.run(invalidate_range_start, FIRST, 0, PAGES, 1)
        assert fault(it, 3) == RET_PF_RETRY
        assert fault(it, PAGES // 2 + 3) == RET_PF_RETRY


class Race:
    """A fault of vCPU 0 that stops before it takes mmu_lock, where an invalidation comes."""

    def __init__(self, it: World, page: int) -> None:
        it.run(vcpu_load, 0)
        it.run(vm_exit, 0)

        def body(cpu: Cpu) -> int:
            return int(interpreted(handle_page_fault)(cpu, page, ACCESS_READ, 0))

        self.stepper = Stepper({0: (it.vm.cpu(0), body)})
        while self.stepper.pending[0][1] != at.MMU_LOCK:
            self.stepper.step(0)

    def finish(self) -> int:
        while 0 in self.stepper.pending:
            self.stepper.step(0)
        return int(self.stepper.results[0])


@pytest.mark.parametrize("page", [2, 3, 4, 5])
def test_what_the_host_said_before_an_invalidation_is_not_used(page: int) -> None:
    with host_world(True) as it:
        race = Race(it, page)
        it.run(invalidate_range_start, FIRST, 3, 5, 1)
        covered = 3 <= page < 5
        assert race.finish() == (RET_PF_RETRY if covered else RET_PF_FIXED)
        assert it.mapped() == (set() if covered else {page})


@pytest.mark.parametrize("page", [2, 3])
def test_nor_after_it_has_ended(page: int) -> None:
    # The sequence knows no range: any invalidation since makes the fault ask again.
    with host_world(True) as it:
        race = Race(it, page)
        it.run(invalidate_range_start, FIRST, 3, 5, 1)
        it.run(invalidate_range_end, FIRST, 3, 5)
        assert race.finish() == RET_PF_RETRY
        assert it.mapped() == set()
