"""However a run ends: within 3 s no process and no shared memory is left, and it says how."""

import os
import signal
import time

import psutil
import pytest

from mmu.machine import layout as at
from mmu.machine.lock import HELD_MMU_WRITE
from tests.run.stress_run import CLEAN_UP_S, StressRun, next_run_works

pytestmark = pytest.mark.slow

ENDLESS = ("dirty-log", "-g", "-v", "3", "-b", "64M", "-w", "50", "-i", "10000", "--quiet")


def endless(folder, *words: str) -> StressRun:
    """A run that would go on for hours, in its second iteration or later."""
    it = StressRun(folder, 4, *ENDLESS, *words)
    it.wait_for(lambda: '"name": "iteration 1 get' in it.stored_text())
    return it


@pytest.fixture
def run(tmp_path):
    it = endless(tmp_path)
    yield it
    it.kill()


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
    deadline = time.monotonic() + 60
    number = None
    while number is None and time.monotonic() < deadline:
        for actor in range(4):
            held = run.actor_word(words, actor, at.HELD)
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
    assert "killed by SIGKILL while it held mmu_lock (write)" in errors
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
    it = endless(tmp_path, "--watchdog", "1s")
    it.workers[2].suspend()
    _, errors = it.process.communicate(timeout=30)
    assert it.process.returncode == 4
    assert "vcpu 2" in errors
    assert "runs without progress" in errors or "waits for" in errors
    assert not psutil.wait_procs(it.workers, timeout=CLEAN_UP_S)[1]
