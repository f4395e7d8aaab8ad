"""Memslots that come, go and move while vCPUs use them and the host changes its mappings."""

from __future__ import annotations

from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.slot_changes import create_memslot, delete_memslot, move_memslot
from workloads.scenario import Actor, Scenario
from workloads.scenarios.common import (
    PAGES,
    fill_caches,
    map_for_writing,
    small_vm,
    write_page_0,
)
from workloads.scenarios.dying import work_once
from workloads.scenarios.hosts import invalidate_page_0, move_page_0


@kernel
def delete_slot(cpu: Cpu) -> None:
    """The only memslot goes."""
    delete_memslot(cpu, 0)


@kernel
def create_slot(cpu: Cpu) -> None:
    """The memslot that is nowhere comes."""
    create_memslot(cpu, 0, 0)


@kernel
def move_slot_away(cpu: Cpu) -> None:
    """The only memslot moves."""
    move_memslot(cpu, 0, PAGES)


SLOT_DELETE_FAULT = Scenario(
    "slot-delete-fault",
    "a memslot goes while a vCPU writes a page of it for the first time",
    (Actor("vcpu 0", write_page_0), Actor("vmm", delete_slot)),
    vm=small_vm(1, 1),
    setup=fill_caches,
)
SLOT_DELETE_WORKER = Scenario(
    "slot-delete-worker",
    "the same where the worker zaps",
    (Actor("vcpu 0", write_page_0), Actor("vmm", delete_slot), Actor("worker", work_once)),
    vm=small_vm(1, 2, zap_by="worker"),
    setup=map_for_writing,
)
SLOT_CREATE_FAULT = Scenario(
    "slot-create-fault",
    "a memslot comes while a vCPU writes to where it will be",
    (Actor("vcpu 0", write_page_0), Actor("vmm", create_slot)),
    vm=small_vm(1, 1, absent_slots=1),
    setup=fill_caches,
)
SLOT_MOVE_FAULT = Scenario(
    "slot-move-fault",
    "a memslot moves away while a vCPU writes a page of it",
    (Actor("vcpu 0", write_page_0), Actor("vmm", move_slot_away)),
    vm=small_vm(1, 1),
    setup=map_for_writing,
)
SLOT_DELETE_NOTIFIER = Scenario(
    "slot-delete-notifier",
    "a memslot goes while one of its pages is invalidated",
    (Actor("vcpu 0", write_page_0), Actor("vmm", delete_slot), Actor("host", invalidate_page_0)),
    vm=small_vm(1, 2, spare_frames=2),
    setup=fill_caches,
)
SLOT_DELETE_MOVE = Scenario(
    "slot-delete-move",
    "a memslot goes while the host moves one of its pages, which is mapped",
    (
        Actor("vcpu 0", write_page_0),
        Actor("vmm", delete_slot),
        Actor("host", move_page_0),
        Actor("worker", work_once),
    ),
    vm=small_vm(1, 3, spare_frames=2, zap_by="worker"),
    setup=map_for_writing,
)
