"""Do reproducers outlive an edit of the model?

    python -m tests.bugs.survival [ID...]

The model is edited in a copy, once by renaming functions, once by adding a step that has nothing
to do with any bug; then each bug's diff is applied to it and its kept reproducer replayed.  A table
says which still show the bug, and where the others diverged; the exit status is 1 if more than a
tenth did.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from harness.bugs.catalogue import SOURCE_ROOT, Bug, bugs_in, chosen
from harness.bugs.tree import CATALOGUE, PACKAGES
from harness.report.tables import render
from workloads.errors import UsageError

SHARE_MIN = 0.9
JOBS = 2
# Functions that every fault or zap goes through; no diff names them.
RENAMED = {
    "_slow_fault": "_fault_under_lock",
    "_refresh": "_read_again",
    "request_pending": "asked",
}
# Whoever asks whether a memslot is logged, as every fault does, reads one more word.
STEP_FILE = "mmu/memslots.py"
STEP_BEFORE = "    return read_once(cpu, slot + SLOT_LOGGED) != 0\n"
STEP = "    read_once(cpu, slot + SLOT_PAGES)\n"


@dataclass(frozen=True)
class Outcome:
    """What became of one reproducer under one edit; `said` is replay's last line."""

    bug: str
    edit: str
    survives: bool
    said: str


def renamed(root: Path) -> None:
    """Three functions have other names, wherever they are mentioned."""
    for path in sorted((root / "mmu").rglob("*.py")):
        text = path.read_text()
        for old, new in RENAMED.items():
            text = re.sub(rf"\b{old}\b", new, text)
        path.write_text(text)


def one_more_step(root: Path) -> None:
    """A read where it means nothing."""
    path = root / STEP_FILE
    text = path.read_text()
    assert text.count(STEP_BEFORE) == 1
    path.write_text(text.replace(STEP_BEFORE, STEP + STEP_BEFORE))


EDITS: dict[str, Callable[[Path], None]] = {"renamed": renamed, "one more step": one_more_step}


def edited(folder: Path, edits: Sequence[str]) -> Path:
    """A copy of the packages with these edits."""
    root = folder / "-".join(edits).replace(" ", "-")
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__", "bugs_*")
        shutil.copytree(SOURCE_ROOT / package, root / package, ignore=ignored)
    for edit in edits:
        EDITS[edit](root)
    return root


def replayed(bug: Bug, root: Path, edit: str) -> Outcome:
    """The kept reproducer against the edited model with the bug's diff."""
    if not bug.reproducer.is_file():
        raise UsageError(f"{bug.name} keeps no reproducer: tdprace bugs check {bug.id} --keep")
    command = [sys.executable, "-P", "-m", "harness", "replay", str(bug.reproducer), "--quiet"]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    lines = (done.stdout + done.stderr).strip().splitlines()
    said = lines[-1] if lines else f"exit status {done.returncode}"
    survives = done.returncode == 1 and said.startswith("reproduced: ")
    return Outcome(bug.name, edit, survives, said)


def main(names: Sequence[str]) -> int:
    bugs = chosen(bugs_in(SOURCE_ROOT / CATALOGUE), names)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(JOBS) as pool:
        roots = {edit: edited(Path(folder), [edit]) for edit in EDITS}
        jobs = [pool.submit(replayed, bug, roots[edit], edit) for edit in EDITS for bug in bugs]
        for number, job in enumerate(jobs, start=1):
            outcomes.append(job.result())
            last = outcomes[-1]
            print(f"[{number}/{len(jobs)}] {last.edit}, {last.bug}: {last.said}", file=sys.stderr)
    rows = []
    for edit in EDITS:
        of_edit = [each for each in outcomes if each.edit == edit]
        rows.append([edit, sum(each.survives for each in of_edit), len(of_edit)])
    print(render(["edit of the model", "still show the bug", "of"], rows))
    for each in outcomes:
        if not each.survives:
            print(f"{each.bug}, {each.edit}: {each.said}")
    return int(any(survive < SHARE_MIN * total for _, survive, total in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
