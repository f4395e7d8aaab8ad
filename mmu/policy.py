"""Run-time policies: behaviour that some kernel had on purpose.  Bugs never live here."""

from __future__ import annotations

# --huge-split: what a fault does with a huge page that must be mapped smaller.
SPLIT_ZAP = 0  # drop it, let every page fault again (before 6.2)
SPLIT_FAULT = 1  # split it in place
SPLIT_EAGER = 2  # as `fault`, and split everything when dirty logging starts

HUGE_SPLIT = {"zap": SPLIT_ZAP, "fault": SPLIT_FAULT, "eager": SPLIT_EAGER}
FLUSH = {"range": 1, "all": 0}
DIRTY_LOG_MODES = ("get",)

POLICIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "huge-split": (
        "a huge page that must be mapped smaller: drop it (before 6.2), split it when written or"
        " executed, or also split everything when dirty logging starts",
        tuple(HUGE_SPLIT),
    ),
    "flush": ("remote TLB flushes of a range, or always of everything", tuple(FLUSH)),
    "dirty-log-mode": ("get: KVM_GET_DIRTY_LOG returns the bitmap and clears it", DIRTY_LOG_MODES),
}
