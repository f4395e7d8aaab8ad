"""`tdprace doctor`: what this machine can run, each finding with its consequence."""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from harness.cli.common import write_json
from harness.report.tables import Cell, render, size
from harness.run.measure import cores
from mmu.machine.clock import ticks_per_ns
from mmu.machine.dispatch import cache_root
from mmu.machine.kernel import registry
from mmu.machine.memory import SharedBlock

Finding = tuple[bool, str, str]


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """--json."""
    parser.add_argument("--json", metavar="FILE|-", help="write JSON; with -, print nothing else")


def _architecture() -> Finding:
    machine = f"{platform.system()} {platform.machine()}"
    return machine == "Linux x86_64", machine, "x86-64 Linux is what is tested"


def _cores() -> Finding:
    return True, str(cores()), f"more than {cores()} vCPUs are oversubscribed, and labelled so"


def _memory() -> Finding:
    free = psutil.virtual_memory().available
    pages = free // 32
    return True, f"{size(free)} free", f"up to about {size(pages << 12)} of guest memory at 4K"


def _shared_memory() -> Finding:
    try:
        block = SharedBlock(512)
        block.words[0] = 1
        block.close()
    except OSError as error:
        return False, f"memfd: {error}", "nothing can run"
    return True, "memfd works", "no name in /dev/shm, gone with the last process"


def _clock() -> Finding:
    flags = Path("/proc/cpuinfo").read_text()
    steady = "constant_tsc" in flags and "nonstop_tsc" in flags
    text = f"{ticks_per_ns():.3f} GHz" + ("" if steady else ", not constant")
    return steady, text, "latencies are time stamp counter ticks" + ("" if steady else ": doubtful")


def _cache() -> Finding:
    folder = cache_root() / "compiled"
    ready = folder.exists()
    text = str(folder) if ready else f"{folder} (empty)"
    writable = os.access(cache_root() if cache_root().exists() else cache_root().parent, os.W_OK)
    return writable, text, "compiled" if ready else f"first run compiles {len(registry)} kernels"


def _processes() -> Finding:
    _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    limit = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
    return True, f"{limit} processes", "one per vCPU and helper"


def _compiler() -> Finding:
    found = shutil.which("gcc")
    return True, found or "no gcc", "needed by make bench only"


CHECKS: dict[str, Callable[[], Finding]] = {
    "machine": _architecture,
    "cores": _cores,
    "memory": _memory,
    "shared memory": _shared_memory,
    "clock": _clock,
    "cache": _cache,
    "limits": _processes,
    "C compiler": _compiler,
}


def run(args: argparse.Namespace) -> int:
    """Print every finding; 3 if something essential is missing."""
    rows: list[list[Cell]] = []
    fine = True
    for name, check in CHECKS.items():
        good, found, consequence = check()
        fine = fine and good
        rows.append(["ok" if good else "PROBLEM", name, found, consequence])
    findings = [dict(zip(("status", "what", "found", "consequence"), r, strict=True)) for r in rows]
    write_json(args.json, {"findings": findings})
    if args.json != "-":
        print(render(["", "what", "found", "consequence"], rows))
    return 0 if fine else 3
