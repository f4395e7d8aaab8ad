"""The words that torture's actors share: the gate that stops all vCPUs, counts, what was touched.

Offsets from C_WORKLOAD.  The gate is a lock word: a vCPU holds it shared while it runs, whoever
wants all of them at rest asks, and takes it exclusively.
"""

from __future__ import annotations

from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import C_WORKLOAD, LINE
from mmu.machine.primitives import config, count, hint, set_hint

GATE = 0
# Of the gate's line, behind its lock words.
WANTED = 5  # somebody wants the vCPUs at rest
ALIVE = 6  # how many vCPUs have work, be they at rest or not

# How often each thing was done.
COUNTED = (
    "swapped out",
    "moved",
    "write-protected by the host",
    "huge pages split by the host",
    "huge pages collapsed by the host",
    "pages looked at for age",
    "NX recoveries",
    "gfns tracked",
    "memslots created",
    "memslots moved",
    "roots loaded",
    "pages prefaulted",
    "accesses of holes",
    "migrations",
    "migration rounds",
    "turns of vCPUs",
)
(
    SWAPPED,
    MOVED,
    PROTECTED,
    HUGE_SPLIT,
    HUGE_COLLAPSED,
    PAGES_AGED,
    NX_RECOVERIES,
    TRACKED,
    SLOTS_CREATED,
    SLOTS_MOVED,
    ROOTS_LOADED,
    PREFAULTED,
    HOLES,
    MIGRATIONS,
    ROUNDS,
    TURNS,
) = range(LINE, LINE + len(COUNTED))
# Pages that a vCPU has touched, some hundred accesses apart: the last few of each.
RECENT = 4 * LINE
RECENT_PAGES = 2 * LINE


def words_needed(vcpus: int, pages: int) -> int:
    """The region: the fixed part, what was touched, and the migration's copy of the memory."""
    return copy_offset(vcpus) + pages


def copy_offset(vcpus: int) -> int:
    """Where the migration's copy lies: one value a page."""
    return RECENT + vcpus * RECENT_PAGES


@kernel
def book(cpu: Cpu, what: int, times: int) -> None:
    """Something was done."""
    if times != 0:
        count(cpu, config(cpu, C_WORKLOAD) + what, times)


@kernel
def note_touched(cpu: Cpu, turn: int, page: int) -> None:
    """This vCPU has touched the page just now: for whoever looks for pages in use."""
    place = RECENT + cpu.id * RECENT_PAGES + turn % RECENT_PAGES
    set_hint(cpu, config(cpu, C_WORKLOAD) + place, page)


@kernel
def touched_page(cpu: Cpu, vcpu: int, which: int) -> int:
    """A page that the vCPU touched a moment ago."""
    place = RECENT + vcpu * RECENT_PAGES + which % RECENT_PAGES
    return hint(cpu, config(cpu, C_WORKLOAD) + place)
