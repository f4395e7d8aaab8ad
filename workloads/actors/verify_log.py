"""The guest of dirty_log_test, and the words through which the monitor stops it.

The selftest's guest writes the number of the present iteration to pages.  A frame's word counts
writes instead, so the number goes to a word of the workload's own, one for each page, right after
the write.  The monitor reads these words, and counts iterations, only while the vCPU is stopped
between two writes: so a page's number is that of the period in which it was written last, and the
write, its trace in the log, and the number all lie between the same two stops.
"""

from __future__ import annotations

from mmu.guest import QUIET_ACCESSES, guest_access, quiet_due, quiet_point, should_stop
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import C_GFN_BASE, C_WORKLOAD, LINE, RANDOM, WORK_DONE
from mmu.machine.primitives import config, own, read_once, set_own, write_once
from mmu.spte import ACCESS_WRITE
from workloads.actors.memstress import RANDOM_SHIFT, next_random

# The workload's words, each on a line of its own: its event count and its sleepers lie behind it.
ITERATION = 0 * LINE  # the present one, from 1 on
STOPS_WANTED = 1 * LINE  # how often the monitor has asked the vCPU to stop
STOPS_MADE = 2 * LINE  # ... and how often it has
STOPS_ENDED = 3 * LINE  # ... and may have gone on
LAST = 4 * LINE  # not 0: there is no next iteration
FIRST_NUMBER = 5 * LINE  # a word for each page: the iteration in which it was written last
WRITES_PER_LOOP = 1024  # TEST_PAGES_PER_LOOP


def verify_words(pages: int) -> int:
    """Words that the workload needs."""
    return FIRST_NUMBER + pages


@kernel
def write_numbers(cpu: Cpu, writes: int, pages: int, at_random: int, limit: int) -> int:
    """Go on with `writes` writes of pages, in order or at random; how many are left."""
    words = config(cpu, C_WORKLOAD)
    base = config(cpu, C_GFN_BASE)
    done = own(cpu, WORK_DONE)
    state = own(cpu, RANDOM)
    end = min(writes, done + limit)
    while done < end and not should_stop(cpu):
        batch = min(end, done + QUIET_ACCESSES)
        while done < batch:
            page = done
            if at_random:
                state = next_random(state)
                page = (state >> RANDOM_SHIFT) % pages
            guest_access(cpu, base + page, ACCESS_WRITE)
            write_once(cpu, words + FIRST_NUMBER + page, read_once(cpu, words + ITERATION))
            done += 1
        if quiet_due(cpu):
            quiet_point(cpu)
    set_own(cpu, WORK_DONE, done)
    set_own(cpu, RANDOM, state)
    return writes - done
