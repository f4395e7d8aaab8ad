"""Dirty logging that meets guests: harvests, write protection, enabling; no write may be lost."""

from __future__ import annotations

from mmu.machine.events import PROBE_CONTEND
from workloads.scenario import Actor, Scenario
from workloads.scenarios.common import (
    enable_and_copy,
    execute_page_1,
    fill_caches,
    harvest_and_copy,
    logged,
    logged_and_written,
    map_for_writing,
    migration_lost_nothing,
    small_vm,
    write_both_pages,
    write_page_0,
    write_page_1,
    write_pages_0_and_2,
    write_protect_everything,
)

FAST_FAULT_HARVEST = Scenario(
    "fast-fault-harvest",
    "a write-protected page is written without a lock while the log is harvested",
    (Actor("vcpu 0", write_page_0), Actor("vmm", harvest_and_copy)),
    vm=small_vm(1, 1, pml=False),
    setup=logged,
    check=migration_lost_nothing,
)
WRITE_HARVEST = Scenario(
    "write-harvest",
    "a page that is writable already is written while the log is harvested",
    (Actor("vcpu 0", write_page_0), Actor("vmm", harvest_and_copy)),
    vm=small_vm(1, 1, pml=False),
    setup=logged_and_written,
    check=migration_lost_nothing,
)
FAST_FAULT_WRITE_PROTECT = Scenario(
    "fast-fault-write-protect",
    "a write takes W back while everything is write-protected",
    (Actor("vcpu 0", write_page_0), Actor("vmm", write_protect_everything)),
    vm=small_vm(1, 1, pml=False),
    setup=logged,
    check=migration_lost_nothing,
)
WALKER_HARVEST = Scenario(
    "walker-harvest",
    "the walker sets D and logs to the PML buffer while the log is harvested",
    (Actor("vcpu 0", write_page_0), Actor("vmm", harvest_and_copy)),
    vm=small_vm(1, 1),
    setup=logged,
    check=migration_lost_nothing,
)
WALKER_HARVEST_DIRTY = Scenario(
    "walker-harvest-dirty",
    "the same where D is set already and cached",
    (Actor("vcpu 0", write_page_0), Actor("vmm", harvest_and_copy)),
    vm=small_vm(1, 1, flush="all"),
    setup=logged_and_written,
    check=migration_lost_nothing,
)
MAP_HARVEST = Scenario(
    "map-harvest",
    "a page is mapped for the first time while the log is harvested",
    (Actor("vcpu 0", write_page_1), Actor("vmm", harvest_and_copy)),
    vm=small_vm(1, 1),
    setup=logged,
    check=migration_lost_nothing,
)
ENABLE_WRITE = Scenario(
    "enable-write",
    "a mapped page is written while logging is switched on",
    (Actor("vcpu 0", write_page_0), Actor("vmm", enable_and_copy)),
    vm=small_vm(1, 1),
    setup=map_for_writing,
    check=migration_lost_nothing,
)
ENABLE_FAULT = Scenario(
    "enable-fault",
    "a page is mapped for the first time while logging is switched on",
    (Actor("vcpu 0", write_page_0), Actor("vmm", enable_and_copy)),
    vm=small_vm(1, 1, pml=False),
    setup=fill_caches,
    check=migration_lost_nothing,
)
ENABLE_HUGE = Scenario(
    "enable-huge",
    "a huge page is written while logging is switched on and splits it",
    (Actor("vcpu 0", write_page_0), Actor("vmm", enable_and_copy)),
    vm=small_vm(1, 1, backing_level=2),
    setup=map_for_writing,
    check=migration_lost_nothing,
)
ENABLE_EXECUTE = Scenario(
    "enable-execute",
    "a huge page is written, then split by an execution, while logging is switched on",
    (
        Actor("vcpu 0", execute_page_1),
        Actor("vcpu 1", write_pages_0_and_2),  # which it has not cached
        Actor("vmm", enable_and_copy),
    ),
    vm=small_vm(2, 1, backing_level=2, huge_split="fault", bits=2),
    setup=map_for_writing,
    check=migration_lost_nothing,
)
HUGE_LOGGED_WRITE = Scenario(
    "huge-logged-write",
    "two pages are written in a huge page that is logged and not split yet",
    (Actor("vcpu 0", write_both_pages), Actor("vmm", harvest_and_copy)),
    vm=small_vm(1, 1, pml=False, backing_level=2, huge_split="fault"),
    setup=logged,
    check=migration_lost_nothing,
)
PROTECT_YIELDING = Scenario(
    "protect-yielding",
    "write protection gives up its lock wherever it may",
    (Actor("vcpu 0", write_page_0), Actor("vmm", write_protect_everything)),
    vm=small_vm(1, 1, pml=False),
    setup=logged,
    check=migration_lost_nothing,
    probes=1 << PROBE_CONTEND,
)
