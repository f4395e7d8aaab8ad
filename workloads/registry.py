"""Which workloads there are: names and one line each, without importing what they need."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from workloads.plan import Workload

WORKLOADS = {
    "dirty-log": ("workloads.dirty_log", "dirty_log_perf_test: log writes, fetch the log"),
    "execute": ("workloads.execute", "execute_perf_test: populate memory, execute every page"),
    "access-trace": ("workloads.access_trace", "replay a real trace (valgrind --tool=lackey)"),
}


def load(name: str) -> Workload:
    """The workload's module."""
    return cast("Workload", import_module(WORKLOADS[name][0]))
