"""How often each actor of a torture run must have done its work: floors, and the table of rates.

A floor is a rate for a machine on which every process has a core; with more processes than cores it
is scaled by cores / processes.  Floors are about a tenth of the slowest rate seen on two busy
cores: below it an actor was starved or stuck, and the run says less than it seems to.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from mmu.machine.layout import C_WORKLOAD, LINE, N_ACCESSES
from mmu.vm import Vm
from workloads.actors.turmoil_words import COUNTED
from workloads.errors import RunFailed
from workloads.plan import Actor


@dataclass(frozen=True)
class Floor:
    """`what` (a name of COUNTED) happens at least `per_second` times where `feature` is on."""

    feature: str
    what: str
    per_second: float


ACCESSES = "accesses of the slowest vCPU"
ACCESSES_PER_SECOND = 20_000.0
FLOORS = (
    Floor("reclaim", "swapped out", 20.0),
    Floor("reclaim", "moved", 20.0),
    Floor("ksm", "write-protected by the host", 20.0),
    Floor("ageing", "pages looked at for age", 100.0),
    Floor("thp", "huge pages split by the host", 1.0),
    Floor("thp", "huge pages collapsed by the host", 0.2),
    Floor("slots", "memslots created", 5.0),
    Floor("slots", "memslots moved", 2.0),
    Floor("roots", "roots loaded", 5.0),
    Floor("mmio", "accesses of holes", 20.0),
    Floor("prefault", "pages prefaulted", 100.0),
    Floor("nx-recovery", "NX recoveries", 10.0),
    Floor("tracking", "gfns tracked", 20.0),
    Floor("migration", "migrations", 0.2),
)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def scale(processes: int) -> float:
    """What a floor is multiplied with."""
    return min(1.0, cores() / processes)


def counts(vm: Vm) -> dict[str, int]:
    """How often each thing was done, and how much the vCPU did that did least."""
    first = int(vm.words[C_WORKLOAD]) + LINE
    found = {what: int(vm.words[first + i]) for i, what in enumerate(COUNTED)}
    vcpus = range(vm.config.vcpus)
    found[ACCESSES] = min(int(vm.actor_words(vcpu)[N_ACCESSES]) for vcpu in vcpus)
    return found


def floors(features: Mapping[str, bool], seconds: float, processes: int) -> dict[str, int]:
    """{what: how often at least} of a run of `seconds`."""
    factor = seconds * scale(processes)
    wanted = {each.what: each.per_second for each in FLOORS if features[each.feature]}
    wanted[ACCESSES] = ACCESSES_PER_SECOND
    return {what: int(rate * factor) for what, rate in wanted.items()}


def report_counts(actor: Actor) -> None:
    """Tell the supervisor, for the run's document and table."""
    for what, value in counts(actor.vm).items():
        actor.report(what, value)


def check_rates(actor: Actor, features: Mapping[str, bool], seconds: float, processes: int) -> None:
    """Raise RunFailed if something that was switched on happened too seldom."""
    found = counts(actor.vm)
    for what, least in floors(features, seconds, processes).items():
        if found[what] < least and not actor.stopping():
            raise RunFailed(
                f"{what}: {found[what]} in {seconds:.0f} s, at least {least} were to be expected"
                f" with {processes} processes on {cores()} cores: somebody was starved or stuck"
            )


def rate_lines(
    features: Mapping[str, bool], seconds: float, processes: int, counters: Mapping[str, int]
) -> list[str]:
    """The table of what was done."""
    least = floors(features, seconds, processes)
    lines = [f"{'What was done':<36}{'times':>12}{'per second':>12}{'at least':>10}"]
    for what in (ACCESSES, *COUNTED):
        value = counters.get(what, 0)
        if value or what in least:
            floor = str(least[what]) if what in least else "-"
            lines.append(f"{what:<36}{value:>12}{value / seconds:>12.1f}{floor:>10}")
    return lines
