"""Hunt one mutant in a process of its own, which runs the patched model: who notices it?

`python -m harness.bugs.mutants.hunt` in a patched tree reads a `Job` from stdin and writes an
`Outcome` to stdout, both JSON.  All scenarios are explored from this one process, each in a fork
of it: a start costs more than most explorations.  First dpor for a moment everywhere, since most
mutants die at once; then, where dpor saw no end, the samplers and dpor again for longer, one
strategy after the other; then `torture` in real processes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness.explore.explorer import Bounds, Result, compile_engine
from harness.explore.parallel import Task, explore
from harness.run.lifeline import die_with_parent
from harness.run.session import Session, SignalFlag
from harness.run.status import Status
from harness.run.warm import warm
from harness.watch.inject import Injection
from harness.watch.stress import Watching
from workloads import registry as workload_registry
from workloads.errors import RunFailed, TdpraceError, UsageError
from workloads.plan import Plan
from workloads.scenario import Scenario
from workloads.scenarios.registry import load

KILLED, SURVIVED, UNCOMPILED, FAILED = "killed", "survived", "uncompiled", "failed"

QUICK_S = 0.5  # dpor in each scenario
LONG_S = 0.3  # shorter is not worth a start; with many scenarios only the first get so much
STRATEGIES = ("surw", "pct", "pos", "dpor")  # share --seconds where dpor saw no end
# Little memory shows a missing flush, more of it races; policies, and what the seed draws, take
# other paths.
TORTURES = (
    ("-v", "3", "--seed", "1"),
    ("-v", "2", "--seed", "2", "-b", "64k", "-s", "4k"),
    ("-v", "2", "--seed", "3", "-b", "16M", "--huge-split", "zap", "--root-life", "owned"),
    ("-v", "2", "--seed", "4", "-b", "1M", "-s", "4k", "--zap-by", "caller", "--flush", "range"),
)
WATCHDOG_S = 10.0

# Every second one: failures take paths that luck seldom takes, delays widen windows.
INJECTED = Injection(retry=0.01, cmpxchg=0.01, contention=0.05, delay=0.001, delay_ns=2000)

# What a run that failed means, by what its error says.
_HOW = (
    ("died", "crash"),
    ("without a step", "hang"),
    ("executions ended", "endless"),
    ("nothing moves", "hang"),
)


@dataclass(frozen=True)
class Job:
    """What to try: scenarios in order, those worth more time, and how long all that may take."""

    parent: int
    scenarios: Sequence[str]
    worth: Sequence[str]
    seconds: float  # shared by those that are worth it
    torture: float


@dataclass(frozen=True)
class Kill:
    """Who noticed, where, and what he said."""

    oracle: str
    message: str
    scenario: str
    strategy: str


@dataclass(frozen=True)
class Outcome:
    """What became of the mutant; seconds are those of the hunt, compiling apart."""

    outcome: str
    seconds: float = 0.0
    compile_seconds: float = 0.0
    executions: int = 0
    scenarios: int = 0  # that execute what was changed
    exhausted: int = 0  # of which every trace was seen
    kill: Kill | None = None
    message: str = ""


class Hunt:
    """One mutant's hunt: `run` ends at the first kill."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._executions = 0
        self._exhausted: set[str] = set()

    def run(self) -> Outcome:
        """Compile, explore, torture."""
        began = time.monotonic()
        scenarios = {name: load(name) for name in self._job.scenarios}
        torture = workload_registry.load("torture") if self._job.torture else None
        try:
            warm()
        except UsageError as error:
            return Outcome(UNCOMPILED, message=str(error)[:300])
        for strategy in STRATEGIES:
            compile_engine(strategy)
        compiled = time.monotonic()
        kill = next(self._kills(scenarios), None)
        if kill is None and torture is not None:
            kill = next(_tortured(self._job.torture), None)
        return Outcome(
            outcome=SURVIVED if kill is None else KILLED,
            seconds=time.monotonic() - compiled,
            compile_seconds=compiled - began,
            executions=self._executions,
            scenarios=len(scenarios),
            exhausted=len(self._exhausted),
            kill=kill,
        )

    def _kills(self, scenarios: dict[str, Scenario]) -> Iterator[Kill]:
        """What exploring finds, the quick round before the long one."""
        for scenario in scenarios.values():
            yield from self._explored(scenario, "dpor", QUICK_S)
        left = [name for name in self._job.worth if name not in self._exhausted]
        for strategy, name, seconds in long_round(left, self._job.seconds):
            if name not in self._exhausted:
                yield from self._explored(scenarios[name], strategy, seconds)

    def _explored(self, scenario: Scenario, strategy: str, seconds: float) -> Iterator[Kill]:
        task = Task(strategy, Bounds(seconds=seconds), seed=1)
        try:
            result = explore(scenario, [task], stop_at_finding=True, look=lambda so_far: None)
        except RunFailed as error:
            yield Kill(_how(error), str(error), scenario.name, strategy)
            return
        if result.interrupted:
            raise KeyboardInterrupt
        self._executions += result.executions
        if result.findings:
            found = result.findings[0]
            yield Kill(found.oracle, found.message, scenario.name, strategy)
        elif _endless(result):
            message = f"an execution did not end within {Bounds().steps} steps"
            yield Kill("endless", message, scenario.name, strategy)
        elif result.exhausted:
            self._exhausted.add(scenario.name)


def long_round(names: Sequence[str], seconds: float) -> list[tuple[str, str, float]]:
    """(strategy, scenario, seconds) in turn: `seconds` shared by as many as get enough of it."""
    some = names[: int(seconds / (LONG_S * len(STRATEGIES)))]
    share = seconds / (len(some) * len(STRATEGIES)) if some else 0.0
    return [(strategy, name, share) for strategy in STRATEGIES for name in some]


def _endless(result: Result) -> bool:
    """Whether executions were cut for their length: the clean model's end long before."""
    return result.executions > result.complete + result.deadlocked


def _how(error: RunFailed) -> str:
    return next((how for text, how in _HOW if text in str(error)), "end")


def torture_plan(words: Sequence[str], seconds: float) -> Plan:
    """One variant of `torture`, for so long."""
    workload = workload_registry.load("torture")
    parser = argparse.ArgumentParser()
    workload.add_arguments(parser)
    return workload.plan(parser.parse_args([*words, "--seconds", f"{seconds:.3f}"]))


def _tortured(seconds: float) -> Iterator[Kill]:
    """What `torture` finds, its variants sharing the time."""
    for number, words in enumerate(TORTURES):
        watching = Watching(bounds=True, inject=INJECTED if number % 2 else None, seed=1)
        name = f"torture {' '.join(words)}"
        with SignalFlag() as flag:
            try:
                plan = torture_plan(words, seconds / len(TORTURES))
                session = Session(plan, Status(True), watchdog_s=WATCHDOG_S, watching=watching)
                result = session.run(flag, lambda phase, so_far: None)
            except (ArithmeticError, LookupError, ValueError) as error:
                # An audit of a memory that cannot be.
                yield Kill("crash", repr(error), name, "stress")
                continue
            if flag.raised:
                raise KeyboardInterrupt
        for found in result.violations[:1]:
            yield Kill(found.oracle, found.message, name, "stress")
        if isinstance(result.error, RunFailed):
            yield Kill(_how(result.error), str(result.error), name, "stress")
        elif result.error is not None:
            raise result.error


def job_from(text: str) -> Job:
    """A job as `asdict` and JSON have left it."""
    plain: dict[str, Any] = json.loads(text)
    return Job(**plain)


def main(arguments: Sequence[str] = ()) -> int:
    """One job from stdin; its outcome to stdout, which nothing else may write to."""
    job = job_from(sys.stdin.read())
    die_with_parent(job.parent)
    answer = os.dup(1)
    os.dup2(2, 1)
    try:
        outcome = Hunt(job).run()
    except TdpraceError as error:
        outcome = Outcome(FAILED, message=str(error))
    os.write(answer, (json.dumps(asdict(outcome)) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
