"""Schedules as turns, who runs for how many steps; and playing them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.explore.replay import Player, Replay
from harness.explore.shrink.failure import Failure
from harness.explore.trace import Finding, Step
from mmu.machine.events import STEP_LAST

Turn = tuple[int, int]  # actor, steps
Turns = tuple[Turn, ...]
Answers = tuple[tuple[int, int], ...]  # actor, answer


def turns_of(actors: Iterable[int]) -> Turns:
    """The turns of a row of actors, one for each step."""
    turns: list[Turn] = []
    for actor in actors:
        if turns and turns[-1][0] == actor:
            turns[-1] = (actor, turns[-1][1] + 1)
        else:
            turns.append((actor, 1))
    return tuple(turns)


def real(steps: Sequence[Step]) -> list[Step]:
    """Without answered questions."""
    return [step for step in steps if step.kind <= STEP_LAST]


def answers_of(steps: Sequence[Step]) -> Answers:
    """What actors were answered, in order."""
    return tuple((step.actor, step.new) for step in steps if step.kind > STEP_LAST)


@dataclass(frozen=True)
class Schedule:
    """One that shows the failure: its finding, with all steps, and how many preemptions it has."""

    finding: Finding
    preemptions: int

    @property
    def steps(self) -> tuple[Step, ...]:
        """As they were executed."""
        return self.finding.steps

    @property
    def turns(self) -> Turns:
        """Who ran, for how long."""
        return turns_of(step.actor for step in real(self.steps))

    @property
    def length(self) -> int:
        """Steps, questions apart."""
        return len(real(self.steps))


class Table:
    """Where schedules of one scenario are tried: the same failure, or None."""

    def __init__(self, player: Player, failure: Failure, answers: Answers = ()) -> None:
        self._player = player
        self._failure = failure
        self._answers = answers

    def play(self, turns: Turns) -> Schedule | None:
        """What these turns show."""
        return self._judge(self._player.play_turns(turns, self._answers))

    def _judge(self, replay: Replay) -> Schedule | None:
        found = replay.finding
        scenario = self._player.world.scenario
        if found is None or Failure.of(scenario, found) != self._failure:
            return None
        return Schedule(found, replay.preemptions)
