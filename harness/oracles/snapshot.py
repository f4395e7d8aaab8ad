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
from mmu.vm import ROOT_PAGE, Vm

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
    """Tables of one level that are linked from the root: page numbers and first gfns."""

    level: int
    pages: Words
    gfns: Words
    parents: Words  # word index of the entry that links each


class Snapshot:
    """Everything reachable from the VM's root."""

    def __init__(self, vm: Vm) -> None:
        self.vm = vm
        self.by_level: list[Reached] = []
        zero = np.zeros(1, np.int64)
        reached = Reached(vm.config.levels, np.array([ROOT_PAGE]), zero, zero)
        while reached.level > 0 and len(reached.pages):
            self.by_level.append(reached)
            reached = self._children(reached)

    def pages(self) -> Words:
        """All linked table pages, the root included."""
        return np.concatenate([each.pages for each in self.by_level])

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
        pages, first, parents = [], [], []
        if level > 0:
            for gfns, values, places in self.entries(reached):
                mask = present(values) & ~leaf(values, reached.level)
                pages.append((values[mask] >> spte.PFN_SHIFT) & spte.PFN_MASK)
                first.append(gfns[mask])
                parents.append(places[mask])
        empty = [np.zeros(0, np.int64)]
        return Reached(
            level,
            np.concatenate(pages or empty),
            np.concatenate(first or empty),
            np.concatenate(parents or empty),
        )


def present(values: Words) -> Mask:
    """Mask of shadow-present entries."""
    mask: Mask = np.not_equal(values & spte.MMU_PRESENT, 0)
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
