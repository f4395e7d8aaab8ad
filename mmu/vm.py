"""One VM: its options, its shared block, and the views that set-up, audits and tests use."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmu.host.frames import MARK_SPLIT, NOBODY
from mmu.machine import layout as at
from mmu.machine.clock import ticks_per_ns
from mmu.machine.cpu import Cpu, Observer, Words
from mmu.machine.memory import SharedBlock
from mmu.machine.regions import Layout, Shape
from mmu.memslots import STATE_BITS
from mmu.policy import DIRTY_LOG_MODE, FLUSH, HUGE_SPLIT, ROOT_LIFE, ZAP_BY, ZAP_STEPS

GFN_BASE = 1 << 20  # 4 GiB, a multiple of 1G: where the test region of the selftests would go
FIRST_PAGE = 1  # table page 0 is "none"
RCU_BATCH = 2048  # removed tables that an actor keeps at most: 8 MiB


@dataclass(frozen=True)
class VmConfig:
    """What a VM is made of.  Sizes in 4K pages; times in the unit of their name."""

    vcpus: int
    pages: int
    helpers: int = 1  # actors that are no vCPUs: the VMM's thread, the host, the zap worker
    slots: int = 1
    absent_slots: int = 0  # ... of these, the last ones are nowhere at first
    slot_pages: tuple[int, ...] = ()  # sizes of the slots, in order; (): all equal
    aliases: bool = False  # every slot shows all of the memory, one behind the other
    roots: int = 1  # that may map everything at 4K at the same time
    spare_frames: int = 0  # free frames of the host, without which its mappings never change
    backing_level: int = 1
    huge_split: str = "eager"  # as the kernel's default: eager_page_split=Y
    ad: bool = True  # the hardware keeps A and D bits; without them there is no PML either
    pml: bool = True
    dirty_log_mode: str = "get"
    write_tracking: bool = False  # somebody may want to see the writes of single gfns
    nx_huge_pages: bool = True
    flush: str = "range"
    root_life: str = "put"
    zap_by: str = "caller"  # `worker` needs an actor that is one
    zap_steps: str = "1g"
    rcu_batch: int = RCU_BATCH
    tick_ms: float = 4.0
    quiet_us: float = 100.0
    sample: int = 64  # one fault in `sample` is timed (a power of two), 0: none
    gfn_base: int = GFN_BASE
    bits: int = 9
    levels: int = 4
    levels_max: int = 0  # of roots that the guest may choose besides; 0: none has more
    tlb_bits: tuple[int, int, int, int] = (10, 8, 4, 6)
    pml_size: int = 512
    workload_words: int = 0

    @property
    def actors(self) -> int:
        """Everybody."""
        return self.vcpus + self.helpers

    @property
    def window(self) -> int:
        """gfns that differ by a multiple of it may be places of one host page."""
        return 1 << max(self.pages - 1, 1).bit_length()

    @property
    def gfns(self) -> int:
        """From the first that a slot shows at the beginning to the last."""
        return (self.slots - 1) * self.window + self.pages if self.aliases else self.pages

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
            spare_frames=self.spare_frames,
            tlb_bits=self.tlb_bits,
            pml_size=self.pml_size,
            histograms=self.sample > 0,
            workload_words=self.workload_words,
            write_tracking=self.write_tracking,
        )

    def memslots(self) -> tuple[tuple[int, int], ...]:
        """(first gfn of its memory, pages) of each slot; they divide the memory, in order."""
        if self.aliases:
            return ((self.gfn_base, self.pages),) * self.slots
        sizes = self.slot_pages or (self.pages // self.slots,) * self.slots
        first = (self.gfn_base + sum(sizes[:i]) for i in range(self.slots))
        return tuple(zip(first, sizes, strict=True))

    def table_pages(self) -> int:
        """Enough for `roots` to map everything at 4K, for full caches, for what waits for RCU."""
        first, last = self.gfn_base, self.gfn_base + self.gfns - 1
        tables = sum(
            (last >> self.bits * level) - (first >> self.bits * level) + 1
            for level in range(1, at.LEVELS_MAX)
        )
        waiting = self.actors * (self.rcu_batch + tables)
        return (tables + 1) * self.roots + waiting + 1 + self.actors * at.TABLE_CACHE_MAX


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
        self._write_host()

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
        words[at.C_AD_BITS] = int(config.ad)
        words[at.C_USE_PML] = int(config.ad and config.pml)
        words[at.C_DIRTY_LOG_MODE] = DIRTY_LOG_MODE[config.dirty_log_mode]
        words[at.C_NX_HUGE_PAGES] = int(config.nx_huge_pages)
        words[at.C_FLUSH_RANGE] = FLUSH[config.flush]
        words[at.C_WORKLOAD] = layout.start("workload")
        words[at.C_BACKING_LEVEL] = config.backing_level
        words[at.C_GFN_MASK] = config.window - 1
        words[at.C_RCU_BATCH] = config.rcu_batch
        words[at.C_ROOT_LIFE] = ROOT_LIFE[config.root_life]
        words[at.C_ZAP_BY] = ZAP_BY[config.zap_by]
        words[at.C_ZAP_STEPS] = ZAP_STEPS[config.zap_steps]
        words[at.C_FREE_FRAMES] = layout.start("free frames")
        words[at.C_DISK] = layout.start("disk")
        words[at.C_WRITE_TRACKED] = layout.start("write tracked") if config.write_tracking else 0
        words[at.USERS] = 1
        words[at.POOL_FRESH] = FIRST_PAGE
        for actor in range(config.actors):
            words[layout.actor(actor) + at.TLB_GENERATION] = 1

    def _write_slots(self) -> None:
        for number, (base, pages) in enumerate(self.config.memslots()):
            slot = self.layout.start("slots") + number * at.SLOT_WORDS
            absent = number >= self.config.slots - self.config.absent_slots
            state = at.SLOT_ABSENT if absent else at.SLOT_PRESENT
            place = base + number * self.config.window if self.config.aliases else base
            self.words[slot + at.SLOT_PLACE] = place << STATE_BITS | state
            self.words[slot + at.SLOT_HOME] = base
            self.words[slot + at.SLOT_PAGES] = pages
            self.words[slot + at.SLOT_BITMAP] = self.layout.start(f"bitmap {number}")
            self.words[slot + at.SLOT_HARVEST] = self.layout.start(f"harvest {number}")

    def _write_host(self) -> None:
        """The spare frames are nobody's, each a page of its own, and lie on the host's stack."""
        first, spare = self.config.pages, self.config.spare_frames
        if spare:
            numbers = np.arange(first, first + spare, dtype=np.int64)
            self.frames[first:] = NOBODY ^ numbers
            self.region("marks")[first:] = MARK_SPLIT
            self.region("free frames")[:spare] = numbers[::-1]
            self.words[at.HOST_FREE_TOP] = spare
