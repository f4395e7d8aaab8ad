"""What a workload is: a VM, actors with roles, and phases in which each role has a part.

A workload module has `NAME`, `HELP`, `add_arguments(parser)` and `plan(args)`; it knows nothing of
processes, barriers or tables.  The harness runs its plan.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from mmu.machine.cpu import Cpu
from mmu.vm import Vm, VmConfig

VCPU = "vcpu"
VMM = "vmm"  # the thread of the virtual machine monitor that calls ioctls
ZAP_WORKER = "zap worker"
NX_RECOVERY = "kvm-nx-lpage-recovery"  # the kernel thread of that name
MIGRATION = "migration"  # a thread of the monitor
IDLE_SCAN = "idle scan"  # a thread of the host that looks for old pages
HOST = "host"  # the host's own threads: reclaim, migration of pages, huge pages, KSM


class Actor(Protocol):
    """One process of the run, as a part sees it."""

    cpu: Cpu
    vm: Vm
    index: int  # within the role

    def run(self, batch: Callable[..., int], *arguments: int) -> None:
        """Call `batch(cpu, *arguments, limit)` until it has nothing left or the run stops."""

    def run_for(self, seconds: float, turn: Callable[..., int], *arguments: int) -> None:
        """Call `turn(cpu, *arguments)` again and again for so long, or until the run stops."""

    def stopping(self) -> bool:
        """Whether the run is to end."""

    def wait_until(self, ready: Callable[[], bool], line: int) -> bool:
        """Sleep for word `line` until `ready()`; False if the run stops first."""

    def report(self, name: str, value: int) -> None:
        """A counter of the workload's own, for the run's document."""


Part = Callable[[Actor], None]
# Lines to print, from the seconds of the phases so far and the counters so far, reported ones too.
Summary = Callable[[Mapping[str, float], Mapping[str, int]], list[str]]


def no_summary(seconds: Mapping[str, float], counters: Mapping[str, int]) -> list[str]:
    """Nothing to say."""
    return []


@dataclass(frozen=True)
class Phase:
    """One timed step of a workload: the part of each role that takes part in it.

    `line` is what the selftest prints, with `{seconds}` for the time; where that is not enough,
    `lines` says it instead.  `lasts` is for how many seconds at least the parts go on, where
    options say so and not the amount of work.
    """

    name: str
    line: str
    parts: Mapping[str, Part]
    lines: Summary | None = None
    lasts: float = 0.0


@dataclass(frozen=True)
class Comparison:
    """A workload's own table over the runs of `--compare`, and lines below it."""

    titles: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A workload, ready to run.

    `headline` names the phase that tables compare, `counted` those whose counters are shown;
    `header` and `summary` are the lines before and after the phases.  `services` are roles that
    take part in no phase: each plays its one part from the beginning until the run stops.
    `features` are what a random run does and does not.
    """

    workload: str
    vm: VmConfig
    roles: tuple[str, ...]  # of actor 0, 1, ...
    phases: tuple[Phase, ...]
    headline: str
    counted: tuple[str, ...]
    header: tuple[str, ...] = ()
    summary: Summary = no_summary
    pins: tuple[int, ...] = ()  # core of actor 0, 1, ...; actors behind the end are free
    services: Mapping[str, Part] = field(default_factory=dict)
    features: Mapping[str, bool] = field(default_factory=dict)  # switched on and off by the seed


class Workload(Protocol):
    """A workload module; its docstring is what `--help` begins with.

    It may also have `EXAMPLES`, words to type after the workload's name, `RING`, how many of an
    actor's last events are kept by default, `LISTS`, options with several values that `--compare`
    takes apart, and `comparison(compare, runs) -> Comparison` over
    the runs' documents.
    """

    NAME: str
    HELP: str
    POLICIES: tuple[str, ...]  # policies that make a difference here

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the workload's options."""

    def plan(self, args: argparse.Namespace) -> Plan:
        """Derive everything from the options; raises UsageError if they do not fit together."""
