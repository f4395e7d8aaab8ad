"""Explorations in processes of their own: on all cores, and where a crash is only a message.

The parent never runs a scenario itself.  So a scenario that crashes, or never comes back from a
loop without a step, ends as one line; and Ctrl-C keeps what was found.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import multiprocess
from multiprocess.connection import wait as wait_for_any

from harness.explore.explorer import AUTO_SAMPLERS, Bounds, Explorer, Progress, Result
from harness.explore.fewest import prove_fewest
from harness.explore.replay import check_determinism
from harness.run.lifeline import die_with_parent
from harness.run.session import SignalFlag
from workloads.errors import RunFailed, TdpraceError
from workloads.scenario import Scenario

LOOK_S = 0.05
LOOK_MAX_S = 0.5  # a look that took longer counts so much: all were stopped (Ctrl-Z), or starved
SILENT_S = 10.0  # without a word from a worker: it is in a loop that has no step
GRACE_S = 3.0

Job = Callable[[Progress], Result]


@dataclass(frozen=True)
class Task:
    """What one worker does."""

    strategy: str
    bounds: Bounds
    seed: int


@dataclass
class _Worker:
    process: Any
    connection: Any
    result: Result
    heard: float = 0.0
    done: bool = False
    error: TdpraceError | None = field(default=None)


def tasks_for(strategy: str, bounds: Bounds, seed: int, jobs: int) -> list[Task]:
    """Which worker does what: samplers differ by their seeds, auto's helpers only sample."""
    share = replace(bounds, executions=-(-bounds.executions // jobs))
    first = Task(strategy, share, seed)
    names = AUTO_SAMPLERS if strategy == "auto" else (strategy,)
    return [first] + [Task(names[i % len(names)], share, seed + i) for i in range(1, jobs)]


def explore(
    scenario: Scenario,
    tasks: Sequence[Task],
    *,
    stop_at_finding: bool,
    look: Callable[[Result], None],
    oracles: Collection[str] = (),
    tallied: bool = False,
) -> Result:
    """Run all tasks to their ends; `look(result so far)` about 20 times a second.

    Everything ends when somebody finds something (with `stop_at_finding`), or the first task has
    exhausted the scenario.  With `oracles`, only what these say is looked for.  With `tallied`
    failing executions are counted.  Raises what a worker raised, or RunFailed if one died or hangs.
    """
    jobs = [
        partial(_explore_task, scenario, task, stop_at_finding, oracles, tallied) for task in tasks
    ]
    return _run_jobs(scenario, tasks[0].strategy, jobs, look)


def check_determinism_apart(scenario: Scenario) -> bool:
    """`check_determinism` in a worker; False if it was interrupted.  Raises as `explore` does."""

    def job(progress: Progress) -> Result:
        return check_determinism(scenario, progress=progress)

    return not _run_jobs(scenario, "random", [job], lambda result: None).interrupted


def _run_jobs(
    scenario: Scenario, strategy: str, jobs: Sequence[Job], look: Callable[[Result], None]
) -> Result:
    """A worker for each job, watched until all have ended."""
    workers: list[_Worker] = []
    with SignalFlag() as flag:
        try:
            workers = [_start(job, Result(strategy)) for job in jobs]
            _watch(scenario, workers, flag, look)
        finally:
            for worker in workers:
                worker.process.kill()
                worker.process.join()
    for worker in workers:
        if worker.error is not None:
            raise worker.error
    merged = merge([worker.result for worker in workers])
    merged.interrupted = flag.raised
    return merged


def _start(job: Job, nothing: Result) -> _Worker:
    ours, theirs = multiprocess.Pipe()
    context = multiprocess.get_context("fork")
    arguments = (theirs, job, nothing, os.getpid())
    process = context.Process(target=_work, args=arguments, daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours, nothing)


def _work(connection: Any, job: Job, nothing: Result, parent: int) -> None:
    """A worker's life: do its job, say how far it is, end when told to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with_parent(parent)

    def progress(result: Result) -> bool:
        connection.send((result, False, None))
        return not connection.poll()

    try:
        connection.send((job(progress), True, None))
    except TdpraceError as error:
        connection.send((nothing, True, (type(error), str(error))))


def _explore_task(
    scenario: Scenario,
    task: Task,
    stop_at_finding: bool,
    oracles: Collection[str],
    tallied: bool,
    progress: Progress,
) -> Result:
    explorer = Explorer(
        scenario,
        task.strategy,
        task.bounds,
        seed=task.seed,
        stop_at_finding=stop_at_finding,
        oracles=oracles,
        tallied=tallied,
    )
    result = explorer.run(progress)
    result.risk = prove_fewest(scenario, result, task.bounds, progress)
    return result


def _watch(
    scenario: Scenario,
    workers: list[_Worker],
    flag: SignalFlag,
    look: Callable[[Result], None],
) -> None:
    ending = now = 0.0
    looked = time.monotonic()
    while not all(worker.done for worker in workers):
        wait_for_any([w.connection for w in workers if not w.done], LOOK_S)
        before, looked = looked, time.monotonic()
        now += min(looked - before, LOOK_MAX_S)
        for worker in workers:
            _hear(scenario, worker, now)
        look(merge([worker.result for worker in workers]))
        if not ending and (flag.raised or _is_over(workers)):
            ending = now
            for worker in workers:
                if not worker.done:
                    _tell(worker)
        if ending and now - ending > GRACE_S:
            return


def _tell(worker: _Worker) -> None:
    """Ask a worker to end."""
    try:
        worker.connection.send("end")
    except OSError:
        worker.done = True  # it has just ended by itself


def _hear(scenario: Scenario, worker: _Worker, now: float) -> None:
    """Take what a worker has said; RunFailed if it says nothing any more."""
    where = f"scenario {scenario.name}"
    if worker.done:
        return
    try:
        while not worker.done and worker.connection.poll():
            worker.result, worker.done, error = worker.connection.recv()
            worker.heard = now
            if error is not None:
                kind, message = error
                worker.error = kind(message)
    except (EOFError, OSError) as error:
        worker.process.join(1.0)
        code = worker.process.exitcode
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else code
        raise RunFailed(
            f"{where}: the exploring process died ({how}); a kernel of the scenario does what no"
            " schedule should make possible"
        ) from error
    if not worker.done and now - worker.heard > SILENT_S:
        raise RunFailed(
            f"{where} ran {SILENT_S:.0f} s without a step: a loop of it needs a step, and"
            " `stopped(cpu)` as a way out"
        )


def _is_over(workers: list[_Worker]) -> bool:
    if any(worker.error is not None for worker in workers):
        return True
    if workers[0].done and workers[0].result.exhausted:
        return True
    return any(worker.done and worker.result.findings for worker in workers)


def merge(results: Sequence[Result]) -> Result:
    """One result of all workers'; what is exhausted or bounded is what the first one says.

    If that is "exhausted", its figures stand alone: what samplers did meanwhile adds nothing.
    """
    first = results[0]
    if first.exhausted:
        results = [first]
    merged = replace(
        first,
        outcomes=dict(first.outcomes),
        deadlocks=dict(first.deadlocks),
        findings=list(first.findings),
        notes=list(first.notes),
    )
    for other in results[1:]:
        merged.executions += other.executions
        merged.complete += other.complete
        merged.deadlocked += other.deadlocked
        merged.blocked += other.blocked
        merged.steps += other.steps
        merged.depth = max(merged.depth, other.depth)
        merged.seconds = max(merged.seconds, other.seconds)
        for mine, theirs in (
            (merged.outcomes, other.outcomes),
            (merged.deadlocks, other.deadlocks),
        ):
            for values, count in theirs.items():
                mine[values] = mine.get(values, 0) + count
        known = {(each.oracle, each.message) for each in merged.findings}
        merged.findings += [f for f in other.findings if (f.oracle, f.message) not in known]
        merged.notes += [note for note in other.notes if note not in merged.notes]
    return merged
