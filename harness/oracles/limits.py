"""How much is too much: counts, each with its reason.  Wall time is judged by the watchdog only."""

from __future__ import annotations

# A fault that is sent back so often in a row has no chance any more.  Between two tries the vCPU
# gives up its core, but whoever makes it retry may wait for one for longer: a host thread that
# loses its core within an invalidation stops all faults there.  The longest row seen in clean runs
# (torture, 8 processes on 2 busy cores, 10 minutes) is 76,263; sixty times that is no bad luck.
FAULT_RETRIES_MAX = 5_000_000


def entries_between_checks_max(zap_steps: str, entries: int, levels: int) -> int:
    """Entries of removed tables between two yield checks that a policy promises, 0: no promise.

    `4k-2m-1g` removes tables that are empty, so one table at a time; `1g` removes a 1G entry with
    the tables below it.  The last pass of both removes what is above: one table below a root of
    four levels, and below one of five (`levels`) also the tables that this one links.  `root` and
    `leafs-first` remove all that a root's entry has: their harm is a figure, not a violation.
    """
    above = sum(entries**n for n in range(1, levels - 2))
    steps = {"4k-2m-1g": entries, "1g": entries + entries * entries}
    return max(steps[zap_steps], above) if zap_steps in steps else 0
