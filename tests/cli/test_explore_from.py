"""`tdprace explore --from RUN`: from what torture broke to a story that is told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.command import tdprace
from tests.rebuild.rings import WRITE, gfn, row, store_run, violation

TESTS = Path(__file__).parents[1]
MUTATIONS = TESTS / "oracles" / "mutations"
BUGS = TESTS / "explore" / "bugs"
# Where several may find it first, one whose operations can be rebuilt.
TORTURE = (
    *("stress", "torture", "-v", "3", "-s", "4k", "-b", "4M", "--seconds", "6", "--quiet"),
    *("--without", "all", "--with", "execute,mmio,roots,slots,reclaim,ksm,ad,pml"),
    *("--root-life", "put", "--zap-by", "worker", "--zap-steps", "1g"),
    *("--huge-split", "eager", "--flush", "range", "--dirty-log-mode", "get"),
)
SECONDS = 60

# What torture finds and who says so; each is rebuilt, found again by the same oracle, and told.
LOOP = {
    MUTATIONS / "mapping-notifier-without-flush.diff": "mapping",
    MUTATIONS / "balance-counted-twice.diff": "balance",
    MUTATIONS / "frames-moved-before-the-notifier.diff": "frames",
    MUTATIONS / "roots-reference-put-twice.diff": "roots",
    BUGS / "lock-dropped-too-early.diff": "locks",
}
# `make bugs` closes all five loops.
LOOPED = tuple(LOOP) if os.environ.get("TDPRACE_ALL_BUGS") else tuple(LOOP)[1:2]

BALANCE = "-1 invalidations are in progress"
ROWS = [
    row(-300, "vcpu 0", "page_fault", gfn(4), WRITE, 4),
    row(-200, "host", "invalidate_range_start", 9, 10, 1),
    row(-190, "host", "frame_free", 9, 9),
    row(0, "host", "VIOLATION", text=f"balance: {BALANCE}"),
    row(10, "host", "invalidate_range_end", 9, 10, 1),
]
FOUND = violation("balance", BALANCE, "host")


def patched_run(folder: Path, diff: Path) -> Path:
    patch = {"file": diff.name, "sha256": "0" * 16}
    run = store_run(folder, ROWS, FOUND, patch=patch)
    shutil.copy(diff, run / "patch.diff")
    return run


# --- What is refused -----------------------------------------------------------------------------


def refused(tmp_path: Path, *words: object) -> str:
    done = tdprace("explore", *words, "--results", tmp_path / "results", "--quiet")
    assert done.returncode == 2, done.stderr
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    return done.stderr


def test_a_clean_run_has_nothing_to_look_for(tmp_path):
    run = store_run(tmp_path / "run", ROWS)
    assert "ended clean, without a violation: there is nothing to look for" in refused(
        tmp_path, "--from", run
    )
    assert "nothing to look for" in refused(tmp_path, "--from", run / "run.json")


def test_what_is_missing_is_named(tmp_path):
    run = store_run(tmp_path / "run", ROWS, FOUND, command="explore")
    assert "a run of `explore`; name one of `stress`" in refused(tmp_path, "--from", run)
    run = store_run(tmp_path / "run", ROWS, FOUND, patch={"file": "my.diff", "sha256": ""})
    assert "patched with my.diff" in refused(tmp_path, "--from", run)
    run = store_run(tmp_path / "run", ROWS, FOUND)
    (run / "ring.jsonl").write_text('{"ns": ')
    assert "not whole" in refused(tmp_path, "--from", run)
    (run / "ring.jsonl").unlink()
    assert "cannot read it" in refused(tmp_path, "--from", run)
    document = json.loads((run / "run.json").read_text())
    del document["ring"]
    (run / "run.json").write_text(json.dumps(document))
    assert "run it again with --ring" in refused(tmp_path, "--from", run)
    assert "no runs are stored" in refused(tmp_path, "--from", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "say what to explore: a SCENARIO, --from RUN, or --all"),
        (("map-map-same", "--from", "x"), "say what to explore"),
        (("--from", "x", "--strategy", "dpor"), "--from does not use --strategy"),
        (("--from", "x", "--executions", "5"), "--from does not use --executions"),
        (("--from", "x", "--keep-going"), "--from does not use --keep-going"),
    ],
)
def test_options_that_make_no_sense(tmp_path, words, said):
    assert said in refused(tmp_path, *words)


# --- One bug, from a run made by hand ------------------------------------------------------------


def explored_from(run: Path, results: Path) -> subprocess.CompletedProcess[str]:
    words = ("--from", run, "--seconds", SECONDS, "--results", results, "--quiet", "--json", "-")
    return tdprace("explore", *words)


def loop(run: Path, results: Path) -> dict[str, Any]:
    """Explore from a run; replay and tell what it found."""
    found = explored_from(run, results)
    files = list(results.glob("*-explore-generated-*/reproducer.json"))
    replayed = [tdprace("replay", file, "--quiet") for file in files]
    told = [tdprace("replay", file, "--explain") for file in files]
    return {"found": found, "files": files, "replayed": replayed, "told": told}


def check_loop(looped: dict[str, Any], oracle: str) -> dict[str, Any]:
    assert looped["found"].returncode == 1, looped["found"].stderr or looped["found"].stdout[-500:]
    document: dict[str, Any] = json.loads(looped["found"].stdout)
    assert document["outcome"] == "violation"
    assert [each["oracle"] for each in document["violations"]] == [oracle]
    (replayed,), (told,) = looped["replayed"], looped["told"]
    assert (replayed.returncode, replayed.stderr) == (1, "")
    assert f"reproduced: {oracle}: " in replayed.stdout
    assert told.returncode == 1, told.stderr
    assert f"OOPS {oracle}:" in told.stdout
    return document


@pytest.mark.thorough
def test_from_a_ring_to_a_story(tmp_path):
    diff = MUTATIONS / "balance-counted-twice.diff"
    run = patched_run(tmp_path / "run", diff)
    found = explored_from(run, tmp_path / "results")
    assert found.returncode == 1, found.stderr or found.stdout[-500:]
    document = json.loads(found.stdout)
    assert [each["oracle"] for each in document["violations"]] == ["balance"]
    assert document["program"]["actors"]["host"] == [["swap out", 1]]
    assert document["patch"]["file"] == diff.name
    # The reproducer needs nothing else: neither the run nor the diff's file.
    shutil.rmtree(run)
    (file,) = (tmp_path / "results").glob("*-explore-generated-*/reproducer.json")
    shrunk = json.loads(file.read_text())["program"]
    assert shrunk["actors"]["host"] == [["swap out", 1]]
    assert len(shrunk["before"]) <= len(document["program"]["before"])
    assert tdprace("replay", file, "--quiet").returncode == 1
    broken = json.loads(file.read_text())
    broken["program"]["actors"]["host"] = [["swap in", 1]]
    file.write_text(json.dumps(broken))
    refused_one = tdprace("replay", file, "--quiet")
    assert (refused_one.returncode, refused_one.stderr.count("\n")) == (2, 1)
    assert "host cannot do ['swap in', 1]" in refused_one.stderr


def test_the_clean_model_does_not_show_it(tmp_path):
    run = store_run(tmp_path / "run", ROWS, FOUND)
    results = tmp_path / "results"
    done = tdprace("explore", "--from", run, "--seconds", 30, "--results", results, "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    assert "not reproduced" in done.stdout
    assert "host: swap out 1, after vcpu 0: write 1: 1 executions, exhausted" in done.stdout
    (path,) = results.glob("*/run.json")
    document = json.loads(path.read_text())
    assert (document["outcome"], document["program"]) == ("clean", None)
    assert len(document["tried"]) > 5


# --- The whole loop ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def looped(tmp_path_factory):
    """All of them, two at a time: torture, then explore --from, replay, explain."""

    def run(diff: Path) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp(diff.stem)
        copy = shutil.copy(diff, folder / diff.name)
        stress = tdprace(*TORTURE, "--patch", copy, "--results", folder)
        # From here on only what the run's folder has.
        Path(copy).unlink()
        (found,) = folder.glob("*-stress-torture-*")
        return {"stress": stress, "run": found, **loop(found, folder / "explored")}

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(LOOPED, pool.map(run, LOOPED), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("diff", LOOPED, ids=lambda diff: diff.stem)
def test_torture_explore_replay_explain(looped, diff):
    done = looped[diff]
    assert done["stress"].returncode == 1, done["stress"].stderr
    assert f"tdprace explore --from {done['run']}" in done["stress"].stdout
    assert (done["run"] / "patch.diff").read_text() == diff.read_text()
    stored = json.loads((done["run"] / "run.json").read_text())
    oracles = {found["oracle"] for found in stored["violations"]}
    assert LOOP[diff] in oracles
    found = json.loads(done["found"].stdout)["violations"]
    check_loop(done, found[0]["oracle"] if found else LOOP[diff])
    assert found[0]["oracle"] in oracles


def test_the_table_has_four_oracles():
    assert len(LOOP) == 5
    assert len(set(LOOP.values())) >= 4
