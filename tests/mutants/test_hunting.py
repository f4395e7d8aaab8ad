"""Hunting: who must die dies, who changes nothing lives, and no outcome is lost or made twice."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from harness.bugs.mutants.campaign import (
    RESULTS_FILE,
    Budget,
    Campaign,
    append_record,
    file_name,
    read_records,
)
from harness.bugs.mutants.catalogue import Mutant, all_mutants
from harness.bugs.mutants.edits import Edit, Source
from harness.bugs.mutants.explained import Explanation, explanations
from harness.bugs.mutants.hunt import (
    FAILED,
    KILLED,
    LONG_S,
    STRATEGIES,
    SURVIVED,
    TORTURES,
    UNCOMPILED,
    Job,
    long_round,
    torture_plan,
)
from harness.bugs.mutants.reach import Reached, reached_by, scenarios_for
from harness.bugs.mutants.table import how_far, kill_table, remainders
from tests.command import Running, tdprace
from workloads.scenarios.registry import SCENARIOS, load

ROOT = Path(__file__).parents[2]
BY_NAME = {mutant.name: mutant for mutant in all_mutants(ROOT)}
# vCPUs run on in roots that are gone.
DEADLY = "zap_all.zap_all_fast:request_all#1:flush-removed"
# Only one actor ever destroys a VM.
HARMLESS = "zap_all.begin_destroy:fetch_add#1:atomic-weakened"
MORE = "slot_changes.create"
QUICK = ("--seconds", "0", "--torture", "0")
# Those that reach what is hunted here: a run looks first where all scenarios of the registry go.
FEW = ("invalidate-fault", "put-destroy", "put-get-destroy", "slot-create-fault", "mmio-create")


def records_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / RESULTS_FILE).read_text().splitlines()]


def start(*words: object) -> Running:
    """The command, where there are few scenarios."""
    with pytest.MonkeyPatch.context() as patch:
        for name in set(SCENARIOS) - set(FEW):
            patch.delitem(SCENARIOS, name)
        return Running("mutants", *words)


def finished(*words: object) -> subprocess.CompletedProcess[str]:
    return start(*words).finished()


@pytest.fixture(scope="module")
def hunted(tmp_path_factory):
    """A run over one that must die and one that cannot."""
    results = tmp_path_factory.mktemp("results")
    words = ("--only", DEADLY, "--only", HARMLESS, "--results", results, "--quiet", *QUICK)
    return results, finished(*words, "--json", "-")


# --- Outcomes ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_who_must_die_dies_and_who_changes_nothing_lives(hunted):
    results, done = hunted
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    found = {each["name"]: each for each in document["mutants"]}
    assert found[DEADLY]["outcome"] == KILLED
    assert found[DEADLY]["kill"]["oracle"] == "tlb"
    assert found[HARMLESS]["outcome"] == SURVIVED
    assert found[HARMLESS]["exhausted"] > 0
    assert found[HARMLESS]["executions"] > 0
    assert document["outcome"] == "clean"
    (folder,) = results.iterdir()
    assert sorted(path.name for path in folder.iterdir()) == [
        *("diffs", "mutants.jsonl", "run.json", "table.txt"),
    ]
    table = (folder / "table.txt").read_text()
    assert f"SURVIVES {HARMLESS}" in table
    assert explanations()[HARMLESS].text in table
    assert DEADLY not in table


@pytest.mark.thorough
def test_a_diff_that_was_kept_works_with_patch(hunted, tmp_path):
    folder = next(hunted[0].iterdir())
    scenario = records_of(folder)[0]["kill"] or records_of(folder)[1]["kill"]
    words = ("explore", scenario["scenario"], "--seconds", "5", "-j", "1", "--quiet")
    diff = folder / "diffs" / file_name(BY_NAME[DEADLY])
    done = tdprace(*words, "--patch", diff, "--results", tmp_path)
    assert done.returncode == 1, done.stderr
    assert "VIOLATION tlb" in done.stdout


@pytest.mark.slow
def test_the_clean_model_survives():
    names = ["map-map-same", "fast-fault-harvest", "promote-execute", "put-get-worker"]
    job = Job(os.getpid(), names, ["promote-execute"], seconds=2.0, torture=2.0)
    command = [sys.executable, "-m", "harness.bugs.mutants.hunt"]
    text = json.dumps(asdict(job))
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
    outcome = json.loads(done.stdout)
    assert (outcome["outcome"], outcome["kill"]) == (SURVIVED, None)
    assert outcome["exhausted"] >= 3
    assert outcome["executions"] > 10_000


def own_mutant(text: str) -> Mutant:
    """The dirty mark of a fast fault replaced by something else."""
    mutant = BY_NAME["fast_fault._attempt:mark_page_dirty#1:dirty-removed"]
    source = Source(mutant.path, (ROOT / mutant.path).read_text())
    old = "mark_page_dirty(cpu, slot, gfn)"
    start = source.text.index(old)
    diff = source.diff([Edit(start, start + len(old), text, mutant.lines[0])])
    return Mutant(
        "own", "dirty", "dirty-removed", mutant.path, mutant.functions, mutant.lines, diff
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "outcome", "said"),
    [
        ("cpu.nothing()", UNCOMPILED, "nothing"),
        ("1 +", FAILED, "SyntaxError"),
        ("read_once(cpu, 1 << 40)", KILLED, "SIGSEGV"),
    ],
)
def test_what_else_may_become_of_one(tmp_path, text, outcome, said):
    mutant = own_mutant(text)
    campaign = campaign_of(tmp_path)
    assert campaign.run([mutant], 1, lambda under_way, records: True)
    record = campaign.records["own"]
    assert record["outcome"] == outcome, record
    told = record["message"] + (record["kill"] or {}).get("message", "")
    assert said in told
    assert campaign.is_done(mutant) == (outcome != FAILED)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["diffs", RESULTS_FILE]


def campaign_of(folder: Path) -> Campaign:
    functions = frozenset({"mmu.fast_fault._attempt"})
    reach = {"fast-fault-harvest": Reached(functions, {}, 100)}
    return Campaign(folder, Budget(seconds=0, torture=0), reach)


# --- Going on ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_going_on_repeats_nothing(hunted):
    results, _ = hunted
    (folder,) = results.iterdir()
    before = (folder / RESULTS_FILE).read_text()
    done = finished("--run", folder, "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    assert (folder / RESULTS_FILE).read_text() == before
    assert f"SURVIVES {HARMLESS}" in done.stdout
    # A run that died while it wrote its last line: that one is hunted again, the first is not.
    first, second = before.splitlines(keepends=True)
    (folder / RESULTS_FILE).write_text(first + second[:20])
    done = finished("--run", folder.name, "--results", results, "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    lines = (folder / RESULTS_FILE).read_text().splitlines(keepends=True)
    assert lines[0] == first
    assert [json.loads(line)["name"] for line in lines[1:]] == [json.loads(second)["name"]]


@pytest.mark.thorough
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_loses_nothing(tmp_path, how):
    words = ("--only", MORE, "--results", tmp_path, "-j", "1", "--quiet", *QUICK)
    process = start(*words)
    folder, hunters = wait_for_a_record(process, tmp_path)
    process.send_signal(how)
    out, errors = process.communicate(timeout=30)
    kept = records_of(folder)
    assert 1 <= len(kept) < sum(MORE in name for name in BY_NAME)
    if how == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert (process.returncode, errors) == (130, "")
        assert f"go on with: tdprace mutants --run {folder}" in out
        assert not (folder / "work").exists()
        document = json.loads((folder / "run.json").read_text())
        assert document["outcome"] == "interrupted"
        assert len(document["mutants"]) == len(kept)
    assert psutil.wait_procs(hunters, timeout=10)[1] == []
    done = finished("--run", folder, "--quiet", "--json", "-")
    assert (done.returncode, done.stderr) == (0, "")
    records = records_of(folder)
    assert records[: len(kept)] == kept
    names = [record["name"] for record in records]
    assert sorted(names) == sorted(name for name in BY_NAME if MORE in name)
    assert not (folder / "work").exists()


def wait_for_a_record(process: Running, results: Path) -> tuple[Path, list[psutil.Process]]:
    """Until one is done and the next is hunted."""
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline and process.poll() is None:
        for file in results.glob("*/mutants.jsonl"):
            hunters = psutil.Process(process.pid).children(recursive=True)
            if file.read_text() and hunters:
                return file.parent, hunters
        time.sleep(0.05)
    pytest.fail(f"nothing was hunted: {process.communicate()}")


def test_records(tmp_path):
    file = tmp_path / "r.jsonl"
    assert read_records(file) == {}
    append_record(file, {"name": "a", "outcome": KILLED})
    append_record(file, {"name": "b", "outcome": FAILED})
    append_record(file, {"name": "b", "outcome": SURVIVED})
    with file.open("a") as stream:
        stream.write('{"name": "c", "out')
    assert {name: each["outcome"] for name, each in read_records(file).items()} == {
        "a": KILLED,
        "b": SURVIVED,
    }
    append_record(file, {"name": "d", "outcome": KILLED})
    assert list(read_records(file)) == ["a", "b", "d"]


# --- What is used --------------------------------------------------------------------------------


def test_what_scenarios_execute():
    reached = reached_by(load("map-map-same"), schedules=4)
    assert {"mmu.fault._slow_fault", "mmu.tdp_mmu.set_spte_atomic"} <= reached.functions
    assert not {"mmu.zap_all.zap_all", "mmu.roots.put_root"} & reached.functions
    assert not any(".machine." in name for name in reached.functions)
    (line,) = (
        number
        for number, text in enumerate((ROOT / "mmu/fault.py").read_text().splitlines(), start=1)
        if text == "        rcu_read_lock(cpu)"
    )
    assert f"mmu/fault.py:{line}" in reached.lines
    assert 50 < reached.steps < 1000


def test_scenarios_that_execute_the_line_come_first():
    mutant = BY_NAME["fast_fault._attempt:mark_page_dirty#1:dirty-removed"]
    ours = frozenset(mutant.functions)
    line = f"{mutant.path}:{mutant.lines[0]}"
    reach = {
        "elsewhere": Reached(frozenset({"mmu.fault._fault"}), {line: 24}, 1),
        "not on line": Reached(ours, {}, 5),
        "seldom": Reached(ours, {line: 3}, 10),
        "long": Reached(ours, {line: 7}, 30),
        "short": Reached(ours, {line: 7}, 20),
        "killer": Reached(ours, {line: 1}, 99),
    }
    order = ["killer", "short", "long", "seldom", "not on line"]
    found = scenarios_for(mutant, reach, {"killer": 2, "not on line": 9})
    assert found == [(name, name != "not on line") for name in order]


def test_a_job_is_what_the_budget_allows(tmp_path):
    mutant = BY_NAME["fast_fault._attempt:mark_page_dirty#1:dirty-removed"]
    ours = frozenset(mutant.functions)
    line = f"{mutant.path}:{mutant.lines[0]}"
    reach = {
        "off": Reached(ours, {}, 1),
        "a": Reached(ours, {line: 1}, 2),
        "b": Reached(ours, {line: 1}, 3),
    }
    kill = {"oracle": "tlb", "message": "", "scenario": "b", "strategy": "dpor"}
    append_record(tmp_path / RESULTS_FILE, {"name": "x", "outcome": KILLED, "kill": kill})
    append_record(tmp_path / RESULTS_FILE, {"name": "y", "outcome": SURVIVED, "kill": None})
    job = Campaign(tmp_path, Budget(3, 4), reach).job(mutant)
    assert job == Job(os.getpid(), ("b", "a", "off"), ("b", "a"), 3, 4)
    off = {"off": reach["off"]}
    assert Campaign(tmp_path, Budget(3, 4), off).job(mutant).worth == ("off",)


@pytest.mark.parametrize("words", TORTURES, ids=" ".join)
def test_each_variant_of_torture_can_be_run(words):
    plan = torture_plan(words, 2.5)
    assert plan.workload == "torture"
    assert sum(phase.lasts for phase in plan.phases) == pytest.approx(2.5)


def test_the_long_round():
    (share,) = {seconds for *_, seconds in long_round(["a", "b"], 8.0)}
    assert share == 8.0 / (2 * len(STRATEGIES))
    turns = [(strategy, name) for strategy, name, _ in long_round(["a", "b"], 8.0)]
    assert turns == [(strategy, name) for strategy in STRATEGIES for name in ("a", "b")]
    # With little time for many, the first get enough of it.
    names = [str(number) for number in range(100)]
    few = long_round(names, 6.0)
    assert 0 < len(few) < 100 * len(STRATEGIES)
    assert {name for _, name, _ in few} == set(names[: len(few) // len(STRATEGIES)])
    assert all(seconds >= LONG_S for *_, seconds in few)
    assert sum(seconds for *_, seconds in few) == pytest.approx(6.0)
    assert long_round(["a"], 0.0) == long_round([], 5.0) == []


def test_tables():
    mutants = [BY_NAME[DEADLY], BY_NAME[HARMLESS]]
    kill = {"oracle": "tlb", "message": "m", "scenario": "s", "strategy": "dpor"}
    survived = {"seconds": 2.0, "executions": 3, "scenarios": 2, "exhausted": 1}
    records = {
        DEADLY: {
            "name": DEADLY,
            "outcome": KILLED,
            "seconds": 1.0,
            "wall_seconds": 3.0,
            "kill": kill,
        },
        HARMLESS: {"name": HARMLESS, "outcome": SURVIVED, "wall_seconds": 5.0, **survived},
    }
    assert how_far(mutants, records) == "2 of 2: 1 killed, 1 survive"
    assert how_far(mutants, {}) == "0 of 2: none yet"
    why = Explanation("equivalent", "because")
    table = kill_table(mutants, records, {HARMLESS: why, DEADLY: why})
    rows = [row.replace(" %", "%").replace("|", "").split() for row in table.splitlines()[2:]]
    assert rows == [
        ["flush-removed", "1", "1", "0", "0", "100%", "100%", "0", "0", "0", "3.0"],
        ["atomic-weakened", "1", "0", "1", "1", "0%", "-", "0", "0", "0", "5.0"],
        ["all", "2", "1", "1", "1", "50%", "100%", "0", "0", "0", "4.0"],
    ]
    assert kill_table(mutants, records, {}).splitlines()[-1].count("50 %") == 2
    (text,) = remainders(mutants, records, {})
    told = f"SURVIVES {HARMLESS}: 3 executions, 1 of 2 scenarios exhausted; "
    assert text == f"{told}unexplained\n{BY_NAME[HARMLESS].diff}"
    texts = remainders(mutants, records, {HARMLESS: why, DEADLY: why})
    assert texts == [
        f"NOT EQUIVALENT {DEADLY}: killed by tlb in s (dpor): m\n",
        f"{told}equivalent: because\n",
    ]


# --- Usage ---------------------------------------------------------------------------------------


def test_list():
    done = tdprace("mutants", "--list")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == list(BY_NAME)
    done = tdprace("mutants", "--list", "--diff", "--only", DEADLY)
    assert done.stdout == f"{DEADLY}\n{BY_NAME[DEADLY].diff}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--only", "no-such"), "no mutant is called so"),
        (("--list", "--only", "no-such"), "no mutant is called so"),
        (("--diff",), "--diff is for --list"),
        (("--jobs", "0"), "not a number of processes"),
        (("--run", "no-such-run"), "run 'no-such-run'"),
        (("--run", "x", "--torture", "3"), "leave out --torture"),
        (("--run", "x", "--only", "3"), "leave out --only"),
    ],
)
def test_wrong_usage_is_one_line(tmp_path, words, said):
    done = tdprace("mutants", *words, "--results", tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("model", "0" * 16, "a run of another model"), ("command", "explore", "not of `mutants`")],
)
def test_a_run_that_is_not_this_ones_is_refused(tmp_path, key, value, said):
    document = {"schema": 1, "command": "mutants", "model": "1" * 16, "config": {}}
    (tmp_path / "run.json").write_text(json.dumps({**document, key: value}))
    done = tdprace("mutants", "--run", tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
