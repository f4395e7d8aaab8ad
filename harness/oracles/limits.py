"""How much is too much: counts, each with its reason.  Wall time is judged by the watchdog only."""

from __future__ import annotations

# A fault that is sent back so often in a row has no chance any more.  Between two tries the vCPU
# gives up its core, so whoever makes it retry has had as many turns; the longest row seen in clean
# runs with a host that invalidates all the time, 96 vCPUs on 2 cores, is below 1,000.
FAULT_RETRIES_MAX = 100_000


def entries_between_checks_max(zap_steps: str, entries: int) -> int:
    """Entries of removed tables between two yield checks that a policy promises, 0: no promise.

    `4k-2m-1g` removes tables that are empty, so one table at a time; `1g` removes a 1G entry with
    the tables below it.  `root` and `leafs-first` remove all that a root's entry has: their harm is
    a figure, not a violation.
    """
    return {"4k-2m-1g": entries, "1g": entries + entries * entries}.get(zap_steps, 0)
