"""How much is too much: counts, each with its reason.  Wall time is judged by the watchdog only."""

from __future__ import annotations

# A fault that is sent back so often in a row has no chance any more.  Between two tries the vCPU
# gives up its core, but whoever makes it retry may wait for one for longer: a host thread that
# loses its core within an invalidation stops all faults there.  The longest row seen in clean runs
# (torture, 8 processes on 2 busy cores, 10 minutes) is 76,263; sixty times that is no bad luck.
FAULT_RETRIES_MAX = 5_000_000

# A root becomes invalid in the critical section that asks its vCPUs to reload.  A fault that finds
# it invalid under mmu_lock comes after that, so the vCPU reloads before it can fault again.
OBSOLETE_FAULTS_MAX = 1

# The range is set just after the count of invalidations, so a fault may meet the range of the one
# before: once where the first of several begins.  And one may end, and the next begin, between
# the look at the range and the look at why.  Each needs a sequence that has not grown: two at most.
ELSEWHERE_RETRIES_MAX = 2

# A fault that finds its entry as it has to be is followed by a walk that finds it, too.  Somebody
# else may take it away and a third one bring it back in between; a thousand times in a row, always
# just then, is no bad luck.
SPURIOUS_FAULTS_MAX = 1000


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
