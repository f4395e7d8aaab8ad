"""The funnel's two doors, and walks that let others in and still come to an end."""

from __future__ import annotations

from functools import cache

import pytest

from harness.oracles.verdict import audits, reported
from mmu.dirty_log import enable_dirty_log
from mmu.guest import guest_access, vcpu_load, vcpu_put
from mmu.machine import events
from mmu.machine import layout as at
from mmu.machine.lock import mmu_read_lock, mmu_read_unlock, mmu_write_lock, mmu_write_unlock
from mmu.machine.twin import interpreted
from mmu.spte import ACCESS_WRITE, DIRTY, FROZEN, NONPRESENT, SPTE_W, make_leaf
from mmu.tdp_iter import IT_NEXT_LAST_LEVEL_GFN, IT_YIELDED, IT_YIELDED_GFN
from mmu.tdp_mmu import DONE, cond_resched, set_spte, set_spte_atomic
from mmu.vm import Vm, VmConfig

PAGES = 16


def small_vm(**options: object) -> Vm:
    shape = {"bits": 2, "levels": 3, "gfn_base": 0, "sample": 0, "tlb_bits": (2, 1, 1, 1)}
    return Vm(VmConfig(vcpus=1, pages=PAGES, **{**shape, **options}))


@pytest.fixture
def vm() -> Vm:
    return small_vm()


@pytest.fixture
def sptep(vm: Vm) -> int:
    """An entry of a table page that nobody uses."""
    return vm.layout.start("tables") + (9 << 2)


@cache
def leaf(number: int = 0) -> int:
    """A leaf of the guest's frame `number`: what is zapped tells the host of its frame.

    Not to be asked for at import: then each of the suite's processes compiled what a VM needs.
    """
    vm = small_vm()
    made = int(make_leaf(int(vm.words[at.C_FRAME_PFN]) + number, 1, 1, 1, 1))
    vm.close()
    return made


def conditions(vm: Vm) -> list[str]:
    return [each.oracle for each in reported(vm, ("vcpu 0", "vmm"))]


def test_the_atomic_door_changes_and_accounts(vm, sptep):
    cpu = vm.cpu(0)
    mmu_read_lock(cpu)
    assert set_spte_atomic(cpu, sptep, 0, 1, NONPRESENT, leaf()) == DONE
    mmu_read_unlock(cpu)
    assert vm.words[sptep] == leaf()
    assert vm.words[at.STAT_PAGES_4K] == 1
    assert conditions(vm) == []


def test_a_lost_race_has_no_side_effect_and_returns_what_is_there(vm, sptep):
    cpu = vm.cpu(0)
    vm.words[sptep] = leaf()
    mmu_read_lock(cpu)
    assert set_spte_atomic(cpu, sptep, 0, 1, NONPRESENT, leaf() & ~SPTE_W) == leaf()
    mmu_read_unlock(cpu)
    assert vm.words[sptep] == leaf()
    assert vm.words[at.STAT_PAGES_4K] == 0
    assert vm.actor_words(0)[at.N_CMPXCHG_FAILED] == 1


def test_the_exclusive_door_returns_what_it_really_replaced(vm, sptep):
    cpu = vm.cpu(0)
    clean = leaf() & ~DIRTY
    vm.words[sptep] = leaf()  # the hardware has set D since the caller read the entry
    vm.words[at.STAT_PAGES_4K] = 1
    mmu_write_lock(cpu)
    assert set_spte(cpu, sptep, 0, 1, clean, NONPRESENT) == leaf()
    mmu_write_unlock(cpu)
    assert vm.words[at.STAT_PAGES_4K] == 0
    assert conditions(vm) == []


@pytest.mark.parametrize(
    ("old", "new", "oracle"),
    [
        (lambda: FROZEN, leaf, "frozen"),
        (lambda: NONPRESENT, lambda: leaf() & ~(1 << 58), "transitions"),  # no MMU-writable
        (leaf, lambda: leaf(1), "transitions"),  # another frame while present
    ],
)
def test_illegal_changes_are_reported(vm, sptep, old, new, oracle):
    cpu, old, new = vm.cpu(0), old(), new()
    vm.words[sptep] = old
    mmu_read_lock(cpu)
    set_spte_atomic(cpu, sptep, 0, 1, old, new)
    mmu_read_unlock(cpu)
    assert conditions(vm) == [oracle]


def test_both_doors_want_their_lock(vm, sptep):
    set_spte_atomic(vm.cpu(0), sptep, 0, 1, NONPRESENT, leaf())
    set_spte(vm.cpu(1), sptep + 1, 0, 1, NONPRESENT, leaf())
    assert conditions(vm) == ["locks"]
    assert int(vm.actor_words(1)[at.VIOLATIONS]) == 1


def populated() -> Vm:
    vm = small_vm(huge_split="eager", backing_level=2)
    cpu = vm.cpu(0)
    vcpu_load(cpu)
    for gfn in range(PAGES):
        guest_access(cpu, gfn, ACCESS_WRITE)
    vcpu_put(cpu)
    return vm


class WalkNeverEndsError(Exception):
    """Too many steps: the walk does not come to an end."""


def contended(limit: int):
    """An observer that pretends contention at every chance."""
    steps = 0

    def observe(kind: int, a: int, b: int, c: int) -> int:
        nonlocal steps
        steps += 1
        if steps > limit:
            raise WalkNeverEndsError
        return int(kind == events.PROBE and a == events.PROBE_CONTEND)

    return observe


def test_a_walk_that_yields_at_every_chance_still_ends():
    vm = populated()
    cpu = vm.cpu(1, observer=contended(20_000))
    assert interpreted(enable_dirty_log)(cpu, 0) == 0
    assert vm.actor_words(1)[at.N_YIELDS] > PAGES
    assert vm.words[at.STAT_PAGES_4K] == PAGES
    assert audits(vm) == []


def test_without_the_progress_rule_it_would_not():
    def careless(cpu, it, flush):
        # As `cond_resched`, but it forgets where the last yield was.
        cpu.words[cpu.own + it + IT_YIELDED_GFN] = -1
        cpu.words[cpu.own + it + IT_YIELDED] = 1
        assert cpu.words[cpu.own + it + IT_NEXT_LAST_LEVEL_GFN] >= 0
        cpu.observer(events.PROBE, events.PROBE_CONTEND, 0, 0)
        return True

    cpu = populated().cpu(1, observer=contended(20_000))
    with pytest.raises(WalkNeverEndsError):
        interpreted(enable_dirty_log, {cond_resched: careless})(cpu, 0)


def test_a_pretended_lost_race_is_tried_again():
    vm = populated()
    failures = iter([1, 0, 1, 1] + [0] * 1000)

    def observe(kind: int, a: int, b: int, c: int) -> int:
        return next(failures) if kind == events.PROBE and a == events.PROBE_CMPXCHG else 0

    assert interpreted(enable_dirty_log)(vm.cpu(1, observer=observe), 0) == 0
    assert vm.words[at.STAT_PAGES_4K] == PAGES
    assert audits(vm) == []
