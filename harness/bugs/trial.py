"""`python -m harness.bugs.trial JOB`: the trials of one bug, on its patched tree.

JOB is JSON.  Each trial that is done is a line of JSON on stdout, which nothing else may write to.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from harness.bugs import strategies, tortured
from harness.run.lifeline import die_with_parent
from workloads.errors import TdpraceError


def records(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What each of the job's trials gave; `failed` says why there is nothing, if so."""
    trials = {"strategies": strategies.trials, "torture": tortured.trials}[job["kind"]]
    yield from trials(job)


def main(words: Sequence[str]) -> int:
    """One job."""
    job = json.loads(words[0])
    die_with_parent(job["parent"])
    answer = os.dup(1)
    os.dup2(2, 1)
    try:
        for record in records(job):
            os.write(answer, (json.dumps(record) + "\n").encode())
    except TdpraceError as error:
        print(error, file=sys.stderr)
        return error.status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
