"""`memslot-modification`: the selftests' memslot_modification_stress_test.

While vCPUs write all their memory again and again, the monitor adds and deletes a memslot of one
page that nobody uses.  Each deletion makes everything that is mapped go: all roots are invalidated,
and the vCPUs fault their memory in again on a new one.  No figure is of interest: it is clean, and
every write of every pass is there at the end, or not.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence

import numpy as np

from mmu.host.frames import VALUE_MASK, VALUE_SHIFT
from mmu.machine.blocking import add_and_wake
from mmu.machine.futex import raw_load
from mmu.machine.layout import C_WORKLOAD, LINE, PHASE_WORK, WORK_DONE
from mmu.machine.primitives import config, set_own
from mmu.slot_changes import create_memslot, delete_memslot
from mmu.vm import Vm
from workloads.actors.ending import destroy
from workloads.actors.memslot_area import rest
from workloads.actors.vcpu import memstress_pass
from workloads.actors.zap_worker import worker_service
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
from workloads.plan import VCPU, VMM, Actor, Part, Phase, Plan, no_summary
from workloads.units import parse_duration, whole

NAME = "memslot-modification"
HELP = "memslot_modification_stress_test: add and delete a memslot while vCPUs run"
POLICIES = ("root-life", "zap-by", "zap-steps", "flush")
EXAMPLES = (
    "-v 2 -b 64M -i 1000",
    "-v 8 -b 64M --seconds 90s -d 500 --compare zap-by",
)
DUMMY = 1  # number of the memslot that comes and goes
DELAY_US_MAX = 10_000_000
ROOTS = 3  # the one in use, one that is being zapped, and one to spare

# Words of the workload: whether the monitor is done, then a line for each vCPU's passes.
DONE, FIRST_PASSES = 0, LINE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The selftest's flags, and --seconds."""
    add_vcpus(parser)
    add_pin(parser)
    add_memory(parser)
    add_guest_mode(parser)
    parser.add_argument(
        "-d",
        "--delay",
        type=whole("the delay", 0, DELAY_US_MAX),
        default=0,
        metavar="USEC",
        help="microseconds to sleep before the memslot is added (default 0)",
    )
    parser.add_argument(
        "-i",
        "--iterations",
        type=whole("iterations", 1, 1_000_000_000),
        default=10,
        metavar="N",
        help="how often the memslot is added and deleted (default 10)",
    )
    parser.add_argument(
        "--seconds",
        type=parse_duration,
        default=None,
        metavar="TIME",
        help="add and delete it for so long instead: 60, 90s, 10m; -i is ignored then",
    )
    add_machine(parser, POLICIES, seeded=False)  # it writes every page, in order


# --- Parts ---------------------------------------------------------------------------------------


def _pass_and_count(one_pass: Part) -> Part:
    """A pass over the vCPU's memory, counted for the check at the end."""

    def part(actor: Actor) -> None:
        one_pass(actor)
        mine = config(actor.cpu, C_WORKLOAD) + FIRST_PASSES + actor.index * LINE
        actor.cpu.words[mine] += 1

    return part


def _pass_until_done(counted_pass: Part) -> Part:
    """Passes until the monitor has done its part, at least one."""

    def part(actor: Actor) -> None:
        done = config(actor.cpu, C_WORKLOAD) + DONE
        while True:
            counted_pass(actor)
            if actor.stopping() or raw_load(actor.cpu, done):
                return

    return part


def _modify(args: argparse.Namespace) -> Part:
    """Add and delete the dummy so often, or for so long; then the vCPUs may end."""

    def part(actor: Actor) -> None:
        cpu = actor.cpu
        home, _ = actor.vm.config.memslots()[DUMMY]
        end = time.monotonic() + (args.seconds or 0.0)
        set_own(cpu, PHASE_WORK, 0 if args.seconds else args.iterations)
        number = 0
        while not actor.stopping():
            finished = time.monotonic() >= end if args.seconds else number == args.iterations
            if finished:
                break
            if args.delay:
                time.sleep(args.delay / 1e6)
            create_memslot(cpu, DUMMY, home)
            delete_memslot(cpu, DUMMY)
            number += 1
            set_own(cpu, WORK_DONE, number)
            rest(cpu)
        actor.report("memslot_modifications", number)
        add_and_wake(cpu, config(cpu, C_WORKLOAD) + DONE, 1)

    return part


def check_writes(vm: Vm, passes: Sequence[int], overlap: bool) -> None:
    """Raise RunFailed unless each page holds one write for each pass of those who write it."""
    pages = vm.config.memslots()[0][1]
    held = (vm.frames[:pages] >> VALUE_SHIFT) & VALUE_MASK
    if overlap:
        due = np.full(pages, sum(passes))
    else:
        due = np.repeat(np.array(passes, np.int64), pages // len(passes))
    wrong = np.flatnonzero(held != due & VALUE_MASK)
    if len(wrong):
        page = int(wrong[0])
        raise RunFailed(
            f"{len(wrong)} pages do not hold what was written: the first, gfn"
            f" {vm.config.gfn_base + page:#x}, holds {int(held[page])} writes, not {int(due[page])}"
        )


def _end(overlap: bool) -> Part:
    def part(actor: Actor) -> None:
        words = actor.vm.region("workload")
        vcpus = actor.vm.config.vcpus
        passes = [int(words[FIRST_PASSES + vcpu * LINE]) for vcpu in range(vcpus)]
        check_writes(actor.vm, passes, overlap)
        actor.report("memslot_passes", sum(passes))
        destroy(actor)

    return part


def _summary(seconds: Mapping[str, float], counters: Mapping[str, int]) -> list[str]:
    number, passes = counters["memslot_modifications"], counters["memslot_passes"]
    return [
        f"{number:,} times added and deleted a memslot: {counters['roots_invalidated']:,} roots"
        f" invalidated, {counters['sptes_zapped']:,} SPTEs zapped; {passes:,} passes of vCPUs,"
        " all their writes found"
    ]


def plan(args: argparse.Namespace) -> Plan:
    """One memslot of all memory and the dummy, which is nowhere at first.

    The selftest's dummy lies before the memory, not behind it; nobody ever uses it.
    """
    pages = guest_pages(args)
    services = worker_service(args.zap_by)
    roles = (VCPU,) * args.vcpus + (VMM, *services)
    check_pins(args, len(roles))
    one_pass = _pass_and_count(
        memstress_pass(
            pages=pages if args.overlap else pages // args.vcpus,
            partitioned=not args.overlap,
            write_percent=100,
        )
    )
    parts = {VCPU: _pass_until_done(one_pass), VMM: _modify(args)}
    lasts = args.seconds or args.iterations * args.delay / 1e6
    return Plan(
        workload=NAME,
        vm=vm_config(
            args,
            pages + 1,
            helpers=len(roles) - args.vcpus,
            slots=2,
            absent_slots=1,
            slot_pages=(pages, 1),
            roots=ROOTS,
            workload_words=FIRST_PASSES + args.vcpus * LINE,
        ),
        roles=roles,
        phases=(
            # Each has been through its memory once: the first deletion has something to zap.
            Phase("start", "Started all vCPUs", {VCPU: one_pass}),
            Phase("modify", "All vCPU threads joined", parts, lasts=lasts),
            Phase("destroy", "", {VMM: _end(args.overlap)}, lines=no_summary),
        ),
        headline="modify",
        counted=("start", "modify"),
        header=(
            "Testing guest mode: PA-bits:ANY, VA-bits:48,  4K pages",
            "Finished creating vCPUs",
        ),
        summary=_summary,
        pins=args.pin,
        services=services,
    )
