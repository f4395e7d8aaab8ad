"""The guest of the KVM selftests' memstress: a pass over a vCPU's pages, writing some of them.

Each vCPU writes a page with probability `write_percent`, else reads it; pages in order, or at
random.  The random sequence is the vCPU's own (48-bit linear congruential, as drand48), seeded
with `random seed + vCPU index`, and is the same compiled, interpreted and recomputed in a test.
"""

from __future__ import annotations

from mmu.guest import QUIET_ACCESSES, guest_access, quiet_due, quiet_point, should_stop
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import RANDOM, WORK_DONE
from mmu.machine.primitives import own, set_own
from mmu.spte import ACCESS_WRITE

RANDOM_MASK = (1 << 48) - 1
RANDOM_MULTIPLIER = 0x5DEECE66D
RANDOM_INCREMENT = 11
RANDOM_SHIFT = 17
REGION_SHIFT = 9  # 2 MiB of 4K pages


def random_seed(seed: int) -> int:
    """First state of a vCPU's sequence (srand48)."""
    return ((seed << 16) + 0x330E) & RANDOM_MASK


@kernel
def next_random(state: int) -> int:
    """The state after `state`; its value is `state >> RANDOM_SHIFT`, 31 bits."""
    return (state * RANDOM_MULTIPLIER + RANDOM_INCREMENT) & RANDOM_MASK


@kernel
def memstress_batch(
    cpu: Cpu,
    first: int,
    pages: int,
    write_percent: int,
    at_random: int,
    kind: int,
    regions: int,
    limit: int,
) -> int:
    """Go on with a pass over `pages` pages from gfn `first`; how many are left.

    At most `limit` accesses, so that Python gets a word in.  `kind` is the access of a page that
    is not written: ACCESS_READ, or ACCESS_EXECUTE with `write_percent` 0.  Of `regions`
    consecutive 2M regions only the first is ever written (1: all are).
    """
    done = own(cpu, WORK_DONE)
    state = own(cpu, RANDOM)
    end = min(pages, done + limit)
    while done < end and not should_stop(cpu):
        batch = min(end, done + QUIET_ACCESSES)
        while done < batch:
            page = done
            if at_random:
                state = next_random(state)
                page = (state >> RANDOM_SHIFT) % pages
            access = kind
            if write_percent > 0:
                state = next_random(state)
                writable = (page >> REGION_SHIFT) % regions == 0
                if writable and (state >> RANDOM_SHIFT) % 100 < write_percent:
                    access = ACCESS_WRITE
            guest_access(cpu, first + page, access)
            done += 1
        if quiet_due(cpu):
            quiet_point(cpu)
    set_own(cpu, WORK_DONE, done)
    set_own(cpu, RANDOM, state)
    return pages - done
