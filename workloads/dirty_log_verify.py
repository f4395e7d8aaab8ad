"""`dirty-log-verify`: the selftests' dirty_log_test: does the log name what was written?

One vCPU writes pages of a logged memslot all the time.  Every few milliseconds the log is fetched
while it does; then the vCPU is stopped and each page is looked at.  A page that the log names was
written in this iteration or the one before.  One that it does not name, and that was written in
this iteration, was written behind the harvest: the next one must name it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping

import numpy as np

from mmu.dirty_clear import CLEARED, clear_dirty_log
from mmu.dirty_log import disable_dirty_log, enable_dirty_log, get_dirty_log
from mmu.guest import vcpu_load, vcpu_put
from mmu.machine import layout as at
from mmu.machine.blocking import add_and_wake
from mmu.machine.conditions import DIRTY_MISSED, DIRTY_NAMED, warn
from mmu.machine.cpu import Words
from mmu.machine.futex import raw_load
from mmu.machine.primitives import own, set_own
from mmu.policy import DIRTY_LOG_MODE
from mmu.vm import GFN_BASE
from workloads.actors.memstress import random_seed
from workloads.actors.vcpu import leave_root
from workloads.actors.verify_log import (
    FIRST_NUMBER,
    ITERATION,
    LAST,
    STOPS_ENDED,
    STOPS_MADE,
    STOPS_WANTED,
    WRITES_PER_LOOP,
    verify_words,
    write_numbers,
)
from workloads.errors import RunFailed, UsageError
from workloads.options import PAGE_BYTES, PHYSICAL_BYTES_MAX, add_guest_mode, add_machine, vm_config
from workloads.plan import VCPU, VMM, Actor, Part, Phase, Plan, Summary, no_summary
from workloads.units import parse_size, whole

NAME = "dirty-log-verify"
HELP = "dirty_log_test: what is written must be in the log, iteration by iteration"
POLICIES = ("flush",)
EXAMPLES = ("", "-M clear-log -i 100 -I 5", "-M dirty-log --no-pml")
PAGES = (1 << 30 - 12) + 3  # 1 GiB and a few more, so that the last word of the log is no whole one
# The selftest's names; clearing by a call of its own begins with all set where that can be had.
LOG_MODES = {"dirty-log": "get", "clear-log": "initially-set"}
SLEEP_S_MAX = 0.05  # how late the end of the run may be noticed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The selftest's flags."""
    parser.add_argument(
        "-i",
        "--iterations",
        type=whole("iterations", 3, 1 << 20),
        default=32,
        metavar="N",
        help="harvests, and one more (default 32; 3 at least)",
    )
    parser.add_argument(
        "-I",
        "--interval",
        type=whole("the interval", 1, 60_000),
        default=10,
        metavar="MS",
        help="milliseconds between harvests (default 10)",
    )
    parser.add_argument(
        "-M",
        dest="log_mode",
        choices=(*LOG_MODES, "dirty-ring", "all"),
        default="all",
        metavar="MODE",
        help="dirty-log: fetching clears; clear-log: clearing is a call of its own, and all is set"
        " at first; all: one after the other (default); dirty-ring is not modelled",
    )
    parser.add_argument(
        "-c", dest="ring_size", metavar="N", help="size of the dirty ring: not modelled"
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
    add_machine(parser, POLICIES)


# --- The vCPU ------------------------------------------------------------------------------------


def _wait_for(actor: Actor, word: int, number: int) -> bool:
    """Sleep until the word has counted so far; False if the run stops first."""
    return actor.wait_until(lambda: raw_load(actor.cpu, word) >= number, word)


def _write(seed: int) -> Part:
    """All pages once, then pages at random, with an exit after each loop, until it is the end."""

    def part(actor: Actor) -> None:
        cpu = actor.cpu
        words = actor.vm.layout.start("workload")
        pages = actor.vm.config.pages
        writes, at_random, stops = pages, 0, 0
        if own(cpu, at.RANDOM) == 0:
            set_own(cpu, at.RANDOM, random_seed(seed))
        while not actor.stopping():
            set_own(cpu, at.WORK_DONE, 0)
            vcpu_load(cpu)
            actor.run(write_numbers, writes, pages, at_random)
            vcpu_put(cpu)
            writes, at_random = WRITES_PER_LOOP, 1
            if raw_load(cpu, words + STOPS_WANTED) != stops:
                stops += 1
                add_and_wake(cpu, words + STOPS_MADE, 1)
                if not _wait_for(actor, words + STOPS_ENDED, stops) or raw_load(cpu, words + LAST):
                    return

    return part


# --- The monitor ---------------------------------------------------------------------------------


class Verifier:
    """What the log named so far, and what it still has to name."""

    def __init__(self, pages: int) -> None:
        self.due = np.zeros(pages, np.bool_)
        self.dirty = self.clear = self.track_next = 0

    def look(self, actor: Actor, iteration: int) -> None:
        """Compare the harvest with the pages' numbers; the vCPU is stopped."""
        pages = len(self.due)
        named = _bits(actor.vm.region("harvest 0"), pages)
        first = FIRST_NUMBER
        numbers = actor.vm.region("workload")[first : first + pages].copy()
        base = actor.vm.config.gfn_base
        for page in np.flatnonzero(self.due & ~named)[:1].tolist():
            warn(actor.cpu, True, DIRTY_MISSED, base + page, iteration - 1, iteration)
        old = named & (numbers != iteration) & (numbers != iteration - 1)
        for page in np.flatnonzero(old)[:1].tolist():
            warn(actor.cpu, True, DIRTY_NAMED, base + page, iteration, int(numbers[page]))
        if (numbers > iteration).any():
            raise RunFailed(f"a page holds an iteration behind the present one, {iteration}")
        self.track_next += int(np.count_nonzero(self.due))
        self.due = ~named & (numbers == iteration)
        dirty = int(np.count_nonzero(named))
        self.dirty += dirty
        self.clear += pages - dirty


def _bits(words: Words, pages: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """A bitmap's bits, one after the other."""
    octets = words.astype("<u4").view(np.uint8)
    return np.unpackbits(octets, bitorder="little")[:pages].astype(np.bool_)


def _sleep(actor: Actor, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (rest := end - time.monotonic()) > 0 and not actor.stopping():
        time.sleep(min(rest, SLEEP_S_MAX))


def _begin(mode: str) -> Part:
    def part(actor: Actor) -> None:
        # KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, before anything is logged.
        actor.vm.words[at.C_DIRTY_LOG_MODE] = DIRTY_LOG_MODE[mode]
        actor.vm.region("workload")[:] = 0
        actor.vm.region("workload")[ITERATION] = 1
        enable_dirty_log(actor.cpu, 0)

    return part


def _collect(actor: Actor, mode: str) -> None:
    """Fetch the log, and clear it where that is a call of its own."""
    get_dirty_log(actor.cpu, 0)
    if mode != "get" and clear_dirty_log(actor.cpu, 0, 0, actor.vm.config.pages) != CLEARED:
        raise RunFailed("KVM_CLEAR_DIRTY_LOG refuses the whole memslot")


def _verify(args: argparse.Namespace, title: str) -> Part:
    def part(actor: Actor) -> None:
        cpu = actor.cpu
        words = actor.vm.layout.start("workload")
        verifier = Verifier(actor.vm.config.pages)
        for iteration in range(1, args.iterations):
            _sleep(actor, args.interval / 1e3)
            _collect(actor, LOG_MODES[title])
            add_and_wake(cpu, words + STOPS_WANTED, 1)
            if not _wait_for(actor, words + STOPS_MADE, iteration):
                return
            verifier.look(actor, iteration)
            actor.vm.words[words + ITERATION] = iteration + 1
            actor.vm.words[words + LAST] = int(iteration == args.iterations - 1)
            set_own(cpu, at.WORK_DONE, iteration)
            add_and_wake(cpu, words + STOPS_ENDED, 1)
        for name in ("dirty", "clear", "track_next"):
            actor.report(_key(title, name), getattr(verifier, name))

    return part


def _end(actor: Actor) -> None:
    disable_dirty_log(actor.cpu, 0)


# --- The plan ------------------------------------------------------------------------------------


def _key(title: str, name: str) -> str:
    return f"{title.replace('-', '_')}_{name}"


def _begin_lines(args: argparse.Namespace, title: str) -> Summary:
    def lines(seconds: Mapping[str, float], counters: Mapping[str, int]) -> list[str]:
        return [
            f"Testing Log Mode '{title}'",
            "Testing guest mode: PA-bits:ANY, VA-bits:48,  4K pages",
            f"guest physical test memory offset: {args.phys_offset:#x}",
        ]

    return lines


def _total_lines(title: str) -> Summary:
    def lines(seconds: Mapping[str, float], counters: Mapping[str, int]) -> list[str]:
        dirty, clear, track_next = (
            counters[_key(title, name)] for name in ("dirty", "clear", "track_next")
        )
        return [f"Total bits checked: dirty ({dirty}), clear ({clear}), track_next ({track_next})"]

    return lines


def _phases(args: argparse.Namespace, title: str) -> list[Phase]:
    mode = LOG_MODES[title]
    said = _begin_lines(args, title)
    parts = {VCPU: _write(args.seed), VMM: _verify(args, title)}
    lasts = args.iterations * args.interval / 1e3
    return [
        Phase(f"{title}: begin", "", {VMM: _begin(mode)}, lines=said),
        Phase(title, "", parts, lines=_total_lines(title), lasts=lasts),
        # The next mode begins without a root, as in a VM of its own.
        Phase(f"{title}: end", "", {VCPU: leave_root, VMM: _end}, lines=no_summary),
    ]


def plan(args: argparse.Namespace) -> Plan:
    """One run for each log mode; raises UsageError for what is not modelled."""
    if args.log_mode == "dirty-ring" or args.ring_size is not None:
        raise UsageError(
            "dirty rings are not modelled: leave -c out and give -M dirty-log, clear-log or all"
        )
    if args.phys_offset % PAGE_BYTES:
        raise UsageError(f"-p {args.phys_offset} is no multiple of 4K")
    if args.phys_offset + PAGES * PAGE_BYTES > PHYSICAL_BYTES_MAX:
        raise UsageError(f"-p {args.phys_offset} leaves no room below the 48 bits of 4 levels")
    args.vcpus, args.backing = 1, 1
    titles = tuple(LOG_MODES) if args.log_mode == "all" else (args.log_mode,)
    return Plan(
        workload=NAME,
        vm=vm_config(
            args,
            PAGES,
            gfn_base=args.phys_offset // PAGE_BYTES,
            roots=2,
            workload_words=verify_words(PAGES),
        ),
        roles=(VCPU, VMM),
        phases=tuple(phase for title in titles for phase in _phases(args, title)),
        headline=titles[0],
        counted=titles,
        header=(f"Test iterations: {args.iterations}, interval: {args.interval} (ms)",),
    )
