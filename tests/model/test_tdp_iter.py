"""The iterator against a recursive walk over the tables as numpy arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mmu.machine.layout import ITERATOR
from mmu.machine.twin import interpreted
from mmu.spte import (
    FROZEN,
    MMU_PRESENT,
    NONPRESENT,
    PFN_SHIFT,
    PS,
    is_leaf,
    make_leaf,
    make_nonleaf,
)
from mmu.tdp_iter import (
    IT_GFN,
    IT_LEVEL,
    IT_NEXT_LAST_LEVEL_GFN,
    IT_OLD,
    IT_SPTEP,
    IT_YIELDED,
    IT_YIELDED_GFN,
    iter_next,
    iter_start,
    pages_of,
    root_handle,
    root_level,
    round_gfn,
)
from mmu.vm import FIRST_PAGE, Vm, VmConfig

Entry = tuple[int, int, int, int]  # gfn, level, place in the tables, value
ROOT_PAGE = FIRST_PAGE
TABLES_MAX = 24

modes = pytest.mark.parametrize("twin", [False, True], ids=["compiled", "interpreted"])


class Tree:
    """Random tables of one VM: what the iterator shall walk, and how to walk it naively."""

    def __init__(self, vm: Vm) -> None:
        self.vm = vm
        self.bits, self.levels = vm.config.bits, vm.config.levels

    def fill(self, draw: Callable[[Any], Any]) -> None:
        """Entries of all kinds; tables are handed out in order of need, while there are any."""
        unlinked = iter(range(ROOT_PAGE + 1, TABLES_MAX))
        rest = [(ROOT_PAGE, self.levels)]
        while rest:
            page, level = rest.pop(0)
            for index in range(1 << self.bits):
                kinds = ["table", "none", "leaf", "frozen"] if level > 1 else ["none", "leaf"]
                value, child = self._entry(draw(st.sampled_from(kinds)), level, unlinked)
                self.vm.tables[page, index] = value
                if child:
                    rest.append((child, level - 1))

    def _entry(self, kind: str, level: int, unlinked: Iterator[int]) -> tuple[int, int]:
        if kind == "table" and (page := next(unlinked, 0)):
            return make_nonleaf(page, 1), page
        if kind == "leaf" and level <= 3:
            return make_leaf(1 << 20, level, 1, 0, 1), 0
        return FROZEN if kind == "frozen" else NONPRESENT, 0

    def walk(self, min_level: int, start: int, end: int) -> list[Entry]:
        """Every entry at `min_level` or above that overlaps the range, parents first."""
        found: list[Entry] = []

        def visit(page: int, level: int, first: int) -> None:
            pages = 1 << self.bits * (level - 1)
            for index in range(1 << self.bits):
                gfn = first + index * pages
                if gfn + pages <= start or gfn >= end:
                    continue
                value = int(self.vm.tables[page, index])
                found.append((gfn, level, page << self.bits | index, value))
                links = value & MMU_PRESENT and level > 1 and not value & PS
                if links and level > min_level:
                    visit(value >> PFN_SHIFT, level - 1, gfn)

        visit(ROOT_PAGE, self.levels, 0)
        return found


class Walker:
    """The model's iterator, one call at a time."""

    def __init__(self, vm: Vm, twin: bool, substitutes: Any = None) -> None:
        self.vm = vm
        self.cpu = vm.cpu(0)
        self.start: Any = interpreted(iter_start, substitutes) if twin else iter_start
        self.next: Any = interpreted(iter_next, substitutes) if twin else iter_next
        self.own = vm.actor_words(0)[ITERATOR:]

    def begin(self, min_level: int, start: int, end: int) -> bool:
        root = interpreted(root_handle)(ROOT_PAGE, self.vm.config.levels)
        return bool(self.start(self.cpu, ITERATOR, root, min_level, start, end))

    def go_on(self) -> bool:
        return bool(self.next(self.cpu, ITERATOR))

    def entry(self) -> Entry:
        place = int(self.own[IT_SPTEP]) - self.vm.layout.start("tables")
        return int(self.own[IT_GFN]), int(self.own[IT_LEVEL]), place, int(self.own[IT_OLD])

    def may_yield(self) -> bool:
        """Forward progress: not twice at one place, as `cond_resched` has it."""
        return bool(self.own[IT_NEXT_LAST_LEVEL_GFN] != self.own[IT_YIELDED_GFN])

    def walk(self, min_level: int, start: int, end: int) -> list[Entry]:
        visited: list[Entry] = []
        valid = self.begin(min_level, start, end)
        while valid:
            visited.append(self.entry())
            assert len(visited) < 10_000, "the walk does not end"
            valid = self.go_on()
        return visited


@contextmanager
def tree_of(bits: int, levels: int) -> Iterator[Tree]:
    vm = Vm(
        VmConfig(
            vcpus=1,
            pages=1,
            helpers=0,
            gfn_base=0,
            bits=bits,
            levels=levels,
            sample=0,
            tlb_bits=(0, 0, 0, 0),
            pml_size=1,
        )
    )
    try:
        assert len(vm.tables) > TABLES_MAX
        yield Tree(vm)
    finally:
        # A failed assertion's traceback keeps views; the mapping goes with it.
        with suppress(BufferError):
            vm.close()


@st.composite
def ranges(draw: st.DrawFn) -> tuple[int, int, int, int, int]:
    """bits, levels, min_level, start, end."""
    bits, levels = draw(st.integers(1, 3)), draw(st.integers(2, 4))
    span = 1 << bits * levels
    start = draw(st.integers(0, span - 1))
    end = draw(st.one_of(st.just(span), st.integers(start + 1, span)))
    return bits, levels, draw(st.integers(1, levels)), start, end


@modes
@given(ranges(), st.data())
def test_it_visits_what_a_recursive_walk_visits(
    twin: bool, case: tuple[int, int, int, int, int], data: st.DataObject
) -> None:
    bits, levels, *walk = case
    with tree_of(bits, levels) as tree:
        tree.fill(data.draw)
        assert Walker(tree.vm, twin).walk(*walk) == tree.walk(*walk)


@modes
@given(ranges(), st.data())
def test_after_a_yield_it_starts_over_where_it_was(
    twin: bool, case: tuple[int, int, int, int, int], data: st.DataObject
) -> None:
    bits, levels, min_level, start, end = case
    with tree_of(bits, levels) as tree:
        tree.fill(data.draw)
        walker = Walker(tree.vm, twin)
        expected = tree.walk(min_level, start, end)
        visited = []
        valid = walker.begin(min_level, start, end)
        while valid:
            visited.append(walker.entry())
            assert visited[-1] == expected.pop(0)
            if walker.may_yield() and data.draw(st.booleans()):
                reached = int(walker.own[IT_NEXT_LAST_LEVEL_GFN])
                assert reached <= visited[-1][0]
                walker.own[IT_YIELDED] = 1
                # From the root again, but only to what begins at that place or behind it.
                expected = tree.walk(min_level, reached, end)
            valid = walker.go_on()
        assert expected == []
        assert set(visited) == set(tree.walk(min_level, start, end))


def fill_in_turn(tree: Tree) -> None:
    """The same entries each time: two of four link tables."""
    choices = iter([0, 3, 0, 1, 0, 2, 2, 1] * 100)
    tree.fill(lambda strategy: strategy.elements[next(choices) % len(strategy.elements)])


@modes
def test_yielding_wherever_it_is_allowed_ends(twin: bool) -> None:
    with tree_of(2, 3) as tree:
        fill_in_turn(tree)
        walker = Walker(tree.vm, twin)
        visited, yields = set(), 0
        valid = walker.begin(1, 0, 64)
        while valid:
            visited.add(walker.entry())
            if walker.may_yield():
                walker.own[IT_YIELDED] = 1
                yields += 1
            valid = walker.go_on()
        assert visited == set(tree.walk(1, 0, 64))
        assert yields > 10


@pytest.mark.parametrize(
    ("original", "other"),
    [
        (round_gfn, lambda cpu, gfn, level: gfn),
        (pages_of, lambda cpu, level: 1 << 2 * level),
        (is_leaf, lambda spte, level: level == 1),
        (root_level, lambda root: 2),
    ],
)
def test_an_iterator_that_differs_is_noticed(original: Any, other: Any) -> None:
    with tree_of(2, 3) as tree:
        fill_in_turn(tree)
        assert Walker(tree.vm, True, {}).walk(1, 5, 60) == tree.walk(1, 5, 60)
        with pytest.raises((AssertionError, IndexError)):
            assert Walker(tree.vm, True, {original: other}).walk(1, 5, 60) == tree.walk(1, 5, 60)


@modes
@given(ranges(), st.data())
def test_what_changes_under_it_is_read_again(
    twin: bool, case: tuple[int, int, int, int, int], data: st.DataObject
) -> None:
    bits, levels, _, start, end = case
    with tree_of(bits, levels) as tree:
        tree.fill(data.draw)
        expected = tree.walk(1, start, end)
        number = data.draw(st.integers(0, len(expected) - 1))
        gfn, level, place, value = expected[number]
        assume(level > 1)
        walker = Walker(tree.vm, twin)
        assert walker.begin(1, start, end)
        for _ in range(number):
            assert walker.go_on()
        assert walker.entry() == expected[number]
        # Another actor links a table here, or zaps it, between the visit and the step down.
        zapped = bool(value & MMU_PRESENT and not value & PS)
        new = NONPRESENT if zapped else make_nonleaf(TABLES_MAX, 1)
        tree.vm.tables[TABLES_MAX] = 0
        tree.vm.tables[place >> bits, place & (1 << bits) - 1] = new
        now = tree.walk(1, start, end)
        for entry in now[now.index((gfn, level, place, new)) + 1 :]:
            assert walker.go_on()
            assert walker.entry() == entry
        assert not walker.go_on()


@modes
def test_an_empty_range_at_an_entrys_begin_has_none(twin: bool) -> None:
    with tree_of(1, 3) as tree:
        walker = Walker(tree.vm, twin)
        assert walker.walk(1, 0, 0) == []
        assert walker.walk(1, 4, 4) == []


def test_a_naive_walk_of_a_known_tree() -> None:
    with tree_of(1, 2) as tree:
        tree.vm.tables[ROOT_PAGE] = (make_nonleaf(2, 1), 0)
        tree.vm.tables[2] = (make_leaf(8, 1, 1, 1, 1), 0)
        leaf = int(tree.vm.tables[2, 0])
        table = int(tree.vm.tables[ROOT_PAGE, 0])
        assert isinstance(tree.vm.tables, np.ndarray)
        assert tree.walk(1, 0, 4) == [(0, 2, 2, table), (0, 1, 4, leaf), (1, 1, 5, 0), (2, 2, 3, 0)]
        assert tree.walk(2, 1, 2) == [(0, 2, 2, table)]
