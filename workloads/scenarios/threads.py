"""Threads of the host and the monitor that meet each other, or a vCPU on its lockless path.

What each does alone is in `hosts`, `logging` and `zaps`; here one of them finds the other half
done where a lock, a read section or a compare-and-swap is all that keeps them apart.
"""

from __future__ import annotations

from mmu.dirty_log import disable_dirty_log, enable_dirty_log, get_dirty_log
from mmu.host_changes import discard_pages, move_page, split_huge_mapping, swap_out
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.vm import Vm
from workloads.scenario import Actor, Scenario
from workloads.scenarios.common import (
    fill_caches,
    logged,
    map_for_reading,
    map_for_writing,
    read_page_1,
    small_vm,
    write_page_0,
)


@kernel
def enable(cpu: Cpu) -> None:
    """Switch logging on."""
    enable_dirty_log(cpu, 0)


@kernel
def disable(cpu: Cpu) -> None:
    """Switch logging off."""
    disable_dirty_log(cpu, 0)


@kernel
def move_page_0(cpu: Cpu) -> None:
    """Host page 0 moves to another frame."""
    move_page(cpu, 0)


@kernel
def swap_page_0(cpu: Cpu) -> None:
    """Host page 0 is reclaimed."""
    swap_out(cpu, 0)


@kernel
def discard_page_0(cpu: Cpu) -> None:
    """Host page 0 is given up with what it holds."""
    discard_pages(cpu, 0, 1)


@kernel
def split_page_0(cpu: Cpu) -> None:
    """The huge page of host page 0 is split."""
    split_huge_mapping(cpu, 0)


@kernel
def split_and_move(cpu: Cpu) -> None:
    """The huge page of host page 0 is split, and page 0 moves to another frame."""
    split_huge_mapping(cpu, 0)
    move_page(cpu, 0)


def protected_where_huge_may_be(vm: Vm) -> None:
    """gfn 0 was logged: it is write-protected in a table where a 2M page is possible now."""
    fill_caches(vm)
    vmm = vm.cpu(vm.config.vcpus)
    enable_dirty_log(vmm, 0)
    write_page_0(vm.cpu(0))
    get_dirty_log(vmm, 0)
    disable_dirty_log(vmm, 0)


@kernel
def nothing(cpu: Cpu) -> None:
    """An actor whose work was done before."""


DISABLE_DISABLE_PML = Scenario(
    "disable-disable-pml",
    "a page whose writes the hardware logs is written while two threads switch logging off",
    (Actor("vcpu 0", write_page_0), Actor("vmm 0", disable), Actor("vmm 1", disable)),
    vm=small_vm(1, 2),
    setup=logged,
)
ENABLE_NOTIFIER = Scenario(
    "enable-notifier",
    "logging is switched on while the host moves a page that was written",
    (Actor("vcpu 0", nothing), Actor("vmm", enable), Actor("host", move_page_0)),
    vm=small_vm(1, 2, spare_frames=2),
    setup=map_for_writing,
)
FAST_FAULT_NOTIFIER = Scenario(
    "fast-fault-notifier",
    "a vCPU takes W back without a lock while the host moves the page",
    (Actor("vcpu 0", write_page_0), Actor("host", move_page_0)),
    vm=small_vm(1, 1, pml=False, spare_frames=2),
    setup=logged,
)
FAST_FAULT_PROMOTE = Scenario(
    "fast-fault-promote",
    "a vCPU takes W back without a lock in a table that a fault replaces by a huge page",
    (Actor("vcpu 0", write_page_0), Actor("vcpu 1", read_page_1), Actor("vmm", nothing)),
    vm=small_vm(2, 1, pml=False, backing_level=2),
    setup=protected_where_huge_may_be,
)
HUGE_SPLIT_MOVE = Scenario(
    "huge-split-move",
    "two threads of the host split a huge page, and one of them moves a page of it",
    (Actor("vcpu 0", nothing), Actor("host 0", split_page_0), Actor("host 1", split_and_move)),
    vm=small_vm(1, 2, backing_level=2, spare_frames=2),
    setup=map_for_reading,
)
DISCARD_SWAP_OUT = Scenario(
    "discard-swap-out",
    "a page is given up while it is reclaimed",
    (Actor("vcpu 0", nothing), Actor("host 0", discard_page_0), Actor("host 1", swap_page_0)),
    vm=small_vm(1, 2, spare_frames=2),
    setup=map_for_writing,
)
