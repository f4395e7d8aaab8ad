"""`python -m tests.bench.watch`: what watching costs in torture.

In a torture run the machine decides how often vCPUs fault between two invalidations, so two runs
never do the same work.  Here one process plays all actors in turn, from fixed seeds: the work is
equal to the last step, and nobody waits for anybody.  Beside it, real runs: how often everything
happened in the same time with and without rings.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace

import numpy as np
from tabulate import tabulate

from harness.run.session import Session, SignalFlag
from harness.run.status import Status
from harness.run.warm import warm
from harness.watch.inject import parse_injection
from harness.watch.stress import StressWatch, Watching
from harness.watch.words import compiled_hook, ticks
from mmu.guest import vcpu_load, vcpu_put
from mmu.machine import layout as at
from mmu.machine.cpu import Cpu
from mmu.machine.events import CLOCK, GO
from mmu.vm import Vm
from workloads import torture
from workloads.actors.host_threads import reclaim_turn
from workloads.actors.memstress import random_seed
from workloads.actors.turmoil import ACCESSES_HOLES, EXECUTES, guest_turn, slots_turn
from workloads.errors import RunFailed
from workloads.plan import Plan

# As in a run of 2 vCPUs on 2 cores: so many accesses between two changes of memslots.
GUEST_TURNS = 8
ROUNDS = 200
PAIRS = 11
RUN_PAIRS = 7
NEVER_US = 1e15
RING = torture.RING
FEATURES = "execute,mmio,roots,slots,reclaim,ad,pml"
UNWATCHED = Watching()
EMPTY = "a hook that does nothing"
CONTESTANTS: dict[str, Watching] = {
    "nobody": UNWATCHED,
    EMPTY: UNWATCHED,
    "bounds (--patch)": Watching(bounds=True),
    "--inject": Watching(inject=parse_injection("retry=1e-3,cmpxchg=1e-3,contention=1e-3")),
    f"--ring {RING}": Watching(ring=RING),
    f"--ring {RING} --ring-steps": Watching(ring=RING, ring_steps=True),
    "all of them": Watching(
        bounds=True,
        inject=parse_injection("retry=1e-3,delay=1e-6:1000"),
        ring=RING,
        ring_steps=True,
    ),
}
SHOWN = ("accesses", "pf_fixed", "tables_freed", "roots_zapped", "slots_changed", "notifier_unmaps")


def say_go(ctx: int, actor: int, kind: int, a: int, b: int, c: int) -> int:
    """The least that a hook can do."""
    return ticks() if kind == CLOCK else GO


def torture_plan(*words: str) -> tuple[Plan, argparse.Namespace]:
    """The plan of such a run."""
    parser = argparse.ArgumentParser()
    torture.add_arguments(parser)
    args = parser.parse_args(["-v", "2", "--without", "all", "--with", FEATURES, *words])
    return torture.plan(args), args


class Turns:
    """Torture in one process: every actor in turn, the same turns each time.

    Nothing depends on the clock: no tick passes, no quiet point is due.
    """

    def __init__(self, watching: Watching, hook: int = 0) -> None:
        plan, self._args = torture_plan("--zap-by", "caller", "--dirty-log-mode", "get")
        config = replace(plan.vm, sample=0, quiet_us=NEVER_US, tick_ms=NEVER_US / 1e3)
        self.vm = Vm(config)
        # Its memory must live as long as its addresses are in use.
        self.watch = StressWatch(self.vm, watching) if watching else None
        self._cpus = [self._cpu(actor, hook) for actor in range(config.actors)]
        for actor, cpu in enumerate(self._cpus):
            cpu.words[cpu.own + at.RANDOM] = random_seed(1000 * actor + 1)

    def _cpu(self, actor: int, hook: int) -> Cpu:
        if self.watch is None:
            return self.vm.cpu(actor, hook=hook)
        return self.vm.cpu(actor, hook=self.watch.hook, ctx=self.watch.ctx(actor))

    def play(self, rounds: int) -> None:
        """So many rounds.  Raises RunFailed if a rule was broken."""
        config = self.vm.config
        pages, window = config.pages, 1 << (config.pages - 1).bit_length()
        (_, (main, _), (spare, _)) = config.memslots()
        *vcpus, vmm, host = self._cpus
        for _ in range(rounds):
            for cpu in vcpus:
                vcpu_load(cpu)
                for _ in range(GUEST_TURNS):
                    switches = self._args.root_switches
                    where = (config.gfn_base, pages, config.levels, switches)
                    guest_turn(cpu, *where, EXECUTES | ACCESSES_HOLES, config.gfn_base + window)
                vcpu_put(cpu)
            reclaim_turn(host)
            slots_turn(vmm, 1, main, window, 2, spare)
        if any(self.vm.actor_words(actor)[at.VIOLATIONS] for actor in range(config.actors)):
            raise RunFailed("an actor reported a violation")

    def close(self) -> None:
        """Give the memory back."""
        self._cpus = []
        self.vm.close()


def turns_us(watching: Watching, hook: int = 0) -> float:
    """CPU time of a round of turns of all actors."""
    turns = Turns(watching, hook)
    turns.play(1)  # this one pays for what is touched for the first time
    began = time.thread_time_ns()
    turns.play(ROUNDS)
    spent = time.thread_time_ns() - began
    turns.close()
    return spent / ROUNDS / 1e3


def run_counters(watching: Watching) -> dict[str, int]:
    """What a real run of a second counts."""
    plan, _ = torture_plan("--seconds", "1")
    with SignalFlag() as flag:
        session = Session(plan, Status(quiet=True), watching=watching)
        result = session.run(flag, lambda phase, result: None)
    if result.outcome != "clean":
        raise RunFailed(f"the run ended with {result.outcome}")
    return result.phases[0].counters


def _quartiles(values: list[float]) -> str:
    q1, median, q3 = np.percentile(values, [25, 50, 75])
    return f"{median:.2f} [{q1:.2f}, {q3:.2f}]"


def main() -> int:
    """Measure both, in turns, each second turn backwards."""
    warm()
    figures: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for pair in range(PAIRS):
        names = list(CONTESTANTS) if pair % 2 == 0 else list(CONTESTANTS)[::-1]
        for name in names:
            hook = compiled_hook(say_go) if name == EMPTY else 0
            figures[name].append(turns_us(CONTESTANTS[name], hook))
    plain = figures["nobody"]
    rows = [
        [name, f"{np.median(us):.0f}", _quartiles([a / b for a, b in zip(us, plain, strict=True)])]
        for name, us in figures.items()
    ]
    print(f"\nThe same turns of torture, CPU time (median [quartiles] of {PAIRS} turns)\n")
    print(tabulate(rows, ["who watches", "us a round", "to nobody"], "github"))
    ratios: dict[str, list[float]] = {name: [] for name in SHOWN}
    for pair in range(RUN_PAIRS):
        order = (UNWATCHED, Watching(ring=RING))
        found = {w.ring: run_counters(w) for w in (order if pair % 2 == 0 else order[::-1])}
        for name in SHOWN:
            ratios[name].append(found[0][name] / max(found[RING][name], 1))
    print(f"\nRuns of a second, how much more often without rings ({RUN_PAIRS} pairs)\n")
    print(tabulate([[n, _quartiles(r)] for n, r in ratios.items()], ["counter", "ratio"], "github"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
