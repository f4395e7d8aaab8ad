"""Which workloads there are: names and one line each, without importing what they need."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from workloads.plan import Workload

WORKLOADS = {
    "dirty-log": ("workloads.dirty_log", "dirty_log_perf_test: log writes, fetch the log"),
    "dirty-log-verify": (
        "workloads.dirty_log_verify",
        "dirty_log_test: what is written must be in the log",
    ),
    "page-splitting": (
        "workloads.page_splitting",
        "dirty_log_page_splitting_test: huge pages while logging and after it",
    ),
    "execute": ("workloads.execute", "execute_perf_test: populate memory, execute every page"),
    "zap-root": ("workloads.zap_root", "drop a root full of 4K entries under constant faults"),
    "memslot-modification": (
        "workloads.memslot_modification",
        "memslot_modification_stress_test: add and delete a memslot while vCPUs run",
    ),
    "memslot-perf": (
        "workloads.memslot_perf",
        "memslot_perf_test: map, unmap, move and use memory of up to 512 memslots",
    ),
    "access-tracking": (
        "workloads.access_tracking",
        "access_tracking_perf_test: mark memory idle, access it again",
    ),
    "demand-paging": (
        "workloads.demand_paging",
        "demand_paging_test: the first access of every page, with userfaultfd or without",
    ),
    "page-table": (
        "workloads.page_table",
        "kvm_page_table_test: create, split and rebuild mappings that all vCPUs share",
    ),
    "mmu-stress": (
        "workloads.mmu_stress",
        "mmu_stress_test: large guests of aliased memory, resets, mprotect, deleted memslots",
    ),
    "nx-huge-pages": (
        "workloads.nx_huge_pages",
        "nx_huge_pages_test: exact counters as huge pages split and come back",
    ),
    "torture": ("workloads.torture", "everybody at once, as the seed says; clean or not"),
    "access-trace": ("workloads.access_trace", "replay a real trace (valgrind --tool=lackey)"),
}


def load(name: str) -> Workload:
    """The workload's module."""
    return cast("Workload", import_module(WORKLOADS[name][0]))
