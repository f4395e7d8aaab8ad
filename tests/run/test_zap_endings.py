"""Runs that end in the middle of a zap, which is not asked whether it wants to stop."""

import signal

import numpy as np
import pytest

from mmu.machine import layout as at
from mmu.machine.lock import HELD_MMU_READ
from tests.run.stress_run import StressRun, next_run_works
from workloads.actors.dropping import ZAP_BEGAN, ZAP_ENDED

pytestmark = pytest.mark.slow

ZAP_ROOT = ("zap-root", "-v", "2", "--memory", "64G", "--zap-by", "worker", "--quiet")
TORTURE = (
    *("torture", "-v", "2", "-s", "4k", "-b", "64M", "--seconds", "1h", "--zap-by", "worker"),
    *("--without", "all", "--with", "slots,reclaim,ad", "--quiet"),
)
WORKER = 3  # actors: two vCPUs, the monitor's thread, the zap worker


class Zap:
    """A run whose zap worker is stopped in the middle of a zap."""

    def __init__(self, folder) -> None:
        self.run = StressRun(folder, WORKER + 1, *ZAP_ROOT)
        self.worker = self.run.workers[WORKER]
        self.words = self.run.block()
        self.run.wait_for(lambda: self.word(ZAP_BEGAN) != 0)
        held = self.run.actor_word(self.words, WORKER, at.HELD)
        self._suspend()
        while not int(self.words[held]) & HELD_MMU_READ:  # it is letting others in
            self.worker.resume()
            self._suspend()
        assert self.word(ZAP_ENDED) == 0, "the zap was over too soon: give it more memory"

    def _suspend(self) -> None:
        self.worker.suspend()
        self.run.wait_for(lambda: self.worker.status() == "stopped")

    def word(self, number: int) -> int:
        return int(self.words[int(self.words[at.C_WORKLOAD]) + number])


@pytest.fixture
def zap(tmp_path):
    it = Zap(tmp_path)
    yield it
    it.run.kill()


def test_a_zap_worker_killed_in_the_middle_of_a_zap(zap, tmp_path):
    zap.worker.kill()
    status, out, errors = zap.run.ended()
    assert status == 4
    assert f"zap worker (pid {zap.worker.pid}) died: killed by SIGKILL while it held" in errors
    assert "mmu_lock (read)" in errors
    assert "stay mapped, and whoever deletes a memslot or destroys the VM would wait" in errors
    assert errors.count("\n") == 1
    assert "outcome: failed" in out
    document = zap.run.document()
    assert document["outcome"] == "failed"
    assert "zap worker" in document["error"]
    assert [phase["name"] for phase in document["phases"]] == ["populate", "split", "map tables"]
    next_run_works(tmp_path)


def test_interrupted_in_the_middle_of_a_zap(zap, tmp_path):
    zap.run.process.send_signal(signal.SIGINT)
    # The worker goes on once the run has heard of it: its zap is not over before.
    zap.run.wait_for(lambda: zap.words[at.STOP_WORD] != 0)
    zap.worker.resume()
    status, out, _ = zap.run.ended()
    assert status == 130
    assert "outcome: interrupted" in out
    document = zap.run.document()
    assert document["outcome"] == "interrupted"
    assert [phase["name"] for phase in document["phases"]] == ["populate", "split", "map tables"]
    next_run_works(tmp_path)


def test_a_parent_killed_in_the_middle_of_a_zap(zap, tmp_path):
    zap.run.parent.kill()
    status, _, _ = zap.run.ended()
    assert status == -signal.SIGKILL
    document = zap.run.document()
    assert document["outcome"] == "interrupted"
    assert document["phases"][0]["name"] == "populate"
    next_run_works(tmp_path)


def test_a_zap_worker_killed_while_everybody_waits_for_it(tmp_path):
    """It serves all phases, has mmu_lock, and the monitor is in the middle of a deletion."""
    run = StressRun(tmp_path, WORKER + 2, *TORTURE)
    try:
        words = run.block()
        worker = run.workers[WORKER + 1]
        held = run.actor_word(words, WORKER + 1, at.HELD)

        def stopped_with_the_lock() -> bool:
            worker.suspend()
            run.wait_for(lambda: worker.status() == "stopped")
            if words[held] & HELD_MMU_READ:
                return True
            worker.resume()
            return False

        run.wait_for(stopped_with_the_lock)
        assert np.int64(words[at.ZAP_FINISHED]) < words[at.ZAP_QUEUED]
        worker.kill()
        status, _, errors = run.ended()
        assert status == 4
        assert f"zap worker (pid {worker.pid}) died: killed by SIGKILL while it held" in errors
        assert "would wait for them for ever" in errors
        assert run.document()["outcome"] == "failed"
        next_run_works(tmp_path)
    finally:
        run.kill()
