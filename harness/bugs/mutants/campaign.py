"""Hunt many mutants, one a core, in a run's folder that can be gone on with.

    run.json        options and, at the end, all outcomes
    mutants.jsonl   a line for each mutant that is done, appended as it is done
    diffs/          each mutant, for `--patch`

A mutant that was interrupted has no line, and is hunted again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from harness.bugs.mutants.catalogue import Mutant
from harness.bugs.mutants.hunt import FAILED, QUICK_S, Job, Outcome
from harness.bugs.mutants.reach import ReachMap, scenarios_for
from harness.bugs.tree import TREE_VARIABLE, patched_tree
from harness.report.store import replace_text
from mmu.machine.dispatch import SOURCE_ROOT
from workloads.errors import MachineError

RESULTS_FILE = "mutants.jsonl"
DIFFS = "diffs"
WORK = "work"  # trees and what hunters complain about; gone when nobody hunts
LOOK_S = 0.05
# What a hunt may take beyond its budgets, compiling and slow endings together.
SPARE_S = 600.0

Record = dict[str, Any]


@dataclass(frozen=True)
class Budget:
    """How long the scenarios that are worth it, and `torture`, may take; 0: not at all."""

    seconds: float
    torture: float


@dataclass
class _Hunter:
    mutant: Mutant
    process: subprocess.Popen[bytes]
    tree: Path
    complaints: Path
    began: float
    deadline: float


Look = Callable[[Sequence[Mutant], Mapping[str, Record]], bool]


class Campaign:
    """The mutants of one run, and what is known about them so far."""

    def __init__(self, folder: Path, budget: Budget, reach: ReachMap) -> None:
        self.folder = folder
        self.records = read_records(folder / RESULTS_FILE)
        self._budget = budget
        self._reach = reach

    def run(self, mutants: Sequence[Mutant], jobs: int, look: Look) -> bool:
        """Hunt those that are not done; `look(under way, records)` says whether to go on.

        True if all are done.  However it ends, no process is left and no outcome is lost.
        """
        waiting = [each for each in mutants if not self.is_done(each)]
        hunters: list[_Hunter] = []
        self._sweep()
        try:
            while waiting or hunters:
                while waiting and len(hunters) < jobs:
                    hunters.append(self._start(waiting.pop(0)))
                time.sleep(LOOK_S)
                for hunter in [each for each in hunters if self._has_ended(each)]:
                    hunters.remove(hunter)
                    self._keep(hunter)
                if not look([each.mutant for each in hunters], self.records):
                    return False
        finally:
            for hunter in hunters:
                # Whatever it has forked dies with it.
                hunter.process.kill()
                hunter.process.wait()
            self._sweep()
        return True

    def is_done(self, mutant: Mutant) -> bool:
        """Whether there is an outcome; what failed is tried again."""
        outcome: str = self.records.get(mutant.name, {}).get("outcome", FAILED)
        return outcome != FAILED

    def _start(self, mutant: Mutant) -> _Hunter:
        name = file_name(mutant)
        diff = self.folder / DIFFS / name
        work = self.folder / WORK
        began = time.monotonic()
        try:
            for each in (diff.parent, work):
                each.mkdir(exist_ok=True)
            replace_text(diff, mutant.diff)
            tree = patched_tree(diff, SOURCE_ROOT, work)
            complaints = work / f"{name}.stderr"
            with complaints.open("wb") as errors:
                process = _hunter_process(tree, errors)
        except OSError as error:
            raise MachineError(f"{work}: cannot hunt {mutant.name}: {error.strerror}") from error
        job = self.job(mutant)
        assert process.stdin is not None
        with contextlib.suppress(OSError), process.stdin as pipe:
            pipe.write(json.dumps(asdict(job)).encode())
        budgets = QUICK_S * len(job.scenarios) + job.seconds + job.torture
        deadline = time.monotonic() + 4 * budgets + SPARE_S
        return _Hunter(mutant, process, tree, complaints, began, deadline)

    def job(self, mutant: Mutant) -> Job:
        """Its scenarios: all that execute the function; worth it are those that execute the line.

        Those that have killed many others come first.
        """
        kills = Counter(
            record["kill"]["scenario"] for record in self.records.values() if record.get("kill")
        )
        found = scenarios_for(mutant, self._reach, kills)
        names = tuple(name for name, _ in found)
        worth = tuple(name for name, on_line in found if on_line) or names
        return Job(os.getpid(), names, worth, self._budget.seconds, self._budget.torture)

    def _has_ended(self, hunter: _Hunter) -> bool:
        if time.monotonic() > hunter.deadline:
            hunter.process.kill()
        return hunter.process.poll() is not None

    def _keep(self, hunter: _Hunter) -> None:
        """Append the outcome, and drop the tree."""
        assert hunter.process.stdout is not None
        with hunter.process.stdout as pipe:
            text = pipe.read()
        hunter.process.wait()
        try:
            outcome: Record = json.loads(text)
        except ValueError:
            said = hunter.complaints.read_text(errors="replace").strip().splitlines()[-1:]
            message = f"exit status {hunter.process.returncode}: {''.join(said)}"
            outcome = asdict(Outcome(FAILED, message=message))
        mutant = hunter.mutant
        record = {"name": mutant.name, "operator": mutant.operator, **outcome}
        record["wall_seconds"] = time.monotonic() - hunter.began
        append_record(self.folder / RESULTS_FILE, record)
        self.records[mutant.name] = record
        shutil.rmtree(hunter.tree, ignore_errors=True)
        hunter.complaints.unlink(missing_ok=True)

    def _sweep(self) -> None:
        shutil.rmtree(self.folder / WORK, ignore_errors=True)


def file_name(mutant: Mutant) -> str:
    """Name of the mutant's diff; colons would trouble scp and make, # the shell."""
    return f"{mutant.name.replace(':', '-').replace('#', '-')}.diff"


def _hunter_process(tree: Path, errors: IO[bytes]) -> subprocess.Popen[bytes]:
    """A fresh interpreter on the patched tree, in a session of its own: Ctrl-C is ours."""
    paths = [str(tree), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), TREE_VARIABLE: str(tree)}
    # Without -P the working folder, often the checkout, would come before the tree.
    command = [sys.executable, "-P", "-m", "harness.bugs.mutants.hunt"]
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        start_new_session=True,
    )


# --- Records -------------------------------------------------------------------------------------


def read_records(file: Path) -> dict[str, Record]:
    """Outcomes by name, the last one of each; half a line at the end was never written."""
    if not file.is_file():
        return {}
    whole, _, _ = file.read_text(encoding="utf-8").rpartition("\n")
    records = [json.loads(line) for line in whole.splitlines()]
    return {record["name"]: record for record in records}


def append_record(file: Path, record: Record) -> None:
    """Add one line; half a line that a killed run left behind goes first."""
    line = json.dumps(record) + "\n"
    try:
        with file.open("ab+") as stream:
            stream.seek(0)
            content = stream.read()
            stream.truncate(content.rfind(b"\n") + 1)
            stream.write(line.encode())
    except OSError as error:
        raise MachineError(f"{file}: cannot write: {error.strerror}; free space there") from error
