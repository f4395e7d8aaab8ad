"""What all tests share: one compilation, deterministic properties, children that cannot stay."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence

import pytest
from hypothesis import settings

# Compiled code is slow the first time, and a failure must come back at the next run.
settings.register_profile("tdprace", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("tdprace")

ALL_VARIABLE = "TDPRACE_ALL_BUGS"  # as `make bugs` sets it
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)

Body = Callable[[], object]


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """What is `thorough` is for `make bugs`: the suite has another test of the same kind."""
    if not os.environ.get(ALL_VARIABLE):
        for item in items:
            if item.get_closest_marker("thorough"):
                item.add_marker(pytest.mark.skip(reason="make bugs runs it"))


@pytest.fixture(scope="session", autouse=True)
def _kernels_are_compiled() -> None:
    """Compile what the collected tests imported, once; tests without kernels pay nothing.

    But for the scenarios: most of their bodies are only interpreted here.
    """
    if "mmu.machine.kernel" in sys.modules:
        from harness.run.warm import warm
        from tests.command import without_scenarios

        warm(kernels=without_scenarios())


@pytest.fixture
def run_processes() -> Callable[[Sequence[Body], float], list[int | None]]:
    """Runs each body in a forked process; exit statuses, None for those past the deadline.

    All are gone when it returns, and also when this process dies first.
    """
    return _run_processes


def _run_processes(bodies: Sequence[Body], seconds: float) -> list[int | None]:
    sys.stdout.flush()
    sys.stderr.flush()
    children = [_fork(body) for body in bodies]
    statuses: dict[int, int | None] = {}
    deadline = time.monotonic() + seconds
    try:
        while len(statuses) < len(children) and time.monotonic() < deadline:
            for child in children:
                if child not in statuses:
                    done, status = os.waitpid(child, os.WNOHANG)
                    if done:
                        statuses[child] = os.waitstatus_to_exitcode(status)
            time.sleep(0.002)
    finally:
        for child in children:
            if child not in statuses:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
    return [statuses.get(child) for child in children]


def _fork(body: Body) -> int:
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            body()
            status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)
