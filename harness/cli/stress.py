"""`tdprace stress WORKLOAD`: run a workload in real processes and print what it measured."""

from __future__ import annotations

import argparse
import shlex
import textwrap
import time
from collections.abc import Mapping, Sequence
from typing import Any

from harness.cli.common import (
    add_run_arguments,
    check_memory,
    compile_model,
    enter_patched_tree,
    needed_bytes,
    variants,
    write_json,
)
from harness.cli.main import Parser
from harness.cli.speaker import Speaker
from harness.cli.watching import add_watch_arguments, say_injected, store_ring, watching
from harness.report import run_tables, store
from harness.report.document import new_document, run_part
from harness.report.tables import render, seconds, size
from harness.run.measure import cores, regime
from harness.run.session import Result, Session, SignalFlag
from harness.run.status import Status
from workloads.errors import TdpraceError
from workloads.plan import Phase, Plan, Workload
from workloads.registry import WORKLOADS, load

EXIT = {"clean": 0, "violation": 1, "failed": 4, "interrupted": 130}
# Rough, and said so: what an access with its faults costs on a core of about 2 to 3 GHz.
ACCESS_NS = 120
REPEATED_RUNS = 20
STORE_EVERY_S = 1.0
HELP_COLUMNS = 79
SHOWN_MAX = 60  # characters of an option of the VM


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """A sub-command per workload, each with its own options only; one that is named is loaded."""
    workloads = parser.add_subparsers(
        dest="workload", required=True, metavar="WORKLOAD", parser_class=Parser
    )
    for name, (_, text) in WORKLOADS.items():
        each = workloads.add_parser(name, help=text, description=text)
        if name in words:
            workload = load(name)
            _explain(each, workload)
            workload.add_arguments(each)
            add_run_arguments(each, workload)
            add_watch_arguments(each, workload)
            each.add_argument(
                "--keep-going",
                action="store_true",
                help="with --compare: go on with the next value after a violation",
            )


def _explain(parser: argparse.ArgumentParser, workload: Workload) -> None:
    """What `--help` says before and after the options: what it is about, and what to type."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    paragraphs = (workload.__doc__ or workload.HELP).strip().split("\n\n")
    parser.description = "\n\n".join(textwrap.fill(each, HELP_COLUMNS) for each in paragraphs)
    examples: Sequence[str] = getattr(workload, "EXAMPLES", ())
    if examples:
        lines = [f"  {parser.prog} {words}" for words in examples]
        parser.epilog = "\n".join(["examples:", *lines])


def run(args: argparse.Namespace) -> int:
    """Run every variant, print its tables, store the run; the exit status."""
    workload = load(args.workload)
    plans = variants(args, workload)
    if args.dry_run:
        return _dry_run(plans)
    for plan in plans.values():
        check_memory(plan)
    enter_patched_tree(args)
    folder = store.open_run(args.results, "stress", args.workload)
    compile_model(args.quiet)
    document = new_document("stress", args.workload, vars(args))
    say = Speaker(silent=args.json == "-")
    runs: list[dict[str, Any]] = []
    error: TdpraceError | None = None
    with SignalFlag() as flag:
        for variant, plan in plans.items():
            result = _run_variant(args, plan, variant, runs, folder, document, say, flag)
            error = result.error
            if result.outcome in ("failed", "interrupted"):
                break
            if result.outcome == "violation" and not args.keep_going:
                break
    _finish(args, plans, runs, folder, document, say)
    if error is not None:
        raise error
    return EXIT[document["outcome"]]


def _run_variant(
    args: argparse.Namespace,
    plan: Plan,
    variant: str,
    runs: list[dict[str, Any]],
    folder: store.RunFolder,
    document: dict[str, Any],
    say: Speaker,
    flag: SignalFlag,
) -> Result:
    """One session; after each phase what is known so far is stored, whole."""
    if variant:
        say(f"--- {args.compare}: {variant}")
    for line in plan.header:
        say(line)
    status = Status(args.quiet)
    runs.append({})
    stored = 0.0

    def on_phase(phase: Phase, result: Result) -> None:
        for line in _phase_lines(phase, result):
            say(line)
        nonlocal stored
        # What is measured survives even a kill of this process; once a second is enough.
        if time.monotonic() - stored > STORE_EVERY_S:
            runs[-1] = run_part(plan, variant, result)
            _assemble(document, runs, args.compare)
            folder.write(document)
            stored = time.monotonic()

    try:
        session = Session(plan, status, watchdog_s=args.watchdog, watching=watching(args))
        result = session.run(flag, on_phase)
    finally:
        status.close()
    if result.outcome == "clean":
        for line in plan.summary(_times(result), result.counters):
            say(line)
    say_injected(result, say)
    ring = store_ring(result, variant, folder, say)
    say("")
    runs[-1] = run_part(plan, variant, result)
    if ring is not None:
        runs[-1]["ring"] = ring
    return result


def _times(result: Result) -> dict[str, float]:
    return {phase.name: phase.seconds for phase in result.phases}


def _phase_lines(phase: Phase, result: Result) -> list[str]:
    """What a phase that has just ended says."""
    if phase.lines is not None:
        return phase.lines(_times(result), result.counters)
    return [phase.line.format(seconds=seconds(result.phases[-1].seconds))]


def _assemble(document: dict[str, Any], runs: list[dict[str, Any]], compare: str | None) -> None:
    """One run lies in the document itself, several under `runs`."""
    if compare is None:
        document.update({key: runs[0][key] for key in runs[0] if key not in ("variant", "outcome")})
    else:
        document["compare"] = compare
        document["runs"] = runs
        document["violations"] = [found for run in runs for found in run["violations"]]


def _finish(
    args: argparse.Namespace,
    plans: Mapping[str, Plan],
    runs: list[dict[str, Any]],
    folder: store.RunFolder,
    document: dict[str, Any],
    say: Speaker,
) -> None:
    """Tables, violations and how to see them again; the stored document is final now."""
    for run in runs:
        for found in run["violations"]:
            found["reproducer"] = f"tdprace {shlex.join(args.words)}"
    _assemble(document, runs, args.compare)
    outcomes = [run["outcome"] for run in runs]
    worst = max(outcomes, key=lambda each: list(EXIT).index(each))
    document["outcome"] = worst
    plan = next(iter(plans.values()))
    if any(run["phases"] for run in runs):
        say(run_tables.times(runs))
        say("")
        say(run_tables.counters(runs, plan.counted))
        say("")
        latency = run_tables.latencies(runs)
        if latency:
            say(latency + "\n")
        for line in _comparison(args, runs):
            say(line)
    say(
        f"{len(plan.roles)} processes on {cores()} cores: {regime(plan.vm.vcpus)};"
        " times are this machine's, not KVM's"
    )
    if worst != "clean":
        say(f"outcome: {worst}" + ("; finished phases are kept" if worst != "violation" else ""))
    for found in document["violations"]:
        who = f" ({', '.join(found['actors'][:4])})" if found["actors"] else ""
        say(f"VIOLATION {found['oracle']}: {found['message']}{who}")
    if document["violations"]:
        say(f"see it again: {document['violations'][0]['reproducer']}")
        say(_how_often(args, document))
    folder.write(document)
    folder.write_text(store.TABLE_FILE, say.text)
    say(f"stored: {folder.path}")
    write_json(args.json, document)


def _comparison(args: argparse.Namespace, runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The workload's own table over several runs, if it has one and they are whole."""
    compare = getattr(load(args.workload), "comparison", None)
    if compare is None or args.compare is None or any(r["outcome"] != "clean" for r in runs):
        return []
    comparison = compare(args.compare, runs)
    return [render(comparison.titles, comparison.rows), "", *comparison.lines, ""]


def _how_often(args: argparse.Namespace, document: dict[str, Any]) -> str:
    """In how many of the last runs with the same options the same oracle reported."""
    oracles = {found["oracle"] for found in document["violations"]}
    same = [
        each.document
        for each in store.recent(args.results, REPEATED_RUNS).runs
        if all(each.document.get(key) == document[key] for key in ("config", "model", "patch"))
        and each.document["outcome"] in ("clean", "violation")
    ]
    showed = sum(bool(oracles & {v["oracle"] for v in each["violations"]}) for each in same)
    return f"showed in {showed + 1} of the last {len(same) + 1} runs with these options"


def _dry_run(plans: Mapping[str, Plan]) -> int:
    """Derived options, memory and time needed; nothing is run."""
    for variant, plan in plans.items():
        print(f"{plan.workload}{' ' + variant if variant else ''}")
        for name, value in vars(plan.vm).items():
            text = str(value)
            print(f"  {name:<18}{text if len(text) <= SHOWN_MAX else text[:SHOWN_MAX] + ' ...'}")
        vcpu_phases = sum("vcpu" in phase.parts for phase in plan.phases)
        estimate = plan.vm.gfns * vcpu_phases * ACCESS_NS / min(plan.vm.vcpus, cores()) / 1e9
        estimate += sum(phase.lasts for phase in plan.phases)
        print(f"  {'phases':<18}{', '.join(phase.name for phase in plan.phases)}")
        print(f"  {'guest memory':<18}{size(plan.vm.gfns << 12)}")
        print(f"  {'memory at most':<18}{size(needed_bytes(plan))}")
        print(f"  {'time, roughly':<18}{estimate:.1f} s ({regime(plan.vm.vcpus)})")
    return 0
