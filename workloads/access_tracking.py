"""`access-tracking`: the selftests' access_tracking_perf_test.

vCPUs populate their memory, write it and read it; then the host marks all of it idle, which ages
every page, and they write it; the same with reading.  What it compares is how long an access takes
when it must be noticed: the hardware sets an A bit, or (`--no-ad`) a fault gives the page's
permissions back.

The second marking checks the first: what the guest has used meanwhile must not be idle any more.
"""

from __future__ import annotations

import argparse
from typing import Any

from mmu.host_reclaim import MARKED_IDLE, NO_PFN, STILL_IDLE
from mmu.machine.layout import PHASE_WORK, WORK_DONE
from mmu.machine.primitives import set_own
from mmu.vm import VmConfig
from workloads.actors.idle_marking import FOUND, FOUND_WORDS, mark_idle_batch
from workloads.actors.vcpu import memstress_pass
from workloads.errors import RunFailed
from workloads.options import (
    add_guest_mode,
    add_machine,
    add_memory,
    add_pin,
    add_vcpus,
    check_pins,
    guest_pages,
    vm_config,
)
from workloads.plan import HOST, VCPU, Actor, Part, Phase, Plan

NAME = "access-tracking"
HELP = "access_tracking_perf_test: mark memory idle, access it again"
POLICIES = ("huge-split", "flush")
EXAMPLES = ("-v 2 -b 256M", "-v 2 -b 256M --no-ad")
NO_PFN_SHARE = 100  # less than one page in so many may be absent
STILL_IDLE_SHARE = 10  # ... or be idle still although it was accessed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The selftest's flags."""
    add_vcpus(parser)
    add_pin(parser)
    add_memory(parser)
    add_guest_mode(parser)
    add_machine(parser, POLICIES, seeded=False)  # every page, in order


# --- What a marking has found --------------------------------------------------------------------


def hidden_max(config: VmConfig) -> int:
    """Pages that the vCPUs may have used without a walk, by translations that they had cached.

    Ageing never flushes.  The selftest's memory is far beyond a TLB's reach, or it only warns.
    """
    return config.vcpus << config.tlb_bits[config.backing_level - 1]


def check_found(no_pfn: int, still_idle: int, pages: int, hidden: int) -> None:
    """Raise RunFailed if too many of the host's `pages` were absent, or idle after an access."""
    if no_pfn * NO_PFN_SHARE >= max(pages, 1):
        raise RunFailed(
            f"no PFN for {no_pfn} of {pages} pages: the host has swapped out more than 1% of them"
        )
    if (still_idle - hidden) * STILL_IDLE_SHARE >= max(pages, 1):
        raise RunFailed(
            f"too many pages are still idle, {still_idle} of {pages}: all were accessed since they"
            f" were marked, and the vCPUs' TLBs hide {hidden} at most"
        )


def _mark(pages: int, number: int) -> Part:
    """Mark all memory idle; what was accessed since the last time must not be idle still."""

    def part(actor: Actor) -> None:
        found = actor.vm.region("workload")[FOUND : FOUND + FOUND_WORDS]
        found[:] = 0
        set_own(actor.cpu, WORK_DONE, 0)
        set_own(actor.cpu, PHASE_WORK, pages)
        actor.run(mark_idle_batch, pages)
        if actor.stopping():
            return
        no_pfn, still_idle = int(found[NO_PFN]), int(found[STILL_IDLE])
        folios = no_pfn + still_idle + int(found[MARKED_IDLE])
        actor.report(f"still_idle_{number}", still_idle)
        check_found(no_pfn, still_idle, folios, hidden_max(actor.vm.config))

    return part


# --- The plan ------------------------------------------------------------------------------------


def plan(args: argparse.Namespace) -> Plan:
    """Derive VM and phases; raises UsageError if the options do not fit together."""
    pages = guest_pages(args)
    check_pins(args, args.vcpus + 1)
    common: dict[str, Any] = {
        "pages": pages if args.overlap else pages // args.vcpus,
        "partitioned": not args.overlap,
    }
    write = memstress_pass(write_percent=100, **common)
    read = memstress_pass(write_percent=0, **common)
    steps: tuple[tuple[str, str, dict[str, Part]], ...] = (
        ("populate", "Populating memory", {VCPU: write}),
        ("write populated", "Writing to populated memory", {VCPU: write}),
        ("read populated", "Reading from populated memory", {VCPU: read}),
        ("mark 1", "Mark memory idle", {HOST: _mark(pages, 1)}),
        ("write idle", "Writing to idle memory", {VCPU: write}),
        ("mark 2", "Mark memory idle", {HOST: _mark(pages, 2)}),
        ("read idle", "Reading from idle memory", {VCPU: read}),
    )
    phases = [Phase(name, f"{line:<30}: {{seconds}}", parts) for name, line, parts in steps]
    return Plan(
        workload=NAME,
        vm=vm_config(args, pages, workload_words=FOUND_WORDS),
        roles=(VCPU,) * args.vcpus + (HOST,),
        phases=tuple(phases),
        pins=args.pin,
        headline="write idle",
        counted=("mark 1", "write idle", "read idle"),
        header=("Testing guest mode: PA-bits:ANY, VA-bits:48,  4K pages", ""),
    )
