"""`nx-huge-pages`: the selftests' nx_huge_pages_test.

A vCPU reads and calls three 2M pages. A huge page may not be executable, so the first call in one
splits it; the recovery thread gives that back. After each step the statistics pages_2m and
nx_lpage_splits must be exactly what they should be; the test itself says nothing then. With -r the
same again on a VM that has NX huge pages disabled, where nothing is split.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping

from mmu.guest import vcpu_load, vcpu_put
from mmu.machine.layout import C_NX_HUGE_PAGES, STAT_NX_SPLITS, STAT_PAGES_2M, WORK_DONE
from mmu.machine.primitives import set_own
from mmu.spte import ACCESS_EXECUTE, ACCESS_READ
from mmu.vm import Vm
from workloads.actors.ending import destroy
from workloads.actors.memstress import memstress_batch
from workloads.actors.nx_recovery import begin_again, nx_recovery
from workloads.errors import RunFailed, UsageError
from workloads.options import LEVEL_PAGES, add_machine, vm_config
from workloads.plan import NX_RECOVERY, VCPU, VMM, Actor, Part, Phase, Plan, no_summary
from workloads.units import whole

NAME = "nx-huge-pages"
HELP = "nx_huge_pages_test: exact counters as huge pages split and come back"
POLICIES = ("huge-split", "flush")
EXAMPLES = ("-t 887563923 -p 100 -r", "-p 20 --huge-split zap")

MAGIC_TOKEN = 887563923
PERIOD_MS_MAX = 60_000
PERIODS = 5  # that the test waits
RATIO = 1  # the test's script sets it: everything is recovered at once
BACKING = 2
HUGE_PAGES = 3

Counters = tuple[int, int]  # pages_2m, nx_lpage_splits
# Which huge page is accessed and how, and what must be there afterwards, with NX huge pages and
# without; no page: the recovery thread has its turn.
STEPS: tuple[tuple[str, int, int, Counters, Counters], ...] = (
    ("read hp1", 1, ACCESS_READ, (1, 0), (1, 0)),
    ("read hp2", 2, ACCESS_READ, (2, 0), (2, 0)),
    ("call hp1", 1, ACCESS_EXECUTE, (1, 1), (2, 0)),
    ("call hp3", 3, ACCESS_EXECUTE, (1, 2), (3, 0)),
    ("read hp1 again", 1, ACCESS_READ, (1, 2), (3, 0)),
    ("reclaim", 0, 0, (1, 0), (3, 0)),
    ("read hp3", 3, ACCESS_READ, (2, 0), (3, 0)),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The selftest's flags; its script passes the first two."""
    parser.add_argument(
        "-p",
        "--reclaim-period-ms",
        type=whole("the period", 1, PERIOD_MS_MAX),
        default=100,
        metavar="MS",
        help="period of the recovery thread; the test waits for five (default 100)",
    )
    parser.add_argument(
        "-t",
        "--token",
        type=whole("the token", 0, (1 << 31) - 1),
        default=MAGIC_TOKEN,
        metavar="TOKEN",
        help=f"magic token by which the selftest knows its script (default {MAGIC_TOKEN})",
    )
    parser.add_argument(
        "-r",
        "--reboot-permission",
        action="store_true",
        help="with the permission to reboot NX huge pages can be disabled for a VM: test that too",
    )
    add_machine(parser, POLICIES, seeded=False)


def check_counters(vm: Vm, step: str, expected: Counters) -> None:
    """Raise RunFailed unless the VM's statistics are as they must be after the step."""
    found = (int(vm.words[STAT_PAGES_2M]), int(vm.words[STAT_NX_SPLITS]))
    if found != expected:
        raise RunFailed(
            f"after {step!r}: expected pages_2m {expected[0]}, nx_lpage_splits {expected[1]};"
            f" found {found[0]}, {found[1]}"
        )


def _start(name: str) -> Part:
    def part(actor: Actor) -> None:
        check_counters(actor.vm, name, (0, 0))

    return part


def _access(name: str, page: int, access: int, expected: Counters) -> Part:
    def part(actor: Actor) -> None:
        cpu = actor.cpu
        set_own(cpu, WORK_DONE, 0)
        first = actor.vm.config.gfn_base + (page - 1) * LEVEL_PAGES[BACKING]
        vcpu_load(cpu)
        actor.run(memstress_batch, first, 1, 0, 0, access, 1)
        vcpu_put(cpu)
        if not actor.stopping():
            check_counters(actor.vm, name, expected)

    return part


def _reclaim(name: str, period_ms: int, expected: Counters) -> Part:
    thread = nx_recovery(PERIODS * period_ms / 1000, period_ms, RATIO)

    def part(actor: Actor) -> None:
        thread(actor)
        if not actor.stopping():
            check_counters(actor.vm, name, expected)

    return part


def _disable_nx(actor: Actor) -> None:
    """A VM made anew in the same block, before its vCPUs run: NX huge pages are disabled for it."""
    begin_again(actor.cpu)
    actor.vm.words[C_NX_HUGE_PAGES] = 0
    check_counters(actor.vm, "another VM", (0, 0))


def _quiet_phase(name: str, parts: Mapping[str, Part], lasts: float = 0.0) -> Phase:
    return Phase(name, "", parts, lines=no_summary, lasts=lasts)


def _steps(nx: bool, period_ms: int) -> Iterator[Phase]:
    for name, page, access, with_nx, without in STEPS:
        expected = with_nx if nx else without
        full = name if nx else f"{name}, NX disabled"
        if page == 0:
            parts = {NX_RECOVERY: _reclaim(full, period_ms, expected)}
            yield _quiet_phase(full, parts, PERIODS * period_ms / 1000)
        else:
            yield _quiet_phase(full, {VCPU: _access(full, page, access, expected)})


def plan(args: argparse.Namespace) -> Plan:
    """One vCPU, the monitor, the recovery thread; three huge pages."""
    if args.token != MAGIC_TOKEN:
        raise UsageError(f"-t {args.token} is not the magic token {MAGIC_TOKEN}: leave it out")
    args.vcpus, args.backing = 1, BACKING
    period_ms = args.reclaim_period_ms
    phases = [_quiet_phase("start", {VCPU: _start("start")})]
    phases += _steps(args.nx_huge_pages, period_ms)
    if args.reboot_permission and args.nx_huge_pages:
        phases.append(_quiet_phase("disable NX", {VMM: _disable_nx}))
        phases += _steps(False, period_ms)
    phases.append(_quiet_phase("destroy", {VMM: destroy}))
    return Plan(
        workload=NAME,
        vm=vm_config(args, HUGE_PAGES * LEVEL_PAGES[BACKING], helpers=2),
        roles=(VCPU, VMM, NX_RECOVERY),
        phases=tuple(phases),
        headline="reclaim" if args.nx_huge_pages else "reclaim, NX disabled",
        counted=("reclaim",) if args.nx_huge_pages else ("reclaim, NX disabled",),
    )
