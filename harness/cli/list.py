"""`tdprace list`: what there is to run and what watches it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from harness.bugs.catalogue import SOURCE_ROOT, catalogue
from harness.cli.common import write_json
from harness.explore.strategies.registry import STRATEGIES
from harness.oracles.verdict import ORACLES
from harness.report.tables import render
from mmu.policy import POLICIES
from workloads.registry import WORKLOADS
from workloads.scenarios.registry import SCENARIOS, load


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """--json."""
    parser.add_argument("--json", metavar="FILE|-", help="write JSON; with -, print nothing else")


def run(args: argparse.Namespace) -> int:
    """Print everything that has a name."""
    document: dict[str, Any] = {
        "workloads": {name: text for name, (_, text) in WORKLOADS.items()},
        "scenarios": {name: load(name).about for name in SCENARIOS},
        "strategies": {name: info.about for name, info in STRATEGIES.items()},
        "policies": {
            name: {"what": text, "values": list(values)}
            for name, (text, values) in POLICIES.items()
        },
        "oracles": {
            each.NAME: {"property": each.PROPERTY, "in_stress": each.IN_STRESS} for each in ORACLES
        },
        "bugs": {
            bug.id: {"title": bug.title, "scenario": bug.scenario, "oracle": bug.oracle}
            for bug in catalogue(SOURCE_ROOT).values()
        },
    }
    write_json(args.json, document)
    if args.json == "-":
        return 0
    print(
        render(["workload", "what it does"], [list(each) for each in document["workloads"].items()])
    )
    for what in ("scenarios", "strategies"):
        print()
        heads = [what.replace("ies", "y").removesuffix("s"), "what it does"]
        print(render(heads, [list(each) for each in document[what].items()]))
    print()
    rows = [[name, ", ".join(values), text] for name, (text, values) in POLICIES.items()]
    print(render(["policy", "values", "what it decides"], [list(row) for row in rows]))
    print()
    print(
        render(
            ["oracle", "property", "in stress"],
            [[each.NAME, each.PROPERTY, each.IN_STRESS] for each in ORACLES],
        )
    )
    print()
    found = [[id_, *bug.values()] for id_, bug in document["bugs"].items()]
    print(render(["bug", "what goes wrong", "scenario", "oracle"], found))
    return 0
