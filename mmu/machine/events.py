"""The vocabulary between the model and whoever watches it: steps, events, probes, verdicts.

An observer is one compiled callback ``hook(ctx, actor, kind, a, b, c) -> verdict`` that runs
*before* the step it announces.  For a step, ``a`` is the word's index and ``b``, ``c`` are the
operands.  Everything else uses the three operands as its own comment below says.

The numbers are part of stored event rings, so they are never renumbered.
"""

# Verdicts.  Draws and probes are answered with a number instead; STOP ends those too.
GO = 0
STOP = 1 << 62

# Steps: one access to one shared word each.
READ_ONCE = 1
WRITE_ONCE = 2
LOAD_ACQUIRE = 3
STORE_RELEASE = 4
XCHG = 5
CMPXCHG = 6
FETCH_ADD = 7
FETCH_OR = 8
FETCH_AND = 9
COUNT = 10  # an add whose result nobody uses: two of them commute
ACQUIRE = 11  # acquire_when: b = mask | value << 32, c = what is added
RELEASE = 12  # c = what is added
WAIT_WHILE = 13
PEEK = 14  # a step only for an observer who knows the page to be published
POKE = 15
STEP_LAST = 15
STEP_NAMES = {
    READ_ONCE: "read",
    WRITE_ONCE: "write",
    LOAD_ACQUIRE: "load_acquire",
    STORE_RELEASE: "store_release",
    XCHG: "xchg",
    CMPXCHG: "cmpxchg",
    FETCH_ADD: "fetch_add",
    FETCH_OR: "fetch_or",
    FETCH_AND: "fetch_and",
    COUNT: "count",
    ACQUIRE: "acquire",
    RELEASE: "release",
    WAIT_WHILE: "wait",
    PEEK: "peek",
    POKE: "poke",
}

# No steps: questions to the observer.
AGAIN = 32  # the attempt failed because of what it read, and starts over
DRAW = 33  # a = how many alternatives
PROBE = 34  # a = which probe
STOPPED = 35  # "shall this loop end?"
CLOCK = 37  # the time stamp counter, when somebody watches
BLOCK = 36  # about to sleep: a = the word waited for, b = the event count's value

# Probes: the places where KVM developers asked for fault injection.
PROBE_RETRY = 1  # is_page_fault_stale
PROBE_CMPXCHG = 2  # tdp_mmu_set_spte_atomic
PROBE_CONTEND = 3  # tdp_mmu_iter_cond_resched

# Tracepoints: kind = EMIT + event, with three values.  Named as the kernel's where one exists.
EMIT = 64
SPTE_CHANGED = 1  # sptep, old, new
PAGE_FAULT = 2  # gfn, access, result
TLB_FLUSH = 3  # first gfn, order (log2 pages), 1 if remote
DIRTY_LOG_RETURNED = 4  # first gfn, mask, slot
GUEST_ACCESS = 5  # gfn, access, frame
RCU_ENTER = 6
RCU_LEAVE = 7
TABLE_ALLOC = 8  # page
TABLE_FREE = 9  # page
SPLIT_HUGE_PAGE = 10  # gfn, level, result
PREPARE_ZAP = 11  # page of a removed table, gfn, level
ROOT_GET = 12  # page, references before
ROOT_PUT = 13  # page, references before
ZAP_ALL_FAST = 14
INVALIDATE_RANGE_START = 15  # first host page, end, whether a memslot shows them
INVALIDATE_RANGE_END = 16  # the same
FRAME_FREE = 17  # frame, gfn
ROOT_ZAPPED = 18  # page
MEMSLOT_CHANGED = 19  # slot, place: where it will be shown, and how (SLOT_PLACE)
DIRTY_LOG_CHANGED = 20  # slot, 1 if it will be logged
TRACK_WRITE = 21  # gfn, memslot: a write of a tracked gfn was emulated
# These are as many as steps: only who watches those hears of them.
FREQUENT = 1 << GUEST_ACCESS | 1 << RCU_ENTER | 1 << RCU_LEAVE

# Costs without a step: kind = COST + kind of cost, a = amount.
COST = 128
COST_EXIT = 1
COST_ACCESS = 2
COST_TABLE_ZERO = 3
COST_YIELD = 4

# The model's own assertions: kind = WARN + condition, a and b = values that explain it.
# Conditions are listed with their oracle in mmu/machine/conditions.py.
WARN = 256
