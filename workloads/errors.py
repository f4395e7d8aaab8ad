"""The errors that end a command, each with the exit status that the README states.

Their message is all that a user sees, so it is one line that says what is wrong, where, and
what to do. `harness.cli.main` prints it and exits with `status`; anything else that escapes is
a defect of tdprace and keeps its traceback.
"""

from typing import ClassVar


class TdpraceError(Exception):
    """An end of the command that was foreseen; line breaks in `message` become blanks."""

    status: ClassVar[int] = 4

    def __init__(self, message: str) -> None:
        # Parts of a message come from users and files: one of them must not break the promise.
        super().__init__(" ".join(message.splitlines()))


class UsageError(TdpraceError):
    """The command line, or a file that it names, is wrong."""

    status = 2


class MachineError(TdpraceError):
    """This machine cannot do it: a folder is not writable, memory or a capability is missing."""

    status = 3


class RunFailed(TdpraceError):  # noqa: N818 - an outcome, named as `outcome: failed` in run.json
    """The run broke off: a worker died, the watchdog fired, a replay diverged."""

    status = 4
