"""`dirty-log`: the selftests' dirty_log_perf_test, with its flags, phases and printed lines.

Populate; enable dirty logging; N times: every vCPU passes over its memory once, writing some
pages, then the log is fetched; disable dirty logging.  "Iteration 1 dirty memory" is the phase
that the 2022 tables (split on fault) compare: it holds the huge pages' splits.  With
`--dirty-log-mode manual` or `initially-set` the log is cleared by a call of its own, as in the
selftest without -g.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from mmu.dirty_clear import CLEARED, clear_dirty_log
from mmu.dirty_log import disable_dirty_log, enable_dirty_log, get_dirty_log
from mmu.vm import GFN_BASE
from workloads.actors.vcpu import memstress_pass
from workloads.errors import RunFailed, UsageError
from workloads.options import (
    PAGE_BYTES,
    add_guest_mode,
    add_machine,
    add_memory,
    add_pin,
    add_vcpus,
    check_pins,
    guest_pages,
    physical_base,
    vm_config,
)
from workloads.plan import VCPU, VMM, Actor, Part, Phase, Plan
from workloads.units import parse_size, whole

NAME = "dirty-log"
HELP = "dirty_log_perf_test: populate, log writes, fetch the log, N times"
POLICIES = ("huge-split", "flush", "dirty-log-mode")
EXAMPLES = (
    "-g -v 4 -b 64M -s 2m -w 5 --compare huge-split",
    "-v 2 -b 256M -x 4 -i 5 --no-pml",
    "-v 2 -b 64M -s 2m --compare dirty-log-mode",
)
SLOTS_MAX = 512


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The selftest's flags, as far as they mean something here."""
    add_vcpus(parser)
    add_pin(parser)
    add_memory(parser)
    parser.add_argument(
        "-i",
        "--iterations",
        type=whole("iterations", 1, 10_000),
        default=2,
        metavar="N",
        help="passes with logging on (default 2)",
    )
    parser.add_argument(
        "-w",
        "--write-percent",
        type=whole("the write percentage", 0, 100),
        default=100,
        metavar="P",
        help="share of accesses that write (default 100)",
    )
    parser.add_argument(
        "--write-regions",
        type=whole("the regions", 1, 1 << 20),
        default=1,
        metavar="N",
        help="write only in the first of every N 2M-regions (default 1: everywhere)",
    )
    _add_memory_shape(parser)
    parser.add_argument(
        "-a", "--random-access", action="store_true", help="pages at random, not in order"
    )
    parser.add_argument(
        "-e",
        dest="run_while_disabling",
        action="store_true",
        help="run the vCPUs while dirty logging is being disabled",
    )
    parser.add_argument(
        "-g",
        dest="dirty_log_mode",
        action="store_const",
        const="get",
        default=argparse.SUPPRESS,
        help="fetching the log clears it, and logging covers all pages from the start: the"
        " default here (unlike the selftest, whose default is manual protection)",
    )
    add_machine(parser, POLICIES)


def _add_memory_shape(parser: argparse.ArgumentParser) -> None:
    """Where the memory lies and who runs in it."""
    parser.add_argument(
        "-x",
        "--slots",
        type=whole("slots", 1, SLOTS_MAX),
        default=1,
        metavar="N",
        help="memslots to divide the memory into (default 1)",
    )
    parser.add_argument(
        "-p",
        "--phys-offset",
        type=parse_size,
        default=GFN_BASE * PAGE_BYTES,
        metavar="SIZE",
        help="guest physical address where the memory begins (default 4G)",
    )
    add_guest_mode(parser)
    parser.add_argument(
        "-n", dest="nested", action="store_true", help="run the vCPUs as L2: not modelled yet"
    )


def _enable(actor: Actor) -> None:
    for slot in range(actor.vm.config.slots):
        if enable_dirty_log(actor.cpu, slot) != 0:
            raise RunFailed(f"no page-table page is left to split memslot {slot}")


def _disable(actor: Actor) -> None:
    for slot in range(actor.vm.config.slots):
        disable_dirty_log(actor.cpu, slot)


def _get(actor: Actor) -> None:
    for slot in range(actor.vm.config.slots):
        get_dirty_log(actor.cpu, slot)


def _clear(actor: Actor) -> None:
    for slot, (_, pages) in enumerate(actor.vm.config.memslots()):
        if clear_dirty_log(actor.cpu, slot, 0, pages) != CLEARED:
            raise RunFailed(f"KVM_CLEAR_DIRTY_LOG refuses all of memslot {slot}")


def _summary(seconds: Mapping[str, float], counters: Mapping[str, int]) -> list[str]:
    said = []
    for what in ("Get", "Clear"):
        took = [s for name, s in seconds.items() if name.endswith(f"{what.lower()} dirty log")]
        if took:
            said.append(
                f"{what} dirty log over {len(took)} iterations took {sum(took):.9f}s."
                f" (Avg {sum(took) / len(took):.9f}s/iteration)"
            )
    return said


def plan(args: argparse.Namespace) -> Plan:
    """Derive VM and phases; raises UsageError if the options do not fit together."""
    pages = guest_pages(args)
    check_pins(args, args.vcpus + 1)
    if args.nested:
        raise UsageError("-n: nested guests are not modelled yet; leave it out")
    if pages % args.slots:
        raise UsageError(f"-x {args.slots} does not divide {pages} pages: choose a divisor")
    per_vcpu = pages if args.overlap else pages // args.vcpus
    common = {
        "pages": per_vcpu,
        "partitioned": not args.overlap,
        "seed": args.seed,
    }
    populate = memstress_pass(write_percent=100, **common)
    dirty = memstress_pass(
        write_percent=args.write_percent,
        at_random=args.random_access,
        regions=args.write_regions,
        **common,
    )
    phases = [Phase("populate", "Populate memory time: {seconds}", {VCPU: populate})]
    phases.append(Phase("enable", "Enabling dirty logging time: {seconds}\n", {VMM: _enable}))
    for i in range(1, args.iterations + 1):
        line = f"Iteration {i} dirty memory time: {{seconds}}"
        phases.append(Phase(f"iteration {i} dirty memory", line, {VCPU: dirty}))
        line = f"Iteration {i} get dirty log time: {{seconds}}"
        phases.append(Phase(f"iteration {i} get dirty log", line, {VMM: _get}))
        if args.dirty_log_mode != "get":
            line = f"Iteration {i} clear dirty log time: {{seconds}}"
            phases.append(Phase(f"iteration {i} clear dirty log", line, {VMM: _clear}))
    parts: dict[str, Part] = {VMM: _disable}
    if args.run_while_disabling:
        parts[VCPU] = dirty
    phases.append(Phase("disable", "Disabling dirty logging time: {seconds}", parts))

    return Plan(
        workload=NAME,
        vm=vm_config(args, pages, slots=args.slots, gfn_base=physical_base(args)),
        roles=(VCPU,) * args.vcpus + (VMM,),
        phases=tuple(phases),
        pins=args.pin,
        headline="iteration 1 dirty memory",
        counted=("enable", "iteration 1 dirty memory", "iteration 1 get dirty log"),
        header=(
            f"Test iterations: {args.iterations}",
            "Testing guest mode: PA-bits:ANY, VA-bits:48,  4K pages",
            f"Random seed: {args.seed}",
        ),
        summary=_summary,
    )
