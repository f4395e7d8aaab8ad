"""How much is too much: counts, each with its reason.  Wall time is judged by the watchdog only."""

from __future__ import annotations

# A fault that is sent back so often in a row has no chance any more.  Between two tries the vCPU
# gives up its core, so whoever makes it retry has had as many turns; the longest row seen in clean
# runs with a host that invalidates all the time, 96 vCPUs on 2 cores, is below 1,000.
FAULT_RETRIES_MAX = 100_000


def entries_between_checks_max(zap_steps: str, entries: int, regions: int) -> int:
    """Entries of removed tables between two yield checks that a policy promises, 0: no promise.

    `4k-2m-1g` removes tables that are empty, one at a time but for the last pass: an entry of a
    five-level root has a table with one more below it for each of the `regions` that a level-4
    entry maps.  `1g` also removes a 1G entry with the tables below it.  `root` and `leafs-first`
    remove all that a root's entry has: their harm is a figure, not a violation.
    """
    last_pass = entries * (1 + regions)
    promised = {"4k-2m-1g": last_pass, "1g": max(last_pass, entries + entries * entries)}
    return promised.get(zap_steps, 0)
