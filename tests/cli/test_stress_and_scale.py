"""What a user gets: lines of the selftest, tables, JSON, stored runs that can be resumed."""

import json
import re
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.command import Running, tdprace

pytestmark = pytest.mark.slow

SMALL = ("dirty-log", "-g", "-b", "4M", "-s", "2m", "-w", "50")
REPEATS = 8
STRESS_KEYS = {
    *("schema", "command", "workload", "version", "model", "patch", "started", "config", "host"),
    *("outcome", "violations", "phases", "counters", "latency_ns", "regime"),
}


def stored(folder: Path) -> dict:
    (path,) = folder.glob("*/run.json")
    return json.loads(path.read_text())


def test_lines_of_the_selftest_and_the_stored_run(tmp_path):
    done = tdprace("stress", *SMALL, "-v", "2", "-i", "3", "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    time_s = r"\d+\.\d{9}s"
    for line in (
        "Test iterations: 3",
        "Testing guest mode: PA-bits:ANY, VA-bits:48,  4K pages",
        f"Populate memory time: {time_s}",
        f"Enabling dirty logging time: {time_s}\n",
        f"Iteration 3 dirty memory time: {time_s}",
        f"Iteration 3 get dirty log time: {time_s}",
        f"Disabling dirty logging time: {time_s}",
        rf"Get dirty log over 3 iterations took {time_s}\. \(Avg {time_s}/iteration\)",
    ):
        assert re.search(f"^{line}$", done.stdout, re.MULTILINE), line
    document = stored(tmp_path)
    assert document.keys() >= STRESS_KEYS
    assert document["outcome"] == "clean"
    assert document["config"]["seed"] == 1
    assert {"fault", "vcpu_block", "rcu_section"} <= document["latency_ns"].keys()
    assert {"count", "sampled", "p50", "p99", "p999", "max"} <= document["latency_ns"][
        "fault"
    ].keys()
    (table,) = tmp_path.glob("*/table.txt")
    assert table.read_text() in done.stdout


def test_json_alone_on_stdout_with_a_part_per_variant(tmp_path):
    words = ("--compare", "huge-split", "--json", "-", "--results", tmp_path)
    done = tdprace("stress", *SMALL, *words)
    document = json.loads(done.stdout)
    assert document["compare"] == "huge-split"
    assert [run["variant"] for run in document["runs"]] == ["zap", "fault", "eager"]
    assert all(run["outcome"] == "clean" and run["phases"] for run in document["runs"])
    assert document == stored(tmp_path)


def test_execute_prints_the_posted_format(tmp_path):
    done = tdprace("stress", "execute", "-b", "4M", "-s", "2m", "--results", tmp_path)
    assert re.search(r"^Populating memory             : \d+\.\d{9}s$", done.stdout, re.MULTILINE)
    assert re.search(r"^Executing from memory         : \d+\.\d{9}s$", done.stdout, re.MULTILINE)


def test_dry_run_runs_nothing(tmp_path):
    done = tdprace("stress", *SMALL, "--dry-run", "--results", tmp_path / "results")
    assert done.returncode == 0
    assert "memory at most" in done.stdout
    assert "time, roughly" in done.stdout
    assert not (tmp_path / "results").exists()


def scaled(tmp_path: Path, *words: str) -> tuple[list[dict], str]:
    """Rows of a table with one repetition, and what is printed."""
    done = tdprace("scale", *SMALL, "--repeats", "1", *words, "--quiet", "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    return stored(tmp_path)["rows"], done.stdout


def test_scale_labels_each_row_with_its_regime(tmp_path):
    rows, out = scaled(tmp_path, "--vcpus", "1,64")
    assert {row["vcpus"]: row["regime"] for row in rows} == {1: "measured", 64: "oversubscribed"}
    assert all(row["q1"] <= row["seconds"] <= row["q3"] for row in rows)
    assert "| oversubscribed |" in out


def test_scale_compares_policies(tmp_path):
    rows, _ = scaled(tmp_path, "--vcpus", "1,2", "--compare", "huge-split")
    assert Counter(row["variant"] for row in rows) == {"eager": 2, "fault": 2, "zap": 2}


def test_an_interrupted_scale_run_keeps_its_rows_and_goes_on(tmp_path):
    words = (*SMALL, "--vcpus", "1,2", "--repeats", str(REPEATS), "--results", tmp_path)
    process = Running("scale", *words)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*/run.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    before = stored(tmp_path)
    assert before["outcome"] == "interrupted"
    assert before["rows"]
    other = tdprace("scale", *words[:-2], "--resume", "latest", "--results", tmp_path, "-w", "9")
    assert other.returncode == 2
    assert "another config" in other.stderr
    done = tdprace("scale", *words, "--resume", "latest", "--quiet", "--json", "-")
    assert done.returncode == 0, done.stderr
    after = json.loads(done.stdout)
    assert [row["n"] for row in after["rows"]] == [REPEATS] * 2
    for key, samples in before["samples"].items():
        assert after["samples"][key][: len(samples)] == samples
