"""Forked workers that start together, report numbers, and are gone when `together` returns.

A worker ends when its job ends, when the job's stop word is set, or with its parent: the kernel
kills it then, so nothing stays behind however the benchmark ends.
"""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

import multiprocess

from harness.run.lifeline import die_with_parent
from mmu.machine.cpu import Words
from mmu.machine.layout import LINE
from mmu.machine.memory import SharedBlock
from workloads.errors import RunFailed

NUMBERS_MAX = 4  # that a job may return
START_TIMEOUT_S = 60
END_TIMEOUT_S = 60
POLL_S = 0.001

Start = Callable[[], None]
Job = Callable[[Start], tuple[int, ...]]
_GO = 0  # word that starts everybody; a worker's own line follows: ready, then its numbers


def together(
    jobs: Sequence[Job], stop: Callable[[], None], seconds: float | None = None
) -> list[list[int]]:
    """Run each job in a process of its own; what they returned.

    A job prepares itself, calls its argument, which returns in all jobs at once, works, and
    returns up to `NUMBERS_MAX` numbers.  With `seconds`, `stop()` is called after so long.

    Raises RunFailed if a worker died, or did not come or end in time.
    """
    block = SharedBlock(LINE * (len(jobs) + 1))
    words = block.words
    context = multiprocess.get_context("fork")
    gc.freeze()
    workers = [
        context.Process(target=_work, args=(job, words, number + 1, os.getpid()), daemon=True)
        for number, job in enumerate(jobs)
    ]
    try:
        for worker in workers:
            worker.start()
        _wait(workers, lambda: bool(words[LINE::LINE].all()), START_TIMEOUT_S, "get ready")
        words[_GO] = 1
        if seconds is not None:
            time.sleep(seconds)
            stop()
        _wait(workers, lambda: not any(each.is_alive() for each in workers), END_TIMEOUT_S, "end")
        return [list(map(int, words[LINE * i + 1 :][:NUMBERS_MAX])) for i in _numbers(jobs)]
    finally:
        stop()
        for worker in workers:
            if worker.pid is not None:
                worker.kill()
                worker.join(END_TIMEOUT_S)
        gc.unfreeze()
        block.close()


def _numbers(jobs: Sequence[Job]) -> range:
    return range(1, len(jobs) + 1)


def _wait(workers: Sequence[Any], done: Callable[[], bool], timeout: float, what: str) -> None:
    deadline = time.monotonic() + timeout
    while not done():
        if any(worker.exitcode not in (None, 0) for worker in workers):
            break
        if time.monotonic() > deadline:
            raise RunFailed(f"a worker did not {what} within {timeout} s")
        time.sleep(POLL_S)
    codes = [worker.exitcode for worker in workers if worker.exitcode not in (None, 0)]
    if codes:
        raise RunFailed(f"a worker ended with exit code {codes[0]}")


def _work(job: Job, words: Words, number: int, parent: int) -> None:
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    line = LINE * number

    def start() -> None:
        words[line] = 1
        while words[_GO] == 0:
            os.sched_yield()

    for i, value in enumerate(job(start)):
        words[line + 1 + i] = value
