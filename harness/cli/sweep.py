"""`tdprace explore --all`: every scenario of the model, one after the other."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from harness.cli.common import compile_model, notice, patch_of, write_json
from harness.cli.findings import store_findings
from harness.cli.live import LiveLine
from harness.cli.speaker import Speaker
from harness.explore.explorer import Bounds, Result, compile_engine
from harness.explore.parallel import explore, tasks_for
from harness.report import store
from harness.report.document import new_document
from harness.run.measure import cores
from workloads.errors import RunFailed
from workloads.scenario import Scenario
from workloads.scenarios.registry import SCENARIOS, load

ALL = "all"
STRATEGY = "auto"
PLAIN_LINE_S = 10.0


@dataclass(frozen=True)
class Swept:
    """What exploring one scenario gave; `error` if it could not be explored."""

    scenario: str
    result: Result
    error: str = ""


def explore_all(args: argparse.Namespace, seconds_default: float) -> int:
    """Explore them, store what is found; the exit status."""
    seconds = args.seconds or seconds_default
    scenarios = {name: load(name) for name in SCENARIOS}
    folder = store.open_run(args.results, "explore", ALL)
    compile_model(args.quiet, "the scenarios and the model")
    compile_engine(STRATEGY, notice(args.quiet))
    say = Speaker(silent=args.json == "-")
    swept: list[Swept] = []
    violations: list[dict[str, Any]] = []
    for name, each in _sweep(args, scenarios, seconds):
        swept.append(each)
        if each.result.findings:
            say(f"\n{name}: {scenarios[name].about}")
        found = store_findings(
            scenarios[name],
            each.result.findings,
            folder,
            say,
            reference=name,
            patch=patch_of(args),
            strategy=STRATEGY,
            seed=args.seed or 1,
            shrinks=args.shrink,
            quiet=args.quiet,
            first=len(violations) + 1,
        )
        violations += [{"scenario": name, **violation} for violation in found]
        if each.error:
            say(f"{name}: not explored: {each.error}")
        if each.result.interrupted or (violations and not args.keep_going):
            break
    return _finish(args, folder, swept, violations, say)


def _sweep(
    args: argparse.Namespace, scenarios: Mapping[str, Scenario], seconds: float
) -> Iterator[tuple[str, Swept]]:
    """One scenario after the other, and what exploring it gave."""
    bounds = Bounds(seconds=seconds, steps=args.steps)
    tasks = tasks_for(STRATEGY, bounds, args.seed or 1, args.jobs or cores())
    line = LiveLine(args.quiet, plain_s=PLAIN_LINE_S)
    try:
        for number, (name, scenario) in enumerate(scenarios.items(), start=1):
            look = partial(_show, line, f"{name}, scenario {number} of {len(scenarios)}")
            try:
                result = explore(scenario, tasks, stop_at_finding=not args.keep_going, look=look)
                swept = Swept(name, result)
            except RunFailed as error:
                swept = Swept(name, Result(STRATEGY), str(error))
            said = swept.error or swept.result.findings
            if said:
                line.close()
            yield name, swept
            if said:
                line = LiveLine(args.quiet, plain_s=PLAIN_LINE_S)
    finally:
        line.close()


def _show(line: LiveLine, where: str, result: Result) -> None:
    line.show(lambda: f"{where}: {result.executions:,} executions")


def _finish(
    args: argparse.Namespace,
    folder: store.RunFolder,
    swept: list[Swept],
    violations: list[dict[str, Any]],
    say: Speaker,
) -> int:
    """The totals, the stored run, the exit status."""
    interrupted = any(each.result.interrupted for each in swept)
    executions = sum(each.result.executions for each in swept)
    exhausted = sum(each.result.exhausted for each in swept)
    say(
        f"\n{len(swept)} of {len(SCENARIOS)} scenarios, {executions:,} executions,"
        f" {exhausted} exhausted, {len(swept) - exhausted} not; {len(violations)} violations"
        + (", interrupted" if interrupted else "")
    )
    document = new_document("explore", ALL, vars(args))
    document["scenario"] = document.pop("workload")
    document["outcome"] = "interrupted" if interrupted else "clean"
    if violations:
        document["outcome"] = "violation"
    failed = any(each.error for each in swept)
    if failed and not violations:
        document["outcome"] = "failed"
    document |= {
        "strategy": STRATEGY,
        "executions": executions,
        "seconds": sum(each.result.seconds for each in swept),
        "exhausted": exhausted == len(SCENARIOS),
        "violations": violations,
        "scenarios": [
            {
                "scenario": each.scenario,
                "executions": each.result.executions,
                "seconds": each.result.seconds,
                "exhausted": each.result.exhausted,
                "error": each.error,
            }
            for each in swept
        ],
    }
    folder.write(document)
    folder.write_text(store.TABLE_FILE, say.text)
    say(f"stored: {folder.path}")
    write_json(args.json, document)
    if violations:
        return 1
    return 130 if interrupted else 4 * failed
