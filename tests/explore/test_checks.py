"""What a scenario's `check` may return; what the explorer checks and tells of entries."""

from __future__ import annotations

import pytest

from harness.explore.decode import entry_text
from harness.explore.explorer import Bounds, Explorer, Result
from harness.explore.owed import was_replaced
from harness.explore.world import World
from mmu import spte
from mmu.machine import layout as at
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.primitives import fetch_add, read_once
from workloads.errors import UsageError
from workloads.scenario import Actor, Scenario
from workloads.scenarios.registry import load


@kernel
def add_three(cpu: Cpu) -> None:
    for _ in range(3):
        fetch_add(cpu, 0, 1)


@kernel
def is_not_six(cpu: Cpu) -> bool:
    return read_once(cpu, 0) != 6


@kernel
def half(cpu: Cpu) -> float:
    return read_once(cpu, 0) / 2


@kernel
def one_or_none(cpu: Cpu) -> int | None:
    if read_once(cpu, 0) == 3:
        return 1
    return None


@kernel
def nothing(cpu: Cpu) -> None:
    read_once(cpu, 0)


@kernel
def of_two(cpu: Cpu, word: int) -> int:
    return read_once(cpu, word)


def explore(actors: int, check) -> Result:
    bodies = tuple(Actor(f"actor {i}", add_three) for i in range(actors))
    scenario = Scenario("small", "a test", bodies, words=("sum",), check=check)
    return Explorer(scenario, "dpor", Bounds(executions=100)).run()


def test_a_check_may_return_a_bool():
    assert explore(2, is_not_six).findings == []
    broken = explore(1, is_not_six)
    assert [found.message for found in broken.findings] == ["the check returned 1"]


@pytest.mark.parametrize(
    ("check", "said"),
    [
        (half, "check half returns float64"),
        (one_or_none, "check one_or_none returns OptionalType"),
        (nothing, "check nothing returns none"),
        (of_two, "kernel of_two must take one argument"),
    ],
)
def test_other_checks_are_refused(check, said):
    with pytest.raises(UsageError, match=said):
        explore(1, check)


def test_a_change_may_be_wrong_about_a_only():
    leaf = spte.make_leaf(7, 1, 1, 1, 1)
    assert was_replaced(leaf, leaf)
    assert was_replaced(leaf & ~spte.ACCESSED, leaf)
    assert was_replaced(leaf, leaf & ~spte.ACCESSED)
    for bit in (spte.DIRTY, spte.SPTE_W, spte.SPTE_R, 1 << spte.PFN_SHIFT):
        assert not was_replaced(leaf ^ bit, leaf)
    # Frozen entries have that bit too, and there it is no hint; nor is it where there is no A.
    assert not was_replaced(spte.FROZEN & ~spte.ACCESSED, spte.FROZEN)
    tracked = spte.mark_for_access_track(spte.make_leaf(7, 1, 1, 1, 0))
    assert not was_replaced(tracked ^ spte.ACCESSED, tracked)


def test_tracked_entries_are_told():
    scenario = load("restore-read")
    world = World(scenario)
    vm = world.vm
    assert vm is not None
    word = vm.layout.start("tables")
    tracked = spte.mark_for_access_track(spte.make_leaf(7, 1, 1, 1, 0))
    assert entry_text(vm, word, tracked) == (
        "leaf pfn 7 ---, access-tracked (r-x put aside), MMU-writable, without A and D"
    )
    assert entry_text(vm, word, spte.make_leaf(7, 1, 1, 1, 1)) == "leaf pfn 7 rwx, AD"
    # What it is does not depend on what the table is now.
    page = 3
    assert vm.region("records").reshape(-1, at.RECORD_WORDS)[page, at.SP_LEVEL] == 0
    word += page << vm.config.bits
    assert entry_text(vm, word, spte.make_leaf(7, 1, 1, 1, 1)) == "leaf pfn 7 rwx, AD"
    assert entry_text(vm, word, spte.make_nonleaf(9, 1)) == "table @9"
    world.close()
