"""The host marks memory idle, page by page, and counts what was idle still and what was not there.

The selftest's threads write the host's idle page bitmap; each bit costs one age notifier or two.
"""

from __future__ import annotations

from mmu.guest import should_stop
from mmu.host_reclaim import MARKED_IDLE, NO_PFN, STILL_IDLE, mark_page_idle
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import C_WORKLOAD, WORK_DONE
from mmu.machine.primitives import config, own, peek, poke, set_own, yield_core

# Words of the workload: what the present pass has found, by what `mark_page_idle` returns.
FOUND = 0
FOUND_WORDS = 4
STEP = 256  # pages between two looks at whether to stop

assert {NO_PFN, STILL_IDLE, MARKED_IDLE} < set(range(FOUND_WORDS))


@kernel
def mark_idle_batch(cpu: Cpu, pages: int, limit: int) -> int:
    """Go on marking host pages [0, pages), at most `limit` of them; how many are left."""
    found = config(cpu, C_WORKLOAD) + FOUND
    done = own(cpu, WORK_DONE)
    end = min(pages, done + limit)
    while done < end and not should_stop(cpu):
        batch = min(end, done + STEP)
        while done < batch:
            word = found + mark_page_idle(cpu, done)
            poke(cpu, word, peek(cpu, word) + 1)
            done += 1
        yield_core(cpu)
    set_own(cpu, WORK_DONE, done)
    return pages - done
