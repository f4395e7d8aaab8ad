"""Parts that vCPU actors play: one pass of memstress between two stays outside the guest."""

from __future__ import annotations

from mmu.guest import vcpu_load, vcpu_put
from mmu.machine.layout import PHASE_WORK, RANDOM, WORK_DONE
from mmu.machine.primitives import own, set_own
from mmu.reload import unload_root
from mmu.spte import ACCESS_READ
from workloads.actors.memstress import memstress_batch, random_seed
from workloads.plan import Actor, Part


def memstress_pass(
    *,
    pages: int,
    partitioned: bool,
    write_percent: int,
    at_random: bool = False,
    kind: int = ACCESS_READ,
    seed: int = 0,
    regions: int = 1,
) -> Part:
    """A pass over `pages` pages: the vCPU's own part of memory, or all of it.

    It ends with the exit by which the selftests' guests report that they are done.
    """

    def part(actor: Actor) -> None:
        cpu = actor.cpu
        first = actor.vm.config.gfn_base + (actor.index * pages if partitioned else 0)
        set_own(cpu, WORK_DONE, 0)
        set_own(cpu, PHASE_WORK, pages)
        if own(cpu, RANDOM) == 0:
            set_own(cpu, RANDOM, random_seed(seed + actor.index))
        vcpu_load(cpu)
        actor.run(memstress_batch, first, pages, write_percent, int(at_random), kind, regions)
        vcpu_put(cpu)

    return part


def leave_root(actor: Actor) -> None:
    """The vCPU, which is at rest, drops its root; the last one to do so zaps it."""
    unload_root(actor.cpu)
