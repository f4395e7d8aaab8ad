"""Which strategy finds which bug: executions until the first finding of the bug's own oracle."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any, Final

from harness.bugs.catalogue import Bug
from harness.bugs.trials import Record, Task, Trials
from harness.explore.explorer import Bounds, compile_engine
from harness.explore.load import load_scenario
from harness.explore.parallel import Task as Worker
from harness.explore.parallel import explore
from harness.report.tables import Cell, count, render
from harness.run.warm import needed_by, warm
from workloads.errors import RunFailed, UsageError
from workloads.scenario import Scenario

EXACT: Final = ("dpor", "optimal")  # draw nothing: one run is all of them
SAMPLERS: Final = ("random", "pct", "pos", "urw", "surw")
STRATEGIES: Final = (*EXACT, *SAMPLERS)
SEEDS_DEFAULT: Final = 20
EXECUTIONS_DEFAULT: Final = 100_000


def task(bug: Bug, trials: Trials, seeds: int, executions: int) -> Task:
    """What is left to try of a bug."""
    options = {
        "scenario": bug.scenario,
        "oracle": bug.oracle,
        "seeds": seeds,
        "executions": executions,
    }
    return Task("strategies", trials.todo(bug, STRATEGIES), options)


# --- In the patched tree -------------------------------------------------------------------------


def trials(job: dict[str, Any]) -> Iterator[Record]:
    """One strategy after the other."""
    scenario = load_scenario(job["scenario"])
    warm(kernels=needed_by(scenario.functions))
    for strategy in job["names"]:
        compile_engine(strategy)
        seeds = 1 if strategy in EXACT else job["seeds"]
        yield {"trial": strategy, **_tried(scenario, strategy, seeds, job)}


def _tried(scenario: Scenario, strategy: str, seeds: int, job: dict[str, Any]) -> Record:
    """Executions until the finding, by seed; None where there is none within the limit."""
    found: list[int | None] = []
    exhausted = False
    for seed in range(1, seeds + 1):
        worker = Worker(strategy, Bounds(executions=job["executions"]), seed)
        try:
            result = explore(
                scenario,
                [worker],
                stop_at_finding=True,
                look=lambda so_far: None,
                oracles=(job["oracle"],),
            )
        except UsageError as error:
            return {"failed": "", "impossible": str(error)}  # optimal, where somebody draws
        except RunFailed as error:
            return {"failed": str(error)}
        if result.interrupted:
            raise KeyboardInterrupt
        wanted = any(each.oracle == job["oracle"] for each in result.findings)
        # What a sleep set has cut was run too.
        found.append(result.executions + result.blocked if wanted else None)
        exhausted = result.exhausted
    return {"failed": "", "found": found, "exhausted": exhausted}


# --- The table -----------------------------------------------------------------------------------


def table(bugs: Sequence[Bug], trials: Trials, executions: int) -> str:
    """Bugs by strategies, and in how many bugs the median seed found something."""
    records = {
        (bug.id, strategy): trials.record(bug, strategy) for bug in bugs for strategy in STRATEGIES
    }
    rows: list[list[Cell]] = [
        [bug.id, bug.scenario, *(cell(records[bug.id, name], executions) for name in STRATEGIES)]
        for bug in bugs
    ]
    found = [
        sum(middle(records[bug.id, strategy]) < math.inf for bug in bugs) for strategy in STRATEGIES
    ]
    rows.append(["found", "", *(f"{each} of {len(bugs)}" for each in found)])
    return render(["bug", "scenario", *STRATEGIES], rows)


def middle(record: Record | None) -> float:
    """The median seed's executions; infinite where that seed, or nobody, has found anything."""
    found = (record or {}).get("found")
    if not found:
        return math.inf
    return float(median(math.inf if each is None else each for each in found))


def cell(record: Record | None, executions: int) -> str:
    """`12`, `4,310 (15/20)` where not every seed has found it, `>100,000 (3/20)`, `none`, `-`."""
    if record is None or "found" not in record:
        return "failed" if record is not None and record["failed"] else "-"
    seeds = record["found"]
    hits = sum(each is not None for each in seeds)
    if hits == 0 and record["exhausted"]:
        return "none"
    among = middle(record)
    text = f">{count(executions)}" if among == math.inf else count(round(among))
    return text if hits == len(seeds) or len(seeds) == 1 else f"{text} ({hits}/{len(seeds)})"


def legend(seeds: int, executions: int) -> str:
    """What the cells mean."""
    return (
        f"Executions until the first finding of the bug's own oracle: the median of {seeds} seeds,"
        f" for dpor and optimal one run; at most {count(executions)}. (k/{seeds}): only k seeds"
        " found it at all. `none`: all traces were run. `-`: the strategy cannot (the scenario"
        " draws), or was not tried. Last row: bugs that the median seed found."
    )
