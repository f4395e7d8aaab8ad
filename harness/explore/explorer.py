"""Explore a scenario's schedules: budgets, slices of compiled executions, what was found.

Python gets control after each slice and for what only it can judge: outcomes that were never
seen, final states of a VM, broken rules.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.explore import block as at
from harness.explore import owed
from harness.explore.coroutines import Stacks, body_address, check_address
from harness.explore.engine import enter_actor, explore_slice, on_call
from harness.explore.faults import fault_bits, ignored_but
from harness.explore.judge import audit_finding, fault_finding, outcome_finding, refuse_fault
from harness.explore.risk import Risk, risk_of
from harness.explore.shrink.failure import Failure
from harness.explore.strategy import Strategy, load_strategy
from harness.explore.tally import Tally
from harness.explore.trace import Finding, Step
from harness.explore.world import World
from harness.watch.words import compiled_function, compiled_hook
from mmu.machine.cpu import Words
from mmu.machine.dispatch import callback_is_kept
from mmu.machine.events import AGAIN
from mmu.machine.kernel import settle
from workloads.errors import RunFailed
from workloads.scenario import Scenario

SLICE_SECONDS = 0.05  # how long Python leaves the compiled loop alone, about
AUTO_DPOR_SHARE = 0.4  # of the budget
AUTO_SAMPLERS = ("surw", "urw", "pos")
AUTO_SAMPLER_SHARE = 0.05  # of the budget, for each in its turn


@dataclass(frozen=True)
class Bounds:
    """Where an exploration ends.  `executions` and `seconds` 0: no bound."""

    executions: int = 0
    seconds: float = 0.0
    steps: int = 2000  # of one execution
    preemptions: int = -1  # of one execution; -1: no bound
    depth: int = 0  # pct's d; 0: its default


@dataclass
class Result:
    """What an exploration gave, complete or not.

    `executions` counts all that were not cut, complete, deadlocked, bounded or broken ones;
    `blocked` those cut by a sleep set.  `exhausted` is True only if every trace was visited.
    `bound` says which bound ended it ("").  `outcomes` maps outcome values to how many complete
    executions ended so, `deadlocks` the same of executions in which nobody could go on.
    """

    strategy: str
    executions: int = 0
    complete: int = 0
    deadlocked: int = 0
    blocked: int = 0
    steps: int = 0
    depth: int = 0
    seconds: float = 0.0
    exhausted: bool = False
    bound: str = ""
    interrupted: bool = False
    outcomes: dict[tuple[int, ...], int] = field(default_factory=dict)
    deadlocks: dict[tuple[int, ...], int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    risk: Risk | None = None  # if failing executions were tallied, and all traces seen


Progress = Callable[[Result], bool]


def compile_engine(strategy: str, say: Callable[[str], None] | None = None) -> None:
    """Compile what exploring needs, so that no worker has to; `say` that it takes a while."""
    if say is not None and not callback_is_kept(on_call):
        say("compiling the engine (once per version): some 15 s")
    compiled_hook(on_call)
    compiled_function(enter_actor, 1)
    settle(explore_slice)
    for name in ("dpor", *AUTO_SAMPLERS) if strategy == "auto" else (strategy,):
        module = load_strategy(name)
        for function in (module.begin, module.choose, module.finish):
            compiled_function(function)


class Engine:
    """The compiled engine over one world: memory, stacks, addresses.  One at a time per thread."""

    def __init__(self, world: World, steps: int) -> None:
        self.world = world
        count = len(world.scenario.actors)
        words = at.HEADER_WORDS + count * at.ACTOR_WORDS
        raw = np.zeros(words + 8, np.int64)
        skip = -int(raw.ctypes.data) % 64 // 8  # the actor's number goes into the low bits
        self.block: Words = raw[skip : skip + words]
        self._rows = np.zeros((steps + 3) * at.ROW_WORDS, np.int64)
        self._last = np.zeros(len(world.words), np.int64)
        self._stacks = Stacks(count)
        self._outcome = np.array(world.outcome_words(), np.int64)
        self._outcomes = np.zeros(at.OUTCOMES_MAX * (len(self._outcome) + 2), np.int64)
        regions = world.audited_regions()
        self._regions = np.array(regions, np.int64).reshape(-1, 2)
        self._states = np.zeros(at.STATES_MAX if regions else 0, np.int64)
        self._strategy = np.zeros(0, np.int64)
        self._set_up(steps)

    def _set_up(self, steps: int) -> None:
        world, block = self.world, self.block
        scenario = world.scenario
        block[at.H_BASE] = world.words.ctypes.data
        block[at.H_WORDS] = len(world.words)
        block[at.H_INITIAL] = world.initial.ctypes.data
        block[at.H_ACTORS] = len(scenario.actors)
        block[at.H_GEOMETRY] = world.geometry
        block[at.H_HOOK] = compiled_hook(on_call)
        block[at.H_ENTRY] = compiled_function(enter_actor, 1)
        block[at.H_ROWS] = self._rows.ctypes.data
        block[at.H_LAST] = self._last.ctypes.data
        block[at.H_FORCED] = -1
        block[at.H_STEPS_MAX] = steps
        block[at.H_PREEMPTIONS_MAX] = -1
        block[at.H_PROBES] = scenario.probes
        block[at.H_FINISH] = 0 if scenario.finish is None else body_address(scenario.finish)
        block[at.H_CHECK] = 0 if scenario.check is None else check_address(scenario.check)
        block[at.H_OUTCOME] = self._outcome.ctypes.data
        block[at.H_OUTCOME_WORDS] = len(self._outcome)
        block[at.H_OUTCOMES] = self._outcomes.ctypes.data
        block[at.H_REGIONS] = self._regions.ctypes.data
        block[at.H_REGION_COUNT] = len(self._regions)
        if world.vm is not None:
            owed.tell_places(block, world.vm)
        block[at.H_STATES] = self._states.ctypes.data if len(self._states) else 0
        for number, actor in enumerate(scenario.actors):
            part = at.HEADER_WORDS + number * at.ACTOR_WORDS
            block[part + at.A_TOP] = self._stacks.tops[number]
            block[part + at.A_BODY] = body_address(actor.body)
            block[part + at.A_OWN] = world.own(number)

    @property
    def ctx(self) -> int:
        """Address of the block."""
        return int(self.block.ctypes.data)

    def use(self, strategy: Strategy, words: Words) -> None:
        """Choose by `strategy`; `words` is memory of its own.  Any unfinished trace is dropped."""
        self._strategy = words
        self._last[:] = 0
        for number in range(int(self.block[at.H_ACTORS])):
            self.block[at.HEADER_WORDS + number * at.ACTOR_WORDS + at.A_LAST] = 0
        for name in (at.H_DEPTH, at.H_PREFIX, at.H_STAMPED, at.H_AGAINS, at.H_RESUME):
            self.block[name] = 0
        self.block[at.H_FORCED] = -1
        self.block[at.H_STRATEGY : at.H_STRATEGY_BLOCK] = 0
        self.block[at.H_STRATEGY_BLOCK] = words.ctypes.data
        self.block[at.H_BEGIN] = compiled_function(strategy.begin)
        self.block[at.H_CHOOSE] = compiled_function(strategy.choose)
        self.block[at.H_FINISH_EXECUTION] = compiled_function(strategy.finish)
        self.block[at.H_SYSTEMATIC] = strategy.SYSTEMATIC

    def forget(self) -> None:
        """Have outcomes and final states asked about again, as if none had been seen."""
        self._outcomes[:] = 0
        self._states[:] = 0
        self.block[at.H_OUTCOMES_USED] = self.block[at.H_STATES_USED] = 0

    def run(self, executions: int) -> int:
        """Up to so many executions; see `explore_slice`."""
        return int(explore_slice(self.ctx, executions))

    def steps(self, depth: int) -> tuple[Step, ...]:
        """The present trace up to `depth`; AGAIN is no step."""
        rows = self._rows[: depth * at.ROW_WORDS].reshape(-1, at.ROW_WORDS)
        picked = (at.R_ACTOR, at.R_KIND, at.R_ADDR, at.R_OLD, at.R_NEW, at.R_B, at.R_C)
        steps = (Step(*map(int, row)) for row in rows[:, picked])
        return tuple(step for step in steps if step.kind != AGAIN)

    def preemptions(self) -> int:
        """Of the present trace."""
        depth = int(self.block[at.H_DEPTH])
        return int(self._rows[(depth - 1) * at.ROW_WORDS + at.R_PREEMPTIONS]) if depth else 0

    def outcomes(self, deadlocked: int) -> dict[tuple[int, ...], int]:
        """Values and how often they were seen."""
        table = self._outcomes.reshape(-1, len(self._outcome) + 2)
        rows = table[(table[:, 0] > 0) & (table[:, 1] == deadlocked)]
        return {tuple(map(int, row[2:])): int(row[0]) for row in rows}


class Explorer:
    """One scenario under one strategy; `run` goes on until a bound, the end, or a finding.

    With `oracles`, only what these say is looked for: executions go on behind what others say.
    Without `stop_at_finding` one finding of each failure is kept; `tallied` counts how many there
    are.  `is_through` says whether the strategy has nothing left to run.
    """

    def __init__(
        self,
        scenario: Scenario,
        strategy: str = "auto",
        bounds: Bounds | None = None,
        *,
        seed: int = 1,
        stop_at_finding: bool = True,
        oracles: Collection[str] = (),
        tallied: bool = False,
    ) -> None:
        self.bounds = bounds or Bounds()
        self.world = World(scenario)
        self.engine = Engine(self.world, self.bounds.steps)
        self.engine.block[at.H_PREEMPTIONS_MAX] = self.bounds.preemptions
        self.engine.block[at.H_RANDOM] = random.Random(seed).getrandbits(62) | 1
        self.result = Result(strategy)
        self._seed = seed
        self._stop_at_finding = stop_at_finding
        self._oracles = oracles
        self._known: set[Failure] = set()
        self.tally = Tally(self.engine.block) if tallied else None
        self.is_through = False
        self.engine.block[at.H_IGNORED : at.H_IGNORED_MORE + 1] = ignored_but(oracles)
        self._began = 0.0
        self._reported = 0.0
        self._progress: Progress | None = None
        self._slice = 16
        self._remarks: list[str] = []

    def run(self, progress: Progress | None = None) -> Result:
        """Explore; `progress(result so far)` is asked at least every 100 ms, False ends it."""
        self._began = self._reported = time.monotonic()
        self._progress = progress
        if self.result.strategy == "auto":
            self._run_auto()
        else:
            self._run_strategy(self.result.strategy, 1.0)
        self._sum_up()
        self._refuse_endless()
        if self.tally is not None and self.result.exhausted and not self.tally.unjudged:
            self.result.risk = risk_of(self.tally, self.result.executions)
        return self.result

    def _refuse_endless(self) -> None:
        """Raise RunFailed if no execution at all came to an end."""
        result, bounds = self.result, self.bounds
        ended = result.complete or result.deadlocked or result.findings or result.interrupted
        if not ended and int(self.engine.block[at.H_BOUND_HIT]) & at.BOUND_STEPS:
            raise RunFailed(
                f"scenario {self.world.scenario.name}: none of {result.executions} executions ended"
                f" within {bounds.steps} steps; give more --steps, or put wait_while or again"
                " into the loop that waits"
            )

    def close(self) -> None:
        """Give stacks and memory back."""
        self.world.close()

    def _run_auto(self) -> None:
        """dpor within its share of the budget, then the samplers in turn."""
        bounded = self.bounds.executions or self.bounds.seconds
        going = self._run_strategy("dpor", AUTO_DPOR_SHARE if bounded else 1.0)
        share = AUTO_DPOR_SHARE
        while going and bounded:
            for name in AUTO_SAMPLERS:
                share = min(share + AUTO_SAMPLER_SHARE, 1.0)
                going = going and self._run_strategy(name, share)
            going = going and share < 1.0

    def _run_strategy(self, name: str, share: float) -> bool:
        """Until `share` of the budget is used; False if the exploration is over."""
        strategy = load_strategy(name)
        words = np.zeros(max(strategy.WORDS, 1), np.int64)
        strategy.prepare(words, self._seed, self.bounds.depth)
        self.engine.use(strategy, words)
        going = self._run_slices(share)
        remark = strategy.remark(words, len(self.world.scenario.actors))
        self._remarks += [remark] if remark else []
        return going

    def _run_slices(self, share: float) -> bool:
        """Compiled slices, with a look around between them."""
        while True:
            limit = self._left(share)
            if limit == 0:
                return share < 1.0
            began = time.monotonic()
            code = self.engine.run(min(limit, self._slice))
            now = time.monotonic()
            # A slice that ended early with a question says nothing about a whole one.
            if code == 0 and now - began < SLICE_SECONDS / 2:
                self._slice = min(self._slice * 2, 1 << 20)
            elif now - began > SLICE_SECONDS * 1.5:
                self._slice = max(self._slice // 2, 1)
            if code == 1:
                self._note_end()
                return False
            if code > 1 and not self._judge(code >> 1):
                return False
            if not self._report(now):
                self.result.interrupted = True
                return False

    def _left(self, share: float) -> int:
        """How many executions `share` of the budget still allows, as far as is known; 0: none."""
        bounds = self.bounds
        if bounds.seconds and time.monotonic() - self._began >= bounds.seconds * share:
            self.result.bound = f"{bounds.seconds:g} s"
            return 0
        if not bounds.executions:
            return 1 << 40
        left = int(bounds.executions * share) - int(self.engine.block[at.H_EXECUTIONS])
        if left <= 0:
            self.result.bound = f"{bounds.executions} executions"
        return max(left, 0)

    def _note_end(self) -> None:
        """The strategy has nothing left: exhausted, unless a bound hid something."""
        self.is_through = True
        block = self.engine.block
        hit = int(block[at.H_BOUND_HIT])
        texts = []
        if hit & at.BOUND_STEPS:
            texts.append(f"{self.bounds.steps} steps in an execution")
        if hit & at.BOUND_PREEMPTIONS:
            texts.append(f"{self.bounds.preemptions} preemptions")
        # What comes after a wild step or an exception is never seen.
        ended = int(block[at.H_COMPLETE]) + int(block[at.H_DEADLOCKED])
        self.result.bound = ", ".join(texts)
        self.result.exhausted = not texts and int(block[at.H_EXECUTIONS]) == ended

    def _judge(self, question: int) -> bool:
        """Look at the execution that has just ended; False if the exploration is to end."""
        block = self.engine.block
        depth = int(block[at.H_DEPTH])
        found: list[Finding | None] = []
        if question & at.ASK_FAULT:
            refuse_fault(self.world, block)
            fault_depth = min(depth, int(block[at.H_FAULT_DEPTH]))
            steps = self.engine.steps(fault_depth)
            found.append(fault_finding(self.world, block, steps))
            block[at.H_ANSWERED : at.H_ANSWERED_MORE + 1] |= fault_bits(int(block[at.H_FAULT]))
        if question & at.ASK_OUTCOME and int(block[at.H_STATUS]) == at.STATUS_COMPLETE:
            words = self.world.words
            values = tuple(int(words[i]) for i in self.world.outcome_words())
            found.append(outcome_finding(self.world, values, self.engine.steps(depth)))
            if self.tally is not None and found[-1] is not None:
                self.tally.note_outcome()
        if question & at.ASK_STATE and not (found and self._stop_at_finding):
            found.append(audit_finding(self.world, self.engine.steps(depth), self._oracles))
            if self.tally is not None and found[-1] is not None:
                self.tally.note_state(found[-1].oracle)
        return self._keep([each for each in found if each is not None])

    def _keep(self, findings: Sequence[Finding]) -> bool:
        """Keep what is new; False if the exploration is to end."""
        for each in findings:
            failure = Failure.of(self.world.scenario, each)
            if failure not in self._known:
                self._known.add(failure)
                self.result.findings.append(each)
        wanted = [each for each in findings if not self._oracles or each.oracle in self._oracles]
        return not (wanted and self._stop_at_finding)

    def _report(self, now: float) -> bool:
        if self._progress is None or now - self._reported < SLICE_SECONDS:
            return True
        self._reported = now
        self._sum_up()
        return self._progress(self.result)

    def _sum_up(self) -> None:
        block, result = self.engine.block, self.result
        result.executions = int(block[at.H_EXECUTIONS])
        result.complete = int(block[at.H_COMPLETE])
        result.deadlocked = int(block[at.H_DEADLOCKED])
        result.blocked = int(block[at.H_BLOCKED])
        result.steps = int(block[at.H_STEPS])
        result.depth = int(block[at.H_DEEPEST])
        result.seconds = time.monotonic() - self._began
        result.outcomes = self.engine.outcomes(0)
        result.deadlocks = self.engine.outcomes(1)
        result.notes = self._notes()

    def _notes(self) -> list[str]:
        block = self.engine.block
        notes = list(self._remarks)
        if int(block[at.H_OUTCOMES_USED]) >= at.OUTCOMES_MAX - 1:
            notes.append(f"more than {at.OUTCOMES_MAX - 1} different outcomes: others not counted")
        if int(block[at.H_STATES_USED]) >= at.STATES_MAX // 2:
            notes.append(f"more than {at.STATES_MAX // 2} final states: others not audited")
        return notes
