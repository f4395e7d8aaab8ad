"""A `tdprace stress` in processes of its own, as the tests of how runs end see it."""

from __future__ import annotations

import json
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

from mmu.machine import layout as at
from mmu.machine.cpu import Words
from tests.command import Running, tdprace

CLEAN_UP_S = 30.0  # who takes longer hangs; it is a moment where a core is free
START_S = 120.0


class StressRun:
    """One run with `actors` processes, which are there when this has been made."""

    def __init__(self, folder: Path, actors: int, *words: str) -> None:
        self.results = folder / "results"
        self.process = Running("stress", *words, "--results", self.results)
        self.parent = psutil.Process(self.process.pid)
        # Its memory is there before the actors are, and after those who may have compiled.
        self.wait_for(lambda: bool(self._memory()) and len(self.parent.children()) == actors)
        self.workers = self.parent.children()  # in the order of the actors

    def wait_for(self, ready: Callable[[], bool]) -> None:
        """Until `ready()`; a run that is over before is an error."""
        deadline = time.monotonic() + START_S
        while not ready():
            if self.process.poll() is not None:
                raise AssertionError(f"the run has ended: {self.process.communicate()}")
            assert time.monotonic() < deadline, "the run never came so far"
            time.sleep(0.002)

    def stored_text(self) -> str:
        """The stored document so far; a folder that is still being made has a hidden name."""
        made = [path for path in self.results.glob("*/run.json") if path.parent.name[0] != "."]
        return "".join(path.read_text() for path in made)

    def block(self) -> Words:
        """The run's shared memory, through the parent's descriptor."""
        with open(self._memory()[0], "r+b") as file:
            return np.frombuffer(mmap.mmap(file.fileno(), 0), dtype=np.int64)

    def _memory(self) -> list[Path]:
        files = Path(f"/proc/{self.process.pid}/fd").iterdir()
        return [each for each in files if "memfd:tdprace" in _target(each)]

    def actor_word(self, words: Words, actor: int, word: int) -> int:
        """Index of a word of an actor's block."""
        return int(words[at.C_ACTOR_BASE]) + actor * int(words[at.C_ACTOR_STRIDE]) + word

    def ended(self) -> tuple[int, str, str]:
        """(exit status, stdout, stderr); everything must be gone."""
        out, errors = self.process.communicate(timeout=CLEAN_UP_S)
        _, alive = psutil.wait_procs(self.workers, timeout=CLEAN_UP_S)
        assert not alive, f"left behind: {alive}"
        # Nobody else either; and the memory has no name by which it could outlive them.
        assert [pid for pid in psutil.pids() if _session_of(pid) == self.process.pid] == []
        assert list(Path("/dev/shm").glob("*tdprace*")) == []
        return self.process.returncode, out, errors

    def document(self) -> dict:
        """The stored document, which is whole and alone."""
        (path,) = self.results.glob("*/run.json")
        leftovers = [p.name for p in self.results.rglob("*") if p.name.startswith(".")]
        assert leftovers == []
        return json.loads(path.read_text())

    def kill(self) -> None:
        """Whatever the test came to: nothing is left of this run."""
        for process in [*self.workers, self.parent]:
            if process.is_running():
                process.kill()
        self.process.communicate()


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""  # closed since it was listed


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def next_run_works(folder: Path) -> None:
    """Nothing that a run left behind disturbs the next one."""
    words = ("dirty-log", "-g", "-b", "4M", "-i", "1", "--quiet", "--results", str(folder / "n"))
    assert tdprace("stress", *words).returncode == 0
