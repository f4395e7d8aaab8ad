"""Which workloads there are: names and one line each, without importing what they need."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from workloads.plan import Workload

WORKLOADS = {
    "dirty-log": ("workloads.dirty_log", "dirty_log_perf_test: log writes, fetch the log"),
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
    "nx-huge-pages": (
        "workloads.nx_huge_pages",
        "nx_huge_pages_test: exact counters as huge pages split and come back",
    ),
    "torture": ("workloads.torture", "faults, host changes, memslots, roots and the zap worker"),
    "access-trace": ("workloads.access_trace", "replay a real trace (valgrind --tool=lackey)"),
}


def load(name: str) -> Workload:
    """The workload's module."""
    return cast("Workload", import_module(WORKLOADS[name][0]))
