"""Scenarios under the interpreted stepper: they end, also when told to stop, and are clean.

All of them together reach every branch of the modules that they exercise; what no small world can
reach is listed with its reason.
"""

from __future__ import annotations

import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest

from harness.explore.world import World
from harness.oracles.verdict import audits, reported
from harness.watch.stepper import Stepper
from mmu.machine import events, layout
from tests.scenarios.branches import Branches, modules_of
from workloads.scenario import Scenario
from workloads.scenarios.registry import SCENARIOS, load

LOADED = {name: load(name) for name in SCENARIOS}  # here, so that their kernels are compiled once
MODULES = modules_of(
    *("tdp", "fault.py", "fast_fault.py", "hw", "dirty_log.py", "tdp_mmu.py", "tdp_iter.py"),
    *("guest.py", "pages.py", "memslots.py", "host", "removed.py", "nx_list.py", "roots.py"),
    *("reload.py", "entry.py", "notifier.py", "zap_worker.py", "zap_all.py", "slot_changes.py"),
    *("host_changes.py", "nx_recovery.py", "gfn_track.py", "write_track.py", "emulate.py"),
    *("dirty_clear.py", "host_reclaim.py"),
)
SCHEDULES = 40
MORE_SCHEDULES = {"mmio-create-faults": 200}  # for a branch that takes three switches in place
PREEMPTIONS = 24  # of each actor: exploration takes all of them, here it is about branches
STOPS = 128  # of a scenario: with fewer some loops are never told to stop in the middle
STEPS_MAX = 5000
ATTEMPTS_MAX = 3  # of an actor, while the one that it may need is preempted
SECONDS_MAX = 60  # of one test: what does not stop must not hang
TICK = 1 << 40  # more than any scheduler tick

BRANCHES = Branches(MODULES)
COMPLETED: set[tuple[str, str]] = set()  # runs that BRANCHES has seen: which test, which scenario
RUNS = ("random", "preempted", "stopped")
Choose = Callable[[], int]
Problems = list[str]


@cache
def twin(kernel: Any) -> Callable[..., Any]:
    return BRANCHES.twin(kernel)


class Run:
    """One scenario's actors at their first steps; probes and the clock answer at random."""

    def __init__(self, world: World, seed: int, failures: float) -> None:
        world.reset()
        self.world = world
        self.scenario = world.scenario
        self.random = random.Random(seed)
        self.failures = failures
        self.ticks = self.random.choice((0.0, 0.3))  # how often a scheduler tick passes
        self.now = 0
        self.steps = 0
        self.everybody = range(len(world.scenario.actors))
        self.waiting: set[int] = set()  # whose attempt failed: somebody else goes on first
        self.attempts = Counter[int]()  # failed ones
        actors = enumerate(self.scenario.actors)
        self.stepper = Stepper(
            {
                i: (world.cpu(i, observer=partial(self._answer, i)), twin(each.body))
                for i, each in actors
            }
        )

    def _answer(self, actor: int, kind: int, a: int, b: int, c: int) -> int:
        if kind == events.AGAIN:
            self.waiting.add(actor)
            self.attempts[actor] += 1
        if kind == events.CLOCK:
            self.now += TICK if self.random.random() < self.ticks else 1
            return self.now
        if kind == events.PROBE:
            return int(self.scenario.probes >> a & 1 and self.random.random() < self.failures)
        return events.GO

    def able(self) -> list[int]:
        """Who can go on, but for those who wait for others; them, if there are no others."""
        able = [each for each in self.everybody if self.stepper.enabled(each)]
        assert able, f"{self.scenario.name}: nobody can go on: {self.stepper.pending}"
        return [each for each in able if each not in self.waiting] or able

    def is_able(self, actor: int) -> bool:
        """Whether it is among them: asked at each step, and seldom needs the others."""
        if actor in self.waiting:
            return actor in self.able()
        return self.stepper.enabled(actor)

    def go_on(self, choose: Choose, steps: int = STEPS_MAX) -> None:
        """So many steps, fewer if everybody ends before."""
        while self.stepper.pending and self.steps < steps:
            chosen = choose()
            self.waiting &= {chosen}
            self.stepper.step(chosen)
            self.steps += 1

    def problems(self) -> Problems:
        """What the end of the execution shows."""
        if self.stepper.pending:
            return [f"no end within {STEPS_MAX} steps: {self.stepper.pending}"]
        vm = self.world.vm
        assert vm is not None
        check = self.scenario.check
        returned = 0 if check is None else twin(check)(self.world.cpu(0))
        names = [actor.name for actor in self.scenario.actors]
        found = [*reported(vm, names), *audits(vm)]
        return [f"check returned {returned}"] * (returned != 0) + [each.message for each in found]


def at_random(run: Run) -> Choose:
    """Leave an actor that could go on now and then."""
    current, chance = 0, run.random.choice((0.03, 0.1, 0.3))

    def choose() -> int:
        nonlocal current
        if not run.is_able(current) or run.random.random() < chance:
            current = run.random.choice(run.able())
        return current

    return choose


def preempted(run: Run, first: int, after: int) -> Choose:
    """One actor does `after` steps, then the others as far as they can go, then it goes on.

    Who tries in vain again and again can go no further: it waits for what the first does.
    """

    def choose() -> int:
        is_able = run.is_able(first)
        if is_able and run.steps < after:
            return first
        others = [each for each in run.able() if each != first]
        if is_able:
            others = [each for each in others if run.attempts[each] < ATTEMPTS_MAX]
        return others[0] if others else first

    return choose


@pytest.fixture(scope="module", params=LOADED)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    world = World(LOADED[request.param])
    yield world
    world.close()


@pytest.fixture(autouse=True)
def _ends_in_time() -> Iterator[None]:
    """A loop that ignores STOP would hang for ever: interrupt it where it is."""

    def interrupt(number: int, frame: object) -> None:
        raise TimeoutError(f"still running after {SECONDS_MAX} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(SECONDS_MAX)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_the_registry_says_what_there_is():
    assert [scenario.name for scenario in LOADED.values()] == list(SCENARIOS)
    for scenario in LOADED.values():
        assert scenario.vm is not None
        levels = 4 if scenario.name in ("invalidate-deep", "put-deep", "harvest-moved") else 3
        # A page that was neither written nor executed takes more than two in a huge page.
        bits = 2 if scenario.name == "enable-execute" else 1
        assert (scenario.vm.bits, scenario.vm.levels, scenario.vm.gfn_base) == (bits, levels, 0)
        assert scenario.about[0].islower()


def test_another_world_begins_with_the_same_words(world):
    """However long its setup takes: there each moment is a scheduler tick."""
    assert world.scenario.vm is not None
    another = World(replace(world.scenario, vm=replace(world.scenario.vm, tick_ms=0.0)))
    different = np.flatnonzero(another.initial != world.initial)
    another.close()
    assert set(different.tolist()) <= {layout.C_TICK_CYCLES}


def test_random_schedules_are_clean(world):
    for seed in range(MORE_SCHEDULES.get(world.scenario.name, SCHEDULES)):
        run = Run(world, seed, failures=(0.1, 0.5)[seed % 2])
        run.go_on(at_random(run))
        assert run.problems() == [], f"seed {seed}"
    COMPLETED.add(("random", world.scenario.name))


def places(steps: int, count: int) -> list[int]:
    """Every step of a short execution, so many places of a long one."""
    stride = -(-(steps + 1) // count)
    return list(range(0, steps + 1, stride))


def test_one_preemption_is_clean(world):
    for first in range(len(world.scenario.actors)):
        alone = Run(world, 0, failures=0.0)
        alone.go_on(preempted(alone, first, STEPS_MAX))
        for after in places(alone.steps, PREEMPTIONS):
            run = Run(world, after, failures=0.05)
            run.go_on(preempted(run, first, after))
            assert run.problems() == [], f"actor {first} preempted after {after} steps"
    COMPLETED.add(("preempted", world.scenario.name))


def test_stop_ends_it(world):
    def run(steps: int = STEPS_MAX) -> Run:
        run = Run(world, seed=1, failures=0.2)
        run.go_on(at_random(run), steps)
        run.stepper.stop()
        return run

    whole = run().steps
    assert whole >= 10
    for steps in places(whole, STOPS):
        assert run(steps).steps == steps
    COMPLETED.add(("stopped", world.scenario.name))


# --- Branches ------------------------------------------------------------------------------------

CLEARING = (
    "mmu.hw.tlb._flush_everything:"
    " for place in range(config(cpu, C_TLB), _array(cpu, STRUCTURES + 1))"
)
NO_CALLER = "no operation of the model does this yet"
ENOUGH = "a VM has a table page for every table and every cache"
NO_STEP = "advice that is no step: only the loops of stress runs ask, no schedule could decide it"
LATE_STOP = "STOP shows at a step first: what this loop waits for is over by then"
WRONG = "would be a broken rule, which the oracles report"
NO_TIMES = "small worlds measure no latencies (sample=0)"
WRAP = "takes 16 million flushes of everything"

DROPS = (
    "only a drop of a huge leaf (before 6.2) freezes for a moment, and no fault replaces its table"
)
ALONE = "nobody else changes a root that is being zapped: vCPUs have left, notifiers keep us out"
EIGHT = "the memslots of small worlds have eight pages: the first half of a mask"
READS_0 = "a stopped step reads 0, which ends the loop first"

NOT_REACHED: dict[str, str] = {
    "mmu.zap_all.create_vm: before != 0 is true": WRONG,
    "mmu.roots.schedule_zap: hint(cpu, flag) != 0 is true": WRONG,
    "mmu.removed._freeze: is_frozen(old) is true": DROPS,
    "mmu.removed._freeze: stopped(cpu) is false": DROPS,
    "mmu.removed._freeze: stopped(cpu) is true": DROPS,
    "mmu.roots._free_root: owed != 0 is true": WRONG,
    "mmu.host.mapping.fault_in: stopped(cpu) is true": READS_0,
    "mmu.roots.alloc_root: stopped(cpu) is true": READS_0,
    "mmu.roots.get_root: stopped(cpu) is true": READS_0,
    "mmu.roots.invalidate_all_roots: stopped(cpu) is true": READS_0,
    "mmu.tdp.map._install_leaf: old & ~new & MMU_WRITABLE != 0 is true": (
        "what the host no longer allows has been zapped by its notifier"
    ),
    "mmu.tdp.zap._zap_pass: lost is true": ALONE,
    "mmu.tdp.zap._zap_pass: seen != DONE is true": ALONE,
    "mmu.zap_worker._take_scheduled: cmpxchg(cpu, flag, 1, 0) == 1 is false": (
        "there is one zapper at a time: the worker, or who holds slots_lock"
    ),
    "mmu.fast_fault.fast_page_fault: attempts < ATTEMPTS_MAX is false": (
        "takes five changes of one entry during one fault"
    ),
    "mmu.fault.handle_page_fault: mask >= 0 is true": NO_TIMES,
    "mmu.fault.handle_page_fault: timed is true": NO_TIMES,
    "mmu.guest.quiet_due is called": NO_STEP,
    "mmu.guest.quiet_due: hint(cpu, WAITERS) != 0 is false": NO_STEP,
    "mmu.guest.quiet_due: hint(cpu, WAITERS) != 0 is true": NO_STEP,
    "mmu.guest.should_stop is called": NO_STEP,
    "mmu.guest.should_stop: hint(cpu, STOP_WORD) != 0 is false": NO_STEP,
    "mmu.guest.should_stop: hint(cpu, STOP_WORD) != 0 is true": NO_STEP,
    "mmu.hw.tlb._flush_everything: generation > GENERATION_MASK is true": WRAP,
    f"{CLEARING} runs": WRAP,
    f"{CLEARING} ends": WRAP,
    "mmu.hw.vcpu._wait_for_vcpu: stopped(cpu) is true": LATE_STOP,
    "mmu.hw.walker.walk: stopped(cpu) is true": LATE_STOP,
    "mmu.pages._host_page: fresh >= config(cpu, C_TABLE_PAGES) is true": ENOUGH,
    "mmu.tdp.map._make_table: page == 0 is true": ENOUGH,
    "mmu.tdp.recover._find_leaf: is_leaf(spte, own(cpu, ITERATOR_INNER + IT_LEVEL)) is false": (
        "takes a table of tables that could be one huge page, so four levels"
    ),
    "mmu.tdp.recover.recover_huge_pages: is_logged(cpu, slot) is true": WRONG,
    "mmu.dirty_clear._protect_again: high != 0 is true": EIGHT,
    "mmu.dirty_clear._protect_again: low != 0 is false": EIGHT,
    "mmu.tdp_mmu._check_leaf: level > LEVEL_1G is true": WRONG,
    "mmu.tdp_mmu.handle_changed_spte: frozen is true": WRONG,
    "mmu.tdp_mmu.handle_changed_spte: is_frozen(old) is true": WRONG,
    "mmu.tdp_mmu.set_spte: is_frozen(old) is true": NO_CALLER,
}


def test_every_branch_is_reached():
    if len(COMPLETED) < len(RUNS) * len(LOADED):
        pytest.skip("needs the runs of all scenarios before it")
    missed = BRANCHES.known - BRANCHES.taken
    unlisted, stale = sorted(missed - set(NOT_REACHED)), sorted(set(NOT_REACHED) - missed)
    assert not unlisted, "no scenario reaches\n" + "\n".join(unlisted)
    assert not stale, "reached after all, take off the list\n" + "\n".join(stale)


def test_a_branch_that_is_not_taken_is_noticed():
    branches = Branches(["mmu.memslots"])
    assert branches.taken == set()
    assert "mmu.memslots.slot_of: slot != 0 is true" in branches.known
    world = World(LOADED["map-map-same"])
    branches.twin(LOADED["map-map-same"].actors[0].body)(world.cpu(0))
    world.close()
    assert "mmu.memslots.slot_of: slot != 0 is false" in branches.taken
    assert "mmu.memslots.slot_of: slot != 0 is true" not in branches.taken
    assert branches.taken < branches.known


def test_the_oracles_would_notice():
    """The runs above judge: a frame that lost its value is seen."""
    scenario: Scenario = LOADED["map-map-same"]
    world = World(scenario)
    assert world.vm is not None
    run = Run(world, 0, 0.0)
    run.go_on(at_random(run))
    world.vm.frames[0] = 0
    assert run.problems() != []
    world.close()
