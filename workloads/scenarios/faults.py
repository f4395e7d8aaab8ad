"""Faults that meet faults: two vCPUs map, split or execute in one place."""

from __future__ import annotations

from mmu.machine.events import PROBE_CMPXCHG, PROBE_RETRY
from workloads.scenario import Actor, Scenario
from workloads.scenarios.common import (
    execute_page_0,
    execute_page_1,
    fill_caches,
    map_for_executing,
    map_for_reading,
    map_for_writing,
    read_page_0,
    read_page_1,
    small_vm,
    split_everything,
    write_page_0,
    write_page_1,
    write_protect_everything,
)

MAP_MAP_SAME = Scenario(
    "map-map-same",
    "two vCPUs write the same page for the first time",
    (Actor("vcpu 0", write_page_0), Actor("vcpu 1", write_page_0)),
    vm=small_vm(2),
    setup=fill_caches,
)
MAP_MAP_NEIGHBOUR = Scenario(
    "map-map-neighbour",
    "two vCPUs write neighbouring pages for the first time",
    (Actor("vcpu 0", write_page_0), Actor("vcpu 1", write_page_1)),
    vm=small_vm(2),
    setup=fill_caches,
)
MAP_MAP_HUGE = Scenario(
    "map-map-huge",
    "a read wants a huge page where an execution needs a small one",
    (Actor("vcpu 0", read_page_0), Actor("vcpu 1", execute_page_1)),
    vm=small_vm(2, backing_level=2),
    setup=fill_caches,
)
MAP_SPLIT = Scenario(
    "map-split",
    "a vCPU maps a huge page while everything is split",
    (Actor("vcpu 0", write_page_0), Actor("vmm", split_everything)),
    vm=small_vm(1, 1, backing_level=2),
    setup=fill_caches,
)
SPLIT_SPLIT = Scenario(
    "split-split",
    "an execution splits a written huge page while everything is split",
    (Actor("vcpu 0", execute_page_0), Actor("vmm", split_everything)),
    vm=small_vm(1, 1, backing_level=2),
    setup=map_for_writing,
)
SPLIT_SPLIT_FAULTS = Scenario(
    "split-split-faults",
    "two vCPUs execute in one huge page",
    (Actor("vcpu 0", execute_page_0), Actor("vcpu 1", execute_page_1)),
    vm=small_vm(2, backing_level=2),
    setup=map_for_writing,
)
EXECUTE_READ = Scenario(
    "execute-read",
    "one vCPU executes in a huge page that another one reads",
    (Actor("vcpu 0", execute_page_0), Actor("vcpu 1", read_page_1)),
    vm=small_vm(2, backing_level=2),
    setup=map_for_reading,
)
# Not against a second fault: where huge pages are dropped, two faults that want the page at
# different sizes can undo each other for ever if nobody is fair to them.
EXECUTE_ZAP_PROTECT = Scenario(
    "execute-zap-protect",
    "an execution drops a huge page (before 6.2) that is being write-protected",
    (Actor("vcpu 0", execute_page_0), Actor("vmm", write_protect_everything)),
    vm=small_vm(1, 1, backing_level=2, huge_split="zap"),
    setup=map_for_writing,
)
EXECUTE_WRITE_NX_OFF = Scenario(
    "execute-write-nx-off",
    "huge pages may be executed: nothing is split",
    (Actor("vcpu 0", execute_page_0), Actor("vcpu 1", write_page_1)),
    vm=small_vm(2, backing_level=2, nx_huge_pages=False),
    setup=fill_caches,
)
MAP_UNDER_NX_TABLE = Scenario(
    "map-under-nx-table",
    "faults below a table that an execution demanded",
    (Actor("vcpu 0", read_page_1), Actor("vcpu 1", write_page_1)),
    vm=small_vm(2, backing_level=2, huge_split="zap"),
    setup=map_for_executing,
)
MAP_RETRY = Scenario(
    "map-retry",
    "two vCPUs map the same page, and the stale check and the cmpxchg may fail at will",
    (Actor("vcpu 0", read_page_0), Actor("vcpu 1", write_page_0)),
    vm=small_vm(2),
    setup=fill_caches,
    probes=1 << PROBE_RETRY | 1 << PROBE_CMPXCHG,
)
