"""`execute`: the execute_perf_test of the 2022 split-on-fault patch: populate, then execute.

Every vCPU writes a return instruction to each of its pages, then calls each page once.  With NX
huge pages the first call in a huge page needs a 4K mapping there: dropping the huge page lets
every other page fault again, splitting it does not.
"""

from __future__ import annotations

import argparse

from mmu.spte import ACCESS_EXECUTE
from workloads.actors.vcpu import memstress_pass
from workloads.options import (
    add_machine,
    add_memory,
    add_pin,
    add_vcpus,
    check_pins,
    guest_pages,
    vm_config,
)
from workloads.plan import VCPU, Phase, Plan

NAME = "execute"
HELP = "execute_perf_test: populate memory, then execute from every page"
POLICIES = ("huge-split", "flush")
EXAMPLES = ("-v 2 -b 1G -s 1g --compare huge-split",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The selftest's flags."""
    add_vcpus(parser)
    add_pin(parser)
    add_memory(parser)
    add_machine(parser, POLICIES)


def plan(args: argparse.Namespace) -> Plan:
    """Derive VM and phases; raises UsageError if the options do not fit together."""
    pages = guest_pages(args)
    check_pins(args, args.vcpus)
    common = {
        "pages": pages if args.overlap else pages // args.vcpus,
        "partitioned": not args.overlap,
        "seed": args.seed,
    }
    populate = memstress_pass(write_percent=100, **common)
    execute = memstress_pass(write_percent=0, kind=ACCESS_EXECUTE, **common)
    return Plan(
        workload=NAME,
        vm=vm_config(args, pages),
        roles=(VCPU,) * args.vcpus,
        phases=(
            Phase("populate", f"{'Populating memory':<30}: {{seconds}}", {VCPU: populate}),
            Phase("execute", f"{'Executing from memory':<30}: {{seconds}}", {VCPU: execute}),
        ),
        pins=args.pin,
        headline="execute",
        counted=("populate", "execute"),
    )
