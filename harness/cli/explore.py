"""`tdprace explore`: look at a scenario's interleavings, all of them if they can be counted."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from harness.cli.common import (
    add_output_arguments,
    add_patch_argument,
    compile_model,
    enter_patched_tree,
    notice,
    patch_of,
    write_json,
)
from harness.cli.findings import store_findings
from harness.cli.live import LiveLine
from harness.cli.speaker import Speaker
from harness.explore.explorer import Bounds, Result, compile_engine
from harness.explore.judge import grade_of, outcome_text
from harness.explore.load import load_scenario
from harness.explore.parallel import check_determinism_apart, explore, tasks_for
from harness.explore.strategies.registry import OPTIONAL, STRATEGIES
from harness.explore.world import check_scenario
from harness.report import store
from harness.report.document import new_document
from harness.report.tables import Cell, rate, render, share
from harness.run.measure import cores
from harness.run.warm import needed_by
from workloads.errors import UsageError
from workloads.scenario import GRADES, Scenario
from workloads.units import parse_duration

SECONDS_DEFAULT = 60.0
SWEEP_SECONDS = 1.0  # of each scenario
STEPS_MAX = 50_000
PLAIN_LINE_S = 5.0
EPILOG = """\
examples:
  tdprace explore map-map-same                         all interleavings of two faults
  tdprace explore fast-fault-harvest --patch bug.diff  does a change lose a guest's write?
  tdprace explore workloads/litmus/store_buffering.py::STORE_BUFFERING
  tdprace explore my.py::MINE --strategy surw --seconds 10m -j 2
  tdprace explore --from latest                        what a stress run has just broken, in small
  tdprace explore --all --patch bug.diff               does any scenario notice this change?

`tdprace list` names scenarios and strategies; docs/explore.md shows how to write a scenario.
exit status: 0 nothing found, 1 a violation was found, 2 wrong usage, 4 it could not be explored
"""


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """The scenario, a strategy, its bounds."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument("scenario", metavar="SCENARIO", nargs="?", help="a name, or FILE.py::NAME")
    parser.add_argument(
        "--from",
        dest="run",
        metavar="RUN",
        help="instead of a scenario: rebuild small ones from the last events of a stored stress"
        " run (its folder, run.json or id) that ended with a violation, and look for the same"
        " oracle's; the run's patch is applied by itself",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="instead of a scenario: all of them, one after the other, each for --seconds"
        f" (default {SWEEP_SECONDS:.0f}s), until one shows a violation",
    )
    parser.add_argument(
        "--strategy",
        choices=STRATEGIES,
        default="auto",
        metavar="NAME",
        help="; ".join(f"{k}: {v.about}" for k, v in STRATEGIES.items()).replace("%", "%%"),
    )
    parser.add_argument("--executions", type=_count, metavar="N", help="end after N executions")
    parser.add_argument(
        "--seconds",
        type=parse_duration,
        metavar="TIME",
        help=f"end after TIME: 30s, 10m (default {SECONDS_DEFAULT:.0f}s without --executions;"
        " dpor and optimal have no limit)",
    )
    parser.add_argument(
        "--steps",
        type=_count,
        default=Bounds().steps,
        metavar="N",
        help=f"cut an execution after N steps (default {Bounds().steps})",
    )
    parser.add_argument(
        "--preemptions",
        type=_natural,
        metavar="N",
        help="dpor, optimal: at most N switches away from who could go on",
    )
    parser.add_argument("--depth", type=_count, metavar="D", help="pct: depth of the bug (5)")
    parser.add_argument("--seed", "-r", type=_count, metavar="N", help="samplers: seed (1)")
    parser.add_argument(
        "-j",
        dest="jobs",
        type=_count,
        metavar="N",
        help="samplers and auto: processes (default: all cores)",
    )
    _add_modes(parser)
    add_patch_argument(parser)
    add_output_arguments(parser)


def _add_modes(parser: argparse.ArgumentParser) -> None:
    """What else is done, and what becomes of a violation."""
    parser.add_argument(
        "--check-determinism",
        action="store_true",
        help="before: run 200 random schedules twice each and compare every step",
    )
    parser.add_argument(
        "--keep-going", action="store_true", help="go on after a violation; one of each is kept"
    )
    parser.add_argument(
        "--risk",
        action="store_true",
        help="dpor, optimal (auto: dpor): go on after a violation, count the traces that fail, and"
        " find the fewest preemptions with which one can",
    )
    parser.add_argument(
        "--no-shrink",
        dest="shrink",
        action="store_false",
        help="keep the schedule as it was found; else actors, operations, levels, steps and"
        " preemptions that the violation does not need are taken away",
    )


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _count(text: str) -> int:
    number = _natural(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def run(args: argparse.Namespace) -> int:
    """Explore, print the outcome, store the run; the exit status."""
    _refuse_unused(args)
    if args.run is not None:
        # Only here: what is imported is compiled, and a scenario with a name needs less.
        from harness.cli.rebuild import explore_run

        return explore_run(args, SECONDS_DEFAULT)
    enter_patched_tree(args)
    if args.all:
        from harness.cli.sweep import explore_all

        return explore_all(args, SWEEP_SECONDS)
    scenario = load_scenario(args.scenario)
    check_scenario(scenario)
    folder = store.open_run(args.results, "explore", scenario.name)
    compile_model(args.quiet, "the scenario and the model", needed_by(scenario.functions))
    strategy = "dpor" if args.risk and args.strategy == "auto" else args.strategy
    for name in (strategy, "switches") if args.risk else (strategy,):
        compile_engine(name, notice(args.quiet))
    if args.check_determinism:
        for name in ("random", "follow"):
            compile_engine(name, notice(args.quiet))
        if not check_determinism_apart(scenario):
            raise KeyboardInterrupt
    say = Speaker(silent=args.json == "-")
    status = ExploreStatus(args)
    jobs = args.jobs or (cores() if "jobs" in STRATEGIES[strategy].options else 1)
    tasks = tasks_for(strategy, _bounds(args), args.seed or 1, jobs)
    stops = not args.keep_going and not args.risk
    try:
        result = explore(
            scenario, tasks, stop_at_finding=stops, look=status.look, tallied=args.risk
        )
    finally:
        status.close()
    return _finish(args, scenario, result, folder, say)


def _refuse_unused(args: argparse.Namespace) -> None:
    """An option that would be ignored is an error, not a surprise."""
    if (args.run is not None) + (args.scenario is not None) + args.all != 1:
        raise UsageError("say what to explore: a SCENARIO, --from RUN, or --all")
    if args.run is not None or args.all:
        given = [flag for flag, value in _unused_by_many(args).items() if value]
        if given:
            way = "--all" if args.all else "--from"
            raise UsageError(f"{way} does not use {', '.join(given)}")
    for option in OPTIONAL:
        if getattr(args, option) is not None and option not in STRATEGIES[args.strategy].options:
            users = [name for name, info in STRATEGIES.items() if option in info.options]
            flag = "-j" if option == "jobs" else f"--{option}"
            raise UsageError(
                f"{args.strategy} does not use {flag}; strategies that do: {', '.join(users)}"
            )
    if args.risk:
        _refuse_for_risk(args)
    if args.steps > STEPS_MAX:
        raise UsageError(f"--steps {args.steps} is more than {STEPS_MAX} (memory for the trace)")


def _refuse_for_risk(args: argparse.Namespace) -> None:
    """--risk looks at all traces, so at no sample of them."""
    exact = [name for name, info in STRATEGIES.items() if "preemptions" in info.options]
    if args.strategy not in ("auto", *exact):
        raise UsageError(f"--risk needs all traces: {', '.join(exact)}, not {args.strategy}")
    given = {"--preemptions": args.preemptions, "--seed": args.seed, "-j": args.jobs}
    for flag, value in given.items():
        if value is not None:
            raise UsageError(f"--risk does not use {flag}: it looks at all traces, by one process")


def _unused_by_many(args: argparse.Namespace) -> dict[str, object]:
    """Options that make no sense where many scenarios are tried."""
    return {
        "--strategy": args.strategy != "auto",
        "--executions": args.executions,
        "--check-determinism": args.check_determinism,
        "--keep-going": args.keep_going and not args.all,
        "--risk": args.risk,
    }


def _bounds(args: argparse.Namespace) -> Bounds:
    seconds = args.seconds
    if seconds is None:
        exact = args.strategy in ("dpor", "optimal")
        seconds = 0.0 if exact or args.executions else SECONDS_DEFAULT
    return Bounds(
        executions=args.executions or 0,
        seconds=seconds,
        steps=args.steps,
        preemptions=-1 if args.preemptions is None else args.preemptions,
        depth=args.depth or 0,
    )


class ExploreStatus:
    """How far the exploration is."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._seconds = _bounds(args).seconds
        self._executions = args.executions or 0
        self._began = time.monotonic()
        self._line = LiveLine(args.quiet, plain_s=PLAIN_LINE_S)

    def look(self, result: Result) -> None:
        """Redraw if it is time."""
        self._line.show(lambda: self._text(result, time.monotonic() - self._began))

    def _text(self, result: Result, passed: float) -> str:
        text = (
            f"{result.strategy}: {result.executions:,} executions"
            f" ({rate(result.executions / max(passed, 0.1))}), {result.blocked:,} cut,"
            f" depth {result.depth}, {passed:.0f} s"
        )
        if self._seconds:
            text += f", {max(self._seconds - passed, 0):.0f} s left"
        if self._executions:
            text += f", {max(self._executions - result.executions, 0):,} executions left"
        return text

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._line.close()


def _finish(
    args: argparse.Namespace,
    scenario: Scenario,
    result: Result,
    folder: store.RunFolder,
    say: Speaker,
) -> int:
    """Tables, findings, the stored run."""
    document = _document(args, scenario, result)
    say(f"{scenario.name}: {scenario.about}")
    if result.outcomes:
        say("\n" + _outcome_table(scenario, result) + "\n")
    say(_totals(result))
    if args.risk:
        say(_risk_text(result))
    for note in result.notes:
        say(f"note: {note}")
    violations = store_findings(
        scenario,
        result.findings,
        folder,
        say,
        reference=args.scenario,
        patch=patch_of(args),
        strategy=result.strategy,
        seed=args.seed or 1,
        shrinks=args.shrink,
        quiet=args.quiet,
    )
    document["violations"] = violations
    folder.write(document)
    folder.write_text(store.TABLE_FILE, say.text)
    say(f"stored: {folder.path}")
    write_json(args.json, document)
    if result.findings:
        return 1
    return 130 if result.interrupted else 0


def _totals(result: Result) -> str:
    text = (
        f"{result.strategy}: {result.executions:,} executions in {result.seconds:.1f} s"
        f" ({rate(result.executions / max(result.seconds, 1e-9))}), longest {result.depth} steps"
    )
    if result.blocked:
        text += f"; {result.blocked:,} more were cut"
    if result.deadlocked:
        text += f"; {result.deadlocked:,} deadlocked"
    if result.exhausted:
        return f"{text}\nexhausted: these are all {result.executions:,} traces"
    if result.interrupted:
        return f"{text}\nnot exhausted: interrupted"
    if result.findings and not result.bound:
        return f"{text}\nnot exhausted: ended by a violation"
    return f"{text}\nnot exhausted: bound reached: {result.bound}"


def _risk_text(result: Result) -> str:
    """How many traces fail, and how little it takes."""
    risk = result.risk
    if risk is None:
        return "risk: not known, since not all traces were seen and judged"
    if risk.failing == 0:
        return f"risk: none of {risk.traces:,} traces fails"
    text = f"risk: {risk.failing:,} of {risk.traces:,} traces fail ({share(risk.share)}); "
    fewest = risk.preemptions_fewest or 0
    needs = f"{fewest} preemption{'s' * (fewest != 1)}" if fewest else "no preemption"
    text += f"it takes {needs}"
    if not risk.preemptions_proved:
        text += " or fewer: not all schedules with fewer were run"
    if len(risk.oracles) == 1:
        return text
    heads = ["noticed first by", "traces", "share", "preemptions"]
    return (
        text
        + "\n\n"
        + render(
            heads,
            [[o.oracle, o.failing, share(o.share), o.preemptions_fewest] for o in risk.oracles],
        )
        + "\n"
    )


def _outcome_table(scenario: Scenario, result: Result) -> str:
    """As jcstress prints it, what is forbidden first."""
    total = sum(result.outcomes.values())
    rows: list[tuple[int, list[Cell]]] = []
    for values, count in result.outcomes.items():
        grade, sentence = grade_of(scenario, values)
        share = f"{100 * count / total:.2f} %"
        cells: list[Cell] = [outcome_text(scenario, values), count, share, grade, sentence]
        rows.append((-GRADES.index(grade), cells))
    seen = set(result.outcomes)
    for outcome in scenario.outcomes:
        if outcome.values not in seen:
            text = outcome_text(scenario, outcome.values)
            cells = [text, 0, "0.00 %", outcome.grade, outcome.sentence]
            rows.append((-GRADES.index(outcome.grade), cells))
    rows.sort(key=lambda row: (row[0], -int(str(row[1][1]))))
    heads = ["outcome", "executions", "share", "grade", "description"]
    return render(heads, [cells for _, cells in rows])


def _document(args: argparse.Namespace, scenario: Scenario, result: Result) -> dict[str, Any]:
    document = new_document("explore", scenario.name, vars(args))
    document["scenario"] = document.pop("workload")
    outcome = "violation" if result.findings else "clean"
    document["outcome"] = "interrupted" if result.interrupted and not result.findings else outcome
    plain = asdict(result)
    for key in ("findings", "outcomes", "deadlocks", "interrupted"):
        plain.pop(key)
    document.update(plain)
    document["executions_per_second"] = result.executions / max(result.seconds, 1e-9)
    document["outcomes"] = [
        {"values": list(values), "count": count, "grade": grade_of(scenario, values)[0]}
        for values, count in sorted(result.outcomes.items())
    ]
    return document
