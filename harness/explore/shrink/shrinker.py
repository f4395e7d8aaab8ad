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
from harness.explore.shrink.apart import apart
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

Look = Callable[[str], bool]  # told what is being tried; False: enough


@dataclass
class Pass:
    """What one pass has done."""

    about: str
    tried: int = 0
    taken: int = 0
    steps: int = 0  # fewer than before
    preemptions: int = 0


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
    for strategy in (*STRATEGIES, "turns"):
        compile_engine(strategy)
    return _Shrinker(case, finding, look).run()


class _Shrinker:
    def __init__(self, case: Case, finding: Finding, look: Look) -> None:
        self._case = case
        self._finding = finding
        self._failure = Failure.of(case.scenario(), finding)
        self._look = look
        self._enough = False

    def run(self) -> Shrunk | None:
        first = self._apart("the recording", partial(_replayed, self._case, self._finding))
        if first is None or Failure.of(self._case.scenario(), first.finding) != self._failure:
            return None
        result = Shrunk(self._case, first, first.length, first.preemptions)
        for module in CASE_PASSES:
            self._shrink_case(result, module.ABOUT, module.candidates)
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
                found = self._search(about, case)
                if found is None:
                    refused.append(case)
                    continue
                done.taken += 1
                done.steps += result.schedule.length - found.length
                done.preemptions += result.schedule.preemptions - found.preemptions
                result.case, result.schedule = case, found
                going = True
                break

    def _search(self, about: str, case: Case) -> Schedule | None:
        """A schedule of the smaller scenario that shows the failure, already cut."""
        scenario = case.scenario()
        for actor in scenario.actors:
            body_address(actor.body)  # compiled here, once, not in each child
        return self._apart(about, partial(_searched, case, self._failure))

    def _apart(self, about: str, job: Callable[[], Schedule | None]) -> Schedule | None:
        return apart(job, partial(self._go_on, about))

    def _go_on(self, about: str) -> bool:
        self._enough = self._enough or not self._look(about)
        return not self._enough

    # --- The schedule ----------------------------------------------------------------------------

    def _shrink_schedule(self, result: Shrunk) -> None:
        """All passes in turn, until a whole round changes nothing."""
        job = partial(_improved, result.case, self._failure, result.schedule)
        improved = apart(job, partial(self._go_on, "the schedule"))
        if improved is not None:
            result.schedule, passes = improved
            result.passes += passes


def _replayed(case: Case, finding: Finding) -> Schedule | None:
    """The recording as it is."""
    player = Player(World(case.scenario()), oracles=(finding.oracle,))
    replay = player.play(finding.steps)
    return None if replay.finding is None else Schedule(replay.finding, replay.preemptions)


def _searched(case: Case, failure: Failure) -> Schedule | None:
    """The first finding of any strategy that is the same failure."""
    for strategy in STRATEGIES:
        scenario = case.scenario()
        bounds = Bounds(executions=EXECUTIONS)
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
                done.taken += 1
                done.steps += schedule.length - found.length
                done.preemptions += schedule.preemptions - found.preemptions
                schedule, going = found, True
                break
    return schedule


def _is_better(new: Schedule, old: Schedule) -> bool:
    """Fewer steps; or as many, with fewer preemptions."""
    return (new.length, new.preemptions) < (old.length, old.preemptions)
