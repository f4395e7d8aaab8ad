"""Trials of bugs: long measurements, each bug in a fresh interpreter on its patched tree.

    run.json        options and, at the end, all rows
    trials.jsonl    a line for each trial that is done, appended as it is done

A trial is one strategy with all its seeds, or one run of `torture`.  What was interrupted has no
line, and is done again when the run is gone on with; so is what failed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from harness.bugs.catalogue import SOURCE_ROOT, Bug
from harness.bugs.mutants.campaign import append_record, read_records
from harness.bugs.tree import TREE_VARIABLE, patched_tree
from mmu.machine.dispatch import cache_root
from workloads.errors import MachineError

FILE: Final = "trials.jsonl"
WORK: Final = "work"  # what children say; gone when none is there
LOOK_S: Final = 0.05

Record = dict[str, Any]
# `look(bugs under way)` says whether to go on.
Look = Callable[[Sequence[str]], bool]


@dataclass(frozen=True)
class Task:
    """What a child is to do: `harness.bugs.trial` knows how.

    Attributes:
        kind: which sort of trials ("strategies", "torture").
        names: its trials.
        options: what is the same for all.
    """

    kind: str
    names: tuple[str, ...]
    options: Mapping[str, Any]


@dataclass
class _Child:
    bug: Bug
    names: tuple[str, ...]
    process: subprocess.Popen[bytes]
    out: Path
    errors: Path
    read: int = 0


class Trials:
    """The trials of one run's folder, done and to be done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._records = read_records(folder / FILE)

    def record(self, bug: Bug, name: str) -> Record | None:
        """What a trial gave; None if it is not done."""
        return self._records.get(_key(bug, name))

    def todo(self, bug: Bug, names: Sequence[str]) -> tuple[str, ...]:
        """Those that are not done, or have failed."""
        records = ((name, self.record(bug, name)) for name in names)
        return tuple(name for name, record in records if record is None or record["failed"])

    def done(self, bugs: Sequence[Bug], names: Sequence[str]) -> int:
        """How many of all have ended."""
        return sum(self.record(bug, name) is not None for bug in bugs for name in names)

    def run(
        self, bugs: Sequence[Bug], task: Callable[[Bug], Task], at_once: int, look: Look
    ) -> bool:
        """Do what is to be done; True if all is.  No process is left, and no line is lost."""
        waiting = [bug for bug in bugs if task(bug).names]
        children: list[_Child] = []
        self._sweep()
        try:
            while waiting or children:
                while waiting and len(children) < at_once:
                    bug = waiting.pop(0)
                    children.append(self._start(bug, task(bug)))
                time.sleep(LOOK_S)
                for child in list(children):
                    ended = child.process.poll() is not None
                    self._hear(child)
                    if ended:
                        children.remove(child)
                        self._note_missing(child)
                if not look([child.bug.id for child in children]):
                    return False
        finally:
            for child in children:
                # Whatever it has forked dies with it.
                child.process.kill()
                child.process.wait()
                self._hear(child)
            self._sweep()
        return True

    def _start(self, bug: Bug, task: Task) -> _Child:
        tree = patched_tree(bug.diff, SOURCE_ROOT, cache_root())
        work = self.folder / WORK
        paths = [str(tree), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), TREE_VARIABLE: str(tree)}
        job = {"parent": os.getpid(), "kind": task.kind, "names": task.names, **task.options}
        out, errors = work / f"{bug.id}.out", work / f"{bug.id}.errors"
        try:
            work.mkdir(exist_ok=True)
            # Files, not pipes: a pipe that nobody empties stops who writes into it.
            with out.open("wb") as stdout, errors.open("wb") as stderr:
                process = subprocess.Popen(
                    # Without -P the working folder, often the checkout, would come before the tree.
                    [sys.executable, "-P", "-m", "harness.bugs.trial", json.dumps(job)],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    start_new_session=True,  # Ctrl-C is ours
                )
        except OSError as error:
            raise MachineError(f"{work}: cannot try {bug.name}: {error.strerror}") from error
        return _Child(bug, task.names, process, out, errors)

    def _hear(self, child: _Child) -> None:
        """Keep the lines that a child has finished since."""
        with child.out.open("rb") as stream:
            stream.seek(child.read)
            whole, newline, _ = stream.read().rpartition(b"\n")
        child.read += len(whole) + len(newline)
        for line in whole.splitlines():
            said = json.loads(line)
            self._keep(child.bug, said.pop("trial"), said)

    def _note_missing(self, child: _Child) -> None:
        """A child that ended too early has failed in all that it has not said."""
        lines = child.errors.read_text(errors="replace").strip().splitlines()
        last = lines[-1] if lines else "nothing was said"
        for name in self.todo(child.bug, child.names):
            if self.record(child.bug, name) is None:
                message = f"exit status {child.process.returncode}: {last}"
                self._keep(child.bug, name, {"failed": message})

    def _keep(self, bug: Bug, name: str, said: Record) -> None:
        record = {"name": _key(bug, name), "bug": bug.name, "trial": name, **said}
        append_record(self.folder / FILE, record)
        self._records[record["name"]] = record

    def _sweep(self) -> None:
        shutil.rmtree(self.folder / WORK, ignore_errors=True)


def _key(bug: Bug, name: str) -> str:
    return f"{bug.name} {name}"
