"""`memslot-perf`: the selftests' memslot_perf_test, with its flags, tests and printed lines.

Each run lays the memory out anew: up to 512 memslots over the test's area, created one by one,
which is timed.  Then guest and host do the test's loop for some time: the host gives memory up
(map, unmap, unmap chunked), moves the last memslot away and back while the guest writes across its
border (move active area) or right before it (move inactive area), or both write (RW).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from workloads.actors.ending import destroy
from workloads.actors.zap_worker import worker_service
from workloads.errors import UsageError
from workloads.memslot_sides import WORKLOAD_WORDS, Arena
from workloads.memslot_tests import (
    EXTRA_PAGES,
    TESTS,
    SlotTest,
    guest_part,
    host_part,
    set_up,
)
from workloads.options import add_machine, vm_config
from workloads.plan import VCPU, VMM, Phase, Plan, Summary, no_summary
from workloads.units import parse_duration, whole

NAME = "memslot-perf"
HELP = "memslot_perf_test: map, unmap, move and use memory of up to 512 memslots"
POLICIES = ("root-life", "zap-by", "zap-steps", "flush")
EXAMPLES = (
    "-l 1",
    "-f 3 -e 4 -s 64 -l 1 -r 3 -v --compare zap-by",
)
SLOTS_MAX = 512  # the model looks for a gfn's memslot one by one
KVM_SLOTS_MAX = 32_764
SPARE_FRAMES = 64
ROOTS = 3  # the one in use, one that is being zapped, and one to spare

Counters = Mapping[str, int]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The selftest's flags; -v and -r mean what they mean there."""
    numbers = ", ".join(f"{number} {test.name}" for number, test in enumerate(TESTS))
    last = len(TESTS) - 1
    parser.set_defaults(vcpus=1, backing=1)
    parser.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="also print the memslots' sizes, MMIO exits, and counters of every test; there is"
        " always one vCPU",
    )
    parser.add_argument(
        "-d",
        "--verify",
        action="store_true",
        help="look at every page before and after its memory is given up, and let the guest of"
        " the unmap tests write every page; without it, the first and last of each half, and all"
        " that the guest touches",
    )
    parser.add_argument(
        "-s",
        "--slots",
        type=whole("the memslot cap", -1, SLOTS_MAX),
        default=-1,
        metavar="N",
        help=f"memslots to divide the area into, {SLOTS_MAX} at most; -1 means {SLOTS_MAX} here,"
        f" {KVM_SLOTS_MAX:,} in the selftest (default -1)",
    )
    for flag, name, which, default in (("-f", "first", "first", 0), ("-e", "last", "last", last)):
        parser.add_argument(
            flag,
            dest=name,
            type=whole(f"the {which} test", 0, last),
            default=default,
            metavar="TEST",
            help=f"{which} test to run: {numbers} (default {default})",
        )
    parser.add_argument(
        "-l",
        "--length",
        type=parse_duration,
        default=5.0,
        metavar="TIME",
        help="how long each run goes on, also 0.05; its last loop is finished (default 5)",
    )
    parser.add_argument(
        "-r",
        "--runs",
        type=whole("the runs", 1, 1000),
        default=1,
        metavar="N",
        help="runs of each test, of which the best counts (default 1)",
    )
    add_machine(parser, POLICIES, seeded=False)


# --- Lines ---------------------------------------------------------------------------------------


def _seconds(ns: int) -> str:
    return f"{ns // 10**9}.{ns % 10**9:09d}s"


def _key(test: SlotTest, run: int) -> str:
    """What the run's own counters begin with."""
    return f"{test.name.replace(' ', '_').lower()}_{run}"


def _per_loop(counters: Counters, key: str) -> int:
    """Nanoseconds for each loop, 0 if none was finished."""
    loops = counters[f"{key}_iterations"]
    return counters[f"{key}_runtime_ns"] // loops if loops else 0


def _set_up_lines(args: argparse.Namespace, test: SlotTest, run: int, arena: Arena) -> Summary:
    """The test's title before its first run; with -v also how the memslots lie."""

    def lines(seconds: Mapping[str, float], counters: Counters) -> list[str]:
        said = []
        if run == 1:
            if test is not TESTS[args.first]:
                said.append("")
            said.append(
                f"Testing {test.name} performance with {args.runs} runs,"
                f" {args.length:g} seconds each"
            )
        if args.verbose:
            rest = arena.sizes()[-1] - arena.per_slot
            said.append(
                f"Memslots 1 to {arena.slots}: {arena.per_slot} pages each, {rest} more in the last"
            )
        return said

    return lines


def _run_lines(args: argparse.Namespace, test: SlotTest, run: int) -> Summary:
    """Times of a run, and after the last one the best of all."""

    def lines(seconds: Mapping[str, float], counters: Counters) -> list[str]:
        key = _key(test, run)
        set_up_ns, took_ns = counters[f"{key}_slot_setup_ns"], counters[f"{key}_runtime_ns"]
        said = [
            f"Test took {_seconds(set_up_ns)} for slot setup + {_seconds(took_ns)} all iterations"
        ]
        loops = counters[f"{key}_iterations"]
        if loops:
            said.append(f"Done {loops} iterations, avg {_seconds(_per_loop(counters, key))} each")
        else:
            said.append("No full loops done - too short test time or system too loaded?")
        if args.verbose:
            said.append(f"{counters['mmio_exits']} MMIO exits so far")
        keys = [_key(test, each) for each in range(1, args.runs + 1)]
        ranked = [(_per_loop(counters, k), k) for k in keys if counters.get(f"{k}_iterations")]
        if run == args.runs and ranked:
            best_ns, best = min(ranked)
            said.append(
                f"Best runtime result was {_seconds(best_ns)} per iteration"
                f" (with {counters[f'{best}_iterations']} iterations)"
            )
        return said

    return lines


def _summary(tests: tuple[SlotTest, ...], runs: int) -> Summary:
    """The best slot set-up of the tests that use all memory."""

    def lines(seconds: Mapping[str, float], counters: Counters) -> list[str]:
        keys = [_key(test, run) for test in tests if test.whole for run in range(1, runs + 1)]
        times = [counters[f"{k}_slot_setup_ns"] for k in keys if counters[f"{k}_iterations"]]
        if not times:
            return []
        return [f"Best slot setup time for the whole test area was {_seconds(min(times))}"]

    return lines


# --- The plan ------------------------------------------------------------------------------------


def _phases(args: argparse.Namespace, tests: tuple[SlotTest, ...], slots: int) -> list[Phase]:
    phases = []
    for test in tests:
        arena = Arena(test.pages + EXTRA_PAGES, slots, args.verify)
        for run in range(1, args.runs + 1):
            key = _key(test, run)
            name = test.name if args.runs == 1 else f"{test.name} {run}"
            ready = set_up(arena, f"{key}_slot_setup_ns")
            said = _set_up_lines(args, test, run, arena)
            phases.append(Phase(f"{name}: set up", "", {VMM: ready}, lines=said))
            parts = {VCPU: guest_part(test, arena), VMM: host_part(test, arena, args.length, key)}
            said = _run_lines(args, test, run)
            phases.append(Phase(name, "", parts, lines=said, lasts=args.length))
    phases.append(Phase("destroy", "", {VMM: destroy}, lines=no_summary))
    return phases


def plan(args: argparse.Namespace) -> Plan:
    """All memslots are nowhere at first; raises UsageError if the options do not fit together."""
    if args.first > args.last:
        raise UsageError(f"-f {args.first} is behind -e {args.last}: give a first test up to it")
    if args.slots == 0:
        raise UsageError(f"-s 0: give 1 to {SLOTS_MAX} memslots, or -1 for {SLOTS_MAX}")
    tests = TESTS[args.first : args.last + 1]
    slots = SLOTS_MAX if args.slots < 0 else args.slots
    moving = [test.name for test in tests if test.name.startswith("move")]
    if slots == 1 and moving:
        raise UsageError(
            f"-s 1: {moving[0]!r} needs memory before the last memslot; give 2 or more"
        )
    largest = Arena(max(test.pages for test in tests) + EXTRA_PAGES, slots)
    services = worker_service(args.zap_by)
    phases = _phases(args, tests, slots)
    runs = tuple(phase.name for phase in phases if VCPU in phase.parts)
    return Plan(
        workload=NAME,
        vm=vm_config(
            args,
            largest.pages,
            helpers=1 + len(services),
            slots=slots,
            absent_slots=slots,
            slot_pages=largest.sizes(),
            roots=ROOTS,
            spare_frames=SPARE_FRAMES,
            workload_words=WORKLOAD_WORDS,
        ),
        roles=(VCPU, VMM, *services),
        phases=tuple(phases),
        headline=runs[0],
        counted=runs if args.verbose else (),
        header=(_header(args, slots),),
        summary=_summary(tests, args.runs),
        services=services,
    )


def _header(args: argparse.Namespace, slots: int) -> str:
    asked = f"; no cap would be {KVM_SLOTS_MAX:,} in KVM" if args.slots < 0 else ""
    return f"Memslots: {slots} ({SLOTS_MAX} at most here{asked})"
