"""The fewest preemptions with which a rule can be broken, proved by running what has fewer.

dpor shows one schedule of each trace; how many preemptions that one has is no more than a bound
for the trace.  So all schedules with none, then with one, ... are run, without any reduction,
until each oracle's fewest is reached or too many would be needed.
"""

from __future__ import annotations

import time
from dataclasses import replace

from harness.explore.explorer import Bounds, Explorer, Progress, Result
from harness.explore.risk import Risk, fewest_by_oracle
from workloads.scenario import Scenario

SCHEDULES_MAX = 3_000_000  # some seconds in a small VM, and most bugs need three switches or less


def prove_fewest(
    scenario: Scenario, result: Result, bounds: Bounds, progress: Progress | None = None
) -> Risk | None:
    """The result's figures with the fewest preemptions as far as they can be proved.

    `bounds.seconds`, if any, are for all of it, those that the result took included.
    """
    risk = result.risk
    if risk is None:
        return None
    fewest = {each.oracle: each.preemptions_fewest for each in risk.oracles}
    left, preemptions = SCHEDULES_MAX, 0
    deadline = time.monotonic() + bounds.seconds - result.seconds
    while preemptions < max(fewest.values(), default=0):
        seconds = max(deadline - time.monotonic(), 0.001) if bounds.seconds else 0.0
        limits = Bounds(left, seconds, bounds.steps, preemptions)
        explorer = Explorer(scenario, "switches", limits, stop_at_finding=False, tallied=True)
        level = explorer.run(None if progress is None else lambda _: progress(result))
        explorer.close()
        assert explorer.tally is not None
        for oracle, found in fewest_by_oracle(explorer.tally).items():
            fewest[oracle] = min(fewest.get(oracle, found), found)
        left -= level.executions
        cut = level.executions > level.complete + level.deadlocked
        if not explorer.is_through or cut or explorer.tally.unjudged or left <= 0:
            result.interrupted = level.interrupted
            return _with(risk, fewest, proved=False)
        preemptions += 1
    return _with(risk, fewest, proved=True)


def _with(risk: Risk, fewest: dict[str, int], *, proved: bool) -> Risk:
    return replace(
        risk,
        preemptions_fewest=min(fewest.values(), default=None),
        preemptions_proved=proved,
        oracles=tuple(
            replace(each, preemptions_fewest=fewest[each.oracle]) for each in risk.oracles
        ),
    )
