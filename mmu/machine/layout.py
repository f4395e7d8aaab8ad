"""Where every shared word lives: one table, no number typed twice.

Constants here are of two kinds.  *Header words* have fixed places, since kernels need them
before they know anything; each that several actors write has a cache line of its own (a
statistic on the lock's line costs a third of the throughput at 96 vCPUs).  *Offsets* are places
inside a record: an actor's block, a table's record, a memslot.  Regions (tables, frames, bitmaps,
...) depend on the run's options: `mmu.machine.regions` places them, and their starts are header
words (`C_*`) that never change after set-up, because a compiled kernel freezes Python constants.

Names are unpacked from consecutive ranges, so two of them cannot overlap.
"""

from __future__ import annotations

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
    C_GFN_MASK,  # gfns that differ above it are other places of the same host page
    C_RCU_BATCH,  # removed tables that an actor keeps before it waits for readers
    C_ROOT_LIFE,
    C_ZAP_BY,
    C_ZAP_STEPS,
    C_FREE_FRAMES,  # the host's stack of free frames
    C_DISK,  # what the host has written back, one value per host page
    C_AD_BITS,  # the hardware keeps A and D bits
    C_DIRTY_LOG_MODE,
    C_WRITE_TRACKED,  # who is write-tracked (mmu/gfn_track.py); 0: nobody ever is
    CONFIG_END,
) = range(52)

# --- Header: words that change, each group on lines of its own ---------------------------------

# A lock is a line: the word, its event count, its sleepers, finished exclusive phases, its owner.
GATE, SLEEPERS, PHASES, OWNER = range(1, 5)

_LINES = [64 + LINE * i for i in range(26)]
(
    MMU_LOCK,
    PAGES_LOCK,  # tdp_mmu_pages_lock: the possible-NX list
    SLOTS_LOCK,
    POOL_LOCK,  # the host's page allocator
    POOL,
    HOST_LOCK,  # the host's mmap_lock: who changes mappings
    HOST,
    ROOTS,  # head of tdp_mmu_roots (RCU; writers under PAGES_LOCK)
    USERS,  # kvm->users_count: 0 while the VM dies
    ZAP_QUEUED,  # roots handed to the zap worker so far
    ZAP_FINISHED,  # ... and of these, those it has finished
    NOTIFIERS,  # mn_active_invalidate_count, in units of NOTIFIER_UNIT
    SLOTS_GENERATION,  # of the memslots: one more with every change of one
    INVALIDATE,
    STAT_PAGES_4K,  # kvm_stat pages_4k, pages_2m, pages_1g
    STAT_PAGES_2M,
    STAT_PAGES_1G,
    STAT_TABLES,  # tables linked below roots
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
NX_LAST = NX_LIST + 1  # the last of them
HOST_FREE_TOP = HOST  # how many free frames the host's stack holds
# Written under mmu_lock (write), read without it: the invalidations under way and their range.
INVALIDATE_SEQ, IN_PROGRESS, RANGE_START, RANGE_END = range(INVALIDATE, INVALIDATE + 4)

# --- An actor's block ---------------------------------------------------------------------------

# Line 0, written by the vCPU, read by others: mode in the low bits, acknowledged request above.
VCPU_STATE = 0  # with GATE and SLEEPERS
# Line 1, written by others: what the vCPU is asked to do.
REQUEST, FLUSH_BLOCK = range(LINE, LINE + 2)
# Line 2: RCU read sections entered and left so far: odd inside one.
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
# Line 17: removed tables that wait for readers, the role of the root to load, retries of a fault.
(
    DEFERRED,  # page number of the first, 0: none
    DEFERRED_COUNT,
    VISITED,  # entries of removed tables since the last yield check
    ROLE,  # of the vCPU's root: address space << 3 | level, 0 in it: the VM's level
    RETRIES,  # of the present fault, in a row
    CHECKED,  # when the last yield check was
    LOCKED_GFN,  # whose fault an invalidation sent back under mmu_lock last, and the sequence then
    LOCKED_SEQ,
) = range(17 * LINE, 17 * LINE + 8)
# Lines 18 and 19: where the removal of a table stands, a page and an index for each level.
REMOVED_PAGE = 18 * LINE
REMOVED_INDEX = 19 * LINE
# Lines 20 to 27: counters.
COUNTERS = 20 * LINE
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
    "tables_freed",
    "grace_periods",
    "roots_created",
    "roots_zapped",
    "roots_invalidated",
    "roots_freed",
    "sptes_zapped",
    "notifier_unmaps",
    "host_faults",
    "host_writebacks",
    "slots_changed",
    "entries_between_checks_max",
    "fault_retries_max",
    "pf_prefetched",  # pages that a prefault has mapped
    "pf_write_protected",  # writes emulated because somebody wants to see them
    "pf_mmio_spte_created",
    "mmio_spte_hits",  # accesses of a hole that needed no lookup of the memslots
    "sptes_aged",
    "nx_recovered",  # tables that made room for a huge page to be
    "huge_recovered",  # huge pages put together when logging ended
    "gfns_write_protected",
    "memory_faults",  # accesses that the host refuses
    "invalidations",  # that have ended
    "obsolete_faults_max",  # sent back by one invalid root without a reload
    "elsewhere_retries_max",  # sent back by an invalidation of other gfns, between two ends
    "spurious_faults_max",  # in a row, of an access that does not get done
    "locked_retries_max",  # sent back under mmu_lock by one invalidation
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
    N_TABLES_FREED,
    N_GRACE_PERIODS,
    N_ROOTS_CREATED,
    N_ROOTS_ZAPPED,
    N_ROOTS_INVALIDATED,
    N_ROOTS_FREED,
    N_SPTES_ZAPPED,
    N_NOTIFIER_UNMAPS,
    N_HOST_FAULTS,
    N_HOST_WRITEBACKS,
    N_SLOTS_CHANGED,
    N_BETWEEN_CHECKS_MAX,
    N_FAULT_RETRIES_MAX,
    N_PF_PREFETCHED,
    N_PF_WRITE_PROTECTED,
    N_PF_MMIO_SPTE_CREATED,
    N_MMIO_SPTE_HITS,
    N_SPTES_AGED,
    N_NX_RECOVERED,
    N_HUGE_RECOVERED,
    N_GFNS_WRITE_PROTECTED,
    N_MEMORY_FAULTS,
    N_INVALIDATIONS,
    N_OBSOLETE_MAX,
    N_ELSEWHERE_MAX,
    N_SPURIOUS_MAX,
    N_LOCKED_MAX,
) = range(COUNTERS, COUNTERS + len(COUNTER_NAMES))
COUNTERS_MAX_NAMES = tuple(name for name in COUNTER_NAMES if name.endswith("_max"))
# The supervisor's phase number for this actor, with GATE and SLEEPERS.
ACTOR_COMMAND = COUNTERS + 8 * LINE
# The host page that a vCPU's thread waits for its handler to install + 1 (userfaultfd), with GATE
# and SLEEPERS.
USERFAULT = ACTOR_COMMAND + LINE
# What the counts of progress go on with; private, and only written where something went wrong.
(
    OBSOLETE_FAULTS,  # since the root was loaded
    ELSEWHERE_SEQ,  # the sequence at which ELSEWHERE_RETRIES began
    ELSEWHERE_RETRIES,
    SPURIOUS_DONE,  # what was done when SPURIOUS_FAULTS began
    SPURIOUS_FAULTS,
    YIELDED_AT,  # gfn + 1 from which the present walk started last, 0: no walk yet
    YIELDED_AT_INNER,  # the same of the inner iterator
    LOCKED_RETRIES,  # by the invalidation of LOCKED_SEQ
) = range(USERFAULT + LINE, USERFAULT + LINE + 8)
ACTOR_FIXED_WORDS = USERFAULT + 2 * LINE

# Latency histograms, one after the other at offset C_HISTOGRAMS.
HISTOGRAM_NAMES = (
    "fault",
    "vcpu_block",
    "rcu_section",
    "remote_flush",
    "mmu_lock_write",
    "between_yield_checks",
    "zap_root",
    "root_drop",
)
(
    H_FAULT,
    H_BLOCK,
    H_RCU_SECTION,
    H_FLUSH,
    H_WRITE_LOCK,
    H_BETWEEN_CHECKS,
    H_ZAP_ROOT,
    H_ROOT_DROP,
) = range(len(HISTOGRAM_NAMES))
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
    SP_STATE,  # one of SP_FRESH ...
    SP_GENERATION,
) = range(LINE)
RECORD_WORDS = LINE
# A page's states: as the host gave it; linked; removed but perhaps still read; poisoned.
SP_FRESH, SP_LINKED, SP_REMOVED, SP_FREE = range(4)
# A root has no parent, no gfn and is on no NX list: the same words hold what only roots have.
SP_ROOT_ROLE = SP_GFN
SP_ROOT_COUNT = SP_PARENT
SP_ROOT_INVALID = SP_NX_DISALLOWED
SP_ROOT_NEXT = SP_NX_NEXT  # a root handle, 0: the last
SP_ROOT_SCHEDULED = SP_NX_PREVIOUS  # somebody is to zap it and owns a reference for that
# While a removed page waits for readers, who may stand on it: a root's link to the next must stay.
SP_DEFERRED_NEXT = SP_GFN

# --- A memslot, one line -------------------------------------------------------------------------

(
    SLOT_PLACE,  # first gfn << 2 | state: the only word that changes when a slot comes, goes, moves
    SLOT_HOME,  # first gfn of its host memory
    SLOT_PAGES,
    SLOT_LOGGED,  # KVM_MEM_LOG_DIRTY_PAGES
    SLOT_BITMAP,  # word index
    SLOT_HARVEST,  # word index of the copy that GET_DIRTY_LOG returns
) = range(6)
SLOT_WORDS = LINE
# INVALID: it is about to go or to move (KVM_MEMSLOT_INVALID), accesses must be tried again.
SLOT_ABSENT, SLOT_PRESENT, SLOT_INVALID = range(3)
BITMAP_BITS = 32  # pages per bitmap word: bit 63 would make words negative

MAGIC = 0x7D9_0001
