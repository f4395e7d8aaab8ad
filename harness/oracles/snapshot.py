"""The page tables as they stand when nobody runs: what audits look at.

Only a quiescent VM is read (every actor between two phases).  Holes of the block are never read:
reading a hole of a memfd would back it with memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmu import spte
from mmu.machine import layout as at
from mmu.machine.cpu import Words
from mmu.machine.memory import WORD_BYTES
from mmu.tdp_iter import ROOT_LEVEL_BITS
from mmu.vm import Vm

Mask = npt.NDArray[np.bool_]

CHUNK_TABLES = 4096  # 16 MiB of entries at a time


@dataclass(frozen=True)
class Leafs:
    """Present leafs of one level: gfn, value and word index of each (int64, shape (n,))."""

    level: int
    gfns: Words
    values: Words
    places: Words


@dataclass(frozen=True)
class Reached:
    """Tables of one level that are linked from roots: page numbers and first gfns."""

    level: int
    pages: Words
    gfns: Words
    parents: Words  # word index of the entry that links each; 0: a root
    roots: Words  # page of the root that each belongs to


@dataclass(frozen=True)
class Root:
    """A root on the list."""

    page: int
    level: int
    references: int
    invalid: bool
    scheduled: bool
    role: int = 0

    @property
    def handle(self) -> int:
        """What a vCPU that uses it has in its word."""
        return self.page << ROOT_LEVEL_BITS | self.level


class Snapshot:
    """Everything reachable from the VM's roots, valid and invalid ones."""

    def __init__(self, vm: Vm) -> None:
        self.vm = vm
        self.roots = list(listed_roots(vm))
        self.by_level: list[Reached] = []
        nothing = np.zeros(0, np.int64)
        above = Reached(at.LEVELS_MAX + 1, nothing, nothing, nothing, nothing)
        while above.level > 1:
            reached = self._with_roots(self._children(above))
            if len(reached.pages):
                self.by_level.append(reached)
            above = reached

    def _with_roots(self, reached: Reached) -> Reached:
        """The tables of a level, and the roots of that level."""
        pages = np.array([r.page for r in self.roots if r.level == reached.level], np.int64)
        zeros = np.zeros(len(pages), np.int64)
        return Reached(
            reached.level,
            np.concatenate([pages, reached.pages]),
            np.concatenate([zeros, reached.gfns]),
            np.concatenate([zeros, reached.parents]),
            np.concatenate([pages, reached.roots]),
        )

    def pages(self) -> Words:
        """All linked table pages, roots included."""
        nothing = np.zeros(0, np.int64)
        return np.concatenate([nothing, *(each.pages for each in self.by_level)])

    def entries(self, reached: Reached) -> Iterator[tuple[Words, Words, Words]]:
        """(gfns, values, word indices) of a level's entries, some thousand tables at a time."""
        bits = self.vm.config.bits
        offsets = np.arange(1 << bits, dtype=np.int64)
        step = 1 << bits * (reached.level - 1)
        base = self.vm.layout.start("tables")
        for i in range(0, len(reached.pages), CHUNK_TABLES):
            pages = reached.pages[i : i + CHUNK_TABLES]
            gfns = reached.gfns[i : i + CHUNK_TABLES, None] + offsets * step
            places = base + (pages[:, None] << bits) + offsets
            yield gfns.ravel(), self.vm.tables[pages].ravel(), places.ravel()

    def leafs(self) -> Iterator[Leafs]:
        """Present leafs, level by level, in chunks."""
        for reached in self.by_level:
            for gfns, values, places in self.entries(reached):
                mask = present(values) & leaf(values, reached.level)
                if mask.any():
                    yield Leafs(reached.level, gfns[mask], values[mask], places[mask])

    def _children(self, reached: Reached) -> Reached:
        level = reached.level - 1
        pages, first, parents, roots = [], [], [], []
        done = 0
        for gfns, values, places in self.entries(reached):
            mask = present(values) & ~leaf(values, reached.level)
            pages.append((values[mask] >> spte.PFN_SHIFT) & spte.PFN_MASK)
            first.append(gfns[mask])
            parents.append(places[mask])
            tables = np.flatnonzero(mask) // (1 << self.vm.config.bits)
            roots.append(reached.roots[done + tables])
            done += CHUNK_TABLES
        empty = [np.zeros(0, np.int64)]
        return Reached(
            level, *(np.concatenate(each or empty) for each in (pages, first, parents, roots))
        )


def listed_roots(vm: Vm) -> Iterator[Root]:
    """The roots on the list, in its order; it ends where it leads back to itself."""
    handle = int(vm.words[at.ROOTS])
    seen: set[int] = set()
    while handle and handle not in seen:
        seen.add(handle)
        page, level = handle >> ROOT_LEVEL_BITS, handle & 7
        row = records(vm)[page]
        yield Root(
            page,
            level,
            int(row[at.SP_ROOT_COUNT]),
            bool(row[at.SP_ROOT_INVALID]),
            bool(row[at.SP_ROOT_SCHEDULED]),
            int(row[at.SP_ROOT_ROLE]),
        )
        handle = int(row[at.SP_ROOT_NEXT])


def present(values: Words) -> Mask:
    """Mask of shadow-present entries."""
    mask: Mask = np.not_equal(values & spte.MMU_PRESENT, 0)
    return mask


def mmio(values: Words) -> Mask:
    """Mask of the entries that stand for a device's registers."""
    mask: Mask = np.equal(values & spte.RWX, spte.MMIO_VALUE)
    return mask


def leaf(values: Words, level: int) -> Mask:
    """Mask of leafs among present entries of `level`."""
    mask: Mask = np.not_equal(values & spte.PS, 0)
    return mask | (level == 1)


def backed(vm: Vm, name: str) -> Iterator[tuple[int, Words]]:
    """(offset, words) of the parts of a region that memory stands behind."""
    region = vm.layout.regions[name]
    at_byte, end = region.start * WORD_BYTES, region.end * WORD_BYTES
    while at_byte < end:
        try:
            data = os.lseek(vm.block.descriptor, at_byte, os.SEEK_DATA)
        except OSError:  # ENXIO: only holes from here on
            return
        hole = os.lseek(vm.block.descriptor, data, os.SEEK_HOLE)
        first = max(data // WORD_BYTES, region.start)
        last = min(hole // WORD_BYTES, region.end)
        if first < last:
            yield first - region.start, vm.words[first:last]
        at_byte = hole


def records(vm: Vm) -> Words:
    """The table pages' records as rows."""
    rows: Words = vm.region("records").reshape(-1, at.RECORD_WORDS)
    return rows
