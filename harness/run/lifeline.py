"""What keeps processes from outliving each other."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int) -> None:
    """SIGKILL this process when the thread that forked it ends.

    The parent forks from its main thread, so that this is the parent's own end, however it
    comes.  It may already have died between fork and prctl: then we end here.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:
        os._exit(1)


def main(words: Sequence[str]) -> NoReturn:
    """`python -m harness.run.lifeline PID COMMAND...`: become a command that ends with PID."""
    die_with_parent(int(words[0]))
    os.execv(words[1], words[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
