"""One VM: its options, its shared block, and the views that set-up, audits and tests use."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmu.machine import layout as at
from mmu.machine.clock import ticks_per_ns
from mmu.machine.cpu import Cpu, Observer, Words
from mmu.machine.layout import Layout, Shape
from mmu.machine.memory import SharedBlock
from mmu.policy import FLUSH, HUGE_SPLIT

GFN_BASE = 1 << 20  # 4 GiB, a multiple of 1G: where the test region of the selftests would go
ROOT_PAGE = 1  # page 0 is "none"


@dataclass(frozen=True)
class VmConfig:
    """What a VM is made of.  Sizes in 4K pages; times in the unit of their name."""

    vcpus: int
    pages: int
    helpers: int = 1  # actors that are no vCPUs: the VMM's thread, a trace reader
    slots: int = 1
    backing_level: int = 1
    huge_split: str = "eager"  # as the kernel's default: eager_page_split=Y
    pml: bool = True
    nx_huge_pages: bool = True
    flush: str = "range"
    tick_ms: float = 4.0
    quiet_us: float = 100.0
    sample: int = 64  # one fault in `sample` is timed (a power of two), 0: none
    gfn_base: int = GFN_BASE
    bits: int = 9
    levels: int = 4
    tlb_bits: tuple[int, int, int, int] = (10, 8, 4, 6)
    pml_size: int = 512
    workload_words: int = 0

    @property
    def actors(self) -> int:
        """Everybody."""
        return self.vcpus + self.helpers

    def shape(self) -> Shape:
        """Where things lie."""
        return Shape(
            actors=self.actors,
            vcpus=self.vcpus,
            table_pages=self.table_pages(),
            gfn_base=self.gfn_base,
            gfn_count=self.pages,
            slots=self.memslots(),
            bits=self.bits,
            levels=self.levels,
            tlb_bits=self.tlb_bits,
            pml_size=self.pml_size,
            histograms=self.sample > 0,
            workload_words=self.workload_words,
        )

    def memslots(self) -> tuple[tuple[int, int], ...]:
        """Equal slots over the memory, in order."""
        each = self.pages // self.slots
        return tuple((self.gfn_base + i * each, each) for i in range(self.slots))

    def table_pages(self) -> int:
        """Enough to map everything at 4K, and for every cache to be full."""
        first, last = self.gfn_base, self.gfn_base + self.pages - 1
        tables = sum(
            (last >> self.bits * level) - (first >> self.bits * level) + 1
            for level in range(1, self.levels)
        )
        return tables + 2 + self.actors * at.TABLE_CACHE_MAX


class Vm:
    """A VM in shared memory.

    Attributes:
        config, layout: what it is made of, where things lie.
        words: the block (int64, shape (words,)).
        tables: the page-table pages (int64, shape (pages, entries)).
        frames: the guest's memory, one word a frame (int64, shape (frames,)).
    """

    def __init__(self, config: VmConfig) -> None:
        self.config = config
        self.layout = Layout(config.shape())
        self.block = SharedBlock(self.layout.words)
        self.words: Words = self.block.words
        self.tables = self.region("tables").reshape(-1, 1 << config.bits)
        self.frames = self.region("frames")
        self._write_config()
        self._write_slots()
        self._create_root()

    def region(self, name: str) -> Words:
        """View of a region of the layout."""
        region = self.layout.regions[name]
        return self.words[region.start : region.end]

    def actor_words(self, actor: int) -> Words:
        """View of an actor's own block."""
        start = self.layout.actor(actor)
        return self.words[start : start + self.layout.actor_stride]

    def cpu(
        self, actor: int, *, hook: int = 0, ctx: int = 0, observer: Observer | None = None
    ) -> Cpu:
        """The actor's view of this VM."""
        return Cpu(
            self.words,
            actor=actor,
            own=self.layout.actor(actor),
            geometry=self.config.bits | self.config.levels << 8,
            hook=hook,
            ctx=ctx,
            observer=observer,
        )

    def close(self) -> None:
        """Give the memory back (this process' part of it)."""
        empty = np.zeros(0, np.int64)
        self.words = self.frames = empty
        self.tables = empty.reshape(0, 1)
        self.block.close()

    def _write_config(self) -> None:
        config, layout, words = self.config, self.layout, self.words
        ticks_per_us = ticks_per_ns() * 1e3
        words[at.C_MAGIC] = at.MAGIC
        words[at.C_WORDS] = layout.words
        words[at.C_ACTORS] = config.actors
        words[at.C_VCPUS] = config.vcpus
        words[at.C_ACTOR_BASE] = layout.start("actors")
        words[at.C_ACTOR_STRIDE] = layout.actor_stride
        words[at.C_TABLES] = layout.start("tables")
        words[at.C_TABLE_PAGES] = layout.shape.table_pages
        words[at.C_RECORDS] = layout.start("records")
        words[at.C_POOL] = layout.start("pool")
        words[at.C_FRAMES] = layout.start("frames")
        huge = 1 << 2 * config.bits
        words[at.C_FRAME_PFN] = -(-layout.shape.table_pages // huge) * huge
        words[at.C_FRAME_COUNT] = layout.regions["frames"].words
        words[at.C_MAPPING] = layout.start("mapping")
        words[at.C_MARKS] = layout.start("marks")
        words[at.C_NEWEST] = layout.start("newest")
        words[at.C_GFN_BASE] = config.gfn_base
        words[at.C_GFN_COUNT] = config.pages
        words[at.C_SLOTS] = layout.start("slots")
        words[at.C_SLOT_COUNT] = config.slots
        sizes = np.cumsum([0, *(2 << bits for bits in config.tlb_bits)])
        words[at.C_TLB : at.C_TLB_END + 1] = layout.tlb_offset + sizes
        words[at.C_TLB_BITS_4K : at.C_TLB_BITS_PSC + 1] = config.tlb_bits
        words[at.C_PML] = layout.pml_offset
        words[at.C_PML_SIZE] = config.pml_size
        words[at.C_HISTOGRAMS] = layout.histogram_offset if config.sample else 0
        words[at.C_SAMPLE_MASK] = config.sample - 1
        words[at.C_QUIET_CYCLES] = int(config.quiet_us * ticks_per_us)
        words[at.C_TICK_CYCLES] = int(config.tick_ms * 1e3 * ticks_per_us)
        words[at.C_HUGE_SPLIT] = HUGE_SPLIT[config.huge_split]
        words[at.C_USE_PML] = int(config.pml)
        words[at.C_NX_HUGE_PAGES] = int(config.nx_huge_pages)
        words[at.C_FLUSH_RANGE] = FLUSH[config.flush]
        words[at.C_WORKLOAD] = layout.start("workload")
        words[at.C_BACKING_LEVEL] = config.backing_level
        for actor in range(config.actors):
            words[layout.actor(actor) + at.TLB_GENERATION] = 1

    def _write_slots(self) -> None:
        for number, (base, pages) in enumerate(self.config.memslots()):
            slot = self.layout.start("slots") + number * at.SLOT_WORDS
            self.words[slot + at.SLOT_BASE] = base
            self.words[slot + at.SLOT_PAGES] = pages
            self.words[slot + at.SLOT_BITMAP] = self.layout.start(f"bitmap {number}")
            self.words[slot + at.SLOT_HARVEST] = self.layout.start(f"harvest {number}")

    def _create_root(self) -> None:
        record = self.layout.start("records") + ROOT_PAGE * at.RECORD_WORDS
        self.words[record + at.SP_LEVEL] = self.config.levels
        self.words[record + at.SP_LINKED] = 1
        self.words[at.POOL_FRESH] = ROOT_PAGE + 1
        self.words[at.ROOT] = self.layout.start("tables") + (ROOT_PAGE << self.config.bits)
