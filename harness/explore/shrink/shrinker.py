"""Shrink a finding: fewer actors, less to do, a smaller VM, fewer steps, fewer preemptions.

Each pass proposes candidates (one pass a file); here they are tried, and taken if they show the
same failure in fewer steps, or in as many with fewer preemptions.  Everything is counted, nothing
is timed or drawn, so that the same finding shrinks to the same reproducer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from harness.explore.coroutines import body_address
from harness.explore.explorer import Bounds, Explorer, compile_engine
from harness.explore.replay import Player
from harness.explore.shrink import actors, geometry, merge, operations, past, preemptions
from harness.explore.shrink.apart import Value, apart
from harness.explore.shrink.case import Case
from harness.explore.shrink.failure import Failure
from harness.explore.shrink.turns import Schedule, Table, answers_of
from harness.explore.trace import Finding
from harness.explore.world import World

STRATEGIES: Final = ("dpor", "surw", "pos")  # with which a smaller scenario is searched
EXECUTIONS: Final = 20_000  # by each
CASE_PASSES: Final = (actors, operations, geometry)
SCHEDULE_PASSES: Final = (past, preemptions, merge)
ROUNDS_MAX: Final = 8
SAMPLES: Final = 64  # schedules of which one has to be clean, see `_can_be_clean`

Look = Callable[[str], bool]  # told what is being tried; False: enough


@dataclass
class Pass:
    """What one pass has done."""

    about: str
    tried: int = 0
    taken: int = 0
    steps: int = 0  # fewer than before
    preemptions: int = 0

    def take(self, before: Schedule, after: Schedule) -> Schedule:
        """Count that one took the place of the other."""
        self.taken += 1
        self.steps += before.length - after.length
        self.preemptions += before.preemptions - after.preemptions
        return after


@dataclass
class Shrunk:
    """The result: what is left of scenario and schedule."""

    case: Case
    schedule: Schedule
    steps_before: int
    preemptions_before: int
    passes: list[Pass] = field(default_factory=list)
    interrupted: bool = False

    @property
    def finding(self) -> Finding:
        """The shrunk finding, of the case's scenario."""
        return self.schedule.finding


def shrink(case: Case, finding: Finding, look: Look = lambda text: True) -> Shrunk | None:
    """Make a finding of the case's scenario small; None if it does not show again by itself."""
    for strategy in (*STRATEGIES, "random", "follow", "turns"):
        compile_engine(strategy)
    return _Shrinker(case, finding, look).run()


class _Shrinker:
    def __init__(self, case: Case, finding: Finding, look: Look) -> None:
        self._case = case
        self._finding = finding
        self._failure = Failure.of(case.scenario(), finding)
        self._look = look
        self._enough = False
        self._must_be_race = False

    def run(self) -> Shrunk | None:
        first = self._apart("the recording", partial(_replayed, self._case, self._finding))
        if first is None or Failure.of(self._case.scenario(), first.finding) != self._failure:
            return None
        expects = self._case.scenario()
        if expects.check is not None or expects.outcome:
            clean = self._apart("the scenario", partial(_can_be_clean, self._case))
            self._must_be_race = bool(clean)
        result = Shrunk(self._case, first, first.length, first.preemptions)
        for module in CASE_PASSES:
            self._shrink_case(result, module.ABOUT, module.candidates)
        self._shorten(result)
        self._shrink_schedule(result)
        result.interrupted = self._enough
        return result

    # --- The scenario ----------------------------------------------------------------------------

    def _shrink_case(
        self, result: Shrunk, about: str, candidates: Callable[[Case], Iterator[Case]]
    ) -> None:
        """Until none of a pass' candidates shows the failure any more."""
        done = Pass(about)
        result.passes.append(done)
        refused: list[Case] = []
        going = True
        while going:
            going = False
            for case in candidates(result.case):
                if case in refused or self._enough:
                    continue
                done.tried += 1
                found = self._search(about, case, result.schedule.length)
                if found is None:
                    refused.append(case)
                    continue
                result.case, result.schedule = case, done.take(result.schedule, found)
                going = True
                break

    def _shorten(self, result: Shrunk) -> None:
        """Search with ever fewer steps allowed, until nothing is found any more."""
        done = Pass("shorter executions")
        result.passes.append(done)
        # What is broken before the first step is found within any bound: at 0 it is over.
        while result.schedule.length > 0 and not self._enough:
            done.tried += 1
            found = self._search(done.about, result.case, result.schedule.length - 1)
            if found is None or found.length >= result.schedule.length:
                break
            result.schedule = done.take(result.schedule, found)

    def _search(self, about: str, case: Case, steps: int) -> Schedule | None:
        """A schedule of the smaller scenario that shows the failure within so many steps."""
        scenario = case.scenario()
        for actor in scenario.actors:
            body_address(actor.body)  # compiled here, once, not in each child
        found = self._apart(about, partial(_searched, case, self._failure, steps))
        if found is not None and self._must_be_race and case != self._case:
            return found if self._apart(about, partial(_can_be_clean, case)) else None
        return found

    def _apart(self, about: str, job: Callable[[], Value]) -> Value | None:
        return apart(job, partial(self._go_on, about))

    def _go_on(self, about: str) -> bool:
        self._enough = self._enough or not self._look(about)
        return not self._enough

    # --- The schedule ----------------------------------------------------------------------------

    def _shrink_schedule(self, result: Shrunk) -> None:
        """All passes in turn, until a whole round changes nothing."""
        job = partial(_improved, result.case, self._failure, result.schedule)
        improved = self._apart("the schedule", job)
        if improved is not None:
            result.schedule, passes = improved
            result.passes += passes


def _replayed(case: Case, finding: Finding) -> Schedule | None:
    """The recording as it is."""
    player = Player(World(case.scenario()), oracles=(finding.oracle,))
    replay = player.play(finding.steps)
    return None if replay.finding is None else Schedule(replay.finding, replay.preemptions)


def _can_be_clean(case: Case) -> bool:
    """Whether some schedule shows nothing.

    What a scenario expects at its end is about all of its actors.  If something is missing it may
    fail whatever the schedule is: that is no race, and not the failure that was found.
    """
    player = Player(World(case.scenario()))
    return any(player.play(player.sample(seed)).finding is None for seed in range(1, SAMPLES + 1))


def _searched(case: Case, failure: Failure, steps: int) -> Schedule | None:
    """The first finding of any strategy that is the same failure."""
    for strategy in STRATEGIES:
        scenario = case.scenario()
        bounds = Bounds(executions=EXECUTIONS, steps=steps)
        explorer = Explorer(scenario, strategy, bounds, oracles=(failure.oracle,))
        result = explorer.run()
        explorer.close()
        for found in result.findings:
            if Failure.of(scenario, found) == failure:
                return _replayed(case, found)
    return None


def _improved(case: Case, failure: Failure, schedule: Schedule) -> tuple[Schedule, list[Pass]]:
    """The schedule after all passes, and what they did."""
    player = Player(World(case.scenario()), oracles=(failure.oracle,))
    table = Table(player, failure, answers_of(schedule.steps))
    passes = {module: Pass(module.ABOUT) for module in SCHEDULE_PASSES}
    for _ in range(ROUNDS_MAX):
        before = schedule
        for module in SCHEDULE_PASSES:
            schedule = _one_pass(table, schedule, module.candidates, passes[module])
        if schedule == before:
            break
    return schedule, list(passes.values())


def _one_pass(
    table: Table,
    schedule: Schedule,
    candidates: Callable[[Schedule], Iterator[tuple[tuple[int, int], ...]]],
    done: Pass,
) -> Schedule:
    """Until none of the candidates is better."""
    going = True
    while going:
        going = False
        for turns in candidates(schedule):
            done.tried += 1
            found = table.play(turns)
            if found is not None and _is_better(found, schedule):
                schedule, going = done.take(schedule, found), True
                break
    return schedule


def _is_better(new: Schedule, old: Schedule) -> bool:
    """Fewer steps; or as many, with fewer preemptions."""
    return (new.length, new.preemptions) < (old.length, old.preemptions)
