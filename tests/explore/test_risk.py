"""Share of failing traces and fewest preemptions, against figures that nothing is shared with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from harness.bugs.catalogue import SOURCE_ROOT, catalogue
from harness.bugs.tree import TREE_VARIABLE, patched_tree
from harness.explore.explorer import Bounds, Explorer, compile_engine
from harness.explore.fewest import prove_fewest
from harness.explore.risk import Risk
from mmu.machine.cpu import Cpu
from mmu.machine.dispatch import cache_root
from mmu.machine.kernel import kernel
from mmu.machine.primitives import draw, write_once
from tests.command import tdprace
from tests.explore import programs as p
from tests.explore.naive import enumerate_traces, fewest_preemptions
from tests.explore.programs import Program, generate, scenario_of, text_of
from workloads.litmus.lock_free_stack import ABA, TAGGED
from workloads.scenario import FORBIDDEN, Actor, Outcome, Scenario

PROGRAMS = 120
PARTS = 4
BUGS = ("b08", "b19")  # noticed while it runs, and by audits of its end too


def risk_of(scenario: Scenario, strategy: str = "dpor", bounds: Bounds | None = None) -> Risk:
    bounds = bounds or Bounds()
    explorer = Explorer(scenario, strategy, bounds, stop_at_finding=False, tallied=True)
    result = explorer.run()
    explorer.close()
    assert result.exhausted
    return prove_fewest(scenario, result, bounds)


def some_of(program: Program, seed: int) -> set[tuple[int, ...]]:
    """Outcomes to be forbidden: some of all, or those that need the most preemptions."""
    fewest = fewest_preemptions(program).complete
    if seed % 3 == 0:
        return set(sorted(fewest)[::3])
    most = max(fewest.values(), default=0)
    return {values for values, least in fewest.items() if least == most}


def forbidding(program: Program, values: set[tuple[int, ...]]) -> Scenario:
    outcomes = tuple(Outcome(each, FORBIDDEN, "not this one") for each in sorted(values))
    return replace(scenario_of(program), outcomes=outcomes)


def expected(program: Program, bad: set[tuple[int, ...]]) -> dict | None:
    """Of the naive enumerator; None if there are too many traces."""
    traces = enumerate_traces(program)
    if traces is None:
        return None
    fewest = fewest_preemptions(program)
    by_oracle = {}
    forbidden = sum(values in bad for values in traces.complete.values())
    if forbidden:
        by_oracle["outcome"] = (forbidden, min(fewest.complete[each] for each in bad))
    if traces.deadlocked:
        by_oracle["progress"] = (len(traces.deadlocked), fewest.deadlocked)
    return {
        "traces": len(traces.complete) + len(traces.deadlocked),
        "by oracle": by_oracle,
        "fewest": min((least for _, least in by_oracle.values()), default=None),
    }


def seen(risk: Risk) -> dict:
    assert risk.preemptions_proved
    assert risk.failing == sum(each.failing for each in risk.oracles)
    assert risk.share == risk.failing / risk.traces
    return {
        "traces": risk.traces,
        "by oracle": {e.oracle: (e.failing, e.preemptions_fewest) for e in risk.oracles},
        "fewest": risk.preemptions_fewest,
    }


@pytest.mark.parametrize("part", range(PARTS))
def test_random_programs(part):
    for strategy in ("dpor", "optimal", "switches"):
        compile_engine(strategy)
    failing = needed = 0
    for seed in range(part, PROGRAMS, PARTS):
        program = generate(seed)
        if enumerate_traces(program) is None:
            continue
        bad = some_of(program, seed)
        wanted = expected(program, bad)
        for strategy in ("dpor", "optimal"):
            found = seen(risk_of(forbidding(program, bad), strategy))
            assert found == wanted, f"seed {seed}, {strategy}\n{text_of(program)}"
        failing += bool(wanted["by oracle"])
        needed += any(least for _, least in wanted["by oracle"].values())
    assert failing > 0.9 * PROGRAMS / PARTS
    assert needed > 0.1 * PROGRAMS / PARTS


LOST_UPDATE: Program = (
    ((p.LOAD, 0, 0, 0), (p.STORE_LAST, 0, 1, 0)),
    ((p.LOAD, 0, 0, 0), (p.STORE_LAST, 0, 1, 0)),
)


def test_a_lost_update_on_paper():
    """Both loads come before both stores in two of the four traces.

    Each actor has one more step of its own, which commutes with everything.
    """
    traces = enumerate_traces(LOST_UPDATE)
    bad = {values for values in traces.complete.values() if values[0] == 1}
    risk = risk_of(forbidding(LOST_UPDATE, bad))
    assert (risk.failing, risk.traces, risk.preemptions_fewest) == (2, 4, 1)


def test_a_stack_with_and_without_its_tag():
    risk = risk_of(ABA)
    assert (risk.failing, risk.preemptions_fewest) == (1, 1)
    assert [each.oracle for each in risk.oracles] == ["check"]
    clean = risk_of(TAGGED)
    assert (clean.failing, clean.share, clean.preemptions_fewest) == (0, 0.0, None)
    assert clean.preemptions_proved


def outcomes_within(program: Program, strategy: str, preemptions: int) -> set[tuple[int, ...]]:
    explorer = Explorer(scenario_of(program), strategy, Bounds(preemptions=preemptions))
    explorer._stop_at_finding = False
    result = explorer.run()
    explorer.close()
    return set(result.outcomes)


def test_dpor_under_a_bound_is_no_proof_but_switches_is():
    """What the bound allows is all seen by switches, and not always by dpor."""
    missed = 0
    for seed in range(120):
        program = generate(seed)
        if enumerate_traces(program, 4_000) is None:
            continue
        fewest = fewest_preemptions(program).complete
        for bound in (0, 1):
            possible = {values for values, least in fewest.items() if least <= bound}
            assert outcomes_within(program, "switches", bound) == possible, text_of(program)
            by_dpor = outcomes_within(program, "dpor", bound)
            assert by_dpor <= possible
            missed += by_dpor != possible
    assert missed > 0


# --- What cannot be said -----------------------------------------------------------------------


@kernel
def draw_many(cpu: Cpu) -> None:
    write_once(cpu, 0, draw(cpu, 5_000))


def test_nothing_is_said_where_not_everything_was_judged():
    """There are more outcomes than are counted."""
    scenario = Scenario("drawn", "", (Actor("a", draw_many),), words=("x",), outcome=("x",))
    explorer = Explorer(scenario, "dpor", stop_at_finding=False, tallied=True)
    result = explorer.run()
    assert (result.exhausted, result.executions) == (True, 5_000)
    assert explorer.tally.unjudged > 0
    assert result.risk is None


def test_nothing_is_said_about_a_part():
    explorer = Explorer(ABA, "dpor", Bounds(executions=5), stop_at_finding=False, tallied=True)
    assert explorer.run().risk is None


# --- A bug of the catalogue ----------------------------------------------------------------------

# Every execution is judged anew: no table of what was seen, no compiled counting.
BY_HAND = """
import json, sys
from collections import Counter
from harness.explore import block as at
from harness.explore.explorer import Explorer
from harness.explore.judge import audit_finding, fault_finding
from harness.explore.load import load_scenario

explorer = Explorer(load_scenario(sys.argv[1]), "dpor")
explorer._run_slices = lambda share: False
explorer._run_strategy("dpor", 1.0)
engine, block, world = explorer.engine, explorer.engine.block, explorer.world
counts, code = Counter(), 0
while code != 1:
    engine.forget()
    block[at.H_ANSWERED : at.H_ANSWERED_MORE + 1] = 0
    code = engine.run(1)
    if code > 1 and block[at.H_FAULT]:
        counts[fault_finding(world, block, ()).oracle] += 1
    elif code > 1:
        found = audit_finding(world, ())
        counts[found.oracle if found else "nobody"] += 1
print(json.dumps(counts))
"""


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("id_", BUGS)
def test_a_bug_of_the_catalogue(tmp_path, id_):
    """The command's figures are those of a count by hand in the patched model."""
    bug = catalogue(SOURCE_ROOT)[id_]
    command = [sys.executable, "-m", "harness", "explore", bug.scenario, "--patch", bug.diff]
    more = ["--risk", "--no-shrink", "--quiet", "--json", "-", "--results", tmp_path]
    done = subprocess.run([*command, *more], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    risk = json.loads(done.stdout)["risk"]
    tree = patched_tree(bug.diff, SOURCE_ROOT, cache_root())
    environment = os.environ | {"PYTHONPATH": str(tree), TREE_VARIABLE: str(tree)}
    by_hand = subprocess.run(
        [sys.executable, "-P", "-c", BY_HAND, bug.scenario],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert by_hand.returncode == 0, by_hand.stderr
    counts = json.loads(by_hand.stdout)
    assert risk["traces"] == sum(counts.values())
    counts.pop("nobody", None)
    assert {each["oracle"]: each["failing"] for each in risk["oracles"]} == counts
    assert bug.oracle in counts
    assert risk["failing"] == sum(counts.values())
    assert risk["share"] == risk["failing"] / risk["traces"]
    assert risk["preemptions_proved"]


# --- The command ---------------------------------------------------------------------------------


def explore(tmp_path, *words: object) -> subprocess.CompletedProcess:
    return tdprace("explore", *words, "--quiet", "--results", tmp_path)


STACK = "workloads/litmus/lock_free_stack.py"


def test_what_is_said(tmp_path):
    done = explore(tmp_path, f"{STACK}::ABA", "--risk", "--no-shrink")
    assert done.returncode == 1
    assert "risk: 1 of 33 traces fail (3.03 %); it takes 1 preemption\n" in done.stdout
    clean = explore(tmp_path, f"{STACK}::TAGGED", "--risk", "--json", "-")
    assert clean.returncode == 0
    document = json.loads(clean.stdout)
    assert document["risk"] == asdict(Risk(0, document["executions"], 0.0, None, True, ())) | {
        "oracles": []
    }
    part = explore(tmp_path, f"{STACK}::TAGGED", "--risk", "--executions", 5)
    assert "risk: not known, since not all traces were seen" in part.stdout
    without = explore(tmp_path, f"{STACK}::TAGGED", "--json", "-")
    assert json.loads(without.stdout)["risk"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--strategy", "pos"), "--risk needs all traces: dpor, optimal, not pos"),
        (("--strategy", "dpor", "--preemptions", "1"), "--risk does not use --preemptions"),
        (("-j", "2"), "--risk does not use -j"),
        (("--seed", "2"), "--risk does not use --seed"),
    ],
)
def test_options_that_would_be_ignored_are_refused(tmp_path, words, said):
    refused = explore(tmp_path, f"{STACK}::ABA", "--risk", *words)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert said in refused.stderr
