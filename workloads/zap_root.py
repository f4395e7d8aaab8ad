"""`zap-root`: a vCPU drops a root full of 4K entries and goes on, on a new one, faulting.

What the 2022 patch "Zap defunct roots via asynchronous worker" is about: with 64 TB of 4K entries
the vCPU that dropped the last reference was blocked for 900 seconds, with a worker for less than
100 ms.  The root is filled as it happened there: memory is mapped by huge pages, then dirty logging
splits all of them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mmu.dirty_log import enable_dirty_log
from mmu.guest import vcpu_load, vcpu_put
from mmu.machine.clock import ticks_per_ns
from mmu.machine.futex import raw_load
from mmu.machine.layout import POOL_FRESH, ROOTS, WORK_DONE, ZAP_QUEUED
from workloads.actors.dropping import (
    FIRST_VCPU,
    OLD_ROOT,
    ZAP_BEGAN,
    ZAP_ENDED,
    destroy_and_note,
    drop_root,
    fault_turn,
    touch_blocks,
    wait_for_drop,
    zap_and_note,
)
from workloads.errors import RunFailed, UsageError
from workloads.fit import fit_lines
from workloads.options import (
    LEVEL_PAGES,
    PAGE_BYTES,
    add_machine,
    add_pin,
    add_vcpus,
    check_pins,
    vm_config,
)
from workloads.plan import VCPU, VMM, ZAP_WORKER, Actor, Comparison, Part, Phase, Plan
from workloads.units import parse_sizes

NAME = "zap-root"
HELP = "drop a root full of 4K entries and go on on a new one under constant faults"
POLICIES = ("zap-by", "zap-steps", "root-life", "flush")
LISTS = ("memory",)  # options that take several values, for --compare
EXAMPLES = (
    "--memory 64G --compare zap-by",
    "--memory 16G,32G,64G,128G --compare memory",
    "--memory 64G --exclusive --compare zap-steps",
)
BASE = 1 << 27  # gfn: 512 GiB, so that whole entries of a root are filled
BACKING = 3
FITTED_BYTES = 64 << 40  # what the 2022 figures are about


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How much memory, and who is there."""
    add_vcpus(parser, 2)
    add_pin(parser)
    parser.add_argument(
        "--memory",
        type=parse_sizes,
        default=(64 << 30,),
        metavar="SIZE[,SIZE...]",
        help="guest memory mapped by the root, a multiple of 1G; several sizes with --compare"
        " memory (default 64G)",
    )
    parser.add_argument(
        "--exclusive",
        action="store_true",
        help="the VM dies instead: its memory is zapped with mmu_lock held for write",
    )
    add_machine(parser, POLICIES, seeded=False)


def _populate(pages: int) -> Part:
    def part(actor: Actor) -> None:
        if actor.index == 0:
            vcpu_load(actor.cpu)
            block = LEVEL_PAGES[BACKING]
            actor.run(touch_blocks, BASE, pages // block, block)
            vcpu_put(actor.cpu)

    return part


def _split(actor: Actor) -> None:
    if enable_dirty_log(actor.cpu, 0) != 0:
        raise RunFailed("no page-table page is left to split the memory")
    actor.vm.region("workload")[OLD_ROOT] = actor.vm.words[ROOTS]


def _map_tables(actor: Actor) -> None:
    """Whoever may zap has the tables in his address space: first touches are no part of a zap."""
    handed_out = int(actor.vm.words[POOL_FRESH]) << actor.vm.config.bits
    actor.vm.block.populate(actor.vm.layout.start("tables"), handed_out)


@contextmanager
def _cpu_time(actor: Actor) -> Iterator[None]:
    """Report what the zapper computes: with more processes than cores it also waits for one."""
    began = time.thread_time_ns()
    yield
    actor.report("zap_cpu_ns", time.thread_time_ns() - began)


def _drop(args: argparse.Namespace, pages: int) -> Part:
    """vCPU 0 drops the root; the others go on on a new one as soon as it has, and so does it."""

    def part(actor: Actor) -> None:
        each = pages // args.vcpus
        if actor.index == 0 and args.zap_by == "caller":
            with _cpu_time(actor):
                drop_root(actor.cpu, 1)
        elif actor.index == 0:
            drop_root(actor.cpu, 0)
        else:
            wait_for_drop(actor.cpu)
        actor.cpu.words[actor.cpu.own + WORK_DONE] = 0
        vcpu_load(actor.cpu)
        first = BASE + actor.index * each
        while fault_turn(actor.cpu, first, each, actor.index):
            pass
        vcpu_put(actor.cpu)
        if actor.index == 0:
            report(actor)

    return part


def _zap(actor: Actor) -> None:
    """The worker: one turn as soon as there is something to do."""
    if actor.wait_until(lambda: raw_load(actor.cpu, ZAP_QUEUED) != 0, ZAP_QUEUED):
        with _cpu_time(actor):
            zap_and_note(actor.cpu)


def _destroy(actor: Actor) -> None:
    with _cpu_time(actor):
        destroy_and_note(actor.cpu)
    report(actor)


def report(actor: Actor) -> None:
    """When the zap was, and how much of it others could fault meanwhile."""
    words = actor.vm.region("workload")
    began, ended = int(words[ZAP_BEGAN]), int(words[ZAP_ENDED])
    faults = words[FIRST_VCPU:].reshape(-1, 2)
    faults = faults[faults[:, 0] != 0]
    overlap = 0
    if len(faults):
        overlap = max(0, min(ended, int(faults[:, 1].max())) - max(began, int(faults[:, 0].min())))
    actor.report("zap_ns", round((ended - began) / ticks_per_ns()))
    actor.report("zap_overlap_ns", round(overlap / ticks_per_ns()))


def _phases(args: argparse.Namespace, pages: int) -> tuple[Phase, ...]:
    populate = Phase("populate", "Mapping memory by 1G pages: {seconds}", {VCPU: _populate(pages)})
    split = Phase("split", "Dirty logging splits them into 4K: {seconds}", {VMM: _split})
    if args.exclusive:
        zappers: Mapping[str, Part] = {VMM: _map_tables}
        parts: Mapping[str, Part] = {VMM: _destroy}
        line = "The VM dies: {seconds}"
    else:
        drop = _drop(args, pages)
        by_worker = args.zap_by == "worker"
        zappers = {ZAP_WORKER if by_worker else VCPU: _map_tables}
        parts = {VCPU: drop, ZAP_WORKER: _zap} if by_worker else {VCPU: drop}
        line = "A vCPU drops the root, all go on on a new one: {seconds}"
    ready = Phase("map tables", "Mapping the tables for the zapper: {seconds}", zappers)
    return populate, split, ready, Phase("drop", line, parts)


def _summary(seconds: Mapping[str, float], counters: Mapping[str, int]) -> list[str]:
    zap_ns, zapped = counters["zap_ns"], counters["sptes_zapped"]
    each_ns = counters["zap_cpu_ns"] / max(zapped, 1)
    return [
        f"Zapped {zapped:,} SPTEs in {zap_ns / 1e9:.9f}s ({each_ns:.2f} ns of CPU time each);"
        f" at most {counters['entries_between_checks_max']:,} entries between two yield checks",
        f"Faults on the new root went on for {100 * counters['zap_overlap_ns'] / zap_ns:.1f}%"
        " of the zap",
    ]


def plan(args: argparse.Namespace) -> Plan:
    """Populate, split, drop; the whole memory is one memslot of 1G pages."""
    if len(args.memory) > 1:
        raise UsageError("--memory has several sizes: add --compare memory")
    (size,) = args.memory
    if size % (LEVEL_PAGES[BACKING] * PAGE_BYTES) or not size:
        raise UsageError(f"--memory {size} bytes is no multiple of 1G")
    if args.root_life == "owned" and not args.exclusive:
        raise UsageError(
            "--root-life owned: a vCPU's last put leaves such a root alive, nothing is zapped;"
            " leave it out, or add --exclusive"
        )
    pages = size // PAGE_BYTES
    if pages // args.vcpus < 1:
        raise UsageError(f"{args.vcpus} vCPUs are more than there are pages")
    roles = (VCPU,) * args.vcpus + (VMM, ZAP_WORKER)
    check_pins(args, len(roles))
    args.backing, args.huge_split = BACKING, "eager"
    return Plan(
        workload=NAME,
        vm=vm_config(
            args,
            pages,
            helpers=2,
            gfn_base=BASE,
            roots=2,
            workload_words=FIRST_VCPU + 2 * args.vcpus,
        ),
        roles=roles,
        phases=_phases(args, pages),
        headline="drop",
        counted=("split", "drop"),
        summary=_summary,
        pins=args.pin,
    )


def comparison(compare: str, runs: Sequence[Mapping[str, Any]]) -> Comparison:
    """What the runs are made for, a row each; sizes are fitted and extrapolated."""
    titles = (
        *(compare, "SPTEs", "vCPU blocked", "zap", "CPU ns per SPTE", "faults overlap"),
        *("entries between checks", "longest between checks", "longest RCU section", "fault p99"),
    )
    lines: list[str] = []
    if compare == "memory" and len(runs) > 1:
        points = [(r["counters"]["sptes_zapped"], r["counters"]["zap_cpu_ns"] / 1e9) for r in runs]
        lines = fit_lines(points, FITTED_BYTES // PAGE_BYTES, "64T")
    return Comparison(titles, tuple(_row(run) for run in runs), tuple(lines))


def _row(run: Mapping[str, Any]) -> tuple[str, ...]:
    counters, latency = run["counters"], run["latency_ns"]
    zapped, zap_ns = counters["sptes_zapped"], counters["zap_ns"]
    return (
        run["variant"],
        f"{zapped:,}",
        f"{latency['root_drop']['max'] / 1e6:.3f} ms",
        f"{zap_ns / 1e6:.3f} ms",
        f"{counters['zap_cpu_ns'] / max(zapped, 1):.2f}",
        f"{100 * counters['zap_overlap_ns'] / max(zap_ns, 1):.1f} %",
        f"{counters['entries_between_checks_max']:,}",
        f"{latency['between_yield_checks']['max'] / 1e6:.3f} ms",
        f"{latency['rcu_section']['max'] / 1e6:.3f} ms",
        f"{latency['fault']['p99'] / 1e3:.2f} us",
    )
