"""`tdprace scale WORKLOAD`: the headline phase over vCPU counts and policies, measured.

Repeats are interleaved: every count and variant once, then all again, so that the machine's mood
falls on all alike.  Medians and quartiles; each row says in which regime it was measured.  The run
is stored after every cell, so an interrupted one can be resumed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from harness.cli.common import (
    add_run_arguments,
    check_memory,
    compile_model,
    enter_patched_tree,
    variants,
    with_vcpus,
    write_json,
)
from harness.cli.main import Parser
from harness.cli.speaker import Speaker
from harness.cli.stress import EXIT
from harness.report import store
from harness.report.document import new_document
from harness.report.tables import Cell, render
from harness.run.measure import cores, regime
from harness.run.session import Result, Session, SignalFlag
from harness.run.status import Status
from harness.watch.stress import Watching
from workloads.errors import TdpraceError, UsageError
from workloads.plan import Plan
from workloads.registry import WORKLOADS, load
from workloads.units import parse_counts, whole

SCALABLE = ("dirty-log", "execute", "access-trace")
Cells = dict[tuple[int, str], Plan]


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """As `stress`, with a list of vCPU counts in place of one."""
    workloads = parser.add_subparsers(
        dest="workload", required=True, metavar="WORKLOAD", parser_class=Parser
    )
    for name in SCALABLE:
        text = WORKLOADS[name][1]
        each = workloads.add_parser(name, help=text, description=text, conflict_handler="resolve")
        if name in words:
            workload = load(name)
            workload.add_arguments(each)
            add_run_arguments(each, workload)
            each.add_argument(
                "-v",
                "--vcpus",
                type=parse_counts,
                default=[1, 2, 4, 8],
                metavar="N,N,...",
                help="vCPU counts, also as 4..8 (default 1,2,4,8)",
            )
            each.add_argument(
                "--repeats",
                type=whole("repeats", 1, 1000),
                default=3,
                metavar="N",
                help="runs of each count and variant, interleaved (default 3)",
            )
            each.add_argument(
                "--resume",
                metavar="RUN",
                help="go on with an interrupted run (its id, or `latest`); same options",
            )


def run(args: argparse.Namespace) -> int:
    """Measure every cell, store as it goes, print the table."""
    workload = load(args.workload)
    cells: Cells = {
        (vcpus, variant): plan
        for vcpus in args.vcpus
        for variant, plan in variants(with_vcpus(args, vcpus), workload).items()
    }
    for plan in cells.values():
        check_memory(plan)
    if args.dry_run:
        print(f"{len(cells) * args.repeats} runs: {len(cells)} cells, {args.repeats} repeats")
        return 0
    enter_patched_tree(args)
    document = new_document("scale", args.workload, vars(args))
    samples = _resumed(args, document)
    folder = store.open_run(args.results, "scale", args.workload)
    compile_model(args.quiet)
    say = Speaker(silent=args.json == "-")
    outcome, error = _measure(args, cells, samples, document, folder)
    document["outcome"] = outcome
    _report(args, cells, samples, document, say)
    folder.write(document)
    folder.write_text(store.TABLE_FILE, say.text)
    say(f"stored: {folder.path}")
    write_json(args.json, document)
    if error is not None:
        raise error
    return EXIT[outcome]


def _measure(
    args: argparse.Namespace,
    cells: Cells,
    samples: dict[str, list[float]],
    document: dict[str, Any],
    folder: store.RunFolder,
) -> tuple[str, TdpraceError | None]:
    """Fill `samples` in interleaved order; how it ended, and the error if it failed."""
    todo = list(_missing(args.repeats, cells, samples))
    with SignalFlag() as flag:
        for done, (vcpus, variant) in enumerate(todo):
            plan = cells[vcpus, variant]
            status = Status(args.quiet)
            try:
                watching = Watching(bounds=bool(args.patch))
                session = Session(plan, status, watchdog_s=args.watchdog, watching=watching)
                result = session.run(flag, lambda phase, result: None)
            finally:
                status.close()
            if result.outcome != "clean":
                document["violations"] = [vars(each) for each in result.violations]
                return result.outcome, result.error
            samples.setdefault(_key(vcpus, variant), []).append(_headline(plan, result))
            document["samples"] = samples
            document["rows"] = _rows(cells, samples)
            folder.write(document)
            if not args.quiet:
                _progress(done + 1, len(todo), vcpus, variant, _headline(plan, result))
    return "clean", None


def _missing(
    repeats: int, cells: Cells, samples: dict[str, list[float]]
) -> Iterator[tuple[int, str]]:
    """Cells still to run, repeat by repeat."""
    for repeat in range(repeats):
        for vcpus, variant in cells:
            if len(samples.get(_key(vcpus, variant), [])) <= repeat:
                yield vcpus, variant


def _key(vcpus: int, variant: str) -> str:
    return f"{vcpus} {variant}"


def _headline(plan: Plan, result: Result) -> float:
    return next(each.seconds for each in result.phases if each.name == plan.headline)


def _progress(done: int, total: int, vcpus: int, variant: str, seconds: float) -> None:
    print(f"{done}/{total}: {vcpus} vCPUs {variant} {seconds:.6f} s", file=sys.stderr, flush=True)


def _rows(cells: Cells, samples: dict[str, list[float]]) -> list[dict[str, Any]]:
    rows = []
    for (vcpus, variant), plan in cells.items():
        found = samples.get(_key(vcpus, variant), [])
        if found:
            q1, median, q3 = (round(float(x), 9) for x in np.quantile(found, (0.25, 0.5, 0.75)))
            rows.append(
                {
                    "vcpus": vcpus,
                    "variant": variant,
                    "phase": plan.headline,
                    "seconds": median,
                    "q1": q1,
                    "q3": q3,
                    "n": len(found),
                    "regime": regime(vcpus),
                }
            )
    return rows


def _resumed(args: argparse.Namespace, document: dict[str, Any]) -> dict[str, list[float]]:
    """What an interrupted run has measured already; UsageError if its options differ."""
    if args.resume is None:
        return {}
    path = store.find(args.results, args.resume)
    before = store.load(path)
    if before.get("command") != "scale":
        raise UsageError(f"--resume {args.resume}: {path.name} is no scale run")
    for part in ("config", "model", "patch"):
        if before.get(part) != document[part]:
            raise UsageError(
                f"--resume {args.resume}: {path.name} was made with another {part};"
                " use the same options and version"
            )
    document["resumed"] = path.name
    found: dict[str, list[float]] = before.get("samples", {})
    return found


def _report(
    args: argparse.Namespace,
    cells: Cells,
    samples: dict[str, list[float]],
    document: dict[str, Any],
    say: Speaker,
) -> None:
    rows = document["rows"] = _rows(cells, samples)
    headline = next(iter(cells.values())).headline
    document["headline"] = headline
    names = list(dict.fromkeys(variant for _, variant in cells))
    by_cell = {(row["vcpus"], row["variant"]): row for row in rows}
    table: list[list[Cell]] = []
    for vcpus in args.vcpus:
        found = [by_cell.get((vcpus, name)) for name in names]
        if any(found):
            texts = [_cell(row) if row else None for row in found]
            table.append([vcpus, *texts, regime(vcpus)])
    say(f"{args.workload}: {headline}, seconds: median (quartiles) of {args.repeats}")
    say("")
    say(render(["vCPU Count", *[name or headline for name in names], "regime"], table))
    say("")
    say(f"measured on {cores()} cores: {document['host']['cpu']}; not KVM's times")
    if document["outcome"] != "clean":
        say(f"outcome: {document['outcome']}; rows so far are kept, --resume goes on")
    for found_violation in document["violations"]:
        say(f"VIOLATION {found_violation['oracle']}: {found_violation['message']}")


def _cell(row: dict[str, Any]) -> str:
    return f"{row['seconds']:.6f} ({row['q1']:.6f} to {row['q3']:.6f})"
