"""Run-time policies: behaviour that some kernel had on purpose.  Bugs never live here."""

from __future__ import annotations

# --huge-split: what a fault does with a huge page that must be mapped smaller.
SPLIT_ZAP = 0  # drop it, let every page fault again (before 6.2)
SPLIT_FAULT = 1  # split it in place
SPLIT_EAGER = 2  # as `fault`, and split everything when dirty logging starts

# --root-life: how long a root lives.
LIFE_PUT = 0  # until its last user puts it (5.18)
LIFE_OWNED = 1  # until it is invalidated: the TDP MMU owns a reference too (6.4)

# --zap-by: who zaps a root that nobody may use any more.
ZAP_BY_CALLER = 0
ZAP_BY_WORKER = 1

# --zap-steps: the passes of a root's zap, and so how much goes between two yield checks.
STEPS_ROOT = 0
STEPS_1G = 1
STEPS_LEAFS_FIRST = 2
STEPS_4K_2M_1G = 3

HUGE_SPLIT = {"zap": SPLIT_ZAP, "fault": SPLIT_FAULT, "eager": SPLIT_EAGER}
ROOT_LIFE = {"put": LIFE_PUT, "owned": LIFE_OWNED}
ZAP_BY = {"worker": ZAP_BY_WORKER, "caller": ZAP_BY_CALLER}
ZAP_STEPS = {
    "1g": STEPS_1G,
    "root": STEPS_ROOT,
    "leafs-first": STEPS_LEAFS_FIRST,
    "4k-2m-1g": STEPS_4K_2M_1G,
}
FLUSH = {"range": 1, "all": 0}

# --dirty-log-mode: who clears the log, and where it begins.
LOG_GET = 0  # KVM_GET_DIRTY_LOG returns it and clears it
LOG_MANUAL = 1  # KVM_CLEAR_DIRTY_LOG clears what its caller names, 64 pages at least
LOG_INITIALLY_SET = 2  # ... and at first everything counts as written: nothing is protected

DIRTY_LOG_MODE = {"get": LOG_GET, "manual": LOG_MANUAL, "initially-set": LOG_INITIALLY_SET}

POLICIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "huge-split": (
        "a huge page that must be mapped smaller: drop it (before 6.2), split it when written or"
        " executed, or also split everything when dirty logging starts",
        tuple(HUGE_SPLIT),
    ),
    "root-life": (
        "a root lives until its last user puts it (5.18), or until it is invalidated, owned by"
        " the TDP MMU (6.4)",
        tuple(ROOT_LIFE),
    ),
    "zap-by": (
        "a root that nobody may use is zapped by a worker process (5.18), or by whoever dropped"
        " or invalidated it",
        tuple(ZAP_BY),
    ),
    "zap-steps": (
        "passes of a root's zap: 1G entries, then the rest (5.18); the root's entries (5.15);"
        " leafs, then the root's entries; 4K, 2M, 1G, then the rest (6.9)",
        tuple(ZAP_STEPS),
    ),
    "flush": ("remote TLB flushes of a range, or always of everything", tuple(FLUSH)),
    "dirty-log-mode": (
        "fetching the log clears it, or clearing is a call of its own (manual), or also everything"
        " counts as written at first (initially-set)",
        tuple(DIRTY_LOG_MODE),
    ),
}
