"""Reproducers as regression tests: they fail where the bug is, and only there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.bugs.catalogue import SOURCE_ROOT, catalogue
from harness.bugs.tree import TREE_VARIABLE, patched_tree
from harness.explore.regression import (
    assert_not_reproduced,
    assert_reproduced_with_its_patch,
    name_of_test,
    text_of_test,
)
from harness.explore.reproducer import Patch, from_document
from mmu.machine.dispatch import cache_root
from tests.command import tdprace
from workloads.errors import UsageError

LITMUS = SOURCE_ROOT / "workloads" / "litmus"
ABA = LITMUS / "stack-aba.json"
BUG = "b08"
FAILS = 1  # pytest's exit status


def command(folder: Path, *words: object) -> subprocess.CompletedProcess:
    """`tdprace WORDS` in a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return tdprace(*words)


def pytest_on(file: Path, *words: str, tree: Path = SOURCE_ROOT) -> subprocess.CompletedProcess:
    """pytest in the file's folder; the packages are those of `tree`."""
    environment = os.environ | {"PYTHONPATH": str(tree)}
    environment.pop(TREE_VARIABLE, None)
    return subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", file, *words],
        capture_output=True,
        text=True,
        cwd=file.parent,
        env=environment,
        timeout=300,
    )


def aba(**changes: object) -> dict:
    return json.loads(ABA.read_text()) | changes


@pytest.fixture(scope="module")
def put_get(tmp_path_factory) -> Path:
    """A reproducer of a bug of the catalogue, as `explore` stores it."""
    folder = tmp_path_factory.mktemp("put-get")
    bug = catalogue(SOURCE_ROOT)[BUG]
    words = (bug.scenario, "--patch", bug.diff, "-j", 1, "--seconds", 20, "--results", folder)
    found = command(folder, "explore", *words, "--quiet")
    assert found.returncode == 1, found.stderr
    return next(folder.glob("*/reproducer.json"))


# --- Plain words ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_scenario_of_plain_words(tmp_path):
    """Fails on the stack with the ABA problem; passes when the file has the one with the tag."""
    stack = tmp_path / "stack.py"
    stack.write_text((LITMUS / "lock_free_stack.py").read_text())
    reproducer = tmp_path / "r.json"
    reproducer.write_text(json.dumps(aba(scenario="stack.py::ABA")))
    written = command(tmp_path, "replay", reproducer, "--as-test")
    assert (written.returncode, written.stderr) == (0, "")
    file = tmp_path / "test_aba_check.py"
    assert f"written: {file.name}" in written.stdout

    failed = pytest_on(file)
    assert failed.returncode == FAILS, failed.stdout
    assert "stack.py::ABA breaks the rule of check: 1 nodes are lost" in failed.stdout
    assert "OOPS check" in failed.stdout
    assert "cmpxchg top: 1 -> 2" in failed.stdout

    repaired = stack.read_text().replace("ABA = ", "BARE = ").replace("TAGGED = ", "ABA = ")
    stack.write_text(repaired)
    passed = pytest_on(file)
    assert passed.returncode == 0, passed.stdout
    assert "1 passed" in passed.stdout


def test_where_the_scenario_lies_does_not_matter(tmp_path, monkeypatch):
    """A file of the checkout is found from anywhere."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError, match="OOPS check"):
        assert_not_reproduced(aba())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": [("slow", "read", "gone", 1, 1, 1)]}, "no word 'gone' now.*make the test anew"),
        ({"steps": [("gone", "read", "top", 1, 1, 1)]}, "no actor 'gone' now.*make the test anew"),
        ({"scenario": "gone.py::ABA"}, "no such file"),
        ({"tdprace_reproducer": 2}, "version"),
    ],
)
def test_what_says_nothing_any_more_does_not_pass(changes, said):
    with pytest.raises(UsageError, match=said):
        assert_not_reproduced(aba(**changes))


def test_a_schedule_that_ends_well_passes():
    """As far as recorded, then whoever runs goes on: nobody is in the way of the slow actor."""
    recording = aba()
    assert_not_reproduced(aba(steps=recording["steps"][:2]))


# --- A VM ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_scenario_of_the_model(put_get, tmp_path):
    """Passes on the clean model, both tests; fails on the patched one."""
    file = tmp_path / "test_it.py"
    written = command(tmp_path, "replay", put_get, "--as-test", file)
    assert (written.returncode, written.stderr) == (0, "")
    passed = pytest_on(file)
    assert passed.returncode == 0, passed.stdout
    assert "2 passed" in passed.stdout

    tree = patched_tree(catalogue(SOURCE_ROOT)[BUG].diff, SOURCE_ROOT, cache_root())
    failed = pytest_on(file, "-k", "put_get", tree=tree)
    assert failed.returncode == FAILS, failed.stdout
    assert "put-get-worker breaks the rule of roots" in failed.stdout
    assert "OOPS roots" in failed.stdout


@pytest.mark.slow
def test_a_patch_that_does_not_show_it_any_more_is_noticed(put_get):
    document = json.loads(put_get.read_text())
    harmless = document["patch"]["diff"].replace("count >= 0", "0 < count")
    document["patch"]["diff"] = harmless
    with pytest.raises(AssertionError, match=r"could not notice the bug: (.|\n)*make the test"):
        assert_reproduced_with_its_patch(document)


def test_without_a_patch_there_is_no_second_test():
    text = text_of_test(from_document(aba(), ABA))
    assert text.count("def test_") == 1
    with pytest.raises(UsageError, match="without a patch"):
        assert_reproduced_with_its_patch(aba())


# --- The file ------------------------------------------------------------------------------------


def literals(text: str) -> dict:
    """What the file's REPRODUCER is."""
    names: dict = {}
    source = "\n".join(line for line in text.splitlines() if "regression import" not in line)
    exec(compile(source, "the test", "exec"), names)
    return names["REPRODUCER"]


AWKWARD = '--- a/mmu/x.py\n+++ b/mmu/x.py\n@@ -1 +1 @@\n-"""\\n\'\t\n+\u2028 ä 😀\n'


def test_the_file_holds_the_whole_reproducer():
    recorded = from_document(aba(reduction={"actors": {"slow": "nothing"}, "vm": {}}), ABA)
    for patch in (None, Patch("b.diff", AWKWARD)):
        changed = from_document({**recorded.document(), "patch": patch and vars(patch)}, ABA)
        found = literals(text_of_test(changed))
        names = ("actor", "do", "word", "occurrence", "saw", "stored")
        found["steps"] = [dict(zip(names, step, strict=True)) for step in found["steps"]]
        assert found == changed.document()


@pytest.mark.parametrize(
    ("scenario", "name"),
    [
        ("put-get", "test_put_get_check"),
        ("some/where.py::STORE_Buffering", "test_store_buffering_check"),
    ],
)
def test_files_and_tests_are_named_by_scenario_and_oracle(scenario, name):
    assert name_of_test(from_document(aba(scenario=scenario), ABA)) == name


def test_a_file_that_is_there_is_not_touched(tmp_path):
    file = tmp_path / "test_aba_check.py"
    file.write_text("mine")
    for words in ((), (file,)):
        refused = command(tmp_path, "replay", ABA, "--as-test", *words)
        assert refused.returncode == 2
        assert "is there already" in refused.stderr
    assert file.read_text() == "mine"
    shown = command(tmp_path, "replay", ABA, "--as-test", "-")
    assert shown.stdout == text_of_test(from_document(aba(), ABA))


def test_options_that_a_test_does_not_use_are_refused(tmp_path):
    refused = command(tmp_path, "replay", ABA, "--as-test", "-", "--explain")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "--as-test does not use --explain" in refused.stderr
