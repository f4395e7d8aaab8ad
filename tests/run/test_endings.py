"""However a run ends: within 3 s no process and no shared memory is left, and it says how."""

import json
import mmap
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from mmu.machine import layout as at
from mmu.machine.lock import HELD_MMU_WRITE

pytestmark = pytest.mark.slow

ENDLESS = ("dirty-log", "-g", "-v", "3", "-b", "64M", "-w", "50", "-i", "10000", "--quiet")
CLEAN_UP_S = 3.0


class Run:
    """A `tdprace stress` that would go on for hours."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.results = folder / "results"
        command = [sys.executable, "-m", "harness", "stress", *ENDLESS, *words]
        self.process = subprocess.Popen(
            [*command, "--results", str(self.results)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.parent = psutil.Process(self.process.pid)
        self.workers = self._wait_for_workers()

    def _wait_for_workers(self) -> list[psutil.Process]:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            workers = self.parent.children()
            stored = list(self.results.glob("*/run.json"))
            if len(workers) == 4 and stored and '"name": "iteration 1 get' in stored[0].read_text():
                return workers
            time.sleep(0.02)
        raise AssertionError("the run did not start")

    def block(self) -> np.ndarray:
        """The run's shared memory, through a worker's descriptor."""
        folder = Path(f"/proc/{self.process.pid}/fd")
        for each in folder.iterdir():
            if "memfd:tdprace" in os.readlink(each):
                with open(each, "r+b") as file:
                    return np.frombuffer(mmap.mmap(file.fileno(), 0), dtype=np.int64)
        raise AssertionError("no memfd")

    def ended(self) -> tuple[int, str, str]:
        """(exit status, stdout, stderr); everything must be gone in time."""
        began = time.monotonic()
        out, errors = self.process.communicate(timeout=CLEAN_UP_S + 5)
        _, alive = psutil.wait_procs(self.workers, timeout=CLEAN_UP_S)
        assert not alive, f"left behind: {alive}"
        assert time.monotonic() - began < CLEAN_UP_S, "too slow"
        return self.process.returncode, out, errors

    def document(self) -> dict:
        (path,) = self.results.glob("*/run.json")
        leftovers = [p.name for p in self.results.rglob("*") if p.name.startswith(".")]
        assert leftovers == []
        return json.loads(path.read_text())


@pytest.fixture
def run(tmp_path):
    it = Run(tmp_path)
    yield it
    for process in [*it.workers, it.parent]:
        if process.is_running():
            process.kill()
    it.process.wait()


def next_run_works(folder: Path) -> None:
    words = ("dirty-log", "-g", "-b", "4M", "-i", "1", "--quiet", "--results", str(folder / "n"))
    command = [sys.executable, "-m", "harness", "stress", *words]
    assert subprocess.run(command, capture_output=True, timeout=60).returncode == 0


def measured_phases_are_kept(document: dict) -> None:
    names = [phase["name"] for phase in document["phases"]]
    assert names[:3] == ["populate", "enable", "iteration 1 dirty memory"]
    assert document["counters"]["accesses"] > 0


def test_a_killed_worker(run, tmp_path):
    run.workers[1].kill()
    status, out, errors = run.ended()
    assert status == 4
    assert "vcpu 1" in errors
    assert "SIGKILL" in errors
    assert run.document()["outcome"] == "failed"
    measured_phases_are_kept(run.document())
    assert "iteration 1 dirty memory" in out
    next_run_works(tmp_path)


def test_a_worker_killed_while_it_holds_mmu_lock(run, tmp_path):
    words = run.block()
    base, stride = int(words[at.C_ACTOR_BASE]), int(words[at.C_ACTOR_STRIDE])
    deadline = time.monotonic() + 60
    number = None
    while number is None and time.monotonic() < deadline:
        for actor in range(4):
            held = base + actor * stride + at.HELD
            if int(words[held]) & HELD_MMU_WRITE:
                # Stop it first: only a stopped process certainly still holds what we saw.
                os.kill(run.workers[actor].pid, signal.SIGSTOP)
                time.sleep(0.001)
                if int(words[held]) & HELD_MMU_WRITE and int(words[at.MMU_LOCK]) & ~0xFFFE:
                    number = actor
                    break
                os.kill(run.workers[actor].pid, signal.SIGCONT)
    assert number is not None, "never caught with the lock held"
    del words
    run.workers[number].kill()
    status, _, errors = run.ended()
    assert status == 4
    assert "SIGKILL" in errors
    assert run.document()["outcome"] == "failed"
    next_run_works(tmp_path)


def test_a_killed_parent(run, tmp_path):
    run.parent.kill()
    status, _, _ = run.ended()
    assert status == -signal.SIGKILL
    document = run.document()
    assert document["outcome"] == "interrupted"
    measured_phases_are_kept(document)
    next_run_works(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(run, tmp_path, number):
    os.killpg(run.process.pid, number) if number == signal.SIGINT else run.parent.terminate()
    status, out, _ = run.ended()
    assert status == 130
    assert "outcome: interrupted" in out
    document = run.document()
    assert document["outcome"] == "interrupted"
    measured_phases_are_kept(document)
    next_run_works(tmp_path)


def test_the_watchdog_names_who_is_stuck(tmp_path):
    it = Run(tmp_path, "--watchdog", "1s")
    it.workers[2].suspend()
    _, errors = it.process.communicate(timeout=30)
    assert it.process.returncode == 4
    assert "vcpu 2" in errors
    assert "runs without progress" in errors or "waits for" in errors
    assert not psutil.wait_procs(it.workers, timeout=CLEAN_UP_S)[1]
