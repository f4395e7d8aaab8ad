"""`tdprace WORDS` in a process forked from the tests' own: all that a user meets but the start.

The fork has numba and every kernel loaded already, which takes a new interpreter seconds.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from typing import NoReturn

from harness.cli.main import main
from harness.run.lifeline import die_with_parent


def tdprace(
    *words: object,
    seconds: float = 300,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; `env` is added to the environment.

    As `subprocess.run` does it, a signal's number is a negative status, and TimeoutExpired is
    raised after so many seconds.
    """
    told = [str(word) for word in words]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            _become(told, parent, (out.fileno(), errors.fileno()), env or {})
        ended = os.pidfd_open(child)
        try:
            in_time = select.select([ended], [], [], seconds)[0]
        finally:
            os.close(ended)
            if not in_time:
                os.kill(child, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = []
        for file in (out, errors):
            file.seek(0)
            texts.append(file.read())
    if not in_time:
        raise subprocess.TimeoutExpired(["tdprace", *told], seconds, *texts)
    return subprocess.CompletedProcess(["tdprace", *told], status, *texts)


def _become(
    words: list[str], parent: int, files: tuple[int, int], env: Mapping[str, str]
) -> NoReturn:
    """In the fork: the command, with standard files of its own and nothing to do at exit."""
    status: object = 1
    try:
        die_with_parent(parent)
        atexit._clear()  # what the tests' process has to do at its end
        signal.signal(signal.SIGINT, signal.default_int_handler)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for ours, theirs in enumerate((nothing, *files)):
            os.dup2(theirs, ours)
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
