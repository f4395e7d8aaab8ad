"""Explore a scenario's schedules: budgets, slices of compiled executions, what was found.

(contract; the engine is being written)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from harness.explore.trace import Finding
from workloads.scenario import Scenario


@dataclass(frozen=True)
class Bounds:
    """Where an exploration ends.  `executions` and `seconds` 0: no bound."""

    executions: int = 0
    seconds: float = 0.0
    steps: int = 2000  # of one execution
    preemptions: int = -1  # of one execution; -1: no bound
    depth: int = 0  # pct's d


@dataclass
class Result:
    """What an exploration gave, complete or not.

    `executions` counts complete and deadlocked ones; `blocked` those cut by a sleep set.
    `exhausted` is True only if every trace was visited.  `bound` says which bound ended it ("").
    `outcomes` maps outcome values to how many complete executions ended so.
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
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


Progress = Callable[[Result], bool]


class Explorer:
    """One scenario under one strategy; `run` goes on until a bound, the end, or a finding."""

    def __init__(
        self,
        scenario: Scenario,
        strategy: str = "auto",
        bounds: Bounds | None = None,
        *,
        seed: int = 1,
        stop_at_finding: bool = True,
    ) -> None:
        raise NotImplementedError

    def run(self, progress: Progress | None = None) -> Result:
        """Explore; `progress(result so far)` is asked at least every 100 ms, False ends it."""
        raise NotImplementedError

    def close(self) -> None:
        """Give stacks and memory back."""
