"""Who wants to see the writes of a gfn for a while, and counts whether it sees them all."""

from __future__ import annotations

from mmu.gfn_track import times_told
from mmu.host.frames import VALUE_MASK, host_page
from mmu.machine.conditions import MAPPING_TRACKED, warn
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import C_GFN_BASE, C_VCPUS, WORK_DONE
from mmu.machine.lock import host_lock, host_unlock
from mmu.machine.primitives import config, stopped, tally, yield_core
from mmu.write_track import track_gfn, untrack_gfn
from workloads.actors.migration import page_value
from workloads.actors.turmoil import draw_below
from workloads.actors.turmoil_words import RECENT_PAGES, TRACKED, book, touched_page

PATIENCE = 8  # times that the tracker gives up its core while it tracks, at most


@kernel
def untold_writes(cpu: Cpu, gfn: int) -> int:
    """Writes of the page that no tracker knows of, but for a constant (mod 2**24).

    Under mmap_lock, as an emulated write is done and told: the host moves nothing meanwhile.
    """
    page = host_page(cpu, gfn)
    host_lock(cpu)
    value = page_value(cpu, page)
    told = times_told(cpu, gfn)
    host_unlock(cpu)
    return (value - told) & VALUE_MASK


@kernel
def check_all_were_told(cpu: Cpu, gfn: int, before: int) -> None:
    """While a gfn is tracked the trackers are told of every write that lands in its page."""
    untold = (untold_writes(cpu, gfn) - before) & VALUE_MASK
    warn(cpu, untold != 0 and not stopped(cpu), MAPPING_TRACKED, gfn, untold, 0)


@kernel
def tracking_turn(cpu: Cpu) -> int:
    """Track a page that a vCPU touched a moment ago, for a while."""
    vcpu = draw_below(cpu, config(cpu, C_VCPUS))
    page = touched_page(cpu, vcpu, draw_below(cpu, RECENT_PAGES))
    gfn = config(cpu, C_GFN_BASE) + page
    if track_gfn(cpu, gfn):
        before = untold_writes(cpu, gfn)
        for _ in range(draw_below(cpu, PATIENCE) + 1):
            yield_core(cpu)
        check_all_were_told(cpu, gfn, before)
        untrack_gfn(cpu, gfn)
        book(cpu, TRACKED, 1)
    tally(cpu, WORK_DONE, 1)
    yield_core(cpu)
    return 1
