"""What `stress` and `scale` share: options, patched trees, compile progress, memory, JSON."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.live import Live

from harness.bugs.tree import TREE_VARIABLE, patched_tree, run_in_tree
from harness.explore.reproducer import Patch
from harness.report import store
from harness.report.tables import size
from harness.run.warm import warm
from mmu.machine.dispatch import SOURCE_ROOT, KernelFunction, cache_root
from mmu.machine.kernel import registry
from mmu.machine.memory import WORD_BYTES
from mmu.machine.regions import Layout
from mmu.policy import POLICIES
from workloads.errors import MachineError, UsageError
from workloads.plan import Plan, Workload
from workloads.units import parse_duration

SUPERVISOR_BYTES = 200 << 20  # numba, LLVM and the compiled model, shared by all workers
PROCESS_BYTES = 3 << 20  # private memory of a worker, measured 2.0 to 2.5 MB
WORDS_PER_PAGE = 4  # mapping, frame, newest value, entry


def add_run_arguments(parser: argparse.ArgumentParser, workload: Workload) -> None:
    """Options of every run of a workload."""
    parser.add_argument(
        "--compare",
        choices=(*workload.POLICIES, *lists_of(workload)),
        metavar="POLICY",
        help=f"run with all values of a policy side by side: {', '.join(workload.POLICIES)}"
        + "".join(f"; or with all values of --{name}" for name in lists_of(workload)),
    )
    add_patch_argument(parser)
    add_output_arguments(parser)
    parser.add_argument(
        "--watchdog",
        type=parse_duration,
        default=30.0,
        metavar="TIME",
        help="give up when an actor has not moved for so long (default 30s)",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say what would run: derived options, memory and time needed",
    )


def add_patch_argument(parser: argparse.ArgumentParser) -> None:
    """--patch."""
    parser.add_argument(
        "--patch",
        type=Path,
        metavar="FILE",
        help="apply a unified diff to a copy of the model and run that",
    )


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """--results, --json, --quiet."""
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="where the run is stored (default: results)",
    )
    parser.add_argument(
        "--json", metavar="FILE|-", help="write the run's JSON; with -, stdout holds nothing else"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress, no live status")


def enter_patched_tree(args: argparse.Namespace) -> None:
    """With --patch: go on in a fresh interpreter on the patched copy; returns in that one."""
    if args.patch is None or os.environ.get(TREE_VARIABLE):
        return
    tree = patched_tree(args.patch, SOURCE_ROOT, cache_root())
    run_in_tree(tree, args.words)


def patch_of(args: argparse.Namespace) -> Patch | None:
    """The diff that the model was patched with."""
    if args.patch is None:
        return None
    return Patch(args.patch.name, args.patch.read_text(encoding="utf-8"))


def lists_of(workload: Workload) -> tuple[str, ...]:
    """Options of the workload that take several values, for --compare."""
    found: tuple[str, ...] = getattr(workload, "LISTS", ())
    return found


def variants(args: argparse.Namespace, workload: Workload) -> dict[str, Plan]:
    """{variant: plan}; one, called "", without --compare."""
    if args.compare is None:
        return {"": workload.plan(args)}
    if args.compare in lists_of(workload):
        name = args.compare.replace("-", "_")
        return {
            size(value): workload.plan(argparse.Namespace(**{**vars(args), name: (value,)}))
            for value in getattr(args, name)
        }
    plans = {}
    for value in POLICIES[args.compare][1]:
        chosen = argparse.Namespace(**{**vars(args), args.compare.replace("-", "_"): value})
        plans[value] = workload.plan(chosen)
    return plans


def compile_model(
    quiet: bool, what: str = "the model", kernels: Sequence[KernelFunction] = registry
) -> None:
    """Compile what is not cached yet, and say so while it lasts; UsageError if numba cannot."""
    console = Console(stderr=True)
    live = Live(console=console, auto_refresh=False, transient=True)
    started = False

    def progress(done: int, total: int, seconds: float) -> None:
        nonlocal started
        text = f"compiling {what} (once per version): {done}/{total} kernels, {seconds:.0f} s"
        if quiet:
            return
        if console.is_terminal:
            if not started:
                live.start()
            live.update(text, refresh=True)
        elif not started or done == total:
            print(text, file=sys.stderr, flush=True)
        started = True

    try:
        warm(progress, kernels)
    finally:
        if started and console.is_terminal:
            live.stop()


def notice(quiet: bool) -> Callable[[str], None] | None:
    """Says what takes a while, to stderr."""
    return None if quiet else lambda text: print(text, file=sys.stderr, flush=True)


def needed_bytes(plan: Plan) -> int:
    """Memory that the run can need at most: what it touches of the block, and its processes."""
    layout = Layout(plan.vm.shape())
    actors = layout.regions["actors"].words + layout.regions["workload"].words
    words = actors + plan.vm.pages * WORDS_PER_PAGE + layout.regions["records"].words
    words += plan.vm.gfns - plan.vm.pages  # entries of pages that several memslots show
    return words * WORD_BYTES + SUPERVISOR_BYTES + len(plan.roles) * PROCESS_BYTES


def check_memory(plan: Plan) -> None:
    """Raise MachineError if the run cannot fit into what is free now."""
    needed, free = needed_bytes(plan), psutil.virtual_memory().available
    if needed > free:
        raise MachineError(
            f"{plan.workload} with {plan.vm.vcpus} vCPUs and {size(plan.vm.gfns << 12)} of guest"
            f" memory may need {size(needed)}, {size(free)} are free: give fewer vCPUs or less"
            " guest memory"
        )


def write_json(target: str | None, document: dict[str, Any]) -> None:
    """--json FILE or -."""
    if target == "-":
        sys.stdout.write(store.dump(document))
    elif target is not None:
        try:
            store.replace_text(Path(target), store.dump(document))
        except OSError as error:
            raise UsageError(f"--json {target} cannot be written: {error.strerror}") from error


def with_vcpus(args: argparse.Namespace, vcpus: int) -> argparse.Namespace:
    """The same options with another number of vCPUs."""
    return argparse.Namespace(**{**vars(args), "vcpus": vcpus})
