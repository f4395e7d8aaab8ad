"""`demand-paging`: the selftests' demand_paging_test, with its flags and printed lines.

Every vCPU writes each page of its memory once, and none of them is mapped before.  With -u the
host has no page either: each is installed by a handler in user space, which the vCPU's thread
sleeps for.  There is one handler process for each vCPU, as in the selftest; MISSING copies a page
with a pattern, MINOR maps one that is filled already.

At the end every page must be there, mapped, and hold the pattern and every write; the handlers
must have installed each page of the host once.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import numpy as np

from mmu.host.frames import MAPPING_RWX, MARK_DIRTY, VALUE_MASK, VALUE_ONE, VALUE_SHIFT
from mmu.machine import layout as at
from mmu.userfault import register_userfault
from mmu.vm import Vm
from workloads.actors.userfaults import (
    HANDLER,
    INSTALLED,
    SERVED,
    handler_words,
    serve_userfaults,
)
from workloads.actors.vcpu import memstress_pass
from workloads.errors import RunFailed, UsageError
from workloads.options import (
    LEVEL_PAGES,
    add_guest_mode,
    add_machine,
    add_memory,
    add_pin,
    add_vcpus,
    check_pins,
    guest_pages,
    vm_config,
)
from workloads.plan import VCPU, VMM, Actor, Part, Phase, Plan, Summary, no_summary
from workloads.units import whole

NAME = "demand-paging"
HELP = "demand_paging_test: the first access of every page, with userfaultfd or without"
POLICIES = ("flush",)
EXAMPLES = ("-v 2 -b 64M -u MISSING", "-v 4 -b 256M -s 2m -u MINOR -d 100")
PATTERN = 0xAB
DELAY_US_MAX = 10_000_000
MODES = ("MISSING", "MINOR")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The selftest's flags."""
    add_vcpus(parser)
    add_pin(parser)
    add_memory(parser)
    add_guest_mode(parser)
    parser.add_argument(
        "-u",
        dest="userfault",
        choices=MODES,
        default=None,
        help="userfaultfd: handlers copy missing pages, or continue minor faults"
        " (default: the host has all pages)",
    )
    parser.add_argument(
        "-d",
        "--delay",
        type=whole("the delay", 0, DELAY_US_MAX),
        default=0,
        metavar="USEC",
        help="microseconds that a handler takes for a page, with -u (default 0)",
    )
    add_machine(parser, POLICIES, seeded=False)  # it writes every page, in order


def _register(mode: str | None) -> Part:
    """Take all pages away before anybody has seen one; in mode MINOR they are filled already."""

    def part(actor: Actor) -> None:
        pages = actor.vm.config.pages
        if mode == "MINOR":
            actor.vm.frames[:pages] += PATTERN * VALUE_ONE
            actor.vm.region("marks")[:pages] |= MARK_DIRTY
        if mode is not None:
            register_userfault(actor.cpu, 0, pages)

    return part


def check_pages(vm: Vm, pattern: int, writes: int) -> None:
    """Raise RunFailed unless every page is there, mapped, and holds pattern and writes."""
    pages = vm.config.pages
    mapped = sum(
        int(vm.words[word]) * LEVEL_PAGES[level]
        for level, word in ((1, at.STAT_PAGES_4K), (2, at.STAT_PAGES_2M), (3, at.STAT_PAGES_1G))
    )
    if mapped != pages:
        raise RunFailed(f"{mapped} of {pages} pages are mapped")
    if vm.config.spare_frames:
        words = vm.region("mapping")
        absent = int(((words != 0) & (words & MAPPING_RWX == 0)).sum())
        if absent:
            raise RunFailed(f"{absent} pages were never installed")
    held = (vm.frames[:pages] >> VALUE_SHIFT) & VALUE_MASK
    wrong = np.flatnonzero(held != pattern + writes)
    if len(wrong):
        page = int(wrong[0])
        raise RunFailed(
            f"{len(wrong)} pages do not hold what they should: the first, gfn"
            f" {vm.config.gfn_base + page:#x}, holds {int(held[page])}, not {pattern + writes}"
        )


def check_requests(served: int, installed: int, wanted: int) -> None:
    """Raise RunFailed unless each page was asked for and installed, and installed once."""
    if installed != wanted or served < wanted:
        raise RunFailed(
            f"{wanted} pages had to be installed; there were {served} requests for"
            f" {installed} of them"
        )


def _check(args: argparse.Namespace) -> Part:
    def part(actor: Actor) -> None:
        vm = actor.vm
        check_pages(vm, PATTERN if args.userfault else 0, args.vcpus if args.overlap else 1)
        lines = vm.region("workload").reshape(-1, at.LINE)
        served, installed = int(lines[:, SERVED].sum()), int(lines[:, INSTALLED].sum())
        wanted = vm.config.pages // LEVEL_PAGES[args.backing] if args.userfault else 0
        check_requests(served, installed, wanted)
        actor.report("userfaults", served)
        actor.report("userfaults_installed", installed)

    return part


def _lines(pages: int) -> Summary:
    def lines(seconds: Mapping[str, float], counters: Mapping[str, int]) -> list[str]:
        took = seconds["paging"]
        return [
            "Started all vCPUs",
            "All vCPU threads joined",
            f"Total guest execution time:\t{took:.9f}s",
            f"Overall demand paging rate:\t{pages / took:.6f} pgs/sec",
        ]

    return lines


def plan(args: argparse.Namespace) -> Plan:
    """Register the pages, start everybody, look at what is there."""
    pages = guest_pages(args)
    if args.delay and not args.userfault:
        raise UsageError("-d is the time of a handler: give -u MISSING or -u MINOR too")
    services = {}
    if args.userfault:
        value = PATTERN if args.userfault == "MISSING" else 0
        services[HANDLER] = serve_userfaults(value, args.delay)
    roles = (VCPU,) * args.vcpus + (VMM,) + (HANDLER,) * (args.vcpus if services else 0)
    check_pins(args, len(roles))
    per_vcpu = pages if args.overlap else pages // args.vcpus
    one_pass = memstress_pass(pages=per_vcpu, partitioned=not args.overlap, write_percent=100)
    requests = pages // LEVEL_PAGES[args.backing] / args.vcpus
    return Plan(
        workload=NAME,
        vm=vm_config(
            args,
            pages,
            helpers=len(roles) - args.vcpus,
            # Only a host whose mappings change has a word for each page that counts.
            spare_frames=1 if services else 0,
            workload_words=handler_words(args.vcpus),
        ),
        roles=roles,
        phases=(
            Phase(
                "register",
                "Finished creating vCPUs and starting uffd threads",
                {VMM: _register(args.userfault)},
            ),
            Phase(
                "paging",
                "",
                {VCPU: one_pass},
                lines=_lines(per_vcpu * args.vcpus),
                lasts=requests * args.delay / 1e6,
            ),
            Phase("check", "", {VMM: _check(args)}, lines=no_summary),
        ),
        headline="paging",
        counted=("paging",),
        header=("Testing guest mode: PA-bits:ANY, VA-bits:48,  4K pages",),
        pins=args.pin,
        services=services,
    )
