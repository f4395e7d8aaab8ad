"""Bugs of the trunk as diffs: found by `auto` within seconds, replayed, told."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

BUGS = Path(__file__).parent / "bugs"
SECONDS = "10"
REPLAYS = 100

# Scenario that finds it, and the oracle that it belongs to.
FOUND = {
    "no-flush-in-notifier": ("notifier-write", "tlb"),
    "no-reload-request": ("slot-delete-fault", "tlb"),
    "b07-table-freed-without-grace-period": ("promote-execute", "lifetime"),
    "b08-reader-revives-dying-root": ("put-get", "roots"),
    "b09-slot-gone-before-its-mappings": ("slot-delete-move", "frames"),
    "b12-zap-misses-what-reaches-beyond": ("invalidate-partial", "leaks"),
    "b13-slots-change-within-invalidation": ("slot-delete-notifier", "balance"),
    "b16-fault-populates-defunct-root": ("invalidate-fault", "leaks"),
    "b17-iterator-skips-after-yield": ("invalidate-top", "leaks"),
    "b18-slot-being-deleted-taken-for-hole": ("slot-delete-fault", "mapping"),
    "b19-notifier-skips-invalid-roots": ("worker-notifier", "frames"),
    "b24-reader-works-on-invalid-root": ("enable-put", "roots"),
    "b27-reference-given-back-twice": ("worker-fault", "roots"),
    "b37-leaf-mapped-over-frozen-entry": ("promote-execute", "frozen"),
    "b39-sequence-cut-to-32-bits": ("notifier-wrap", "progress"),
    "b49-prefault-retries-in-its-srcu-section": ("prefault-delete", "progress"),
    "b53-prefault-rebuilds-a-leaf": ("prefault-mapped", "check"),
    "generation-before-the-srcu-wait": ("mmio-create", "mapping"),
    "generation-marked-after-the-change": ("mmio-create", "mapping"),
    "generation-stays": ("mmio-create", "mapping"),
    "generation-wraps-over-old-entries": ("mmio-wrap", "mapping"),
    "mmio-entry-over-a-leaf": ("mmio-create-faults", "transitions"),
    "mmio-entry-read-before-the-generation": ("mmio-wrap", "mapping"),
    "stale-mmio-entry-believed": ("mmio-create", "mapping"),
    "root-link-overwritten-at-its-free": ("enable-put-before", "dirty"),
    "range-of-the-first-memslot-only": ("discard-two-slots", "mapping"),
    "lost-dirty-by-plain-write": ("map-map-same", "transitions"),
    "table-linked-before-initialised": ("split-split-faults", "leaks"),
    "split-children-without-dirty": ("split-split", "dirty"),
    "bitmap-taken-after-protecting": ("fast-fault-harvest", "dirty"),
    "fast-fault-on-huge-logged-leaf": ("huge-logged-write", "dirty"),
    "lock-dropped-too-early": ("map-map-same", "locks"),
    "no-flush-after-harvest": ("walker-harvest-dirty", "dirty"),
    "no-srcu-wait-when-logging-starts": ("enable-fault", "dirty"),
    "fast-fault-marks-nothing": ("fast-fault-harvest", "dirty"),
    "clear-without-mark": ("map-harvest", "dirty"),
    "enable-protects-before-the-flag": ("enable-fault", "dirty"),
    "fast-fault-marks-before-cmpxchg": ("fast-fault-harvest", "dirty"),
    "flush-without-waiting": ("walker-harvest-dirty", "dirty"),
    "frozen-entry-taken-for-empty": ("drop-prefault", "frozen"),
    "harvest-clears-by-plain-write": ("fast-fault-harvest-pml", "transitions"),
    "list-add-without-lock": ("execute-execute", "leaks"),
    "log-bit-by-plain-write": ("write-write-bitmap", "dirty"),
    "protect-gives-up-after-lost-race": ("enable-unsplit", "dirty"),
    "srcu-wait-under-mmu-lock": ("enable-fault", "locks"),
    "statistic-by-plain-write": ("map-map-neighbour", "leaks"),
    "table-lost-with-its-race": ("map-map-same", "leaks"),
    "ageing-by-plain-write": ("age-zap", "transitions"),
    "ageing-by-atomic-and": ("age-promote", "frozen"),
    "ageing-outside-rcu": ("age-promote", "lifetime"),
    "ageing-loses-dirtiness": ("restore-swap", "memory"),
    "ageing-unknown-to-the-volatile-rule": ("restore-zap-read-only", "transitions"),
    "b43-harvest-goes-by-a-global-flag": ("no-ad-beside-pml", "dirty"),
    "no-flush-where-ageing-took-w": ("restore-cached-harvest", "dirty"),
    "restore-gives-w-to-anybody": ("restore-read-only", "tlb"),
    "restore-marks-nothing": ("restore-harvest", "dirty"),
    "split-loses-what-is-put-aside": ("restore-eager-split", "transitions"),
    "split-of-tracked-gives-x": ("restore-split", "tlb"),
    "b04-recovery-ignores-flush": ("nx-recovery-walker", "tlb"),
    "b05-recovery-yields-with-pending-flush": ("nx-recovery-yield", "tlb"),
    "recovery-flushes-after-rcu": ("nx-recovery-walker", "tlb"),
    "recovery-zaps-what-stands-there": ("nx-recovery-invalidate", "frozen"),
    "nx-list-popped-without-lock": ("nx-recovery-twice", "leaks"),
    "tracking-takes-only-w": ("track-write", "mapping"),
    "tracking-looks-at-w-only": ("track-harvest", "mapping"),
    "tracking-flushes-after-unlock": ("track-track", "mapping"),
    "fast-fault-ignores-mmu-writable": ("track-fast-fault", "mapping"),
    "leaf-ignores-tracking": ("track-fault", "mapping"),
    "huge-page-over-tracked-gfn": ("track-map-huge", "mapping"),
    "emulated-write-not-logged": ("track-walker", "dirty"),
    "emulated-write-without-mmap-lock": ("tracked-write-swap", "frames"),
    "enable-takes-d-before-w": ("enable-execute", "dirty"),
    "b32-level-read-outside-the-lock": ("recover-move", "mapping"),
    "b51-progress-of-the-inner-walk": ("recover-always-yielding", "progress"),
    "b52-block-begins-before-the-slot": ("recover-border", "mapping"),
    "clear-by-plain-write": ("clear-fetched", "dirty"),
    "clear-protects-before-taking-the-bits": ("clear-fetched", "dirty"),
    "clear-protects-the-first-block-only": ("clear-straddling", "dirty"),
    "clear-takes-the-whole-word": ("clear-fetched", "dirty"),
    "clear-without-flush": ("clear-walker", "dirty"),
    "exclusive-split-forgets-d": ("clear-split-walker", "dirty"),
    "get-takes-what-clear-should": ("clear-walker", "dirty"),
    "initially-set-begins-empty": ("initially-set-write", "dirty"),
    "initially-set-protects-nothing-at-clear": ("clear-straddling", "dirty"),
    "recover-before-logging-is-off": ("recover-fast-fault", "dirty"),
    "recover-takes-a-leaf-for-the-block": ("recover-map", "transitions"),
    "recover-tells-no-dirtiness": ("recover-written", "dirty"),
    "recover-without-flush": ("recover-walker", "tlb"),
}
# One for each of several oracles; `make bugs` runs all of them, some three minutes.
FEW = (
    "b07-table-freed-without-grace-period",
    "b08-reader-revives-dying-root",
    "b09-slot-gone-before-its-mappings",
    "b13-slots-change-within-invalidation",
    "b39-sequence-cut-to-32-bits",
    "bitmap-taken-after-protecting",
    "frozen-entry-taken-for-empty",
    "no-flush-in-notifier",
)
TESTED = tuple(FOUND) if os.environ.get("TDPRACE_ALL_BUGS") else FEW


def tdprace(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


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
        return dict(zip(TESTED, pool.map(run, TESTED), strict=True))


def test_every_diff_has_its_scenario():
    assert sorted(FOUND) == sorted(path.stem for path in BUGS.glob("*.diff"))
    for path in BUGS.glob("*.diff"):
        lines = [line for line in path.read_text().splitlines() if line[:1] in "+-"]
        assert len([line for line in lines if line[:3] not in ("+++", "---")]) <= 10, path


@pytest.mark.slow
@pytest.mark.parametrize("name", TESTED)
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


@pytest.mark.slow
@pytest.mark.parametrize("scenario", sorted({FOUND[name][0] for name in TESTED}))
def test_the_clean_model_is_not_accused(scenario, tmp_path):
    """Exhausted, or for half as long as a bug may take to be found."""
    done = tdprace("explore", scenario, "--seconds", 5, "-j", 1, "--quiet", "--results", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_another_model_says_so(runs, tmp_path):
    """The reproducer without its diff: the clean model cannot do what the broken one did."""
    document = json.loads(runs["bitmap-taken-after-protecting"]["file"].read_text())
    document["patch"] = None
    file = tmp_path / "r.json"
    file.write_text(json.dumps(document))
    done = tdprace("replay", file, "--quiet")
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1
    assert "the model is" in done.stderr
