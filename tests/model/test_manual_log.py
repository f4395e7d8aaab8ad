"""Logs that are cleared by a call of their own, and huge pages that come back when logging ends."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.oracles.verdict import audits, reported
from mmu.dirty_clear import CLEARED, INVALID, NOT_LOGGED, clear_dirty_log
from mmu.dirty_log import disable_dirty_log, enable_dirty_log, get_dirty_log
from mmu.guest import guest_access, vcpu_load, vcpu_put
from mmu.machine import layout as at
from mmu.machine.layout import BITMAP_BITS
from mmu.spte import ACCESS_EXECUTE, ACCESS_READ, ACCESS_WRITE
from mmu.vm import Vm, VmConfig

PAGES = 256
BITS = 3  # 8 pages a "2M" block, 64 a "1G" one
VMM = 1


def make_vm(**options: Any) -> Vm:
    shape = {"bits": BITS, "levels": 4, "gfn_base": 0, "sample": 0, "pml_size": 4, "pages": PAGES}
    return Vm(VmConfig(vcpus=1, **{**shape, **options}))


def guest(vm: Vm, access: int, *gfns: int) -> None:
    cpu = vm.cpu(0)
    vcpu_load(cpu)
    for gfn in gfns:
        guest_access(cpu, gfn, access)
    vcpu_put(cpu)


def named(vm: Vm, region: str) -> set[int]:
    words = vm.region(region).tolist()
    return {i for i in range(BITMAP_BITS * len(words)) if words[i // BITMAP_BITS] >> i % 32 & 1}


def get(vm: Vm) -> set[int]:
    pages = get_dirty_log(vm.cpu(VMM), 0)
    harvest = named(vm, "harvest 0")
    assert pages == len(harvest)
    return harvest


def clear(vm: Vm, first: int = 0, pages: int = PAGES, slot: int = 0) -> int:
    return int(clear_dirty_log(vm.cpu(VMM), slot, first, pages))


def faults(vm: Vm, access: int, *gfns: int) -> int:
    before = int(vm.actor_words(0)[at.N_PF_TAKEN])
    guest(vm, access, *gfns)
    return int(vm.actor_words(0)[at.N_PF_TAKEN]) - before


def stats(vm: Vm) -> tuple[int, int, int]:
    small, large, largest = at.STAT_PAGES_4K, at.STAT_PAGES_2M, at.STAT_PAGES_1G
    return int(vm.words[small]), int(vm.words[large]), int(vm.words[largest])


def assert_clean(vm: Vm) -> None:
    names = [f"actor {i}" for i in range(vm.config.actors)]
    assert [str(each) for each in [*reported(vm, names), *audits(vm)]] == []


# --- KVM_GET_DIRTY_LOG copies, KVM_CLEAR_DIRTY_LOG clears ----------------------------------------


@pytest.mark.parametrize("mode", ["manual", "initially-set"])
@pytest.mark.parametrize("pml", [True, False])
@pytest.mark.parametrize("policy", ["zap", "fault", "eager"])
@pytest.mark.parametrize("level", [1, 2, 3])
def test_get_takes_nothing_and_clear_takes_what_get_named(mode, pml, policy, level):
    vm = make_vm(dirty_log_mode=mode, pml=pml, huge_split=policy, backing_level=level)
    guest(vm, ACCESS_WRITE, *range(PAGES))
    assert enable_dirty_log(vm.cpu(VMM), 0) == 0
    first = set(range(PAGES)) if mode == "initially-set" else set()
    assert get(vm) == first
    assert get(vm) == first
    assert clear(vm) == CLEARED
    assert get(vm) == set()
    guest(vm, ACCESS_WRITE, 3, 9, 9, 200)
    assert get(vm) == {3, 9, 200}
    guest(vm, ACCESS_WRITE, 100)  # behind the user's copy: stays for the next
    assert clear(vm) == CLEARED
    assert get(vm) == {100}
    guest(vm, ACCESS_WRITE, 9)
    assert get(vm) == {9, 100}
    assert_clean(vm)


def test_clear_takes_whole_masks_only():
    vm = make_vm(dirty_log_mode="manual", slots=2, slot_pages=(PAGES - 30, 30))
    assert clear(vm, 0, 64) == NOT_LOGGED
    enable_dirty_log(vm.cpu(VMM), 0)
    last = PAGES - 30
    guest(vm, ACCESS_WRITE, 5, 63, 64, 127, 128, last - 1)
    harvest = get(vm)
    for first, pages in ((1, 64), (32, 64), (0, 32), (0, 65), (0, last + 1), (256, 64), (192, 35)):
        assert clear(vm, first, pages) == INVALID, (first, pages)
    assert named(vm, "bitmap 0") == harvest
    assert clear(vm, 64, 64) == CLEARED
    assert get(vm) == {5, 63, 128, last - 1}
    assert clear(vm, 192, last - 192) == CLEARED  # up to the slot's end
    assert get(vm) == {5, 63, 128}
    assert clear(vm, 0, last) == CLEARED
    assert get(vm) == set()
    assert_clean(vm)


@pytest.mark.parametrize("pml", [True, False])
def test_only_bits_that_were_really_set_are_protected_again(pml):
    vm = make_vm(dirty_log_mode="manual", pml=pml)
    guest(vm, ACCESS_WRITE, *range(64))
    enable_dirty_log(vm.cpu(VMM), 0)
    guest(vm, ACCESS_WRITE, 1, 40)
    get(vm)
    # The user names a page whose bit is not set: nothing happens to that one.
    guest(vm, ACCESS_WRITE, 2)
    vm.region("bitmap 0")[0] &= ~(1 << 2)
    vm.region("harvest 0")[0] |= 1 << 2
    before = int(vm.actor_words(VMM)[at.N_DIRTY_CLEARED])
    clear(vm)
    assert int(vm.actor_words(VMM)[at.N_DIRTY_CLEARED]) - before == 2
    assert faults(vm, ACCESS_WRITE, 2) == 0
    assert faults(vm, ACCESS_WRITE, 1, 40) == (0 if pml else 2)
    flushes = int(vm.actor_words(VMM)[at.N_REMOTE_FLUSH])
    vm.region("harvest 0")[:] = 0
    clear(vm)
    assert int(vm.actor_words(VMM)[at.N_REMOTE_FLUSH]) == flushes


def test_nothing_is_protected_when_everything_counts_as_written():
    vm = make_vm(dirty_log_mode="initially-set", backing_level=2, slots=2, slot_pages=(192, 64))
    guest(vm, ACCESS_WRITE, *range(PAGES))
    before = stats(vm)
    enable_dirty_log(vm.cpu(VMM), 0)
    assert named(vm, "bitmap 0") == set(range(192))
    assert vm.region("bitmap 0").tolist() == [(1 << 32) - 1] * 6
    assert stats(vm) == before
    assert faults(vm, ACCESS_WRITE, *range(PAGES)) == 0


@pytest.mark.parametrize("policy", ["fault", "eager"])
def test_a_mask_may_straddle_a_border(policy):
    """Only the blocks between the first and the last bit lose their huge pages."""
    vm = make_vm(
        dirty_log_mode="initially-set",
        backing_level=2,
        huge_split=policy,
        slots=2,
        slot_pages=(4, PAGES - 4),
    )
    guest(vm, ACCESS_WRITE, *range(PAGES))
    enable_dirty_log(vm.cpu(VMM), 1)
    get_dirty_log(vm.cpu(VMM), 1)
    harvest = vm.region("harvest 1")
    harvest[:] = 0
    harvest[0], harvest[1] = 1 << 19, 1 << 2  # gfns 23 and 38: blocks 16..23, 24..31, 32..39
    assert clear(vm, 0, 64, slot=1) == CLEARED
    untouched = [gfn for gfn in range(8, PAGES) if not 16 <= gfn < 40]
    assert faults(vm, ACCESS_WRITE, *untouched) == 0
    assert int(vm.words[at.STAT_PAGES_2M]) == PAGES // 8 - 1 - (3 if policy == "eager" else 0)
    taken = faults(vm, ACCESS_WRITE, 23, 38)
    assert taken == (0 if policy == "eager" else 2)
    vm.region("harvest 1")[:] = 0
    get_dirty_log(vm.cpu(VMM), 1)
    assert {23, 38} <= {gfn + 4 for gfn in named(vm, "harvest 1")}
    assert_clean(vm)


@given(
    mode=st.sampled_from(["manual", "initially-set"]),
    pml=st.booleans(),
    level=st.integers(1, 3),
    policy=st.sampled_from(["fault", "eager"]),
    rounds=st.lists(
        st.tuples(st.sets(st.integers(0, PAGES - 1), max_size=6), st.integers(0, 3)), max_size=5
    ),
)
@settings(deadline=None, max_examples=60)
def test_the_log_is_a_set(mode, pml, level, policy, rounds):
    """Any writes, any masks cleared: the log is what was written and not cleared since."""
    vm = make_vm(dirty_log_mode=mode, pml=pml, backing_level=level, huge_split=policy)
    guest(vm, ACCESS_WRITE, *range(0, PAGES, 2))
    enable_dirty_log(vm.cpu(VMM), 0)
    logged = set(range(PAGES)) if mode == "initially-set" else set()
    for written, mask in rounds:
        guest(vm, ACCESS_WRITE, *written)
        logged |= written
        assert get(vm) == logged
        clear(vm, 64 * mask, 64)
        logged -= set(range(64 * mask, 64 * mask + 64))
    assert get(vm) == logged
    assert_clean(vm)


# --- Huge pages come back ------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["get", "manual", "initially-set"])
@pytest.mark.parametrize("policy", ["fault", "eager"])
@pytest.mark.parametrize("level", [2, 3])
def test_huge_pages_are_as_before_when_logging_has_ended(mode, policy, level):
    vm = make_vm(dirty_log_mode=mode, huge_split=policy, backing_level=level)
    guest(vm, ACCESS_WRITE, *range(PAGES))
    before = stats(vm)
    assert before[level - 1] == PAGES >> BITS * (level - 1)
    for _ in range(2):
        enable_dirty_log(vm.cpu(VMM), 0)
        guest(vm, ACCESS_WRITE, *range(PAGES))
        get(vm)
        clear(vm)
        guest(vm, ACCESS_WRITE, *range(0, PAGES, 3))
        assert stats(vm)[0] > 0
        disable_dirty_log(vm.cpu(VMM), 0)
        assert stats(vm) == before
        # At most one to get W back: a huge leaf has what the first leaf of its table had.
        assert faults(vm, ACCESS_WRITE, *range(PAGES)) <= PAGES >> BITS * (level - 1)
        assert faults(vm, ACCESS_WRITE, *range(PAGES)) == 0
        assert_clean(vm)
    assert int(vm.actor_words(VMM)[at.N_HUGE_RECOVERED]) > 0


def test_what_logging_has_not_split_stays():
    vm = make_vm(backing_level=2, slots=2)
    guest(vm, ACCESS_WRITE, *range(PAGES))
    enable_dirty_log(vm.cpu(VMM), 0)
    before = vm.tables.copy()
    disable_dirty_log(vm.cpu(VMM), 1)  # is not logged
    assert (vm.tables == before).all()
    assert int(vm.actor_words(VMM)[at.N_HUGE_RECOVERED]) == 0
    disable_dirty_log(vm.cpu(VMM), 0)
    assert int(vm.actor_words(VMM)[at.N_HUGE_RECOVERED]) == PAGES // 2 // 8
    assert_clean(vm)


@pytest.mark.parametrize("ends", [(4, 192), (12, 52), (20, 64), (100, 101)])
@pytest.mark.parametrize("level", [2, 3])
def test_blocks_that_leave_the_slot_stay_small(ends, level):
    """What is mapped after logging is what faults would have mapped in the first place."""
    first, last = ends
    sizes = (first, last - first, PAGES - last)
    vm = make_vm(backing_level=level, slots=3, slot_pages=sizes)
    guest(vm, ACCESS_READ, *range(PAGES))
    before = stats(vm)
    for slot in range(3):
        enable_dirty_log(vm.cpu(VMM), slot)
    assert stats(vm) == (PAGES, 0, 0)
    for slot in range(3):
        disable_dirty_log(vm.cpu(VMM), slot)
    assert stats(vm) == before
    assert_clean(vm)


def test_a_table_without_leafs_stays_and_one_leaf_is_enough():
    vm = make_vm(backing_level=2)
    enable_dirty_log(vm.cpu(VMM), 0)
    guest(vm, ACCESS_READ, 13)
    disable_dirty_log(vm.cpu(VMM), 0)
    assert stats(vm) == (0, 1, 0)
    assert faults(vm, ACCESS_READ, *range(8, 16)) == 0
    assert_clean(vm)


def test_what_was_split_for_an_execution_is_not_put_together():
    vm = make_vm(backing_level=2)
    guest(vm, ACCESS_WRITE, 0, 8)
    guest(vm, ACCESS_EXECUTE, 3)
    assert stats(vm) == (8, 1, 0)
    enable_dirty_log(vm.cpu(VMM), 0)
    disable_dirty_log(vm.cpu(VMM), 0)
    assert stats(vm) == (8, 1, 0)
    assert faults(vm, ACCESS_EXECUTE, 3) == 0
    assert_clean(vm)


@pytest.mark.parametrize("nx", [True, False])
def test_a_huge_page_is_executable_only_without_nx_huge_pages(nx):
    vm = make_vm(backing_level=2, nx_huge_pages=nx)
    guest(vm, ACCESS_READ, 0)
    enable_dirty_log(vm.cpu(VMM), 0)
    assert faults(vm, ACCESS_EXECUTE, 5) == 0
    disable_dirty_log(vm.cpu(VMM), 0)
    assert stats(vm) == (0, 1, 0)
    assert faults(vm, ACCESS_EXECUTE, 5) == int(nx)
    assert_clean(vm)


def test_d_bits_of_a_table_are_told_to_the_host():
    """PML takes D from all children but the one that was written: its huge leaf may have none."""
    vm = make_vm(backing_level=2)
    guest(vm, ACCESS_WRITE, *range(8))
    enable_dirty_log(vm.cpu(VMM), 0)
    guest(vm, ACCESS_WRITE, 5)
    vm.region("marks")[:] = 0
    disable_dirty_log(vm.cpu(VMM), 0)
    assert stats(vm) == (0, 1, 0)
    assert int(vm.region("marks")[0]) & 1
    assert_clean(vm)
