"""tlb: no vCPU can use what was taken away: a flush is owed until every one has done it.

While the run goes on, a stale translation shows as an access of a frame that is not the gfn's
(mapping) or a write that nobody noticed (dirty).  At rest every cached translation is compared
with the tables: it may grant no more than these, unless the vCPU still has to serve a flush.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.oracles.snapshot import Snapshot
from mmu import spte
from mmu.hw.tlb import GENERATION_BITS, GENERATION_MASK, STRUCTURES
from mmu.machine import layout as at
from mmu.machine.cpu import Words
from mmu.memslots import STATE_BITS, STATE_MASK
from mmu.vm import Vm

NAME = "tlb"
PROPERTY = "no cached translation, of a page or a table, grants more than the tables do"
IN_STRESS = "by mapping and dirty; audit"

RIGHTS = spte.RWX


def audit(snapshot: Snapshot) -> list[str]:
    """Cached translations that nobody will flush."""
    vm = snapshot.vm
    problems = []
    for vcpu in range(vm.config.vcpus):
        words = vm.actor_words(vcpu)
        if int(words[at.FLUSH_BLOCK]) or int(words[at.REQUEST]) != int(words[at.REQUEST_SEEN]):
            continue  # it serves a request before it runs guest code again
        if not int(words[at.VCPU_ROOT]):
            continue  # it begins with empty caches on its next root
        for level, gfn, cached in _cached(vm, words):
            now = _translation(vm, int(words[at.VCPU_ROOT]), gfn, level)
            if now != (cached, RIGHTS) if level == STRUCTURES else not _covers(now, cached):
                what = "a table" if level == STRUCTURES else f"level {level}"
                problems.append(
                    f"vCPU {vcpu} caches {cached:#x} for gfn {gfn:#x} ({what}), "
                    f"the tables say {now[0]:#x}"
                )
                break
    return problems


def _covers(now: tuple[int, int], cached: int) -> bool:
    """The same frame, and every right that is cached."""
    entry, rights = now
    same = entry >> spte.PFN_SHIFT & spte.PFN_MASK == cached >> spte.PFN_SHIFT & spte.PFN_MASK
    return bool(entry) and same and cached & RIGHTS & ~rights == 0


def _cached(vm: Vm, words: Words) -> Iterator[tuple[int, int, int]]:
    """(level or STRUCTURES, first gfn, value) of everything that a vCPU's caches hold."""
    generation = int(words[at.TLB_GENERATION])
    for number in range(1, STRUCTURES + 1):
        first, end = (int(vm.words[at.C_TLB + number - 1 + i]) for i in (0, 1))
        shift = vm.config.bits * ((2 if number == STRUCTURES else number) - 1)
        for tag, value in words[first:end].reshape(-1, 2):
            if int(value) and int(tag) & GENERATION_MASK == generation:
                yield number, int(tag) >> GENERATION_BITS << shift, int(value)


def _usable_rights(vm: Vm, gfn: int, level: int, value: int) -> int:
    """What a cached translation of a leaf may grant.

    Ageing takes permissions and never flushes, where there are no A bits to take; so what it took
    may still be cached.  W too, unless the page's next write is to be noticed.
    """
    rights = value & RIGHTS
    if not value & spte.AD_DISABLED:
        return rights
    if not rights:
        rights = value >> spte.SAVED_SHIFT & (spte.SPTE_R | spte.SPTE_X)
    pages = 1 << vm.config.bits * (level - 1)
    if value & spte.MMU_WRITABLE and not _awaits_write(vm, gfn // pages * pages, pages):
        rights |= spte.SPTE_W
    return rights


def _awaits_write(vm: Vm, first: int, pages: int) -> bool:
    """Whether dirty logging waits for a write of one of these pages: no log names it yet."""
    for number in range(vm.config.slots):
        slot = vm.layout.start("slots") + number * at.SLOT_WORDS
        place, size, logged = (
            int(vm.words[slot + each]) for each in (at.SLOT_PLACE, at.SLOT_PAGES, at.SLOT_LOGGED)
        )
        base = place >> STATE_BITS
        if logged and place & STATE_MASK != at.SLOT_ABSENT and base <= first < base + size:
            bitmap = vm.region(f"bitmap {number}")
            return any(
                not int(bitmap[page // at.BITMAP_BITS]) >> page % at.BITMAP_BITS & 1
                for page in range(first - base, min(first - base + pages, size))
            )
    return False


def _translation(vm: Vm, root: int, gfn: int, level: int) -> tuple[int, int]:
    """What the tables say of a gfn: a leaf's value and rights at `level`, or its level-1 table."""
    table, at_level = root >> 3, root & 7
    bits = vm.config.bits
    while root and at_level > 0:
        if level == STRUCTURES and at_level == 1:
            return vm.layout.start("tables") + (table << bits), RIGHTS
        value = int(vm.tables[table, gfn >> bits * (at_level - 1) & ((1 << bits) - 1)])
        if not value & spte.MMU_PRESENT:
            break
        if at_level == 1 or value & spte.PS:
            offset = gfn & ((1 << bits * (at_level - 1)) - 1)
            return value + (offset << spte.PFN_SHIFT), _usable_rights(vm, gfn, at_level, value)
        table, at_level = value >> spte.PFN_SHIFT & spte.PFN_MASK, at_level - 1
    return 0, 0
