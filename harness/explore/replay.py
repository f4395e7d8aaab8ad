"""Run a recorded schedule compiled, as often as wanted; and check that schedules decide alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from harness.explore import block as at
from harness.explore.explorer import Bounds, Engine, Progress, Result
from harness.explore.faults import ignored_but
from harness.explore.judge import audit_finding, fault_finding, outcome_finding
from harness.explore.strategies import follow, random
from harness.explore.strategy import load_strategy
from harness.explore.trace import Finding, Step
from harness.explore.world import World
from mmu.machine.cpu import Words
from mmu.machine.events import STEP_LAST
from workloads.errors import RunFailed
from workloads.scenario import Scenario

DETERMINISM_SCHEDULES = 200
STEPS_MIN = 2000  # that a replay may take, however short the recording is


@dataclass(frozen=True)
class Replay:
    """What following a schedule gave.

    `followed` of the recorded steps (answers apart) were done, and `new_steps` others between
    them; `diverged` names the actor that could not do the next one (-1: nobody had to).
    `preemptions` is how often somebody was left who could have gone on.
    """

    finding: Finding | None
    steps: tuple[Step, ...]
    followed: int
    new_steps: int
    diverged: int
    preemptions: int = 0


class Player:
    """Replays schedules of one world; with `oracles`, only what these say is looked for."""

    def __init__(
        self, world: World, steps: int = Bounds().steps, oracles: Collection[str] = ()
    ) -> None:
        self.world = world
        self.engine = Engine(world, steps)
        self.engine.block[at.H_IGNORED : at.H_IGNORED_MORE + 1] = ignored_but(oracles)
        self._oracles = oracles
        self._answers: Words = np.zeros(0, np.int64)

    def play(self, script: Sequence[Step]) -> Replay:
        """Follow a schedule and judge its end."""
        real = [step for step in script if step.kind <= STEP_LAST]
        answers = [(step.actor, step.new) for step in script if step.kind > STEP_LAST]
        question = self._run(
            "follow", [n for s in real for n in (s.actor, s.kind, s.word)], answers
        )
        block = self.engine.block
        steps = self.engine.steps(int(block[at.H_DEPTH]))
        diverged, finding = -1, None
        if int(block[at.H_FAULT]) == at.FAULT_DIVERGED:
            diverged = int(block[at.H_FAULT_ACTOR])
        else:
            finding = self._judge(question)
        followed, new_steps = int(block[follow.FOLLOWED]), int(block[follow.NEW_STEPS])
        return Replay(finding, steps, followed, new_steps, diverged, self.engine.preemptions())

    def play_turns(
        self, turns: Sequence[tuple[int, int]], answers: Sequence[tuple[int, int]]
    ) -> Replay:
        """Let actors run by turns, (actor, steps) each, whatever their steps are."""
        question = self._run("turns", [n for turn in turns for n in turn], answers)
        finding = self._judge(question)
        steps = self.engine.steps(int(self.engine.block[at.H_DEPTH]))
        return Replay(finding, steps, 0, 0, -1, self.engine.preemptions())

    def _run(self, strategy: str, script: Sequence[int], answers: Sequence[tuple[int, int]]) -> int:
        """One execution by a strategy that follows a script; what to ask about it."""
        module = load_strategy(strategy)
        words = np.zeros(module.WORDS + len(script), np.int64)
        words[module.WORDS :] = script
        module.prepare(words, 0, 0)
        # One more pair that nobody asks for: an address of 0 would mean "draw at random".
        self._answers = np.array([*answers, (-1, 0)], np.int64).ravel()
        engine, block = self.engine, self.engine.block
        engine.use(module, words)
        block[at.H_ANSWERS] = self._answers.ctypes.data
        block[at.H_ANSWER_COUNT] = len(answers)
        block[at.H_ANSWERED : at.H_ANSWERED_MORE + 1] = 0
        engine.forget()
        return engine.run(1) >> 1

    def sample(self, seed: int) -> tuple[Step, ...]:
        """The steps of one random execution."""
        engine = self.engine
        engine.use(load_strategy("random"), np.zeros(max(random.WORDS, 1), np.int64))
        engine.block[at.H_ANSWERS] = 0
        engine.block[at.H_RANDOM] = seed << 20 | 1
        engine.block[at.H_ANSWERED : at.H_ANSWERED_MORE + 1] = 0
        engine.forget()
        engine.run(1)
        return engine.steps(int(engine.block[at.H_DEPTH]))

    def _judge(self, question: int) -> Finding | None:
        block, world = self.engine.block, self.world
        depth = int(block[at.H_DEPTH])
        if question & at.ASK_FAULT:
            steps = self.engine.steps(min(depth, int(block[at.H_FAULT_DEPTH])))
            return fault_finding(world, block, steps)
        if int(block[at.H_STATUS]) != at.STATUS_COMPLETE:
            return None
        steps = self.engine.steps(depth)
        values = tuple(int(world.words[i]) for i in world.outcome_words())
        found = outcome_finding(world, values, steps) if values else None
        return found or audit_finding(world, steps, self._oracles)


def follow_script(world: World, script: Sequence[Step], oracles: Collection[str] = ()) -> Replay:
    """Follow one schedule, once; a model that was edited may take more steps than recorded."""
    return Player(world, max(len(script) * 2, STEPS_MIN), oracles).play(script)


def check_determinism(
    scenario: Scenario,
    schedules: int = DETERMINISM_SCHEDULES,
    progress: Progress | None = None,
) -> Result:
    """Run random schedules twice each and compare every step with its values.

    `progress(result so far)` is asked after each schedule, False ends it.  Raises RunFailed if
    anything but the schedule decides: then nothing else said about the scenario could be trusted.
    """
    world = World(scenario)
    player = Player(world)
    result = Result("random")
    for seed in range(1, schedules + 1):
        first = player.sample(seed)
        again = player.play(first).steps
        for number, (one, other) in enumerate(zip(first, again, strict=False), start=1):
            if one != other:
                name = scenario.actors[one.actor].name
                raise RunFailed(
                    f"scenario {scenario.name} is not deterministic: step {number} of schedule"
                    f" {seed}, by {name} on {world.name_of(one.word)}, saw {one.old:#x} the first"
                    f" time and {other.old:#x} the second: an actor must see nothing but shared"
                    " words and draws"
                )
        if len(first) != len(again):
            raise RunFailed(
                f"scenario {scenario.name} is not deterministic: schedule {seed} had"
                f" {len(first)} steps the first time and {len(again)} the second"
            )
        result.executions += 2
        if progress is not None and not progress(result):
            break
    world.close()
    return result
