"""Each oracle is quiet about the model and reports the mutations that it must catch."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

MUTATIONS = Path(__file__).parent / "mutations"
SMALL = ("dirty-log", "-g", "-b", "8M", "-s", "2m", "-w", "50", "-i", "1")
PAGES_4K = ("dirty-log", "-g", "-b", "8M", "-w", "50", "-i", "1")
# Every vCPU touches all memory, in the same order: they race for every table and every page.
CROWDED = ("dirty-log", "-g", "-o", "-v", "2", "-b", "32M", "-i", "1")

TORTURE = ("torture", "-v", "3", "--seconds", "3")

CAUGHT = {
    "balance-counted-twice": ("balance", TORTURE),
    "frames-freed-before-the-notifier": ("frames", TORTURE),
    "frozen-changed-by-the-ordinary-setter": ("frozen", (*SMALL, "--huge-split", "zap")),
    "mapping-notifier-without-flush": ("mapping", TORTURE),
    "progress-passes-skipped": (
        "progress",
        (*TORTURE, "--root-switches", "0", "--zap-steps", "4k-2m-1g"),
    ),
    "roots-reference-put-twice": ("roots", TORTURE),
    "lifetime-wild-frame": ("lifetime", PAGES_4K),
    "mapping-wrong-frame": ("mapping", PAGES_4K),
    "memory-zeroed-again": ("memory", (*SMALL, "--huge-split", "zap")),
    "transitions-ladder": ("transitions", SMALL),
    "leaks-statistics": ("leaks", (*SMALL, "--huge-split", "fault")),
    "leaks-lost-page": ("leaks", PAGES_4K),
    "locks-not-taken": ("locks", SMALL),
    "locks-not-released": ("locks", SMALL),
}


def stress(tmp_path: Path, *words: str) -> tuple[int, dict, str]:
    command = [sys.executable, "-m", "harness", "stress", *words, "--quiet", "--json", "-"]
    done = subprocess.run(
        [*command, "--results", str(tmp_path)], capture_output=True, text=True, timeout=240
    )
    return done.returncode, json.loads(done.stdout), done.stderr


def test_every_mutation_has_its_oracle():
    assert sorted(CAUGHT) == sorted(path.stem for path in MUTATIONS.glob("*.diff"))


@pytest.mark.slow
@pytest.mark.parametrize("words", [SMALL, CROWDED, (*SMALL, "--huge-split", "fault"), TORTURE])
def test_the_model_is_not_accused(tmp_path, words):
    status, document, _ = stress(tmp_path, *words)
    assert (status, document["outcome"], document["violations"]) == (0, "clean", [])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All patched runs, two at a time: each compiles its own copy of the model."""

    def run(name: str) -> tuple[int, dict, str]:
        words = (*CAUGHT[name][1], "--patch", str(MUTATIONS / f"{name}.diff"))
        return stress(tmp_path_factory.mktemp(name), *words)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(CAUGHT, pool.map(run, CAUGHT), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", CAUGHT)
def test_mutation_is_caught(runs, name):
    status, document, errors = runs[name]
    assert (status, document["outcome"]) == (1, "violation"), errors
    assert document["patch"]["file"] == f"{name}.diff"
    assert CAUGHT[name][0] in {found["oracle"] for found in document["violations"]}
    assert all(found["message"] for found in document["violations"])
