"""Which bugs real processes find: runs of `torture` on each patched model, a seed each."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any, Final

from harness.bugs.catalogue import Bug
from harness.bugs.mutants.hunt import torture_plan
from harness.bugs.trials import Record, Task, Trials
from harness.report.tables import Cell, render
from harness.run.session import Session, SignalFlag
from harness.run.status import Status
from harness.run.warm import warm
from harness.watch.stress import Watching
from workloads import registry
from workloads.errors import MachineError, UsageError

RUNS_DEFAULT: Final = 5
SECONDS_DEFAULT: Final = 60.0
VCPUS_DEFAULT: Final = 3
WATCHDOG_S: Final = 30.0


def names(runs: int) -> tuple[str, ...]:
    """A trial is a run; its seed is its number."""
    return tuple(f"seed {seed}" for seed in range(1, runs + 1))


def task(bug: Bug, trials: Trials, runs: int, seconds: float, vcpus: int) -> Task:
    """What is left to try of a bug."""
    options = {"seconds": seconds, "vcpus": vcpus}
    return Task("torture", trials.todo(bug, names(runs)), options)


# --- In the patched tree -------------------------------------------------------------------------


def trials(job: dict[str, Any]) -> Iterator[Record]:
    """One run after the other."""
    registry.load("torture")
    warm()
    for name in job["names"]:
        yield {"trial": name, **_run(int(name.split()[1]), job["seconds"], job["vcpus"])}


def _run(seed: int, seconds: float, vcpus: int) -> Record:
    """Who noticed first, and after how long; `ended` says how a run broke down that none did."""
    # Floors are for the model's own speed: a broken one may be slow, which is no finding.
    words = ("-v", str(vcpus), "--seed", str(seed), "--no-floors")
    watching = Watching(bounds=True, seed=seed)
    with SignalFlag() as flag:
        plan = torture_plan(words, seconds)
        began = time.monotonic()
        try:
            session = Session(plan, Status(True), watchdog_s=WATCHDOG_S, watching=watching)
            result = session.run(flag, lambda phase, so_far: None)
        except (ArithmeticError, LookupError, ValueError) as error:
            # An audit of a memory that cannot be.
            passed = time.monotonic() - began
            return {"failed": "", "oracle": "", "ended": repr(error), "seconds": passed}
        passed = time.monotonic() - began
        if flag.raised:
            raise KeyboardInterrupt
    if isinstance(result.error, UsageError | MachineError):
        return {"failed": str(result.error)}
    oracle = result.violations[0].oracle if result.violations else ""
    ended = "" if result.error is None else str(result.error)
    return {"failed": "", "oracle": oracle, "ended": ended, "seconds": passed}


# --- The table -----------------------------------------------------------------------------------


def table(bugs: Sequence[Bug], trials: Trials, runs: int) -> str:
    """How many runs found each bug, by whom first, how soon; last, how many bugs any run found."""
    heads = ["bug", "what goes wrong", "found in", "noticed first by", "seconds, median"]
    rows = [_row(bug, trials, runs) for bug in bugs]
    found = sum(
        any(record["oracle"] for name in names(runs) if (record := trials.record(bug, name)))
        for bug in bugs
    )
    rows.append(["found", "", f"{found} of {len(bugs)}", "", "", ""])
    return render([*heads, "broke down"], rows)


def _row(bug: Bug, trials: Trials, runs: int) -> list[Cell]:
    records = [record for name in names(runs) if (record := trials.record(bug, name)) is not None]
    done = [record for record in records if not record["failed"]]
    hits = [record for record in done if record["oracle"]]
    oracles = Counter(record["oracle"] for record in hits).most_common()
    broke = sum(bool(record["ended"]) and not record["oracle"] for record in done)
    return [
        bug.id,
        bug.title,
        f"{len(hits)} of {len(done)}",
        ", ".join(name if times == len(hits) else f"{name} {times}" for name, times in oracles),
        f"{median(record['seconds'] for record in hits):.1f}" if hits else "-",
        str(broke) if broke else "-",
    ]


def legend(runs: int, seconds: float, vcpus: int) -> str:
    """What the cells mean."""
    return (
        f"`torture -v {vcpus}` on each patched model: {runs} runs with seeds 1 to {runs}, at most"
        f" {seconds:g} s each. A seed also draws which features are on, so that some runs cannot"
        " find some bugs. Seconds are from the start of a run to its end, in the runs that found"
        " something. Broke down: a process died or nothing moved, and no oracle had said why."
    )
