"""frozen: an entry that somebody has frozen is his; nobody else writes to it or tries to.

The setters assert it at every change, and whoever unfreezes looks whether his mark is still there.
At rest no linked table has a frozen entry.
"""

from __future__ import annotations

import numpy as np

from harness.oracles.snapshot import Snapshot
from mmu import spte

NAME = "frozen"
PROPERTY = "nobody but its freezer touches a frozen entry; none is left in a linked table"
IN_STRESS = "assertions in the setters; audit"


def audit(snapshot: Snapshot) -> list[str]:
    """Frozen entries that nobody will replace."""
    problems = []
    for reached in snapshot.by_level:
        for gfns, values, places in snapshot.entries(reached):
            found = np.flatnonzero(values == spte.FROZEN)
            problems += [
                f"{len(found)} entries at level {reached.level} are frozen and nobody will replace"
                f" them; the first is gfn {int(gfns[i]):#x} (word {int(places[i])})"
                for i in found[:1]
            ]
    return problems
