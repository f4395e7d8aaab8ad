"""`tdprace bugs` as a user meets it: one true bug, one harmless diff, one wrong name."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from harness.bugs.catalogue import catalogue
from harness.bugs.interpreters import COLUMNS
from tests.bugs.catalogues import REVIVED, ROOT, SCENARIO, entry, harmless_diff
from tests.command import Running, tdprace

# So many traces that nobody exhausts it while a test waits.
LARGE = "enable-execute"
TRUE, HARMLESS, WRONG = "b01-true", "b02-harmless", "b03-wrong-oracle"


def bugs(*words: object, seconds: float = 300) -> subprocess.CompletedProcess[str]:
    # What is told is as wide as the terminal, and here as wide as the book.
    return tdprace("bugs", *words, seconds=seconds, env={"COLUMNS": str(COLUMNS)})


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("catalogue")
    entry(folder, TRUE, REVIVED.read_text())
    entry(folder, HARMLESS, harmless_diff())
    entry(folder, WRONG, REVIVED.read_text(), oracle="dirty")
    return folder


@pytest.fixture(scope="module")
def checked(own, tmp_path_factory) -> tuple[Path, Path, subprocess.CompletedProcess[str]]:
    """All three checked, and what is right is kept."""
    results = tmp_path_factory.mktemp("results")
    words = ("--seconds", 4, "--keep", "--quiet", "--json", results / "out.json")
    return own, results, bugs("check", "--catalogue", own, "--results", results, *words)


# --- check ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_only_what_is_found_by_the_named_oracle_is_found(checked):
    _, results, done = checked
    assert (done.returncode, done.stderr) == (1, "")
    document = json.loads((results / "out.json").read_text())
    found = {each["name"]: each for each in document["bugs"]}
    assert found[TRUE]["problem"] == ""
    assert (found[TRUE]["found"], found[TRUE]["oracle"]) == (True, "roots")
    assert (found[TRUE]["replayed"], found[TRUE]["interpreted"]) == (100, True)
    assert found[TRUE]["shrunk_steps"] > 0
    assert (found[HARMLESS]["found"], found[HARMLESS]["oracle"]) == (False, "")
    assert "all there are" in found[HARMLESS]["problem"]
    assert (found[WRONG]["found"], found[WRONG]["oracle"]) == (False, "roots")
    assert document["outcome"] == "failed"
    (clean,) = document["clean"]
    assert (clean["scenario"], clean["exhausted"], clean["problem"]) == (SCENARIO, True, "")
    said = [line for line in done.stdout.splitlines() if line.startswith("NOT AS IT MUST BE: ")]
    assert [line.split()[5] for line in said] == [HARMLESS, WRONG]
    assert "1 of 3 bugs found, replayed and told; the clean model is not accused" in done.stdout


@pytest.mark.slow
def test_the_run_is_stored_and_nothing_else_is_left(checked):
    _, results, done = checked
    (folder,) = (path for path in results.iterdir() if path.name != "out.json")
    assert sorted(path.name for path in folder.iterdir()) == ["run.json", "table.txt"]
    assert (folder / "table.txt").read_text() in done.stdout
    assert json.loads((folder / "run.json").read_text())["command"] == "bugs"


@pytest.mark.slow
def test_what_is_right_is_kept_and_told(checked):
    own, _, _ = checked
    assert [path.parent.name for path in own.glob("*/reproducer.json")] == [TRUE]
    text = (own / TRUE / "reproducer.json").read_text()
    assert str(own) not in text
    assert str(ROOT) not in text
    listed = json.loads(bugs("list", "--catalogue", own, "--json", "-").stdout)["bugs"]
    steps = len(json.loads(text)["steps"])
    assert [each["steps_kept"] for each in listed] == [steps, None, None]
    shown = bugs("show", "B01", "--brief", "--catalogue", own)
    assert (shown.returncode, shown.stderr) == (0, "")
    story, told = shown.stdout.split(REVIVED.read_text().rstrip())
    assert "Title of b01-true" in story
    assert "What went wrong." in story
    assert "OOPS roots" in told
    book = bugs("book", "-", "--catalogue", own, "--quiet")
    assert (book.returncode, book.stderr) == (0, "")
    (block,) = re.findall(r"--explain --brief -->\n```text\n(.*?)\n```\n", book.stdout, re.DOTALL)
    assert block.strip() == told.strip()


@pytest.mark.thorough
@pytest.mark.slow
def test_what_is_kept_and_does_not_show_the_bug_is_named(checked, tmp_path):
    own, _, _ = checked
    folder = entry(tmp_path, "b01-first", harmless_diff())
    (folder / "reproducer.json").write_text((own / TRUE / "reproducer.json").read_text())
    done = bugs("show", "b01", "--catalogue", tmp_path)
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1
    assert "tdprace bugs check b01 --keep" in done.stderr
    book = tmp_path / "bugs.md"
    assert bugs("book", book, "--catalogue", tmp_path, "--quiet").returncode == 4
    assert not book.exists()


@pytest.mark.thorough
@pytest.mark.slow
def test_all_found_is_success(checked, tmp_path):
    own, _, _ = checked
    words = ("check", "b01", "--catalogue", own, "--results", tmp_path, "--quiet", "--json", "-")
    done = bugs(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["outcome"] == "clean"


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", [pytest.param(signal.SIGINT, marks=pytest.mark.thorough), signal.SIGKILL]
)
def test_an_interrupted_check_leaves_nobody(tmp_path, how):
    own, results = tmp_path / "catalogue", tmp_path / "results"
    entry(own, "b01-endless", harmless_diff(), scenario=LARGE)
    words = ("check", "--catalogue", own, "--results", results, "--seconds", 100, "--quiet")
    process = Running("bugs", *words)
    family = wait_for_explorers(process)
    process.send_signal(how)
    out, errors = process.communicate(timeout=30)
    assert psutil.wait_procs(family, timeout=10)[1] == []
    if how == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
        return
    assert (process.returncode, errors) == (130, "")
    assert "interrupted: the rest was not looked at" in out
    (folder,) = results.iterdir()
    document = json.loads((folder / "run.json").read_text())
    assert (document["outcome"], document["bugs"]) == ("interrupted", [])


def wait_for_explorers(process: Running) -> list[psutil.Process]:
    """Until two commands explore, each in a process of its own."""
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline and process.poll() is None:
        family = psutil.Process(process.pid).children(recursive=True)
        if len(family) >= 4:
            return family
        time.sleep(0.05)
    pytest.fail(f"nothing was explored: {process.communicate()}")


# --- list, show, refresh -------------------------------------------------------------------------


def test_list_is_the_catalogue():
    known = catalogue(ROOT)
    done = bugs("list")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in done.stdout.splitlines()]
    assert [row[:2] for row in rows[2:]] == [[bug.id, bug.title] for bug in known.values()]
    listed = json.loads(tdprace("list", "--json", "-").stdout)["bugs"]
    assert {name: each["scenario"] for name, each in listed.items()} == {
        bug.id: bug.scenario for bug in known.values()
    }


def test_show_without_a_reproducer_says_how_to_make_one(tmp_path):
    entry(tmp_path, "b01-first", "the diff\n", more='commit = "0123456789ab"\n')
    done = bugs("show", "b01-first", "--catalogue", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("b01: Title of b01-first\n\n  kernel    5.12\n")
    assert "  commit    0123456789ab\n" in done.stdout
    assert "\nthe diff\n" in done.stdout
    assert done.stdout.endswith("`tdprace bugs check b01 --keep` makes one.\n")


def test_refresh(tmp_path):
    good = harmless_diff()
    moved = re.sub(r"^@@ -(\d+)(.*) @@$", r"@@ -9\1\2 @@", good, flags=re.MULTILINE)
    assert moved != good
    entry(tmp_path, "b01-current", good)
    entry(tmp_path, "b02-moved", moved)
    entry(tmp_path, "b03-gone", good.replace("\n-", "\n-Not there: "))
    diffs = {path.name[:3]: path / "patch.diff" for path in tmp_path.iterdir()}
    done = bugs("refresh", "--check", "--catalogue", tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert f"{diffs['b02']}: would be written again: line " in done.stdout
    assert f"{diffs['b03']}: DOES NOT APPLY: hunk 1 (line 3)" in done.stdout
    assert done.stdout.endswith("3 diffs: 1 current, 1 have moved, 1 do not apply\n")
    assert diffs["b02"].read_text() == moved
    assert bugs("refresh", "b02", "--dry-run", "--catalogue", tmp_path).returncode == 1
    assert bugs("refresh", "b01", "b02", "--catalogue", tmp_path).returncode == 0
    assert diffs["b02"].read_text() == good
    done = bugs("refresh", diffs["b03"], "--catalogue", tmp_path / "nowhere")
    assert done.returncode == 2
    done = bugs("refresh", diffs["b03"], "--catalogue", tmp_path)
    assert done.returncode == 1


# --- Usage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "required: list|show|check|refresh|strategies|torture|book"),
        (("find",), "invalid choice: 'find'"),
        (("show",), "required: ID"),
        (("show", "b99"), "no bug 'b99'; it has b01"),
        (("check", "b01", "b99"), "no bug 'b99'; it has b01"),
        (("check", "-j", "0"), "-j is 1 to"),
        (("check", "--seconds", "never"), "'never' is not a duration"),
        (("check",), "there is no scenario 'no-such'"),
        (("refresh", "b99"), "no bug 'b99'; it has b01"),
        (("refresh", "none.diff"), "none.diff: cannot read it"),
        (("book", "/no/such/folder.md"), "its folder is not there"),
        (("list", "--catalogue", "nowhere"), "nowhere: cannot read the catalogue"),
    ],
)
def test_wrong_usage_is_one_line(tmp_path, words, said):
    own, results = tmp_path / "catalogue", tmp_path / "results"
    entry(own, "b01-first", harmless_diff(), scenario="no-such")
    words = (*words, "--catalogue", own) if words and "--catalogue" not in words else words
    words = (*words, "--results", results) if words[:1] == ("check",) else words
    done = bugs(*words)
    assert done.returncode == 2, done.stdout
    assert said in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert not results.exists() or os.listdir(results) == []
