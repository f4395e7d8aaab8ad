"""Prefaults beside guests that fault, memslots that go, and a host that changes its mappings."""

from __future__ import annotations

from mmu.machine.blocking import again
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import VCPU_ROOT
from mmu.machine.primitives import own, stopped
from mmu.mmio import last_entry
from mmu.prefault import PREFAULT_AGAIN, STATUS_BITS, STATUS_MASK, prefault_range
from mmu.spte import is_accessed, is_present
from workloads.scenario import Actor, Scenario
from workloads.scenarios.common import (
    enable_and_copy,
    execute_page_0,
    fill_caches,
    map_for_reading,
    map_for_writing,
    migration_lost_nothing,
    read_page_0,
    small_vm,
    write_both_pages,
    write_page_0,
    write_page_1,
)
from workloads.scenarios.hosts import move_page_0, protect_page_0
from workloads.scenarios.slots import create_slot, delete_slot, move_slot_away
from workloads.scenarios.zaps import zap_page_0


@kernel
def prefault(cpu: Cpu, first: int, end: int) -> None:
    """Ask again where a memslot is about to go or to move, as user space does."""
    result = first << STATUS_BITS | PREFAULT_AGAIN
    while result & STATUS_MASK == PREFAULT_AGAIN and not stopped(cpu):
        result = prefault_range(cpu, result >> STATUS_BITS, end)
        if result & STATUS_MASK == PREFAULT_AGAIN:
            again(cpu)


@kernel
def prefault_two(cpu: Cpu) -> None:
    """gfns 0 and 1, ahead of their use."""
    prefault(cpu, 0, 2)


@kernel
def prefault_to_the_hole(cpu: Cpu) -> None:
    """gfns 3 and 4, of which the second is in no memslot."""
    prefault(cpu, 3, 6)


@kernel
def prefault_and_write(cpu: Cpu) -> None:
    """gfns 0 and 1 ahead of their use; then they are used."""
    prefault(cpu, 0, 2)
    write_both_pages(cpu)


@kernel
def page_0_was_used(cpu: Cpu) -> int:
    """Check: gfn 0 is mapped, and its entry still says that it was used."""
    entry = last_entry(cpu, own(cpu, VCPU_ROOT), 0)
    return int(not is_present(entry) or not is_accessed(entry))


PREFAULT_FAULT = Scenario(
    "prefault-fault",
    "a vCPU writes a page that another one prefaults",
    (Actor("vcpu 0", prefault_two), Actor("vcpu 1", write_page_0)),
    vm=small_vm(2),
    setup=fill_caches,
)
PREFAULT_MAPPED = Scenario(
    "prefault-mapped",
    "one vCPU prefaults what another one has used and goes on using",
    (Actor("vcpu 0", prefault_two), Actor("vcpu 1", write_page_1)),
    vm=small_vm(2),
    setup=map_for_writing,
    check=page_0_was_used,
    check_text="a prefault has taken away what the entry of gfn 0 knew",
)
PREFAULT_PREFAULT = Scenario(
    "prefault-prefault",
    "two vCPUs prefault the same pages, then write them",
    (Actor("vcpu 0", prefault_and_write), Actor("vcpu 1", prefault_two)),
    vm=small_vm(2),
    setup=fill_caches,
)
PREFAULT_NO_AD = Scenario(
    "prefault-no-ad",
    "without A and D bits a prefaulted page cannot be used before another fault",
    (Actor("vcpu 0", prefault_two), Actor("vcpu 1", read_page_0)),
    vm=small_vm(2, ad=False),
    setup=fill_caches,
)
PREFAULT_READ_ONLY = Scenario(
    "prefault-read-only",
    "a page is prefaulted while the host makes it read-only",
    (Actor("vcpu 0", prefault_two), Actor("vcpu 1", read_page_0), Actor("host", protect_page_0)),
    vm=small_vm(2, 1, spare_frames=1),
    setup=fill_caches,
)
PREFAULT_NOTIFIER = Scenario(
    "prefault-notifier",
    "a page is prefaulted while the host moves it",
    (Actor("vcpu 0", prefault_and_write), Actor("host", move_page_0)),
    vm=small_vm(1, 1, spare_frames=1),
    setup=fill_caches,
)
PREFAULT_DELETE = Scenario(
    "prefault-delete",
    "a memslot goes while its pages are prefaulted",
    (Actor("vcpu 0", prefault_two), Actor("vmm", delete_slot)),
    vm=small_vm(1, 1),
    setup=fill_caches,
)
PREFAULT_MOVE = Scenario(
    "prefault-move",
    "a memslot moves away while its pages are prefaulted and used",
    (Actor("vcpu 0", prefault_and_write), Actor("vmm", move_slot_away)),
    vm=small_vm(1, 1),
    setup=fill_caches,
)
PREFAULT_CREATE = Scenario(
    "prefault-create",
    "a memslot comes while its pages are prefaulted and used",
    (Actor("vcpu 0", prefault_and_write), Actor("vmm", create_slot)),
    vm=small_vm(1, 1, absent_slots=1),
    setup=fill_caches,
)
PREFAULT_HOLE_BEHIND = Scenario(
    "prefault-hole-behind",
    "a prefault reaches beyond its memslot, whose first page is used",
    (Actor("vcpu 0", prefault_to_the_hole), Actor("vcpu 1", write_page_0)),
    vm=small_vm(2, slots=2, absent_slots=1),
)
PREFAULT_ZAP = Scenario(
    "prefault-zap",
    "a page is prefaulted while it is zapped",
    (Actor("vcpu 0", prefault_two), Actor("vmm", zap_page_0)),
    vm=small_vm(1, 1),
    setup=map_for_writing,
)
PREFAULT_EXECUTE = Scenario(
    "prefault-execute",
    "a prefault wants a huge page where an execution needs small ones",
    (Actor("vcpu 0", prefault_two), Actor("vcpu 1", execute_page_0)),
    vm=small_vm(2, backing_level=2),
    setup=map_for_reading,
)
PREFAULT_LOGGED = Scenario(
    "prefault-logged",
    "logging starts while pages are prefaulted and used",
    (Actor("vcpu 0", prefault_and_write), Actor("vmm", enable_and_copy)),
    vm=small_vm(1, 1),
    setup=fill_caches,
    check=migration_lost_nothing,
)
