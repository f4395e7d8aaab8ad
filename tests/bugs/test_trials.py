"""What finds which bug: cells, trials that are kept, children, the document."""

from __future__ import annotations

import argparse
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from harness.bugs import strategies, tortured
from harness.bugs.catalogue import SOURCE_ROOT, Bug, catalogue
from harness.bugs.mutants.campaign import append_record
from harness.bugs.trials import FILE, Trials
from harness.cli import bug_strategies
from workloads.errors import UsageError

MUTATIONS = SOURCE_ROOT / "tests" / "oracles" / "mutations"
SEEDS, EXECUTIONS = 3, 300
SOME = ("dpor", "surw", "random")


@pytest.fixture(scope="module")
def bug() -> Bug:
    """Found at once by every strategy, in a scenario of few steps."""
    return catalogue(SOURCE_ROOT)["b39"]


def found(*executions: int | None, exhausted: bool = False) -> dict:
    return {"failed": "", "found": list(executions), "exhausted": exhausted}


# --- Cells ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (found(7), "7"),
        (found(3, 1, 2), "2"),
        (found(1, 2, 3, 4), "2"),
        (found(10, 4_310, 20_000), "4,310"),
        (found(3, None, 2), "3 (2/3)"),
        (found(3, None, None), ">100,000 (1/3)"),
        (found(None, None, None), ">100,000 (0/3)"),
        (found(3, None), ">100,000 (1/2)"),
        (found(None), ">100,000"),
        (found(None, exhausted=True), "none"),
        ({"failed": "", "impossible": "it draws"}, "-"),
        ({"failed": "it died"}, "failed"),
        (None, "-"),
    ],
)
def test_a_cell_is_the_median_seed(record, text):
    assert strategies.cell(record, 100_000) == text


def test_the_last_row_counts_what_the_median_seed_found(tmp_path, bug):
    other = replace(bug, id="b00", name="b00-other")
    for each, executions in ((bug, [5, 6, None]), (other, [5, None, None])):
        append_record(tmp_path / FILE, {"name": f"{each.name} surw", **found(*executions)})
    append_record(tmp_path / FILE, {"name": f"{bug.name} dpor", **found(9)})
    rows = strategies.table([bug, other], Trials(tmp_path), 100).splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    surw, dpor = cells[0].index("surw"), cells[0].index("dpor")
    assert [row[surw] for row in cells[2:]] == ["6 (2/3)", ">100 (1/3)", "1 of 2"]
    assert [row[dpor] for row in cells[2:]] == ["9", "-", "1 of 2"]
    assert strategies.middle(None) == math.inf


def test_runs_of_torture_in_a_row(tmp_path, bug):
    runs = [("roots", "", 2.0), ("", "", 60.0), ("leaks", "", 4.0), ("roots", "", 9.0)]
    runs.append(("", "vcpu 0 died", 1.0))
    for seed, (oracle, ended, seconds) in enumerate(runs, start=1):
        said = {"failed": "", "oracle": oracle, "ended": ended, "seconds": seconds}
        append_record(tmp_path / FILE, {"name": f"{bug.name} seed {seed}", **said})
    append_record(tmp_path / FILE, {"name": f"{bug.name} seed 6", "failed": "no memory"})
    row = tortured.table([bug], Trials(tmp_path), 6).splitlines()[2]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == [bug.id, bug.title, "3 of 5", "roots 2, leaks 1", "4.0", "1"]


# --- Children ------------------------------------------------------------------------------------


def children() -> list[psutil.Process]:
    """Trials under way, and all that they have forked."""
    return [
        each
        for each in psutil.Process().children(recursive=True)
        if each.status() != psutil.STATUS_ZOMBIE
    ]


def task_of(trials: Trials):
    def task(bug: Bug):
        whole = strategies.task(bug, trials, SEEDS, EXECUTIONS)
        return replace(whole, names=tuple(name for name in whole.names if name in SOME))

    return task


@pytest.mark.thorough
@pytest.mark.slow
def test_what_is_done_is_not_done_again(tmp_path, bug):
    """Interrupted after the first trial, then gone on with, in two `Trials` of one folder."""
    first = Trials(tmp_path)
    before = children()

    def until_one_is_done(under_way: list[str]) -> bool:
        return first.done([bug], SOME) == 0

    assert not first.run([bug], task_of(first), 1, until_one_is_done)
    assert children() == before
    assert 1 <= first.done([bug], SOME) <= len(SOME)
    lines = (tmp_path / FILE).read_text().splitlines()
    again = Trials(tmp_path)
    assert again.done([bug], SOME) == first.done([bug], SOME)
    assert again.run([bug], task_of(again), 1, lambda under_way: True)
    assert (tmp_path / FILE).read_text().splitlines()[: len(lines)] == lines
    records = {name: again.record(bug, name) for name in SOME}
    assert [len(records[name]["found"]) for name in SOME] == [1, SEEDS, SEEDS]
    assert all(each is not None for record in records.values() for each in record["found"])
    assert again.todo(bug, SOME) == ()
    assert sorted(os.listdir(tmp_path)) == [FILE]


@pytest.mark.slow
def test_a_child_that_fails_says_why_and_is_tried_again(tmp_path, bug):
    lost = replace(bug, scenario="no-such-scenario")
    trials = Trials(tmp_path)
    assert trials.run([lost], task_of(trials), 1, lambda under_way: True)
    for name in SOME:
        assert "no scenario 'no-such-scenario'" in trials.record(lost, name)["failed"]
    assert set(SOME) <= set(Trials(tmp_path).todo(lost, strategies.STRATEGIES))
    assert "failed" in strategies.table([lost], trials, EXECUTIONS)


def tortured_once(tmp_path: Path, bug: Bug, seconds: float) -> dict:
    trials = Trials(tmp_path)
    assert trials.run(
        [bug], lambda each: tortured.task(each, trials, 1, seconds, 2), 1, lambda under_way: True
    )
    return trials.record(bug, "seed 1")


@pytest.mark.thorough
@pytest.mark.slow
def test_real_processes_find_what_is_broken_everywhere(tmp_path, bug):
    """A model that maps the wrong frames; and one whose bug needs 2**32 invalidations."""
    (tmp_path / "patch.diff").write_text((MUTATIONS / "mapping-wrong-frame.diff").read_text())
    broken = replace(bug, id="b00", name="b00-wrong-frame", folder=tmp_path)
    record = tortured_once(tmp_path, broken, 20.0)
    assert (record["oracle"], record["failed"]) == ("mapping", "")
    assert record["seconds"] > 0
    record = tortured_once(tmp_path, bug, 1.0)
    assert (record["oracle"], record["ended"], record["failed"]) == ("", "", "")
    assert record["seconds"] >= 1.0


# --- The commands --------------------------------------------------------------------------------


def parsed(*words: object) -> argparse.Namespace:
    """As `tdprace bugs` parses it."""
    parser = argparse.ArgumentParser()
    actions = parser.add_subparsers(dest="action")

    def action(name: str, text: str) -> argparse.ArgumentParser:
        each = actions.add_parser(name, help=text)
        each.add_argument("--catalogue", type=Path, default=SOURCE_ROOT / "workloads" / "bugs")
        return each

    bug_strategies.add_actions(action)
    return parser.parse_args([*map(str, words), "--quiet"])


MARKED = """before
<!-- measured: tdprace bugs strategies -->
old
<!-- end -->
between
<!-- measured: tdprace bugs torture -->
other
<!-- end -->
"""


@pytest.mark.slow
def test_the_table_is_stored_and_written_between_its_markers(tmp_path, capsys):
    document = tmp_path / "doc.md"
    document.write_text(MARKED)
    results = tmp_path / "results"
    words = ("strategies", "b39", "--seeds", 1, "--executions", EXECUTIONS, "--json", "-")
    args = parsed(*words, "--results", results, "--write", document)
    assert bug_strategies.run(args) == 0
    said = json.loads(capsys.readouterr().out)
    assert {record["trial"] for record in said["trials"]} == set(strategies.STRATEGIES)
    text = document.read_text()
    assert text.startswith("before\n<!-- measured: tdprace bugs strategies -->\n| bug ")
    assert "| b39 " in text
    assert "old" not in text
    assert text.endswith(MARKED[MARKED.index("between") :])
    assert f"with model {said['model']}" in text

    run = next(results.iterdir())
    again = parsed("strategies", "--run", run, "--write", document)
    assert bug_strategies.run(again) == 0
    assert document.read_text() == text


def test_a_document_without_a_place_is_refused_before_anything_runs(tmp_path):
    document = tmp_path / "doc.md"
    document.write_text("nothing")
    results = tmp_path / "results"
    with pytest.raises(UsageError, match="has no <!-- measured: tdprace bugs torture -->"):
        bug_strategies.run(parsed("torture", "--results", results, "--write", document))
    assert not results.exists()


def stored(folder: Path, **changes: object) -> Path:
    """A run that was interrupted at once."""
    document = {"schema": 1, "command": "bugs", "model": "another", "outcome": "interrupted"}
    document["config"] = {"action": "strategies", "ids": []}
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(document | changes))
    return folder


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("strategies", "b39"), "leave out b39"),
        (("strategies", "--seeds", "3"), "leave out --seeds"),
        (("strategies",), "a run of another model"),
        (("torture",), "no run of `bugs torture`"),
    ],
)
def test_a_run_that_cannot_be_gone_on_with_is_refused(tmp_path, words, said):
    folder = stored(tmp_path / "run")
    with pytest.raises(UsageError, match=said):
        bug_strategies.run(parsed(*words, "--run", folder))


def test_the_document_has_both_places():
    for name in bug_strategies.NAMES:
        bug_strategies._check_markers(SOURCE_ROOT / bug_strategies.DOCUMENT, name)
