"""Mistakes that are easy to make, as diffs: found by `auto` within seconds, replayed, told.

`make bugs` finds them, in some three minutes.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.bugs.catalogue import SOURCE_ROOT, catalogue
from tests.command import tdprace
from tests.oracles.proofs import BUGS, found_by_exploring

SECONDS = "10"
REPLAYS = 100

# Scenario that finds it, and the oracle that it belongs to.
FOUND = found_by_exploring(BUGS)


def find(name: str, folder: Path) -> dict:
    scenario, _ = FOUND[name]
    patch = BUGS / f"{name}.diff"
    found = tdprace(
        "explore",
        scenario,
        "--patch",
        patch,
        "--seconds",
        SECONDS,
        "-j",
        1,
        "--quiet",
        "--json",
        "-",
        "--results",
        folder,
    )
    assert found.returncode == 1, found.stderr or found.stdout[-2000:]
    file = next(folder.glob("*/reproducer.json"))
    replayed = tdprace("replay", file, "--times", REPLAYS, "--quiet")
    told = tdprace("replay", file, "--explain")
    return {"document": json.loads(found.stdout), "replayed": replayed, "told": told, "file": file}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    def run(name: str) -> dict:
        return find(name, tmp_path_factory.mktemp(name))

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(FOUND, pool.map(run, FOUND), strict=True))


def test_every_diff_has_its_scenario():
    assert sorted(FOUND) == sorted(path.stem for path in BUGS.glob("*.diff"))
    for path in BUGS.glob("*.diff"):
        lines = [line for line in path.read_text().splitlines() if line[:1] in "+-"]
        assert len([line for line in lines if line[:3] not in ("+++", "---")]) <= 10, path


@pytest.mark.thorough
@pytest.mark.parametrize("name", FOUND)
def test_found_replayed_and_told(runs, name):
    document = runs[name]["document"]
    oracle = FOUND[name][1]
    assert document["outcome"] == "violation"
    assert oracle in {found["oracle"] for found in document["violations"]}
    assert document["seconds"] < float(SECONDS)
    replayed, told = runs[name]["replayed"], runs[name]["told"]
    assert (replayed.returncode, replayed.stderr) == (1, "")
    assert f"reproduced, {REPLAYS} times" in replayed.stdout
    assert told.returncode == 1, told.stderr
    assert "OOPS" in told.stdout


@pytest.mark.thorough
def test_dpor_tries_every_step_on_a_record_behind_its_free(tmp_path):
    """Here no entry of the freed table is met, only its record: a free that says so in one word of
    the record leaves both orders one trace, and the harmless one may be the one that is seen.
    """
    b07 = catalogue(SOURCE_ROOT)["b07"]
    options = ("--strategy", "dpor", "--no-shrink", "--quiet", "--results", tmp_path)
    done = tdprace("explore", "promote-promote", "--patch", b07.diff, *options)
    assert (done.returncode, "lifetime" in done.stdout) == (1, True), done.stderr or done.stdout


@pytest.mark.thorough
@pytest.mark.parametrize("scenario", sorted({scenario for scenario, _ in FOUND.values()}))
def test_the_clean_model_is_not_accused(scenario, tmp_path):
    """Exhausted, or for half as long as a bug may take to be found."""
    done = tdprace("explore", scenario, "--seconds", 5, "-j", 1, "--quiet", "--results", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_another_model_says_so(tmp_path):
    """A reproducer without its diff: the clean model cannot do what the broken one did."""
    document = json.loads(catalogue(SOURCE_ROOT)["b39"].reproducer.read_text())
    document["patch"] = None
    file = tmp_path / "r.json"
    file.write_text(json.dumps(document))
    done = tdprace("replay", file, "--quiet")
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1
    assert "the model is" in done.stderr
