"""balance: what is counted up is counted down: invalidations, users, scheduled zaps, logging."""

from __future__ import annotations

from harness.oracles.snapshot import Snapshot
from mmu.machine import layout as at
from mmu.notifier import NOTIFIER_UNIT

NAME = "balance"
PROPERTY = (
    "invalidations in progress, active ones and users are never negative, and 0 at rest; vCPUs log"
    " for as many memslots as are logged"
)
IN_STRESS = "assertions; audit"


def audit(snapshot: Snapshot) -> list[str]:
    """Counts that are not what they are at rest."""
    words = snapshot.vm.words
    problems = []
    if int(words[at.IN_PROGRESS]):
        problems.append(f"{int(words[at.IN_PROGRESS])} invalidations are in progress at rest")
    if int(words[at.NOTIFIERS]):
        active = int(words[at.NOTIFIERS]) / NOTIFIER_UNIT
        problems.append(f"mn_active_invalidate_count is {active:g} at rest")
    if int(words[at.USERS]) not in (0, 1):
        problems.append(f"users_count is {int(words[at.USERS])}")
    logged = _logged_slots(snapshot) if int(words[at.C_USE_PML]) else 0
    if int(words[at.LOGGING]) != logged:
        problems.append(f"vCPUs log for {int(words[at.LOGGING])} memslots, and {logged} want it")
    queued, finished = int(words[at.ZAP_QUEUED]), int(words[at.ZAP_FINISHED])
    if finished > queued:
        problems.append(f"the zap worker finished {finished} of {queued} roots")
    scheduled = sum(root.scheduled for root in snapshot.roots)
    if scheduled > queued - finished:
        problems.append(f"{scheduled} roots are scheduled, and the queue knows {queued - finished}")
    return problems


def _logged_slots(snapshot: Snapshot) -> int:
    """Memslots whose writes are logged."""
    slots = snapshot.vm.region("slots").reshape(-1, at.SLOT_WORDS)
    return int(slots[:, at.SLOT_LOGGED].sum())
