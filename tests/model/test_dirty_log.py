"""Dirty logging of several slots, switched on and off: what the log names."""

from __future__ import annotations

import pytest

from mmu.dirty_log import disable_dirty_log, enable_dirty_log, get_dirty_log
from mmu.guest import guest_access, quiet_point, vcpu_load, vcpu_put
from mmu.machine import layout as at
from mmu.spte import ACCESS_READ, ACCESS_WRITE
from mmu.vm import Vm, VmConfig

PAGES = 32


def small_vm(**options: object) -> Vm:
    shape = {"bits": 2, "levels": 3, "gfn_base": 0, "sample": 0, "pml_size": 4}
    return Vm(VmConfig(vcpus=1, pages=PAGES, **{**shape, **options}))


def guest(vm: Vm, access: int, *gfns: int) -> None:
    cpu = vm.cpu(0)
    vcpu_load(cpu)
    for gfn in gfns:
        guest_access(cpu, gfn, access)
    vcpu_put(cpu)


def harvest(vm: Vm, slot: int = 0) -> set[int]:
    """The pages of a slot that the log names."""
    get_dirty_log(vm.cpu(1), slot)
    base = vm.config.memslots()[slot][0]
    words = vm.region(f"harvest {slot}")
    return {base + i for i in range(32 * len(words)) if int(words[i // 32]) >> i % 32 & 1}


@pytest.mark.parametrize("pml", [True, False])
@pytest.mark.parametrize("policy", ["fault", "eager"])
def test_each_harvest_names_what_was_written_since_the_last(pml, policy):
    vm = small_vm(pml=pml, huge_split=policy, backing_level=2)
    guest(vm, ACCESS_WRITE, *range(PAGES))
    assert enable_dirty_log(vm.cpu(1), 0) == 0
    guest(vm, ACCESS_READ, *range(PAGES))
    assert harvest(vm) == set()
    guest(vm, ACCESS_WRITE, 3, 9, 9, 30)
    assert harvest(vm) == {3, 9, 30}
    guest(vm, ACCESS_WRITE, 9)
    assert harvest(vm) == {9}
    assert harvest(vm) == set()


def test_logging_again_begins_with_an_empty_log():
    vm = small_vm()
    enable_dirty_log(vm.cpu(1), 0)
    guest(vm, ACCESS_WRITE, 5)
    disable_dirty_log(vm.cpu(1), 0)
    guest(vm, ACCESS_WRITE, 6)
    enable_dirty_log(vm.cpu(1), 0)
    guest(vm, ACCESS_WRITE, 7)
    assert harvest(vm) == {7}


def test_one_slot_stays_logged_when_another_is_not_any_more():
    vm = small_vm(slots=2)
    guest(vm, ACCESS_WRITE, *range(PAGES))
    for slot in (0, 1, 1):  # enabling twice is enabling once
        enable_dirty_log(vm.cpu(1), slot)
    for slot in (0, 0):
        disable_dirty_log(vm.cpu(1), slot)
    guest(vm, ACCESS_WRITE, 2, 20)
    assert harvest(vm, 0) == set()
    assert harvest(vm, 1) == {20}
    disable_dirty_log(vm.cpu(1), 1)
    assert vm.words[at.LOGGING] == 0


def test_a_quiet_point_publishes_without_draining():
    vm = small_vm()
    guest(vm, ACCESS_WRITE, *range(PAGES))
    enable_dirty_log(vm.cpu(1), 0)
    cpu = vm.cpu(0)
    vcpu_load(cpu)
    for gfn in (1, 2, 3):
        guest_access(cpu, gfn, ACCESS_WRITE)
    quiet_point(cpu)
    assert vm.actor_words(0)[at.PML_INDEX] == 3
    assert int(vm.region("bitmap 0")[0]) == 0b1110
    guest_access(cpu, 4, ACCESS_WRITE)  # the fourth of four entries: the buffer is full
    assert vm.actor_words(0)[at.N_PML_FULL] == 1
    assert vm.actor_words(0)[at.PML_INDEX] == 0
    vcpu_put(cpu)
    assert harvest(vm) == {1, 2, 3, 4}
