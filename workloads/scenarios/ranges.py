"""User space protects or unmaps a range of its memory in use; memslots show it twice."""

from __future__ import annotations

from mmu.host_ranges import drop_range, protect_range
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.spte import ACCESS_WRITE
from mmu.vm import Vm
from workloads.scenario import Actor, Scenario
from workloads.scenarios.common import (
    PAGES,
    fill_caches,
    map_for_writing,
    one_access,
    small_vm,
    write_page_0,
)
from workloads.scenarios.hosts import move_page_0, swap_page_0

HALF = PAGES // 2  # of the gfns: pages of each of two memslots that show the same memory


@kernel
def write_alias_of_page_0(cpu: Cpu) -> None:
    """The guest writes host page 0 by the second memslot."""
    one_access(cpu, HALF, ACCESS_WRITE)


@kernel
def protect_two(cpu: Cpu) -> None:
    """mprotect(PROT_READ) of host pages 0 and 1."""
    protect_range(cpu, 0, 2, 0)


@kernel
def protect_and_allow_two(cpu: Cpu) -> None:
    """mprotect(PROT_READ) of host pages 0 and 1, then PROT_WRITE again."""
    protect_range(cpu, 0, 2, 0)
    protect_range(cpu, 0, 2, 1)


@kernel
def drop_two(cpu: Cpu) -> None:
    """munmap of host pages 0 and 1."""
    drop_range(cpu, 0, 2)


def swapped_out(vm: Vm) -> None:
    """Page 0 is on the disk, page 1 is not."""
    fill_caches(vm)
    swap_page_0(vm.cpu(vm.config.vcpus))


PROTECT_RANGE_WRITE = Scenario(
    "protect-range-write",
    "two pages become read-only for good while one of them is written",
    (Actor("vcpu 0", write_page_0), Actor("host", protect_two)),
    vm=small_vm(1, 1, spare_frames=1),
    setup=map_for_writing,
)
PROTECT_RANGE_BACK = Scenario(
    "protect-range-back",
    "two pages, one of them absent, become read-only and writable again while one is written",
    (Actor("vcpu 0", write_page_0), Actor("host", protect_and_allow_two)),
    vm=small_vm(1, 1, spare_frames=1),
    setup=swapped_out,
)
PROTECT_RANGE_MOVE = Scenario(
    "protect-range-move",
    "two pages become read-only while the host moves one of them",
    (Actor("vcpu 0", write_page_0), Actor("host 0", protect_two), Actor("host 1", move_page_0)),
    vm=small_vm(1, 2, spare_frames=2),
    setup=map_for_writing,
)
PROTECT_RANGE_ALIASED = Scenario(
    "protect-range-aliased",
    "two pages become read-only while both memslots that show them are written",
    (
        Actor("vcpu 0", write_page_0),
        Actor("vcpu 1", write_alias_of_page_0),
        Actor("host", protect_two),
    ),
    vm=small_vm(2, 1, pages=HALF, slots=2, aliases=True, spare_frames=1),
    setup=map_for_writing,
)
DROP_RANGE = Scenario(
    "drop-range",
    "two pages, one of them absent already, are unmapped while one is written",
    (Actor("vcpu 0", write_page_0), Actor("host", drop_two)),
    vm=small_vm(1, 1, spare_frames=1),
    setup=swapped_out,
)
DROP_RANGE_ALIASED = Scenario(
    "drop-range-aliased",
    "two pages are unmapped while the second of two memslots that show them is written",
    (Actor("vcpu 0", write_alias_of_page_0), Actor("host", drop_two)),
    vm=small_vm(1, 1, pages=HALF, slots=2, aliases=True, spare_frames=1),
    setup=map_for_writing,
)
