"""lifetime: nobody touches a table that was freed, or anything outside the block.

A freed table is poisoned: whoever reads it in a walk knows at once, whoever writes to it is found
when it is used again, or here.  So is its record, but only here is it looked at.  Explored and
patched runs also refuse every address outside the block before it is touched, and explored ones
every access of a freed table or of its record.
"""

from __future__ import annotations

import numpy as np

from harness.oracles.snapshot import CHUNK_TABLES, Snapshot, records
from mmu import spte
from mmu.machine import layout as at

NAME = "lifetime"
PROPERTY = "walks touch live tables only; a freed table stays as it was poisoned; no wild address"
IN_STRESS = "poison at each step down and at reuse; audit; bounds with --patch"


def audit(snapshot: Snapshot) -> list[str]:
    """Freed pages that were written to since, and live ones that were freed."""
    vm = snapshot.vm
    states = records(vm)[:, at.SP_STATE]
    problems = []
    free = np.flatnonzero(states == at.SP_FREE)
    for i in range(0, len(free), CHUNK_TABLES):
        pages = free[i : i + CHUNK_TABLES]
        described = records(vm)[pages, at.SP_PARENT : at.SP_STATE]
        touched = pages[
            (vm.tables[pages] != spte.POISON).any(axis=1) | (described != spte.POISON).any(axis=1)
        ]
        problems += [
            f"{len(touched)} freed table pages or their records were written to; the first is page"
            f" {int(page)}"
            for page in touched[:1]
        ]
    linked = snapshot.pages()
    dead = linked[states[linked] != at.SP_LINKED]
    problems += [
        f"{len(dead)} tables are linked although they were removed; the first is page {int(page)}"
        for page in dead[:1]
    ]
    return problems
