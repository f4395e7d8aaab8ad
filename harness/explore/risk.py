"""How easily a scenario fails: of all its traces so many, with so few preemptions."""

from __future__ import annotations

from dataclasses import dataclass

from harness.explore.judge import oracle_of_fault
from harness.explore.tally import Tally


@dataclass(frozen=True)
class OracleRisk:
    """Of the failing traces those that one oracle notices first."""

    oracle: str
    failing: int
    share: float
    preemptions_fewest: int


@dataclass(frozen=True)
class Risk:
    """Of all traces of a scenario.

    Attributes:
        failing, traces, share: traces that break a rule, all traces, and one by the other.
        preemptions_fewest: the fewest with which a rule is broken (None: none is).
        preemptions_proved: whether all schedules with fewer were run; else with fewer it may be
            possible too.
        oracles: the same by oracle, the most frequent first.
    """

    failing: int
    traces: int
    share: float
    preemptions_fewest: int | None
    preemptions_proved: bool
    oracles: tuple[OracleRisk, ...]


def fewest_by_oracle(tally: Tally) -> dict[str, int]:
    """Fewest preemptions of what was counted, by oracle."""
    fewest: dict[str, int] = {}
    for noticer, _, preemptions in tally.counts():
        oracle = noticer if isinstance(noticer, str) else oracle_of_fault(noticer)
        fewest[oracle] = min(fewest.get(oracle, preemptions), preemptions)
    return fewest


def risk_of(tally: Tally, traces: int) -> Risk:
    """The figures, when all traces were counted; nothing is known yet about other schedules."""
    failing: dict[str, int] = {}
    for noticer, count, _ in tally.counts():
        oracle = noticer if isinstance(noticer, str) else oracle_of_fault(noticer)
        failing[oracle] = failing.get(oracle, 0) + count
    fewest = fewest_by_oracle(tally)
    total = sum(failing.values())
    return Risk(
        failing=total,
        traces=traces,
        share=total / traces,
        preemptions_fewest=min(fewest.values(), default=None),
        preemptions_proved=not fewest,
        oracles=tuple(
            OracleRisk(oracle, count, count / traces, fewest[oracle])
            for oracle, count in sorted(failing.items(), key=lambda each: (-each[1], each[0]))
        ),
    )
