"""balance: what is counted up is counted down: invalidations, users, scheduled zaps.

The sequence of invalidations is the exception: it only grows, by one for each that has ended.
"""

from __future__ import annotations

from harness.oracles.snapshot import Snapshot
from mmu.machine import layout as at
from mmu.notifier import NOTIFIER_UNIT

NAME = "balance"
PROPERTY = "counts of invalidations and users are never negative, 0 at rest; the sequence grows"
IN_STRESS = "assertions; audit"


def audit(snapshot: Snapshot) -> list[str]:
    """Counts that are not what they are at rest."""
    vm = snapshot.vm
    words = vm.words
    problems = []
    if int(words[at.IN_PROGRESS]):
        problems.append(f"{int(words[at.IN_PROGRESS])} invalidations are in progress at rest")
    if int(words[at.NOTIFIERS]):
        active = int(words[at.NOTIFIERS]) / NOTIFIER_UNIT
        problems.append(f"mn_active_invalidate_count is {active:g} at rest")
    if int(words[at.USERS]) not in (0, 1):
        problems.append(f"users_count is {int(words[at.USERS])}")
    ended = sum(int(vm.actor_words(i)[at.N_INVALIDATIONS]) for i in range(vm.config.actors))
    if int(words[at.INVALIDATE_SEQ]) != ended:
        problems.append(
            f"the sequence of invalidations is {int(words[at.INVALIDATE_SEQ])}, {ended} have ended"
        )
    queued, finished = int(words[at.ZAP_QUEUED]), int(words[at.ZAP_FINISHED])
    if finished > queued:
        problems.append(f"the zap worker finished {finished} of {queued} roots")
    return problems
