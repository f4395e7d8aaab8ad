"""`tdprace stress --inject --ring`: what it prints and stores, and that it ends."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from harness.cli.main import build_parser
from mmu.machine.layout import N_PF_TAKEN
from tests.command import tdprace
from tests.run.stress_run import StressRun

MUTATIONS = Path(__file__).parents[1] / "oracles" / "mutations"
TORTURE = ("stress", "torture", "-v", "2", "--seconds", "1", "--quiet")
SMALL = ("stress", "dirty-log", "-g", "-b", "8M", "-s", "2m", "-w", "50", "-i", "1", "--quiet")


def stored(folder: Path, *words: str) -> tuple[int, dict, str, str]:
    """Status, document, stdout, stderr."""
    done = tdprace(*words, "--results", folder)
    paths = list(folder.glob("*/run.json"))
    document = json.loads(paths[0].read_text()) if paths else {}
    return done.returncode, document, done.stdout, done.stderr


def ring(folder: Path) -> list[dict]:
    (path,) = folder.glob("*/ring.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("inject", "said"),
    [
        ("often=0.1", "write one or more of retry=P,cmpxchg=P,contention=P,delay=P:NS"),
        ("retry=2", "a probability is a number from 0 to 1"),
        ("delay=0.1", "write delay=P:NS"),
    ],
)
def test_bad_input_is_one_line(tmp_path, inject, said):
    status, _, out, errors = stored(tmp_path, *TORTURE, "--inject", inject)
    assert (status, out) == (2, "")
    assert errors.count("\n") == 1
    assert said in errors


def test_a_ring_of_nonsense(tmp_path):
    status, _, _, errors = stored(tmp_path, *TORTURE, "--ring", "lots")
    assert status == 2
    assert "not a whole number" in errors


def test_only_torture_keeps_rings_unasked():
    def ring_of(*words: str) -> int:
        return int(build_parser(words).parse_args(words).ring)

    assert ring_of("stress", "torture") >= 2000
    assert ring_of("stress", "torture", "--ring", "0") == 0
    assert ring_of("stress", "dirty-log") == 0


@pytest.mark.slow
def test_torture_with_failures_is_clean(tmp_path):
    inject = "retry=0.001,cmpxchg=0.001,contention=0.001"
    words = (*TORTURE, "--seconds", "3", "--inject", inject)
    status, document, out, errors = stored(tmp_path, *words)
    assert (status, document["outcome"], document["violations"]) == (0, "clean", []), errors
    assert set(document["injected"]) == {"retry", "cmpxchg", "contention"}
    for each in document["injected"].values():
        assert 0 < each["injected"] < each["chances"] / 100
    assert "injected: retry " in out
    assert document["config"]["inject"] == inject
    assert "ring" not in document


@pytest.mark.slow
@pytest.mark.parametrize(
    ("inject", "counter"),
    [
        ("retry=1", "pf_retry"),
        ("cmpxchg=1", "pf_retry"),
        ("contention=1", "yields"),
        ("delay=1:200", "accesses"),
        ("retry=1,cmpxchg=1,contention=1,delay=0.5:100", "pf_retry"),
    ],
)
def test_what_is_certain_happens_and_the_run_ends(tmp_path, inject, counter):
    status, document, _, errors = stored(tmp_path, *TORTURE, "--no-floors", "--inject", inject)
    assert (status, document["violations"]) == (0, []), errors
    assert document["counters"][counter] > 100
    for each in document["injected"].values():
        assert each["injected"] > 0
    if "retry=1," not in inject + ",":
        return
    # Each fault that maps something was sent back so often before.
    assert document["counters"]["pf_retry"] > 10 * document["counters"]["pf_fixed"]


@pytest.mark.slow
def test_every_workload_takes_it(tmp_path):
    words = ("stress", "zap-root", "--memory", "1G", "--quiet", "--inject", "contention=0.5")
    status, document, out, errors = stored(tmp_path, *words)
    assert (status, document["outcome"]) == (0, "clean"), errors
    assert document["injected"]["contention"]["injected"] > 0
    assert "injected: contention" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "do", "key"), [((), "spte_changed", "a"), (("--ring-steps",), "cmpxchg", "word")]
)
def test_a_broken_model_leaves_its_last_events(tmp_path, steps, do, key):
    patch = MUTATIONS / "transitions-ladder.diff"
    words = (*SMALL, "--ring", "3000", *steps, "--inject", "retry=0.01", "--patch", str(patch))
    status, document, out, errors = stored(tmp_path, *words)
    assert (status, document["outcome"]) == (1, "violation"), errors
    records = ring(tmp_path)
    assert document["ring"] == {"file": "ring.jsonl", "events": len(records)}
    broken = [each["do"] for each in records].index("VIOLATION")
    word = records[broken]["a"]
    assert records[broken]["ns"] == 0
    assert f"word {word}" in document["violations"][0]["message"]
    # The step comes before the rule is looked at, the tracepoint after.
    near = records[max(0, broken - 10) : broken + 5]
    changes = [each for each in near if each.get(key) == word and each["do"] == do]
    assert changes, near
    assert "table " in changes[-1].get("name", changes[-1]["text"])
    assert any(each["do"] == "page_fault" for each in records)
    assert all("word" not in each for each in records) == (not steps)
    assert [each["ns"] for each in records] == sorted(each["ns"] for each in records)
    assert changes[-1]["text"] in out


@pytest.mark.slow
def test_a_killed_actors_last_events_are_stored(tmp_path):
    features = ("--without", "all", "--with", "reclaim", "--zap-by", "caller")
    run = StressRun(tmp_path, 4, "torture", "-v", "2", "--seconds", "1h", "--quiet", *features)
    try:
        block = run.block()
        faults = run.actor_word(block, 0, N_PF_TAKEN)
        run.wait_for(lambda: int(block[faults]) > 1_000)
        os.kill(run.workers[0].pid, signal.SIGKILL)
        status, out, errors = run.ended()
        document = run.document()
    finally:
        run.kill()
    assert (status, document["outcome"]) == (4, "failed")
    assert "vcpu 0" in errors
    records = ring(run.results)
    dead = [each for each in records if each["actor"] == "vcpu 0"]
    assert len(dead) > 1000
    assert max(each["ns"] for each in dead) == 0
    assert {each["actor"] for each in records} > {"vcpu 0", "vcpu 1"}
    assert "the last events before the end" in out
