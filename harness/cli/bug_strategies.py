"""`tdprace bugs strategies` and `tdprace bugs torture`: what finds which bug, and how soon.

Both take hours for the whole catalogue, so every trial is kept as it ends, and a run that was
interrupted is gone on with.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from harness.bugs import strategies, tortured
from harness.bugs.catalogue import SOURCE_ROOT, Bug, bugs_in, chosen
from harness.bugs.trials import Task, Trials
from harness.cli.common import add_output_arguments, compile_model, notice, write_json
from harness.cli.live import LiveLine
from harness.cli.speaker import Speaker
from harness.explore.explorer import compile_engine
from harness.explore.load import load_scenario
from harness.report import store
from harness.report.document import new_document
from harness.run.session import SignalFlag
from mmu.machine.kernel import MODEL_HASH
from workloads import registry
from workloads.errors import UsageError
from workloads.units import parse_duration, whole

DOCUMENT: Final = "docs/bugs-measured.md"
PLAIN_LINE_S: Final = 10.0
REDRAW_S: Final = 0.5
NAMES: Final = ("strategies", "torture")
# What decides a run's figures: a run that is gone on with has its own.
CONFIG: Final = {
    "strategies": ("seeds", "executions"),
    "torture": ("runs", "seconds", "vcpus"),
}


@dataclass(frozen=True)
class _Plan:
    """What one of the two commands does."""

    trials: tuple[str, ...]
    task: Callable[[Bug, Trials], Task]
    table: Callable[[Sequence[Bug], Trials], str]
    legend: str


# --- Options -------------------------------------------------------------------------------------


def add_actions(action: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Both commands; `action(name, text)` makes a parser that knows --catalogue."""
    _add_strategies(action("strategies", "which strategy finds which bug, after how many tries"))
    _add_torture(action("torture", "which bugs `torture` finds in real processes, and how soon"))


def _add_strategies(parser: argparse.ArgumentParser) -> None:
    number = whole("the number", 1, 1_000_000_000)
    parser.add_argument("ids", nargs="*", metavar="ID", help="these only (default: all)")
    parser.add_argument(
        "--seeds",
        type=number,
        metavar="N",
        help=f"for each sampler (default {strategies.SEEDS_DEFAULT})",
    )
    parser.add_argument(
        "--executions",
        type=number,
        metavar="N",
        help=f"give up after N (default {strategies.EXECUTIONS_DEFAULT:,})",
    )
    _add_common(parser, 2)


def _add_torture(parser: argparse.ArgumentParser) -> None:
    number = whole("the number", 1, 1000)
    parser.add_argument("ids", nargs="*", metavar="ID", help="these only (default: all)")
    parser.add_argument(
        "--runs",
        type=number,
        metavar="N",
        help=f"of each bug, a seed each (default {tortured.RUNS_DEFAULT})",
    )
    parser.add_argument(
        "--seconds",
        type=parse_duration,
        metavar="TIME",
        help=f"of each run at most (default {tortured.SECONDS_DEFAULT:.0f}s)",
    )
    parser.add_argument(
        "-v",
        "--vcpus",
        type=number,
        metavar="N",
        help=f"beside the host's threads (default {tortured.VCPUS_DEFAULT})",
    )
    # One run has more processes than most machines have cores.
    _add_common(parser, 1)


def _add_common(parser: argparse.ArgumentParser, jobs: int) -> None:
    parser.add_argument(
        "-j",
        dest="jobs",
        type=whole("-j", 1, 1024),
        default=jobs,
        metavar="N",
        help=f"so many bugs at once (default {jobs})",
    )
    parser.add_argument(
        "--run", type=Path, metavar="DIR", help="go on with an interrupted run, with its options"
    )
    parser.add_argument(
        "--write",
        nargs="?",
        type=Path,
        const=SOURCE_ROOT / DOCUMENT,
        metavar="FILE",
        help=f"put the table between its markers in FILE (default: {DOCUMENT} of this checkout)",
    )
    add_output_arguments(parser)


# --- Running -------------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> int:
    """Try what is not done yet; table, stored run, document."""
    if args.write is not None:
        _check_markers(args.write, args.action)
    path, document = _folder(args)
    config = document["config"]
    bugs = chosen(bugs_in(args.catalogue), config["ids"])
    trials = Trials(path)
    plan = _plan(args.action, config)
    if trials.done(bugs, plan.trials) < len(bugs) * len(plan.trials):
        _compile(args, bugs)
    done = _run_trials(args, bugs, trials, plan)
    return _finish(args, path, document, bugs, trials, plan, done)


def _plan(name: str, config: dict[str, Any]) -> _Plan:
    given = {key: config[key] for key in CONFIG[name]}
    if name == "strategies":
        executions = given["executions"]
        return _Plan(
            strategies.STRATEGIES,
            lambda bug, trials: strategies.task(bug, trials, **given),
            lambda bugs, trials: strategies.table(bugs, trials, executions),
            strategies.legend(**given),
        )
    return _Plan(
        tortured.names(given["runs"]),
        lambda bug, trials: tortured.task(bug, trials, **given),
        lambda bugs, trials: tortured.table(bugs, trials, given["runs"]),
        tortured.legend(**given),
    )


def _folder(args: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """The run's folder and document, new or that of --run."""
    given = [name for name in CONFIG[args.action] if getattr(args, name) is not None]
    if args.run is None:
        defaults = {
            "seeds": strategies.SEEDS_DEFAULT,
            "executions": strategies.EXECUTIONS_DEFAULT,
            "runs": tortured.RUNS_DEFAULT,
            "seconds": tortured.SECONDS_DEFAULT,
            "vcpus": tortured.VCPUS_DEFAULT,
        }
        for name in CONFIG[args.action]:
            if name not in given:
                setattr(args, name, defaults[name])
        chosen(bugs_in(args.catalogue), args.ids)
        folder = store.open_run(args.results, "bugs", args.action)
        document = new_document("bugs", "", vars(args))
        del document["workload"]
        folder.write(document)
        return folder.path, document
    if args.ids or given:
        what = args.ids[0] if args.ids else f"--{given[0]}"
        raise UsageError(f"--run goes on with the run's own options; leave out {what}")
    path = store.find(args.results, str(args.run))
    document = store.load(path)
    path = path.parent if path.is_file() else path
    if (document.get("command"), document["config"].get("action")) != ("bugs", args.action):
        raise UsageError(f"{path}: no run of `bugs {args.action}`")
    if document["model"] != MODEL_HASH:
        raise UsageError(
            f"{path}: a run of another model ({document['model']}, this is {MODEL_HASH}); start a"
            " new run"
        )
    return path, document


def _compile(args: argparse.Namespace, bugs: Sequence[Bug]) -> None:
    """What all children share, once; then each compiles only what its diff touches."""
    if args.action == "torture":
        registry.load("torture")
    else:
        for bug in bugs:
            load_scenario(bug.scenario)
    compile_model(args.quiet)
    if args.action == "strategies":
        for strategy in strategies.STRATEGIES:
            compile_engine(strategy, notice(args.quiet))


def _run_trials(args: argparse.Namespace, bugs: Sequence[Bug], trials: Trials, plan: _Plan) -> bool:
    total = len(bugs) * len(plan.trials)
    before, began = trials.done(bugs, plan.trials), time.monotonic()
    line = LiveLine(args.quiet, plain_s=PLAIN_LINE_S, redraw_s=REDRAW_S)

    def text(under_way: Sequence[str]) -> str:
        done = trials.done(bugs, plan.trials)
        left = ""
        if done > before:
            minutes = (time.monotonic() - began) / (done - before) * (total - done) / 60
            left = f"; about {minutes:.0f} min left" if minutes >= 1 else "; soon done"
        return f"{done} of {total} trials{left}; now {', '.join(under_way)}"

    with SignalFlag() as flag:

        def look(under_way: Sequence[str]) -> bool:
            line.show(lambda: text(under_way))
            return not flag.raised

        try:
            return trials.run(bugs, lambda bug: plan.task(bug, trials), args.jobs, look)
        finally:
            line.close()


# --- What is said --------------------------------------------------------------------------------


def _finish(
    args: argparse.Namespace,
    path: Path,
    document: dict[str, Any],
    bugs: Sequence[Bug],
    trials: Trials,
    plan: _Plan,
    done: bool,
) -> int:
    """Table (in the catalogue's order), stored run, document; the exit status."""
    bugs = sorted(bugs, key=lambda bug: bug.id)
    say = Speaker(silent=args.json == "-")
    table = plan.table(bugs, trials)
    say(f"{table}\n\n{plan.legend}")
    records = [
        record for bug in bugs for name in plan.trials if (record := trials.record(bug, name))
    ]
    for record in records:
        said = record["failed"] or record.get("impossible") or record.get("ended")
        if said:
            say(f"{record['bug']}, {record['trial']}: {said}")
    failed = any(record["failed"] for record in records)
    document["outcome"] = ("failed" if failed else "clean") if done else "interrupted"
    document["trials"] = records
    again = f"tdprace bugs {args.action} --run {path}"
    if not done:
        say(f"interrupted; go on with: {again}")
    elif failed:
        say(f"some failed; try those again with: {again}")
    store.replace_text(path / store.RUN_FILE, store.dump(document))
    store.replace_text(path / store.TABLE_FILE, say.text)
    say(f"stored: {path}")
    if args.write is not None:
        _write(args.write, args.action, f"{table}\n\n{plan.legend}\n\n{_where(document)}")
        say(f"written: {args.write}")
    write_json(args.json, document)
    if not done:
        return 130
    return 4 if failed else 0


def _where(document: dict[str, Any]) -> str:
    """What the figures depend on."""
    host = document["host"]
    return (
        f"Measured {document['started'][:10]} with model {document['model']} on {host['cores']}"
        f" cores of {host['cpu']}."
    )


def _block(name: str) -> re.Pattern[str]:
    mark = re.escape(f"<!-- measured: tdprace bugs {name} -->")
    return re.compile(rf"({mark}\n).*?(<!-- end -->)", re.DOTALL)


def _check_markers(file: Path, name: str) -> str:
    """The file's text; UsageError if there is no place in it: better now than after hours."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--write {file}: cannot read it: {error.strerror}") from error
    if _block(name).search(text) is None:
        raise UsageError(f"--write {file}: has no <!-- measured: tdprace bugs {name} -->")
    return text


def _write(file: Path, name: str, text: str) -> None:
    old = _check_markers(file, name)
    store.replace_text(file, _block(name).sub(lambda found: f"{found[1]}{text}\n{found[2]}", old))
