"""The tables that a run prints: times by phase, counters by phase, latencies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.report.tables import Cell, count, duration_ns, render, seconds, size

# In this order; a row appears where any variant has something to say.
SHOWN_COUNTERS = (
    "accesses",
    "reads",
    "writes",
    "executes",
    "pf_taken",
    "pf_fast",
    "pf_fixed",
    "pf_execute",
    "pf_spurious",
    "pf_retry",
    "mmio_exits",
    "slots_changed",
    "splits_1g",
    "splits_2m",
    "huge_zapped",
    "huge_recovered",
    "tables_linked",
    "tables_freed",
    "roots_created",
    "roots_invalidated",
    "roots_zapped",
    "roots_freed",
    "sptes_zapped",
    "sptes_aged",
    "notifier_unmaps",
    "host_faults",
    "host_writebacks",
    "remote_tlb_flush",
    "pml_entries",
    "pml_full",
    "dirty_harvested",
    "tlb_misses_4k",
    "tlb_misses_2m",
    "tlb_misses_1g",
    "cmpxchg_failed",
    "yields",
    "lock_read_contended",
    "lock_write_contended",
)
WHOLE_RUN_COUNTERS = (
    "pages_4k",
    "pages_2m",
    "pages_1g",
    "tables_allocated",
    "exits",
    "quiet_points",
)

Run = Mapping[str, Any]


def times(runs: Sequence[Run]) -> str:
    """Seconds per phase, a column per variant."""
    names = list(dict.fromkeys(phase["name"] for run in runs for phase in run["phases"]))
    by_variant = [{phase["name"]: phase["seconds"] for phase in run["phases"]} for run in runs]
    rows: list[list[Cell]] = [
        [name, *(seconds(column[name]) if name in column else None for column in by_variant)]
        for name in names
    ]
    return render(["phase", *_titles(runs, "time")], rows)


def counters(runs: Sequence[Run], phases: Sequence[str]) -> str:
    """Counters of the chosen phases, then of the whole run, a column per variant."""
    rows: list[list[Cell]] = []
    for name in phases:
        columns = [_phase_counters(run, name) for run in runs]
        rows += _counter_rows(name, SHOWN_COUNTERS, columns)
    own = [name for name in runs[0]["counters"] if name.startswith("trace_")]
    rows += _counter_rows("whole run", (*WHOLE_RUN_COUNTERS, *own), [r["counters"] for r in runs])
    memory = [run["memory"] for run in runs]
    rows += [
        ["whole run", f"memory, {what}", *(size(each[key]) for each in memory)]
        for what, key in (("shared", "shared_bytes"), ("sum of PSS", "pss_bytes"))
    ]
    return render(["phase", "counter", *_titles(runs, "count")], rows)


def latencies(runs: Sequence[Run]) -> str:
    """p50, p99, p99.9 and maximum of what was timed."""
    rows: list[list[Cell]] = []
    for run in runs:
        for name, figures in run["latency_ns"].items():
            if figures["count"]:
                sampled = "all" if figures["sampled"] == 1 else f"1 in {figures['sampled']}"
                quantiles = [duration_ns(figures[key]) for key in ("p50", "p99", "p999", "max")]
                cells: list[Cell] = [name, count(figures["count"]), sampled, *quantiles]
                rows.append([run["variant"], *cells] if len(runs) > 1 else cells)
    if not rows:
        return ""
    headers = ["latency", "timed", "sampled", "p50", "p99", "p99.9", "max"]
    return render(["variant", *headers] if len(runs) > 1 else headers, rows)


def _titles(runs: Sequence[Run], alone: str) -> list[str]:
    return [run["variant"] for run in runs] if len(runs) > 1 else [alone]


def _phase_counters(run: Run, name: str) -> Mapping[str, int]:
    for phase in run["phases"]:
        if phase["name"] == name:
            found: Mapping[str, int] = phase["counters"]
            return found
    return {}


def _counter_rows(
    where: str, names: Sequence[str], columns: Sequence[Mapping[str, int]]
) -> list[list[Cell]]:
    return [
        [where, name, *(count(column[name]) if name in column else None for column in columns)]
        for name in names
        if any(column.get(name) for column in columns)
    ]
