"""The reproducer that an entry of the catalogue keeps: the shortest schedule known to show the bug.

It refers to `patch.diff` by name: the diff beside it is the one that holds, also after it was
written again for a newer model.
"""

from __future__ import annotations

from dataclasses import replace

from harness.bugs.catalogue import DIFF, Bug
from harness.bugs.interpreters import Chain
from harness.explore.reproducer import Patch, Reproducer, read
from harness.report.store import replace_text
from workloads.errors import RunFailed, UsageError


def kept(bug: Bug) -> Reproducer | None:
    """What is kept, if anything; UsageError if it cannot be read."""
    return read(bug.reproducer) if bug.reproducer.is_file() else None


def keep(bug: Bug, found: Reproducer) -> bool:
    """Keep it, unless what is kept was found in this very model and is not longer."""
    try:
        before = kept(bug)
    except UsageError:
        before = None
    if (
        before is not None
        and (before.model, before.scenario) == (found.model, found.scenario)
        and before.violation.oracle == found.violation.oracle
        and len(before.steps) <= len(found.steps)
    ):
        return False
    replace_text(bug.reproducer, replace(found, patch=Patch(DIFF, "")).dump())
    return True


def steps_kept(bug: Bug) -> int | None:
    """Of how many steps it is; None if there is none."""
    reproducer = kept(bug)
    return None if reproducer is None else len(reproducer.steps)


def how_to_keep(bug: Bug) -> str:
    """What to say where there is none."""
    return f"No reproducer is kept; `tdprace bugs check {bug.id} --keep` makes one."


def told(bug: Bug) -> Chain[str]:
    """What `tdprace replay` tells of it, in the patched tree; RunFailed if it does not show."""
    ended = yield ("replay", str(bug.reproducer), "--explain", "--quiet")
    if ended.status != 1:
        raise RunFailed(
            f"{bug.id}: what is kept does not show the bug any more: {ended.complaint}; make it"
            f" again: tdprace bugs check {bug.id} --keep"
        )
    return ended.out.strip("\n")
