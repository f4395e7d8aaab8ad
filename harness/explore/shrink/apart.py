"""Run something in a child process: there a scenario that crashes or hangs is only a failed try.

What is left of a scenario after something was taken away may be nonsense; its set-up runs
unwatched and can then touch any memory.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import time
from collections.abc import Callable
from typing import TypeVar

from harness.run.lifeline import die_with_parent
from workloads.errors import TdpraceError

Value = TypeVar("Value")

HANG_S = 30.0  # far above what any try needs: those are bounded by executions
LOOK_S = 0.1


def apart(job: Callable[[], Value], go_on: Callable[[], bool]) -> Value | None:
    """What `job` returns in a child; None if it failed, crashed, hung, or `go_on` said no."""
    parent = os.getpid()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _answer(job, writing, parent)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as pipe:
            answer = _wait(pipe.fileno(), go_on)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if not answer:
        return None
    value: Value | None = pickle.loads(answer)
    return value


def _answer(job: Callable[[], Value], writing: int, parent: int) -> None:
    """The child's whole life."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        die_with_parent(parent)
        # A set-up that no longer fits may complain; nobody wants to read that.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        with contextlib.suppress(TdpraceError, ValueError, ArithmeticError, LookupError):
            answer = pickle.dumps(job())
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(answer)
    finally:
        os._exit(0)


def _wait(reading: int, go_on: Callable[[], bool]) -> bytes:
    """All that the child writes; nothing if it does not come to its end."""
    began = time.monotonic()
    answer = b""
    while time.monotonic() - began < HANG_S and go_on():
        if select.select([reading], [], [], LOOK_S)[0]:
            part = os.read(reading, 1 << 16)
            if not part:
                return answer
            answer += part
    return b""
