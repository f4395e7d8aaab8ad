"""`tdprace WORDS` in a process forked from the tests' own: all that a user meets but the start.

The fork has numba and every kernel loaded already, which takes a new interpreter seconds.
"""

from __future__ import annotations

import atexit
import gc
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import NoReturn

from harness.cli.main import main
from harness.run.lifeline import die_with_parent
from mmu.machine.dispatch import KernelFunction
from mmu.machine.kernel import registry
from workloads.scenarios.registry import load


class Running:
    """The command under way, in a session of its own; used as a `subprocess.Popen` is."""

    def __init__(self, *words: object, env: Mapping[str, str] | None = None) -> None:
        """Start it; `env` is added to the environment."""
        self.words = [str(word) for word in words]
        self.returncode: int | None = None
        self._files = os.memfd_create("stdout"), os.memfd_create("stderr")
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _become(self.words, parent, self._files, env or {})

    def poll(self) -> int | None:
        """Its exit status, if it has ended; a signal's number is negative."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """To the command alone, if it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end: stdout and stderr.  TimeoutExpired after so many seconds."""
        if self.poll() is None:
            ended = os.pidfd_open(self.pid)
            try:
                if not select.select([ended], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired(["tdprace", *self.words], timeout or 0.0)
            finally:
                os.close(ended)
            self.poll()
        out, errors = (os.pread(file, os.fstat(file).st_size, 0).decode() for file in self._files)
        return out, errors

    def finished(self, seconds: float = 300) -> subprocess.CompletedProcess[str]:
        """Wait for its end; it is killed if it takes longer."""
        try:
            texts = self.communicate(seconds)
        finally:
            self.send_signal(signal.SIGKILL)
            self.communicate()
        assert self.returncode is not None
        return subprocess.CompletedProcess(["tdprace", *self.words], self.returncode, *texts)

    def __del__(self) -> None:
        for file in self._files:
            os.close(file)


def tdprace(
    *words: object,
    seconds: float = 300,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, as `subprocess.run` does."""
    return Running(*words, env=env).finished(seconds)


def _become(
    words: list[str], parent: int, files: Sequence[int], env: Mapping[str, str]
) -> NoReturn:
    """In the fork: the command, with standard files of its own and nothing to do at exit."""
    status: object = 1
    try:
        die_with_parent(parent)
        os.setsid()
        gc.freeze()  # nobody closes here what belongs to the tests
        _forget_scenarios()
        atexit._clear()  # what the tests' process has to do at its end
        signal.signal(signal.SIGINT, signal.default_int_handler)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for ours, theirs in enumerate((nothing, *files)):
            os.dup2(theirs, ours)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # the tests' memory, and their pipes
        sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
        os.environ.update(env)
        sys.argv[1:] = words
        status = main(words)
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else int(status is not None))


# --- Scenarios -----------------------------------------------------------------------------------

SCENARIOS = "workloads.scenarios."


def without_scenarios() -> list[KernelFunction]:
    """All kernels imported so far but the bodies of scenarios."""
    return [each for each in registry if not each.__module__.startswith(SCENARIOS)]


def _forget_scenarios() -> None:
    """The command loads, and compiles, what it is about: not all that the tests have loaded."""
    registry[:] = without_scenarios()
    for name in [each for each in sys.modules if each.startswith(SCENARIOS)]:
        if name != load.__module__:
            del sys.modules[name]
