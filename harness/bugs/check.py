"""Is each bug of the catalogue found, its reproducer good, and the clean model not accused?

A bug is explored in its scenario with its diff, as a user would: whose finding it is, whether the
reproducer shows it again each time, compiled, and whether the interpreted model does the same step
for step.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from harness.bugs.catalogue import Bug
from harness.bugs.interpreters import Chain, Ended
from harness.bugs.kept import is_reproduced
from harness.explore.reproducer import FILE, Reproducer, read
from harness.report.tables import Cell, render
from workloads.errors import UsageError

SECONDS_DEFAULT = 10.0
CLEAN_SHARE = 0.5  # of the time for a bug, where the clean model cannot be exhausted
REPLAYS = 100
SEED = 1
FOUND_NOTHING, FOUND = 0, 1  # exit statuses of explore


@dataclass(frozen=True)
class Examined:
    """What became of a bug.

    Attributes:
        wanted: the oracle whose finding it must be.
        oracle: whose it was; several with commas, empty if nothing was found.
        seconds: of exploring, compiling apart.
        shrunk_steps: of the reproducer.
        replayed: how many of REPLAYS compiled replays showed it again.
        interpreted: whether the interpreted model did the same, step for step.
        problem: what is not as it must be; empty if all is.
    """

    id: str
    name: str
    scenario: str
    wanted: str
    found: bool = False
    strategy: str = ""
    executions: int = 0
    seconds: float = 0.0
    oracle: str = ""
    shrunk_steps: int = 0
    replayed: int = 0
    interpreted: bool = False
    problem: str = ""
    reproducer: Reproducer | None = None

    def __str__(self) -> str:
        if self.problem:
            return f"{self.name} (by {self.wanted}): {_verdict(self)}: {self.problem}"
        how = f"{_executions(self)}, {self.seconds:.1f} s"
        return f"{self.name}: found by {self.oracle}, {how}, {self.shrunk_steps} steps"

    def row(self) -> dict[str, Any]:
        """For the run's document."""
        names = (field.name for field in fields(self) if field.name != "reproducer")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Clean:
    """What exploring a scenario of the clean model gave; `problem` says why it is not clean."""

    scenario: str
    executions: int = 0
    exhausted: bool = False
    seconds: float = 0.0
    problem: str = ""
    violations: Sequence[Mapping[str, Any]] = ()

    def __str__(self) -> str:
        return f"clean model, {self.scenario}: {self.problem or _how_far(self)}"

    def row(self) -> dict[str, Any]:
        """For the run's document."""
        names = (field.name for field in fields(self) if field.name != "violations")
        return {name: getattr(self, name) for name in names}


def examine(bug: Bug, seconds: float, work: Path) -> Chain[Examined]:
    """Explore, replay, compare; stored runs go to `work`."""
    runs = work / bug.name
    examined = Examined(bug.id, bug.name, bug.scenario, bug.oracle)
    words = _explore(bug.scenario, seconds, "--patch", str(bug.diff))
    ended = yield (*words, "--quiet", "--json", "-", "--results", str(runs))
    document = _document(ended)
    if document is None:
        return replace(examined, problem=ended.complaint)
    oracles = [violation["oracle"] for violation in document["violations"]]
    examined = replace(
        examined,
        found=bug.oracle in oracles,
        strategy=document["strategy"],
        executions=document["executions"],
        seconds=document["seconds"],
        oracle=bug.oracle if bug.oracle in oracles else ", ".join(dict.fromkeys(oracles)),
    )
    if not oracles:
        tried = f"{_executions(examined)} in {examined.seconds:.1f} s"
        all_of_them = ", all there are" if document["exhausted"] else ""
        return replace(examined, problem=f"nothing was found in {tried}{all_of_them}")
    if not examined.found:
        message = document["violations"][0]["message"]
        return replace(examined, problem=f"found by {examined.oracle}: {message}")
    try:
        file, reproducer = _reproducer(runs, bug.oracle)
    except UsageError as error:
        return replace(examined, problem=str(error))
    examined = replace(examined, shrunk_steps=len(reproducer.steps), reproducer=reproducer)
    if not reproducer.steps:
        return replace(examined, problem="shrunk to no step at all: its set-up alone is broken")
    ended = yield ("replay", str(file), "--times", str(REPLAYS), "--quiet")
    if not is_reproduced(ended, REPLAYS):
        return replace(examined, problem=f"replayed: {ended.complaint}")
    examined = replace(examined, replayed=REPLAYS)
    ended = yield ("replay", str(file), "--explain", "--quiet")
    if not is_reproduced(ended):
        return replace(examined, problem=f"interpreted: {ended.complaint}")
    return replace(examined, interpreted=True)


def look_at_clean(scenario: str, seconds: float, work: Path) -> Chain[Clean]:
    """The same scenario without any diff."""
    runs = work / f"clean-{scenario}"
    words = _explore(scenario, seconds * CLEAN_SHARE)
    ended = yield (*words, "--quiet", "--json", "-", "--results", str(runs))
    document = _document(ended)
    if document is None:
        return Clean(scenario, problem=ended.complaint)
    # The reproducer goes with the work: the same words find it again.
    again = f"tdprace {shlex.join(words)}"
    violations = tuple({**each, "reproducer": again} for each in document["violations"])
    return Clean(
        scenario,
        document["executions"],
        document["exhausted"],
        document["seconds"],
        "; ".join(f"{each['oracle']}: {each['message']}" for each in violations),
        violations,
    )


def _explore(scenario: str, seconds: float, *more: str) -> tuple[str, ...]:
    # In one process, so that what is found does not depend on who is faster.
    bounds = ("--seconds", f"{seconds:g}", "-j", "1", "--seed", str(SEED))
    return ("explore", scenario, *bounds, *more)


def _document(ended: Ended) -> dict[str, Any] | None:
    """What explore says of its run, if it could be done."""
    if ended.status not in (FOUND_NOTHING, FOUND):
        return None
    try:
        document: dict[str, Any] = json.loads(ended.out)
    except ValueError:
        return None  # a traceback has the exit status of a finding
    return document


def _reproducer(runs: Path, oracle: str) -> tuple[Path, Reproducer]:
    """The shortest one of the oracle's."""
    found = [(file, read(file)) for file in sorted(runs.glob(f"*/*{FILE}"))]
    wanted = [each for each in found if each[1].violation.oracle == oracle]
    if not wanted:
        raise UsageError(f"no reproducer of {oracle} was stored")
    return min(wanted, key=lambda each: len(each[1].steps))


# --- Tables --------------------------------------------------------------------------------------


def bug_table(examined: Sequence[Examined]) -> str:
    """Who found what, how soon, and how short it can be told."""
    heads = ["bug", "scenario", "found by", "executions", "seconds", "steps"]
    rows = [_bug_row(each) for each in examined]
    return render([*heads, f"of {REPLAYS} replays", "interpreted", "verdict"], rows)


def _bug_row(each: Examined) -> list[Cell]:
    return [
        each.name,
        each.scenario,
        each.oracle or "-",
        f"{each.executions:,}",
        f"{each.seconds:.1f}",
        each.shrunk_steps or "-",
        each.replayed if each.shrunk_steps else "-",
        "the same" if each.interpreted else "-",
        _verdict(each),
    ]


def _executions(each: Examined) -> str:
    return f"{each.executions:,} execution{'s' * (each.executions != 1)}"


def _verdict(each: Examined) -> str:
    if not each.found:
        return "NOT FOUND"
    return "NOT REPRODUCED" if each.problem else "found"


def clean_table(clean: Sequence[Clean]) -> str:
    """What the clean model did under the same scenarios."""
    rows: list[list[Cell]] = []
    for each in clean:
        verdict = "ACCUSED" if each.violations else ("NOT EXPLORED" if each.problem else "clean")
        rows.append([each.scenario, f"{each.executions:,}", _how_far(each), verdict])
    return render(["clean model", "executions", "how far", "verdict"], rows)


def _how_far(clean: Clean) -> str:
    return "exhausted" if clean.exhausted else f"{clean.seconds:.1f} s"


def problems(examined: Sequence[Examined], clean: Sequence[Clean]) -> list[str]:
    """A line for each thing that is not as it must be."""
    wrong: list[Examined | Clean] = [each for each in examined if each.problem]
    return [str(each) for each in [*wrong, *(each for each in clean if each.problem)]]
