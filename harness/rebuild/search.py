"""Try candidates one after the other, the likeliest longest, until one shows what is looked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.explore.explorer import Bounds, Result
from harness.explore.parallel import explore, tasks_for
from harness.explore.trace import Finding
from harness.rebuild.candidates import OPERATIONS_MAX, Candidate
from workloads.errors import RunFailed

FIRST_SECONDS = 0.5  # of a candidate in the first round
FACTOR = 4  # of seconds from round to round

Look = Callable[[int, Candidate, Result], None]


@dataclass
class Tried:
    """A candidate, how far it was explored, and what else it showed."""

    number: int
    candidate: Candidate
    executions: int = 0
    seconds: float = 0.0
    exhausted: bool = False
    error: str = ""


@dataclass
class Outcome:
    """What all tries gave: who was found with what, or nobody."""

    tried: list[Tried]
    found: Candidate | None = None
    finding: Finding | None = None
    result: Result | None = None
    interrupted: bool = False
    seconds: float = 0.0


def search(
    candidates: Sequence[Candidate],
    oracles: Sequence[str],
    bounds: Bounds,
    *,
    seed: int,
    jobs: int,
    look: Look,
) -> Outcome:
    """In rounds: small candidates briefly, then larger ones too and all of them longer.

    `bounds.seconds` are for all rounds together.  What is exhausted is not tried again.
    """
    tried = [Tried(number, each) for number, each in enumerate(candidates, start=1)]
    outcome = Outcome(tried)
    began = time.monotonic()
    seconds = FIRST_SECONDS
    size = 1
    while outcome.found is None and not outcome.interrupted:
        open_ones = [each for each in tried if not each.exhausted and not each.error]
        turn = [each for each in open_ones if each.candidate.operations <= size]
        if not turn and size >= OPERATIONS_MAX:
            break
        for each in turn:
            left = bounds.seconds - (time.monotonic() - began)
            if left <= 0 or outcome.found is not None or outcome.interrupted:
                break
            limits = Bounds(seconds=min(seconds, left), steps=bounds.steps)
            _try(each, outcome, oracles, limits, seed, jobs, look)
        if time.monotonic() - began >= bounds.seconds:
            break
        size += 1
        seconds *= FACTOR
    outcome.seconds = time.monotonic() - began
    return outcome


def _try(
    tried: Tried,
    outcome: Outcome,
    oracles: Sequence[str],
    bounds: Bounds,
    seed: int,
    jobs: int,
    look: Look,
) -> None:
    """Explore one candidate for a while."""
    try:
        result = explore(
            tried.candidate.program.scenario(),
            tasks_for("auto", bounds, seed, jobs),
            stop_at_finding=True,
            look=lambda result: look(tried.number, tried.candidate, result),
            oracles=oracles,
        )
    except RunFailed as error:
        tried.error = str(error)
        return
    tried.executions += result.executions
    tried.seconds += result.seconds
    tried.exhausted = result.exhausted
    outcome.interrupted = result.interrupted
    for found in result.findings:
        if found.oracle in oracles:
            outcome.found, outcome.finding, outcome.result = tried.candidate, found, result
            return
