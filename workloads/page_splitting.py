"""`page-splitting`: the selftests' dirty_log_page_splitting_test: what logging does to huge pages.

Two vCPUs write all of two memslots, which are mapped by huge pages.  Dirty logging splits these,
either when it begins or, with manual protection, when the log is cleared for the first time; when
it ends they must come back.  Runs both ways and fails where a page count is not what it has to be.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mmu.dirty_clear import CLEARED, clear_dirty_log
from mmu.dirty_log import disable_dirty_log, enable_dirty_log, get_dirty_log
from mmu.machine import layout as at
from mmu.policy import DIRTY_LOG_MODE
from workloads.actors.vcpu import leave_root, memstress_pass
from workloads.errors import RunFailed, UsageError
from workloads.options import LEVEL_PAGES, add_machine, guest_pages, vm_config
from workloads.plan import VCPU, VMM, Actor, Part, Phase, Plan, Summary, no_summary
from workloads.units import parse_backing, parse_size

NAME = "page-splitting"
HELP = "dirty_log_page_splitting_test: huge pages while logging and after it"
POLICIES = ("flush",)
EXAMPLES = ("", "-b 128M", "-s anonymous_hugetlb_1gb --no-pml")
VCPUS = 2
SLOTS = 2
ITERATIONS = 2
# How the selftest calls it, and the mode: manual protection begins with all set where it can.
MODES = (("get", "get"), ("manual protect", "initially-set"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The selftest's flags; two vCPUs, two memslots and two iterations are fixed there too."""
    parser.add_argument(
        "-b",
        "--bytes-per-vcpu",
        type=parse_size,
        default=parse_size("1G"),
        metavar="SIZE",
        help="guest memory per vCPU, a multiple of the backing page (default 1G)",
    )
    parser.add_argument(
        "-s",
        "--backing",
        type=parse_backing,
        default=2,
        metavar="SIZE",
        help="host pages: 2m, 1g, or the selftests' names (default anonymous_hugetlb, which is 2m)",
    )
    add_machine(parser, POLICIES)


@dataclass
class Counts:
    """kvm_stat pages_4k, pages_2m and pages_1g at the test's moments, kept by the monitor."""

    title: str
    pages: int
    at: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def key(self, moment: str, size: str) -> str:
        """Name of the reported counter."""
        return f"{self.title}_{moment}_pages_{size}".replace(" ", "_")

    def note(self, actor: Actor, moment: str) -> None:
        """Look at the statistics."""
        words = actor.vm.words
        small, large = int(words[at.STAT_PAGES_4K]), int(words[at.STAT_PAGES_2M])
        self.at[moment] = (small, large, int(words[at.STAT_PAGES_1G]))
        for size, value in zip(("4k", "2m", "1g"), self.at[moment], strict=True):
            actor.report(self.key(moment, size), value)

    def huge(self, moment: str) -> int:
        """Huge pages of both sizes."""
        return self.at[moment][1] + self.at[moment][2]

    def require(self, holds: bool, moment: str, expected: str) -> None:
        """Fail as the selftest's assertion would."""
        if not holds:
            small, large, largest = self.at[moment]
            raise RunFailed(
                f"{self.title}: {moment} there are {small} pages of 4K, {large} of 2M and"
                f" {largest} of 1G; expected {expected}"
            )

    def check(self) -> None:
        """The selftest's assertions."""
        _, large, largest = self.at["populated"]
        covered = large * LEVEL_PAGES[2] + largest * LEVEL_PAGES[3]
        self.require(covered == self.pages, "populated", f"huge ones for all {self.pages} pages")
        split = "enabled"
        if self.title != MODES[0][0]:
            same = self.huge("enabled") == self.huge("populated")
            self.require(same, "enabled", f"{self.huge('populated')} huge ones still")
            split = "cleared 1"
        self.require(self.huge(split) == 0, split, "no huge one")
        self.require(self.at[split][0] >= self.pages, split, f"{self.pages} of 4K at least")
        back = self.at["repopulated"][1:] == self.at["populated"][1:]
        self.require(back, "repopulated", f"{large} of 2M and {largest} of 1G, as in the beginning")


def _lines(counts: Counts, *moments: tuple[str, str]) -> Summary:
    """What the selftest prints of the page counts at these moments."""

    def lines(seconds: Mapping[str, float], counters: Mapping[str, int]) -> list[str]:
        said = []
        for moment, doing in moments:
            small, large, largest = (
                counters[counts.key(moment, size)] for size in ("4k", "2m", "1g")
            )
            said += [
                f"Page stats after {doing}: 4K: {small} 2M: {large} 1G: {largest}"
                f" huge: {large + largest}"
            ]
        return said

    return lines


def _each_slot(call: Callable[[Actor, int], None]) -> Part:
    def part(actor: Actor) -> None:
        for slot in range(SLOTS):
            call(actor, slot)

    return part


def _enable(counts: Counts, mode: str) -> Part:
    def part(actor: Actor) -> None:
        counts.note(actor, "populated")
        # KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, before anything is logged.
        actor.vm.words[at.C_DIRTY_LOG_MODE] = DIRTY_LOG_MODE[mode]
        for slot in range(SLOTS):
            if enable_dirty_log(actor.cpu, slot) != 0:
                raise RunFailed(f"no page-table page is left to split memslot {slot}")
        counts.note(actor, "enabled")

    return part


def _get_and_clear(counts: Counts, number: int, manual: bool) -> Part:
    def part(actor: Actor) -> None:
        counts.note(actor, f"dirtied {number}")
        for slot in range(SLOTS):
            get_dirty_log(actor.cpu, slot)
        if manual:
            for slot, (_, pages) in enumerate(actor.vm.config.memslots()):
                if clear_dirty_log(actor.cpu, slot, 0, pages) != CLEARED:
                    raise RunFailed(f"KVM_CLEAR_DIRTY_LOG refuses all of memslot {slot}")
            counts.note(actor, f"cleared {number}")

    return part


def _disable(counts: Counts) -> Part:
    def part(actor: Actor) -> None:
        for slot in range(SLOTS):
            disable_dirty_log(actor.cpu, slot)
        counts.note(actor, "disabled")

    return part


def _check(counts: Counts) -> Part:
    def part(actor: Actor) -> None:
        counts.note(actor, "repopulated")
        if not actor.stopping():
            counts.check()

    return part


def _phases(title: str, mode: str, pages: int, touch: Part) -> list[Phase]:
    """One run of the test; afterwards no root is left, as of a VM that is gone."""
    counts = Counts(title, pages)
    manual = mode != "get"
    phases = [
        Phase(f"{title}: populate", f"Testing {title}", {VCPU: touch}),
        Phase(
            f"{title}: enable",
            "",
            {VMM: _enable(counts, mode)},
            lines=_lines(
                counts, ("populated", "populating memory"), ("enabled", "enabling dirty logging")
            ),
        ),
    ]
    for number in range(1, ITERATIONS + 1):
        moments = [(f"dirtied {number}", "dirtying memory")]
        moments += [(f"cleared {number}", "clearing dirty log")] * manual
        name = f"{title}: iteration {number}"
        phases.append(Phase(f"{name} dirty memory", "", {VCPU: touch}, lines=no_summary))
        part = _get_and_clear(counts, number, manual)
        said = _lines(counts, *moments)
        phases.append(Phase(f"{name} dirty log", "", {VMM: part}, lines=said))
    said = _lines(counts, ("disabled", "disabling dirty logging"))
    phases.append(Phase(f"{title}: disable", "", {VMM: _disable(counts)}, lines=said))
    phases.append(Phase(f"{title}: repopulate", "", {VCPU: touch}, lines=no_summary))
    said = _lines(counts, ("repopulated", "repopulating memory"))
    phases.append(Phase(f"{title}: check", "", {VMM: _check(counts)}, lines=said))
    phases.append(Phase(f"{title}: end", "", {VCPU: leave_root}, lines=no_summary))
    return phases


def plan(args: argparse.Namespace) -> Plan:
    """Both runs, one after the other."""
    if args.backing == 1:
        raise UsageError("-s 4k: there would be no huge pages to split; give 2m or 1g")
    args.vcpus, args.huge_split = VCPUS, "eager"
    pages = guest_pages(args)
    touch = memstress_pass(pages=pages, partitioned=False, write_percent=100, seed=args.seed)
    phases = [phase for title, mode in MODES for phase in _phases(title, mode, pages, touch)]
    return Plan(
        workload=NAME,
        vm=vm_config(args, pages, slots=SLOTS, roots=2),
        roles=(VCPU,) * VCPUS + (VMM,),
        phases=tuple(phases),
        headline="get: enable",
        counted=tuple(f"{title}: {what}" for title, _ in MODES for what in ("enable", "disable")),
        header=("Testing guest mode: PA-bits:ANY, VA-bits:48,  4K pages",),
    )
