"""Where every shared word lives: one table, one allocator, no number typed twice.

Constants here are of three kinds.  *Header words* have fixed places, since kernels need them
before they know anything; each that several actors write has a cache line of its own (a
statistic on the lock's line costs a third of the throughput at 96 vCPUs).  *Offsets* are places
inside a record: an actor's block, a table's record, a memslot.  *Regions* (tables, frames,
bitmaps, ...) depend on the run's options: `Layout` places them, and their starts are header words
(`C_*`) that never change after set-up, because a compiled kernel freezes Python constants.

Names are unpacked from consecutive ranges, so two of them cannot overlap; regions are checked.
"""

from __future__ import annotations

from dataclasses import dataclass, field

LINE = 8  # words per cache line
ENTRIES_MAX = 512
LEVELS_MAX = 5
ACTORS_MAX = 4096  # the request walk and the 12-bit actor number in violation records

# --- Header: constants of the run (config), words 0 to 63 --------------------------------------

(
    C_MAGIC,
    C_WORDS,  # size of the block
    C_ACTORS,  # how many
    C_VCPUS,  # the first of them are vCPUs
    C_ACTOR_BASE,
    C_ACTOR_STRIDE,
    C_TABLES,  # page 0 of the page-table pages (never used: 0 means "none")
    C_TABLE_PAGES,
    C_RECORDS,
    C_POOL,  # the host's stack of free table pages
    C_FRAMES,
    C_FRAME_PFN,  # pfn of the first frame: behind the tables', aligned as a huge page
    C_FRAME_COUNT,
    C_MAPPING,
    C_MARKS,
    C_NEWEST,
    C_GFN_BASE,
    C_GFN_COUNT,
    C_SLOTS,
    C_SLOT_COUNT,
    C_TLB,  # offsets in an actor's block: 4K, 2M, 1G, paging structures, end
    C_TLB_2M,
    C_TLB_1G,
    C_TLB_PSC,
    C_TLB_END,
    C_TLB_BITS_4K,  # log2 of the entries per page size, and of the paging-structure cache
    C_TLB_BITS_2M,
    C_TLB_BITS_1G,
    C_TLB_BITS_PSC,
    C_PML,  # offset in an actor's block
    C_PML_SIZE,
    C_HISTOGRAMS,  # offset in an actor's block, 0: none
    C_SAMPLE_MASK,  # a fault is timed when (number & mask) == mask; -1: never
    C_QUIET_CYCLES,
    C_TICK_CYCLES,
    C_HUGE_SPLIT,
    C_USE_PML,
    C_NX_HUGE_PAGES,
    C_FLUSH_RANGE,
    C_BACKING_LEVEL,
    C_WORKLOAD,  # words that the workload uses as it likes
    CONFIG_END,
) = range(42)

# --- Header: words that change, each group on lines of its own ---------------------------------

# A lock is a line: the word, its event count, its sleepers, finished exclusive phases, its owner.
GATE, SLEEPERS, PHASES, OWNER = range(1, 5)

_LINES = [64 + LINE * i for i in range(18)]
(
    MMU_LOCK,
    PAGES_LOCK,  # tdp_mmu_pages_lock: the possible-NX list
    SLOTS_LOCK,
    POOL_LOCK,  # the host's page allocator
    POOL,
    ROOT,
    STAT_PAGES_4K,  # kvm_stat pages_4k, pages_2m, pages_1g
    STAT_PAGES_2M,
    STAT_PAGES_1G,
    STAT_TABLES,  # tables linked below the root
    STAT_NX_SPLITS,
    NX_LIST,  # head of possible_nx_huge_pages (under PAGES_LOCK): a table page, 0 if empty
    LOGGING,  # nr_memslots_dirty_logging, where that switches PML on
    WAITERS,  # drain hint: how many wait for others right now
    STOP_WORD,  # the harness wants everybody to end
    FINISHED,  # how many actors finished the phase, with event count
    HEADER_BENCH,  # free for benchmarks of single words
    _HEADER_LAST,
) = _LINES
HEADER_WORDS = _HEADER_LAST + LINE
POOL_TOP = POOL  # how many pages the stack holds
POOL_FRESH = POOL + 1  # pages below this number were handed out at least once

# --- An actor's block ---------------------------------------------------------------------------

# Line 0, written by the vCPU, read by others: mode in the low bits, acknowledged request above.
VCPU_STATE = 0  # with GATE and SLEEPERS
# Line 1, written by others: what the vCPU is asked to do.
REQUEST, FLUSH_BLOCK = range(LINE, LINE + 2)
# Line 2: read-side announcement of RCU.
RCU_SECTION = 2 * LINE
# Line 3 and 4: what the actor tells the supervisor.
(
    WAITING_FOR,  # index of the word it sleeps for, 0 if it runs
    PHASE_FINISHED,
    PHASE_FINISHED_NS,
    WORK_DONE,  # position in the workload's phase
    PHASE_WORK,  # how much there is
    RANDOM,
    HELD,  # locks and sections held, bits of `mmu.machine.lock`
    RCU_BEGAN,
    TICK_BEGAN,
    QUIET_BEGAN,
) = range(3 * LINE, 3 * LINE + 10)
# Line 5: the first violation that this actor saw, and how many.
(
    VIOLATIONS,
    VIOLATION_CONDITION,
    VIOLATION_A,
    VIOLATION_B,
    VIOLATION_C,
) = range(5 * LINE, 5 * LINE + 5)
# Line 6: vCPU state that only the vCPU touches.
(
    VCPU_ROOT,
    REQUEST_SEEN,
    PML_INDEX,
    PML_PUBLISHED,
    PML_ON,
    TLB_GENERATION,
    SLOT_CACHED,
    FAULT_NUMBER,
) = range(6 * LINE, 7 * LINE)
# Lines 7 to 10: two iterators (an outer and an inner one).
ITERATOR_WORDS = 2 * LINE
ITERATOR, ITERATOR_INNER = 7 * LINE, 9 * LINE
# Lines 11 to 16: page-table pages kept for the next fault.
TABLE_CACHE_MAX = 40  # KVM_ARCH_NR_OBJS_PER_MEMORY_CACHE
TABLE_CACHE_COUNT = 11 * LINE
TABLE_CACHE = TABLE_CACHE_COUNT + 1
# Lines 17 to 24: counters.
COUNTERS = 17 * LINE
COUNTER_NAMES = (
    "accesses",  # guest accesses that completed
    "reads",
    "writes",
    "executes",
    "mmio_exits",
    "exits",
    "quiet_points",
    "pf_taken",
    "pf_fast",
    "pf_fixed",
    "pf_spurious",
    "pf_retry",
    "pf_execute",
    "tlb_misses_4k",
    "tlb_misses_2m",
    "tlb_misses_1g",
    "tlb_flush",
    "remote_tlb_flush",
    "remote_tlb_flush_requests",
    "pml_entries",
    "pml_full",
    "tables_allocated",
    "tables_linked",
    "splits_2m",
    "splits_1g",
    "huge_zapped",
    "cmpxchg_failed",
    "dirty_harvested",
    "dirty_cleared",
    "yields",
    "lock_read_contended",
    "lock_write_contended",
    "lock_read_wait_ticks",
    "lock_write_wait_ticks",
    "lock_read_wait_ticks_max",
    "lock_write_wait_ticks_max",
)
(
    N_ACCESSES,
    N_READS,
    N_WRITES,
    N_EXECUTES,
    N_MMIO_EXITS,
    N_EXITS,
    N_QUIET_POINTS,
    N_PF_TAKEN,
    N_PF_FAST,
    N_PF_FIXED,
    N_PF_SPURIOUS,
    N_PF_RETRY,
    N_PF_EXECUTE,
    N_TLB_MISSES_4K,
    N_TLB_MISSES_2M,
    N_TLB_MISSES_1G,
    N_TLB_FLUSH,
    N_REMOTE_FLUSH,
    N_REMOTE_FLUSH_REQUESTS,
    N_PML_ENTRIES,
    N_PML_FULL,
    N_TABLES_ALLOCATED,
    N_TABLES_LINKED,
    N_SPLITS_2M,
    N_SPLITS_1G,
    N_HUGE_ZAPPED,
    N_CMPXCHG_FAILED,
    N_DIRTY_HARVESTED,
    N_DIRTY_CLEARED,
    N_YIELDS,
    N_LOCK_READ_CONTENDED,
    N_LOCK_WRITE_CONTENDED,
    N_LOCK_READ_WAIT,
    N_LOCK_WRITE_WAIT,
    N_LOCK_READ_WAIT_MAX,
    N_LOCK_WRITE_WAIT_MAX,
) = range(COUNTERS, COUNTERS + len(COUNTER_NAMES))
COUNTERS_MAX_NAMES = ("lock_read_wait_ticks_max", "lock_write_wait_ticks_max")
# The supervisor's phase number for this actor, with GATE and SLEEPERS.
ACTOR_COMMAND = COUNTERS + 8 * LINE
ACTOR_FIXED_WORDS = ACTOR_COMMAND + LINE

# Latency histograms, one after the other at offset C_HISTOGRAMS.
HISTOGRAM_NAMES = ("fault", "vcpu_block", "rcu_section", "remote_flush", "mmu_lock_write")
H_FAULT, H_BLOCK, H_RCU_SECTION, H_FLUSH, H_WRITE_LOCK = range(len(HISTOGRAM_NAMES))
HISTOGRAM_SUB_BITS = 4  # 16 buckets per octave: 6 % wide
HISTOGRAM_WORDS = 48 << HISTOGRAM_SUB_BITS

# --- A page-table page's record (struct kvm_mmu_page), one line ----------------------------------

(
    SP_GFN,
    SP_LEVEL,
    SP_PARENT,  # word index of the entry that links it, 0 while unlinked
    SP_NX_DISALLOWED,
    SP_NX_NEXT,  # possible_nx_huge_pages, under PAGES_LOCK
    SP_NX_PREVIOUS,
    SP_LINKED,
    SP_GENERATION,
) = range(LINE)
RECORD_WORDS = LINE

# --- A memslot, one line -------------------------------------------------------------------------

(
    SLOT_BASE,  # first gfn
    SLOT_PAGES,
    SLOT_LOGGED,  # KVM_MEM_LOG_DIRTY_PAGES
    SLOT_BITMAP,  # word index
    SLOT_HARVEST,  # word index of the copy that GET_DIRTY_LOG returns
) = range(5)
SLOT_WORDS = LINE
BITMAP_BITS = 32  # pages per bitmap word: bit 63 would make words negative

MAGIC = 0x7D9_0001


@dataclass(frozen=True)
class Region:
    """A named run of words."""

    name: str
    start: int
    words: int

    @property
    def end(self) -> int:
        """The first word behind it."""
        return self.start + self.words


@dataclass(frozen=True)
class Shape:
    """What decides where things lie.  Sizes in entries, pages or frames, never bytes."""

    actors: int
    vcpus: int
    table_pages: int
    gfn_base: int
    gfn_count: int
    slots: tuple[tuple[int, int], ...]  # (first gfn, pages)
    bits: int = 9
    levels: int = 4
    spare_frames: int = 0
    tlb_bits: tuple[int, int, int, int] = (10, 8, 4, 6)  # 4K, 2M, 1G, paging structures
    pml_size: int = 512
    histograms: bool = True
    workload_words: int = 0


@dataclass
class Layout:
    """Every region of the block that `shape` asks for, in order, line-aligned, not overlapping."""

    shape: Shape
    regions: dict[str, Region] = field(default_factory=dict)
    words: int = HEADER_WORDS
    tlb_offset: int = 0
    pml_offset: int = 0
    histogram_offset: int = 0
    actor_stride: int = 0

    def __post_init__(self) -> None:
        shape = self.shape
        if not 1 <= shape.actors <= ACTORS_MAX:
            raise ValueError(f"{shape.actors} actors: 1 to {ACTORS_MAX} are possible")
        self.tlb_offset = ACTOR_FIXED_WORDS
        self.pml_offset = self.tlb_offset + sum(2 << bits for bits in shape.tlb_bits)
        self.histogram_offset = _aligned(self.pml_offset + shape.pml_size, LINE)
        histograms = len(HISTOGRAM_NAMES) * HISTOGRAM_WORDS if shape.histograms else 0
        # Odd multiples of a line, so that the hot lines of 96 actors spread over cache sets.
        self.actor_stride = _aligned(self.histogram_offset + histograms, 2 * LINE) + LINE
        frames = shape.gfn_count + shape.spare_frames
        self._place("actors", shape.actors * self.actor_stride)
        self._place("records", shape.table_pages * RECORD_WORDS)
        self._place("pool", shape.table_pages)
        self._place("workload", shape.workload_words)
        self._place("slots", len(shape.slots) * SLOT_WORDS)
        for number, (_, pages) in enumerate(shape.slots):
            self._place(f"bitmap {number}", bitmap_words(pages))
            self._place(f"harvest {number}", bitmap_words(pages))
        self._place("tables", shape.table_pages << shape.bits, align=ENTRIES_MAX)
        self._place("mapping", shape.gfn_count, align=ENTRIES_MAX)
        self._place("frames", frames, align=ENTRIES_MAX)
        self._place("marks", frames, align=ENTRIES_MAX)
        self._place("newest", shape.gfn_count, align=ENTRIES_MAX)
        self.words = _aligned(self.words, ENTRIES_MAX)
        check_regions(list(self.regions.values()), self.words)

    def _place(self, name: str, words: int, align: int = LINE) -> None:
        start = _aligned(self.words, align)
        self.regions[name] = Region(name, start, words)
        self.words = start + words

    def start(self, name: str) -> int:
        """First word of a region."""
        return self.regions[name].start

    def actor(self, number: int) -> int:
        """First word of an actor's block."""
        return self.start("actors") + number * self.actor_stride


def bitmap_words(pages: int) -> int:
    """Words of a dirty bitmap."""
    return -(-pages // BITMAP_BITS)


def check_regions(regions: list[Region], words: int) -> None:
    """Raise ValueError unless the regions lie in order behind the header and inside the block."""
    end = HEADER_WORDS
    for region in sorted(regions, key=lambda each: each.start):
        if region.start < end:
            raise ValueError(f"region {region.name!r} starts at {region.start}, before word {end}")
        end = region.end
    if end > words:
        raise ValueError(f"regions end at word {end}, the block has {words}")


def _aligned(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
