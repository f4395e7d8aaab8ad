"""The handlers of user faults: one process for each vCPU, as in demand_paging_test."""

from __future__ import annotations

import time

from mmu.machine.blocking import wait_briefly
from mmu.machine.cpu import Cpu
from mmu.machine.futex import raw_load
from mmu.machine.kernel import kernel
from mmu.machine.layout import C_WORKLOAD, LINE, USERFAULT
from mmu.machine.primitives import config, count
from mmu.userfault import answer_userfault, serve_userfault
from workloads.plan import Actor, Part

HANDLER = "uffd handler"  # a role
BATCH = 256  # requests between two looks of Python

# Words of the workload: a line for each handler, with what it has served and installed so far.
SERVED, INSTALLED = range(2)


def handler_words(vcpus: int) -> int:
    """Words that the handlers of so many vCPUs need."""
    return vcpus * LINE


@kernel
def _serve(cpu: Cpu, vcpu: int, request: int, value: int, limit: int) -> int:
    """Serve requests of the vCPU as long as they come, `limit` at most; how many."""
    mine = config(cpu, C_WORKLOAD) + vcpu * LINE
    served = 0
    while served < limit and wait_briefly(cpu, request, 0) != 0:
        count(cpu, mine + INSTALLED, serve_userfault(cpu, vcpu, value))
        count(cpu, mine + SERVED, 1)
        # Counted first: with its last page the vCPU may end, and then the counts are looked at.
        answer_userfault(cpu, vcpu)
        served += 1
    return served


def serve_userfaults(value: int, delay_us: int) -> Part:
    """The service: whatever its vCPU needs gets `value` (0: what it has) after a while."""

    def part(actor: Actor) -> None:
        cpu, vcpu = actor.cpu, actor.index
        request = actor.vm.layout.actor(vcpu) + USERFAULT
        while actor.wait_until(lambda: raw_load(cpu, request) != 0, request):
            if delay_us:
                time.sleep(delay_us / 1e6)
            _serve(cpu, vcpu, request, value, 1 if delay_us else BATCH)
        # A vCPU that sleeps would not hear that the run stops.
        _serve(cpu, vcpu, request, value, BATCH)

    return part
