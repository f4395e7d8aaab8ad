"""Read what a run measured out of shared memory: counters, latencies, processes, the host."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from mmu.machine import layout as at
from mmu.machine.clock import ticks_per_ns
from mmu.machine.cpu import Words
from mmu.machine.histogram import quantile
from mmu.vm import Vm

VM_COUNTERS = {
    "pages_4k": at.STAT_PAGES_4K,
    "pages_2m": at.STAT_PAGES_2M,
    "pages_1g": at.STAT_PAGES_1G,
    "tables_live": at.STAT_TABLES,
    "nx_lpage_splits": at.STAT_NX_SPLITS,
}
SAMPLED = ("fault", "rcu_section")


def actor_matrix(vm: Vm) -> Words:
    """The actors' blocks as rows of one array: every counter of every actor in one slice."""
    region = vm.layout.regions["actors"]
    return vm.words[region.start : region.end].reshape(vm.config.actors, -1)


def counters(vm: Vm) -> dict[str, int]:
    """Sums over all actors (maxima for `..._max`), then the VM's own statistics."""
    rows = actor_matrix(vm)[:, at.COUNTERS : at.COUNTERS + len(at.COUNTER_NAMES)]
    sums, maxima = rows.sum(axis=0), rows.max(axis=0)
    result: dict[str, int] = {}
    for i, name in enumerate(at.COUNTER_NAMES):
        value = maxima[i] if name in at.COUNTERS_MAX_NAMES else sums[i]
        if "_ticks" in name:
            result[name.replace("_ticks", "_ns")] = round(int(value) / ticks_per_ns())
        else:
            result[name] = int(value)
    for name, word in VM_COUNTERS.items():
        result[name] = int(vm.words[word])
    return result


def difference(after: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    """What happened in between; maxima and what is there now are not differences."""
    return {
        name: value if name in VM_COUNTERS or name.endswith("_max") else value - before.get(name, 0)
        for name, value in after.items()
    }


def latencies(vm: Vm) -> dict[str, dict[str, int]]:
    """{name: count, sampled (1 in so many), p50, p99, p999, max}, ns; all actors together."""
    if not vm.layout.shape.histograms:
        return {}
    rows = actor_matrix(vm)
    result = {}
    for number, name in enumerate(at.HISTOGRAM_NAMES):
        start = vm.layout.histogram_offset + number * at.HISTOGRAM_WORDS
        buckets = rows[:, start : start + at.HISTOGRAM_WORDS].sum(axis=0)
        ns = [round(quantile(buckets, share) / ticks_per_ns()) for share in (0.5, 0.99, 0.999, 1.0)]
        result[name] = {
            "count": int(buckets.sum()),
            "sampled": vm.config.sample if name in SAMPLED else 1,
            **dict(zip(("p50", "p99", "p999", "max"), ns, strict=True)),
        }
    return result


def host() -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "cpu": _cpu_name(),
        "cores": cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def regime(vcpus: int) -> str:
    """`measured`, or `oversubscribed` when vCPUs share cores."""
    return "measured" if vcpus <= cores() else "oversubscribed"


def proportional_bytes(pids: list[int]) -> int:
    """Sum of the processes' proportional set sizes (PSS); processes that are gone count 0."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) << 10 for line in text.splitlines() if line[:4] == "Pss:")
    return total
